"""Measure ``nn.functional`` beside XLA's primitives and PyTorch: ``python -m jaxmodules.bench.kernels``.

Every row is one layer of the sweep and one thing computed for it: the forward pass, the gradient of the input, that of
the weights; where a gradient needs the forward pass (maxima, statistics, recurrence), both together. The two sides in
JAX take all cores, PyTorch two threads. Where both sides compile to the same program, it is timed once. A row beyond
the bar is measured again, longer, and keeps that result.
"""

import argparse
import csv
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

try:
    from jaxmodules.bench import _kernel_plot, _primitives
    from jaxmodules.bench._kernel_cases import BOTH, CASES, FORWARD, INPUT, Case
    from jaxmodules.bench._measure import Side, interleave, peer, ratio
    from jaxmodules.bench._table import show
except ModuleNotFoundError as error:
    raise ImportError(f"the benchmark needs {error.name}: pip install 'jaxmodules[bench]'") from error
from jaxmodules.nn import functional
from jaxmodules.nn.functional.rnn import recurrence

BAR = 1.05
TOLERANCE = 1e-4
OURS, PRIMITIVE, TORCH = "jaxmodules", "primitive", "PyTorch"


class Row(NamedTuple):
    """What one measure of a case took on each side, in milliseconds, and our time as a part of the others'."""

    case: Case
    measure: str
    times: dict[str, float]
    ratios: dict[str, float]
    same_program: bool


def run(cases: Sequence[Case], folder: Path, rounds: int, seconds: float) -> list[Row]:
    """Measure the cases, print a table for each family and the averages, and write a CSV file and a plot."""
    rows: list[Row] = []
    for family, members in groupby(cases, key=lambda case: case.family):
        new = [row for case in members for row in _measure(case, rounds, seconds)]
        _show_family(family, new)
        rows += new
    _show_averages(rows)
    folder.mkdir(parents=True, exist_ok=True)
    _write(rows, folder / "kernels.csv")
    _kernel_plot.draw(rows, folder / "kernels.png")
    print(f"{folder / 'kernels.csv'}\n{folder / 'kernels.png'}")
    return rows


def ours(case: Case) -> Callable[..., jax.Array]:
    """Return the library's function of the arrays of a case."""
    if case.kind != "recurrence":
        return case.function(functional)

    def run(x: jax.Array, *weights: jax.Array) -> jax.Array:
        zeros = jnp.zeros((1, x.shape[1], weights[1].shape[1]), x.dtype)
        mode = case.options["mode"]
        return recurrence(mode, x, [zeros] * (1 + (mode == "LSTM")), weights, True, 1, 0.0, True, False)[0]

    return run


def primitive(case: Case) -> Callable[..., jax.Array]:
    """Return the function of the arrays of a case that is written by hand."""
    return lambda *arrays: _primitives.FUNCTIONS[case.kind](*arrays, **case.options)


def _measure(case: Case, rounds: int, seconds: float) -> Iterator[Row]:
    """Yield the rows of a case, after a check that the sides agree."""
    torch = peer("_with_torch_kernels")
    arrays = case.make_arrays()
    functions = {OURS: ours(case), PRIMITIVE: primitive(case)}
    shape = jax.eval_shape(functions[PRIMITIVE], *arrays).shape
    cotangent = np.random.RandomState(1).standard_normal(shape).astype(np.float32)
    for measure in case.measures:
        operands = jax.device_put([cotangent, *arrays])
        programs = {name: _compile(function, measure, operands) for name, function in functions.items()}
        sides: dict[str, Side] = {name: partial(program, *operands) for name, program in programs.items()}
        if torch is not None:
            sides[TORCH] = torch.make_side(case, measure, arrays, cotangent)
        _check(f"{case}, {measure}", {name: side() for name, side in sides.items()})
        if same := text_of(programs[OURS]) == text_of(programs[PRIMITIVE]):
            del sides[PRIMITIVE]
        times = interleave(sides, rounds, seconds)
        if not same and ratio(times, OURS, PRIMITIVE) > BAR:
            times = interleave(sides, 2 * rounds + 1, 2 * seconds)
        times = {name: times[OURS if same and name == PRIMITIVE else name] for name in (*functions, *sides)}
        ratios = {name: ratio(times, OURS, name) for name in times if name != OURS}
        yield Row(case, measure, {name: 1e3 * statistics.median(times[name]) for name in times}, ratios, same)


def _compile(function: Callable[..., jax.Array], measure: str, operands: Sequence[jax.Array]) -> jax.stages.Compiled:
    def compute(cotangent: jax.Array, input: jax.Array, *weights: jax.Array) -> Any:
        if measure == FORWARD:
            return function(input, *weights)
        if measure == BOTH:
            output, pull_back = jax.vjp(function, input, *weights)
            return output, pull_back(cotangent)
        if measure == INPUT:
            return jax.vjp(lambda input: function(input, *weights), input)[1](cotangent)
        return jax.vjp(lambda *weights: function(input, *weights), *weights)[1](cotangent)

    return jax.jit(compute).lower(*operands).compile()


def text_of(program: jax.stages.Compiled) -> str:
    """Return the text of a program without what tells where it came from, its names counted through."""
    blocks = (program.as_text() or "").split("\n\n")
    origins = ("HloModule", "FileNames", "FunctionNames", "FileLocations", "StackFrames")
    text = "\n\n".join(block for block in blocks if not block.lstrip().startswith(origins))
    names: dict[str, str] = {}
    text = re.sub(r", (metadata|frontend_attributes)=\{[^}]*\}", "", text)
    return re.sub(r"%[\w.-]+", lambda name: names.setdefault(name[0], f"%{len(names)}"), text)


def _check(name: str, results: dict[str, Any]) -> None:
    """Raise if a side computes something else, as far as rounding lets one tell."""
    wanted = [np.asarray(array) for array in jax.tree.leaves(results[PRIMITIVE])]
    for side, result in results.items():
        for array, expected in zip(jax.tree.leaves(result), wanted, strict=True):
            error = np.abs(np.asarray(array) - expected).max() / np.abs(expected).max()
            if not error <= TOLERANCE:
                raise RuntimeError(f"{name}: {side} differs from the primitive by {error:.1e} of the largest value")


def _show_family(family: str, rows: Sequence[Row]) -> None:
    table = []
    for case, members in groupby(rows, key=lambda row: row.case):
        for text, row in zip_longest(case.texts, members, fillvalue=None):
            figures = ("",) * 5 if row is None else (*_figures(row.times, ".3g"), *_figures(row.ratios, ".2f"))
            same = ("same program",) if row is not None and row.same_program else ("",)
            table.append((text or "", "" if row is None else row.measure, *figures, *same))
    columns = ("layer", "", "ours, ms", "primitive", "PyTorch", "/ primitive", "/ PyTorch", "")
    show(family, columns, table)


def _show_averages(rows: Sequence[Row]) -> None:
    """Print the geometric means, and which rows are beyond the bar."""
    table = []
    families = {row.case.family: [other for other in rows if other.case.family == row.case.family] for row in rows}
    for family, members in (families | {"all": rows}).items():
        means = {name: statistics.geometric_mean(row.ratios[name] for row in members) for name in members[0].ratios}
        table.append((family, str(len(members)), *_figures(means, ".2f")))
    show("Geometric means", ("family", "rows", "/ primitive", "/ PyTorch"), table)
    beyond = sorted((row for row in rows if row.ratios[PRIMITIVE] > BAR), key=lambda row: -row.ratios[PRIMITIVE])
    print(f"{len(beyond)} of {len(rows)} rows take more than {BAR:g} times the primitive's time")
    for row in beyond:
        print(f"  {row.ratios[PRIMITIVE]:5.2f}  {row.case}, {row.measure}")


def _figures(values: dict[str, float], style: str) -> list[str]:
    """Return the figures of the sides, blank where PyTorch is not installed."""
    return [format(value, style) for value in values.values()] + [""] * (TORCH not in values)


def _write(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("family", "layer", "measure", "ours ms", "primitive ms", "PyTorch ms", "/ primitive", "/ PyTorch")
        )
        for row in rows:
            figures = *_figures(row.times, ".4f"), *_figures(row.ratios, ".3f")
            writer.writerow((row.case.family, ", ".join(row.case.texts), row.measure, *figures))


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the sweep, or a part of it."""
    parser = argparse.ArgumentParser(prog="python -m jaxmodules.bench.kernels", description=__doc__)
    groups = list(dict.fromkeys(case.group for case in CASES))
    parser.add_argument(
        "--quick", action="store_true", help="one layer per family, one round: a check that everything runs"
    )
    parser.add_argument("--only", default=",".join(groups), help="groups to measure: some of %(default)s")
    parser.add_argument("--name", default="", help="text that the family or the layer of a case has, such as 'ResNet'")
    parser.add_argument("--out", type=Path, default=Path("runs/kernels"), help="folder for the CSV file and the plot")
    args = parser.parse_args(argv)
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(groups):
        parser.error(f"--only knows {', '.join(groups)}, got {', '.join(sorted(unknown))}")
    cases = [case for case in CASES if case.group in chosen and args.name.lower() in str(case).lower()]
    if not cases:
        parser.error(f"no case of {args.only} has {args.name!r} in its name")
    if args.quick:
        firsts = {case.family: case for case in reversed(cases)}
        return run([case for case in cases if case is firsts[case.family]], args.out, rounds=1, seconds=0.0)
    return run(cases, args.out, rounds=5, seconds=0.01)


if __name__ == "__main__":
    main()
