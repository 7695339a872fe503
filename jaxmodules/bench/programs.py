"""Compare the compiled program of the training step with that of hand-written JAX, and the time to trace it."""

import math
import re
import statistics
from typing import Any

import jax

import jaxmodules as jm
from jaxmodules.bench import _with_jaxmodules, _with_raw
from jaxmodules.bench._measure import interleave, ratio
from jaxmodules.bench._table import in_units, judge, show

COST_BAR = 1.01
TRACE_BAR = 1.5

# A constant with values of its own: in hexadecimal, as a list, or kept aside; one value repeated is none.
_CONSTANT = re.compile(r'dense(?:_resource)?<(?:"|\[|dense)[^:]*>\s*:\s*tensor<((?:\d+x)+)')


def run(blocks: int, rounds: int) -> None:
    """Compare what the step of so many blocks computes, moves and holds, and what tracing it takes."""
    ours, our_arguments = _with_jaxmodules.make_function(blocks)
    raw, raw_arguments = _with_raw.make_function(blocks)
    our_program = jm.jit(ours).lower(*our_arguments)
    costs = _costs(our_program.compile()), _costs(jax.jit(raw).lower(*raw_arguments).compile())
    rows = []
    for what in ("flops", "bytes accessed"):
        our_cost, raw_cost = (cost[what] for cost in costs)
        rows.append((what, f"{our_cost:,.0f}", f"{raw_cost:,.0f}", judge(our_cost / raw_cost, COST_BAR)))
    donated = jm.jit(ours, donate=True).lower(*our_arguments).compile()
    raw_donated = jax.jit(raw, donate_argnums=(0, 1, 2)).lower(*raw_arguments).compile()
    peaks = _peak(donated), _peak(raw_donated)
    rows.append(("peak bytes, donated", *(f"{peak:,}" for peak in peaks), judge(peaks[0] / peaks[1], COST_BAR)))
    largest = max(constants(our_program.as_text()), default=0)
    verdict = "no weight" if largest < _with_raw.WIDTH else "A WEIGHT?"
    rows.append(("largest constant", f"{largest} values", "", verdict))
    times = interleave(
        {
            "jm.jit": lambda: jm.jit(_renew(ours)).trace(*our_arguments) and None,
            "raw JAX": lambda: jax.jit(_renew(raw)).trace(*raw_arguments) and None,
        },
        rounds,
        seconds=0,
    )
    value = ratio(times, "jm.jit", "raw JAX")
    medians = [in_units(statistics.median(times[name])) for name in ("jm.jit", "raw JAX")]
    rows.append(("time to trace", *medians, judge(value, TRACE_BAR)))
    show(f"Program of the training step, {blocks} blocks", ("", "jm.jit", "raw JAX", "/ raw JAX"), rows)


def constants(text: str) -> list[int]:
    """Return the number of values in each constant array of a program in StableHLO.

    Examples:
        >>> constants('stablehlo.constant dense<"0x4A39E23C..."> : tensor<8x32xf32>')
        [256]
        >>> constants("stablehlo.constant dense<0.0> : tensor<8x32xf32>")
        []
    """
    return [math.prod(map(int, shape.strip("x").split("x"))) for shape in _CONSTANT.findall(text)]


def _costs(compiled: Any) -> dict[str, float]:
    return compiled.cost_analysis()


def _peak(compiled: Any) -> int:
    """Return the bytes of arguments, results and temporaries, what is reused counted once."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return held - memory.alias_size_in_bytes


def _renew(function: Any) -> Any:
    """Return a function that no cache has seen."""
    return lambda *arguments: function(*arguments)
