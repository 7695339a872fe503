"""Which algorithm the CPU takes, by shape: the one table of the library.

XLA has fast kernels for convolutions, windows and loops on GPU and TPU, and on CPU for some shapes only. Where plain
operations (slices, sums, matrix products) do the same arithmetic faster, a rule here says so, and the functions of
``nn.functional`` take its algorithm on the CPU alone, under ``jax.lax.platform_dependent``: other machines, also in one
exported program, run the primitive. Nothing is measured when a program runs: a rule is a condition on sizes with its
reason and what was measured, in milliseconds on two cores in float32, as *primitive -> algorithm (PyTorch)*.

The first rule whose condition holds is taken; where none does, it is the primitive. To add one, write the algorithm in
the file of its family, add the row, and run ``make bench-kernels``: a row stays where it gains on some shape of the
sweep and loses on none.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxmodules.nn.functional._convolution import Case, Wanted
from jaxmodules.nn.functional._cpu import convolution


class Rule(NamedTuple):
    """An algorithm and the sizes that it is for."""

    algorithm: Callable[..., Any]
    when: Callable[[Any], bool]
    reason: str
    measured: str


def choose(rules: Sequence[Rule], case: Any) -> Callable[..., Any] | None:
    """Return the algorithm of the first rule that holds of a case; ``None`` stands for the primitive."""
    return next((rule.algorithm for rule in rules if rule.when(case)), None)


def _kernel(case: Case) -> int:
    """Count the elements of a kernel."""
    return math.prod(case.kernel)


def _depthwise(case: Case) -> bool:
    return case.groups > 1 and case.inputs == case.outputs == 1


CONVOLUTION: dict[Wanted, tuple[Rule, ...]] = {
    "output": (
        Rule(
            convolution.output_by_shifts,
            lambda c: _depthwise(c) or (c.groups == 1 and _kernel(c) * c.inputs <= 36 and c.outputs <= 16),
            "XLA runs a convolution of few channels as a loop over single elements",
            "depthwise 3x3, 16x64x28x28: 16.7 -> 0.33 (0.21); 5x5, 64x1x28x28 to 6: 1.4 -> 0.35 (0.18)",
        ),
        Rule(
            convolution.output_by_columns,
            lambda c: _kernel(c) == 1 or c.groups > 1,
            "a 1x1 convolution is a matrix product, and without the transpositions that XLA puts around it",
            "1x1, 16x256x28x28 to 64: 3.4 -> 2.1 (1.5)",
        ),
        Rule(
            convolution.output_by_planes,
            lambda c: len(c.kernel) == 3,
            "XLA has a fast convolution of planes and none of volumes",
            "3x3x3, 4x16x16x32x32 to 32: 38.8 -> 11 (4.3)",
        ),
    ),
    "input": (
        Rule(
            convolution.input_by_shifts,
            _depthwise,
            "as for the output; with a stride, XLA inserts zeros and then loops over single elements",
            "depthwise 3x3, 16x64x28x28: 16.7 -> 0.4 (0.19); stride 2, 16x64x56x56: 110 -> 0.5 (0.47)",
        ),
        Rule(
            convolution.input_by_columns,
            lambda c: _kernel(c) == 1 or c.groups > 1 or c.inputs <= 8 or len(c.kernel) == 3,
            "few channels leave little to add after the product",
            "5x5, 64x1x28x28 to 6: 2.4 -> 0.7 (1.3)",
        ),
        Rule(
            convolution.input_by_output,
            lambda c: max(c.stride) == 1,
            "it is the convolution with mirrored kernels, for which there may be a rule",
            "",
        ),
    ),
    "weight": (
        Rule(
            convolution.weight_by_shifts,
            _depthwise,
            "all sums in one loop read the input once",
            "depthwise 3x3, 16x64x28x28: 7.3 -> 0.7 (0.19); 7x7, 8x96x28x28: 26.5 -> 3.4 (10)",
        ),
        Rule(
            convolution.weight_by_columns,
            lambda c: _kernel(c) == 1 or c.groups > 1,
            "a 1x1 convolution is a matrix product",
            "1x1, 16x256x28x28 to 64: 5.0 -> 1.5 (1.3)",
        ),
        Rule(
            convolution.weight_by_planes,
            lambda c: len(c.kernel) == 3,
            "XLA has a fast convolution of planes and none of volumes",
            "3x3x3, 4x16x16x32x32 to 32: 68 -> 19 (4.4)",
        ),
    ),
}
