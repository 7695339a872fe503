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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """An algorithm and the sizes that it is for."""

    algorithm: Callable[..., Any]
    when: Callable[[Any], bool]
    reason: str
    measured: str


def choose(rules: Sequence[Rule], case: Any) -> Callable[..., Any] | None:
    """Return the algorithm of the first rule that holds of a case; ``None`` stands for the primitive."""
    return next((rule.algorithm for rule in rules if rule.when(case)), None)
