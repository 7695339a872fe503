"""Measure what a call of a compiled training step costs: state in, one program, state out."""

import statistics

from jaxmodules.bench import _with_jaxmodules, _with_raw
from jaxmodules.bench._measure import Side, interleave, peer, ratio
from jaxmodules.bench._table import in_units, judge, show

BAR = 1.05
PEERS: list[tuple[str, str, dict[str, bool]]] = [
    ("Equinox filter_jit", "_with_equinox", {}),
    ("Flax nnx.jit", "_with_nnx", {}),
    ("PyTorch eager", "_with_torch", {}),
    ("PyTorch, foreach", "_with_torch", {"foreach": True}),
    ("PyTorch, fused", "_with_torch", {"fused": True}),
]


def run(blocks: int, rounds: int, seconds: float) -> None:
    """Compare a step of so many blocks of Linear, tanh and a running mean, trained with Adam."""
    sides: dict[str, Side] = {
        "raw JAX": _with_raw.make_step(blocks),
        "jm.jit": _with_jaxmodules.make_step(blocks),
        "raw JAX, donated": _with_raw.make_step(blocks, donate=True),
        "jm.jit, donated": _with_jaxmodules.make_step(blocks, donate=True),
    }
    missing = []
    for name, file, options in PEERS:
        module = peer(file)
        if module is None:
            missing.append(name)
        else:
            sides[name] = module.make_step(blocks, **options)
    times = interleave(sides, rounds, seconds)
    rows = []
    for name in sides:
        base = "raw JAX, donated" if name.endswith("donated") else "raw JAX"
        value = ratio(times, name, base)
        verdict = judge(value, BAR) if name.startswith("jm") else f"{value:.2f}"
        rows.append((name, in_units(statistics.median(times[name])), verdict))
    show(
        f"Training step, {blocks} blocks of Linear({_with_raw.WIDTH}) + tanh + running mean, batch {_with_raw.BATCH},"
        " Adam",
        ("side", "per step", "/ raw JAX"),
        rows,
        "; ".join(f"{name}: not installed" for name in missing),
    )
