"""Which algorithm the CPU takes, by shape: the one table of the library.

XLA has fast kernels for convolutions, windows and loops on GPU and TPU, and on CPU for some shapes only. Where plain
operations (slices, sums, matrix products) do the same arithmetic faster, a rule here says so, and the functions of
``nn.functional`` take its algorithm where a program is compiled for the CPU, by ``jax.lax.platform_dependent`` or a
lowering by platform: other machines, also in one exported program, run the primitive. Nothing is measured when a
program runs: a rule is a condition on sizes with its reason and what ``make bench-kernels`` measured, in milliseconds
on two cores in float32, as *primitive -> algorithm (PyTorch)*.

What pays on every machine, as for recurrence and most of normalisation, needs no rule and lies beside the functions.

The first rule whose condition holds is taken; where none does, it is the primitive. To add one, write the algorithm in
the file of its family, add the row, and run ``make bench-kernels``: a row stays where it gains on some shape of the
sweep and loses on none.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from jaxmodules.nn.functional._convolution import Case, Wanted
from jaxmodules.nn.functional._cpu import convolution, dense, pooling
from jaxmodules.nn.functional._cpu.normalization import outer_by_dot


class Rule(NamedTuple):
    """An algorithm and the sizes that it is for."""

    algorithm: Callable[..., Any]
    when: Callable[[Any], bool]
    reason: str
    measured: str


def choose(rules: Sequence[Rule], case: Any) -> Callable[..., Any] | None:
    """Return the algorithm of the first rule that holds of a case; ``None`` stands for the primitive."""
    return next((rule.algorithm for rule in rules if rule.when(case)), None)


def on_cpu(
    algorithm: Callable[..., jax.Array] | None, primitive: Callable[..., jax.Array], *arrays: jax.Array
) -> jax.Array:
    """Compute by the algorithm, if there is one, where a program is compiled for the CPU; else by the primitive."""
    if algorithm is None:
        return primitive(*arrays)
    return lax.platform_dependent(*arrays, cpu=algorithm, default=primitive)


def _terms(case: Case) -> int:
    """Count the products that make one element of the output."""
    return case.inputs * math.prod(case.kernel)


def _row(case: Case) -> int:
    """Count the products in a row of one image."""
    return case.out[-1] * case.outputs * _terms(case)


def _winograd(case: Case) -> bool:
    """Tell whether a convolution has the 3x3 kernel, and tiles of 2x2 waste less than a quarter of their pixels."""
    tiles = math.prod(-(-size // 2) for size in case.out)
    square = case.groups == 1 and case.kernel == (3, 3) and max(case.stride) == max(case.dilation) == 1
    return square and 16 * tiles < 5 * math.prod(case.out)


def _pointwise(case: Case) -> bool:
    return math.prod(case.kernel) == 1


def _streams(case: Case) -> bool:
    """Tell whether columns of images can pass through the cache in blocks, each enough for a product of full speed."""
    wide = case.groups == 1 and case.inputs >= 3 and case.outputs >= 32 and _terms(case) <= 2500
    # larger kernels take long to compile: every place is a slice of its own
    small = len(case.kernel) == 2 and math.prod(case.kernel) <= 49
    return wide and small and case.batch * math.prod(case.out) >= 1024


def _thin_groups(case: Case) -> bool:
    """Tell whether channels meet few others, as in a depthwise convolution, under a kernel that is not huge."""
    return case.groups > 1 and case.inputs * case.outputs <= 16 and _terms(case) <= 75


_OUTPUT = (
    Rule(
        convolution.output_by_shifts,
        _thin_groups,
        "XLA loops over single elements; shifted sums stream through memory once",
        "depthwise 3x3, 16x64x28x28: 15 -> 0.34 (0.18); 7x7, 8x384x14x14: 26 -> 1.0 (0.24)",
    ),
    Rule(
        convolution.output_by_groups,
        lambda c: 1 < c.groups <= 8,
        "XLA loops over single elements, and has a fast convolution for each group",
        "5x5 in 2 groups, 8x96x27x27 to 256: 44 -> 15 (6.8)",
    ),
    Rule(
        convolution.output_by_columns,
        lambda c: c.groups > 8,
        "XLA loops over single elements",
        "3x3 in 32 groups, 8x512x14x14: 10.0 -> 2.6 (0.64)",
    ),
    Rule(
        convolution.output_by_columns,
        lambda c: len(c.kernel) == 3 and max(c.stride) > 1,
        "XLA has no fast convolution of volumes, and few windows make small columns",
        "3x3x3, step 2, 4x32x16x16x16 to 64: 2.4 -> 0.9 (0.49)",
    ),
    Rule(
        convolution.output_by_planes,
        lambda c: len(c.kernel) == 3 and not _pointwise(c),
        "XLA has a fast convolution of planes and none of volumes",
        "3x3x3, 4x16x16x32x32 to 32: 34 -> 10 (4.0)",
    ),
    Rule(
        convolution.output_by_shifts,
        lambda c: _terms(c) * c.outputs <= 512,
        "a matrix product so small costs less than to lay out its operands",
        "5x5, 64x1x28x28 to 6: 1.5 -> 0.30 (0.18)",
    ),
    Rule(
        convolution.output_by_columns,
        lambda c: _pointwise(c),
        "a 1x1 convolution is a matrix product, and without the transpositions that XLA puts around it",
        "1x1, 16x256x28x28 to 64: 5.9 -> 2.5 (1.4); 16x64x28x28 to 256: 5.5 -> 1.9 (1.2)",
    ),
    Rule(
        convolution.output_by_columns,
        lambda c: (
            c.inputs <= 8
            and _terms(c) < 150
            and (max(c.stride) == 1 or math.prod(c.out) >= 1024 and (max(c.stride) == 2 or c.stride == c.kernel))
        ),
        "few channels make small columns, and XLA's convolution wants many; long steps make slow slices",
        "3x3, step 2, 16x3x96x96 to 32: 2.1 -> 0.51 (0.21)",
    ),
    Rule(
        dense.output_by_winograd,
        lambda c: (
            _winograd(c)
            and min(c.inputs, c.outputs) >= 128
            and c.batch * math.prod(c.out) >= 1300
            and (c.inputs * c.outputs >= 65536 or _row(c) < 3e6)
        ),
        "with many channels, the transformations of pixels and kernels cost less than the products they save",
        "3x3, 8x256x28x28: 20 -> 17 (15); on one core 34 -> 23 (30), 8x512x14x14: 35 -> 26 (30)",
    ),
    Rule(
        dense.output_by_wide_rows,
        lambda c: (
            len(c.kernel) == 2
            and max(c.stride) == 1
            and c.outputs * _terms(c) >= 32768
            and _row(c) < 3e6 < 1e7 < c.batch * _row(c)
        ),
        "XLA's convolution of images shares the pixels of one row among the cores, and short rows not at all",
        "3x3, 32x64x32x32 to 64: 12 -> 10.9 (5.4)",
    ),
)

CONVOLUTION: dict[Wanted, tuple[Rule, ...]] = {
    "output": _OUTPUT,
    "input": (
        Rule(
            convolution.input_by_shifts,
            _thin_groups,
            "as for the output; at longer steps, XLA inserts zeros as well",
            "depthwise 3x3, step 2, 16x64x56x56: 92 -> 0.51 (0.70)",
        ),
        Rule(
            convolution.input_by_groups,
            lambda c: 1 < c.groups <= 8,
            "as for the output",
            "5x5 in 2 groups, 8x96x27x27 to 256: 102 -> 18 (7.5)",
        ),
        Rule(
            convolution.input_by_columns,
            lambda c: c.groups > 8,
            "as for the output",
            "3x3 in 32 groups, 8x512x14x14: 10.1 -> 4.9 (0.80)",
        ),
        Rule(
            convolution.input_by_columns,
            lambda c: c.inputs <= 8 or _pointwise(c) and c.outputs >= 8,
            "few channels leave little to add up after the product",
            "11x11, step 4, 8x3x224x224 to 64: 26 -> 7.8 (15.7); 1x1, 16x256x28x28 to 64: 4.0 -> 1.6 (1.2)",
        ),
        Rule(
            convolution.input_by_columns,
            lambda c: max(c.stride) > 1 and (len(c.kernel) == 3 or c.stride == c.kernel and math.prod(c.out) >= 1024),
            "XLA inserts zeros and multiplies by them; side by side, windows have nothing to add up",
            "3x3x3, step 2, 4x32x16x16x16 to 64: 130 -> 1.6 (0.75); 2x2, step 2, 4x32x128x128 to 64: 3.0 -> 2.8 (1.5)",
        ),
        Rule(
            convolution.input_by_output,
            lambda c: max(c.stride) == 1 and choose(_OUTPUT, convolution.mirrored_case(c)) is not None,
            "it is the convolution with mirrored kernels, whose rules are above",
            "3x3x3, 4x16x16x32x32 to 32: 57 -> 21 (4.2)",
        ),
    ),
    "weight": (
        Rule(
            convolution.weight_by_shifts,
            _thin_groups,
            "XLA loops over single elements; all sums in one loop read the input once",
            "depthwise 3x3, 16x64x28x28: 6.6 -> 0.89 (0.19); 7x7, 8x384x14x14: 69 -> 5.2 (10)",
        ),
        Rule(
            convolution.weight_by_groups,
            lambda c: 1 < c.groups <= 8,
            "as for the output",
            "5x5 in 2 groups, 8x96x27x27 to 256: 183 -> 14 (7.6)",
        ),
        Rule(
            convolution.weight_by_columns,
            lambda c: c.groups > 8,
            "XLA loops over single elements",
            "3x3 in 32 groups, 8x512x14x14: 1270 -> 3.8 (0.66)",
        ),
        Rule(
            convolution.weight_by_planes,
            lambda c: len(c.kernel) == 3 and not _pointwise(c),
            "as for the output",
            "3x3x3, 4x16x16x32x32 to 32: 58 -> 13 (4.9)",
        ),
        Rule(
            convolution.weight_by_columns,
            lambda c: _pointwise(c) and c.outputs >= 8 and (max(c.stride) == 1 or not _streams(c)),
            "a 1x1 convolution is a matrix product",
            "1x1, 16x256x28x28 to 64: 10.4 -> 1.8 (1.5)",
        ),
        Rule(
            convolution.weight_by_columns,
            lambda c: c.groups == 1 and c.inputs <= 8 and 100 <= _terms(c) <= 150 and math.prod(c.out) <= 256,
            "few channels and pixels make small columns, and large kernels few of them",
            "5x5, 64x6x14x14 to 16: 0.30 -> 0.24 (0.25)",
        ),
        Rule(
            convolution.weight_by_columns,
            lambda c: c.stride == c.kernel and c.groups == 1 and c.inputs <= 32 <= c.outputs,
            "side by side, windows are each element once",
            "2x2, step 2, 4x32x128x128 to 64: 48 -> 1.7 (1.2); 4x4, step 4, 8x3x128x128 to 96: 0.84 -> 0.47 (0.28)",
        ),
        Rule(
            convolution.weight_by_columns,
            lambda c: (
                c.groups == 1
                and c.inputs <= 3
                and c.outputs >= 32
                and _terms(c) <= 48
                and (max(c.stride) == 1 or math.prod(c.out) <= 256)
            ),
            "few channels make small columns; long steps make slow slices",
            "3x3, 4x1x128x128 to 32: 1.4 -> 0.54 (0.34); 4x4, step 2, 32x3x32x32 to 64: 12 -> 0.36 (0.23)",
        ),
        Rule(
            dense.weight_by_columns,
            _streams,
            "XLA takes the gradient as a convolution whose kernel is as large as the image, mostly on one core;"
            " of more inputs the columns leave the cache",
            "3x3, 4x64x112x112 to 64: 26 -> 18 (10.5); 8x256x28x28: 29 -> 24 (17);"
            " step 2, 7x7, 8x3x224x224 to 64: 23 -> 15 (6.5); 1x1, 16x256x28x28 to 512: 15 -> 5.4 (2.8)",
        ),
    ),
}


MAX_POOLING = (
    Rule(
        pooling.largest_of_tiles,
        when=lambda window: window.is_tiling and window.elements > 32,
        reason="tiles are reduced where they lie, and once more for the NaNs that XLA's maxima lose on the CPU",
        measured="16x256x14x14 whole: 0.03, without the NaNs -> 0.08 (0.30)",
    ),
    Rule(
        pooling.largest_of_slices,
        when=lambda window: window.elements <= 9,
        reason="elementwise maxima of slices run at the speed of memory, a loop over each window does not",
        measured="32x64x32x32, 2x2/2: 0.68 -> 0.45 (4.1), with its gradient 21 -> 0.79 (5.8); "
        "16x64x56x56, 3x3/2: 1.7 -> 0.45 (8.8), 35 -> 5.2 (14)",
    ),
    Rule(
        pooling.largest_by_axes,
        when=lambda window: window.lengths <= 64,
        reason="as many slices as the window is long along all axes, instead of their product",
        measured="8x128x28x28, 4x4/4: 0.22 -> 0.19 (0.94), with its gradient 2.6 -> 0.47 (1.1)",
    ),
)

SUM_POOLING = (
    Rule(
        pooling.sum_of_tiles,
        when=lambda window: window.is_tiling and window.elements > 9,
        reason="tiles are reduced where they lie",
        measured="32x512x7x7 whole: 0.05 -> 0.03 (0.15), with its gradient 0.21 -> 0.15 (0.31)",
    ),
    Rule(
        pooling.sum_of_slices,
        when=lambda window: window.elements <= 9,
        reason="elementwise sums of slices, and in the gradient of the few windows that each element is in",
        measured="16x128x28x28, 2x2/2: 1.2 -> 0.15 (1.0), its gradient 1.5 -> 0.24 (1.1); "
        "16x64x56x56, 3x3/2: 1.1 -> 0.27 (2.5), 8.0 -> 0.59 (2.9)",
    ),
    Rule(
        pooling.sum_by_axes,
        when=lambda window: window.lengths <= 64,
        reason="as many slices as the window is long along all axes, instead of their product",
        measured="16x32x56x56, 5x5/1: 4.8 -> 0.6 (8.2)",
    ),
)


# A case is the number of values that a sample is normalised over.
NORMALISATION = (
    Rule(
        outer_by_dot,
        when=lambda size: size > 1,
        reason="a product with a vector reads the values once; as a sum of products they are written out before",
        measured="layer norm with gradients, 32x64x768: 1.8 -> 1.0 (0.5); 16x196x384: 1.0 -> 0.6 (0.4)",
    ),
)
