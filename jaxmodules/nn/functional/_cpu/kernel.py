"""Borders that XLA's CPU compiler fuses nothing across."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata


def kernel(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function as it is, on CPU as a computation of its own: it reads and writes arrays in memory.

    Fusion pays where it saves passes over memory. Where the elements of an intermediate result are read several times
    or out of order, XLA computes each again for every reader, and its loops lose their vector instructions.
    ``lax.optimization_barrier`` is gone before the CPU compiler fuses; a call that is not to be inlined is not. It is
    for loops alone: a convolution inside of one is compiled to a loop over single elements.

    Nor do its temporary arrays take memory before it starts. XLA fills constants as soon as a computation runs, such as
    the zeros that a scan stacks its results in, however late they are read; a program that needs more than 32 MiB at
    once gets its memory from the operating system, page by page at every call.
    """

    def apart(*args: Any) -> Any:
        return set_xla_metadata(jax.jit(function)(*args), inlineable="false")

    return lax.platform_dependent(*args, cpu=apart, default=function)
