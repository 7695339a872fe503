"""Measure files, checkpoints and exported programs beside what they stand in for."""

import functools
import itertools
import os
import statistics
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import safetensors.flax

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.bench._measure import Side, interleave, peer, ratio
from jaxmodules.bench._table import in_units, show

LAYERS = 24
WIDTH = 1024

Pair = tuple[str, Side, str, Side]


def run(rounds: int) -> None:
    """Time each pair in turns, the files in memory once they have been read."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what, ours, name, theirs in itertools.chain(_files(folder), _checkpoints(folder), _programs()):
            times = interleave({"ours": ours, "theirs": theirs}, rounds, 0.0 if "program" not in what else 0.2)
            medians = [in_units(statistics.median(times[side])) for side in ("theirs", "ours")]
            rows.append((what, name, *medians, f"{ratio(times, 'ours', 'theirs'):.2f}"))
    size = LAYERS * (WIDTH + 1) * WIDTH * 4 / 1e6
    note = "jm.save waits until the file is on disk, torch.save does not."
    show(f"{LAYERS} linear layers, {size:.0f} MB", ("", "beside", "it takes", "jaxmodules", "ratio"), rows, note)


def _net(library: Any) -> Any:
    return library.Sequential(*(library.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


def _files(folder: str) -> Iterator[Pair]:
    torch = peer("_with_torch")
    if torch is None:
        return
    net = _net(nn)
    state = net.state_dict()
    pickled, plain, written = (os.path.join(folder, name) for name in ("a.pt", "model.safetensors", "b.pt"))
    theirs = torch.make_file_sides(_net, pickled, plain, written)

    def fill() -> Any:
        jm.from_pretrained_files(net, plain)
        return net[0].weight.value

    read, read_plain = (lambda path=path: [*jm.load(path).values()] for path in (pickled, plain))
    write = functools.partial(jm.save, state, written, format="torch")
    flax = "safetensors.flax.load_file"
    yield "read a .pt file", read, "torch.load", theirs["load"]
    yield "write a .pt file", write, "torch.save", theirs["save"]
    yield "read a .safetensors file", read_plain, flax, lambda: [*safetensors.flax.load_file(plain).values()]
    yield "fill a module from it", fill, "torch: load_file, load_state_dict", theirs["fill"]


def _checkpoints(folder: str) -> Iterator[Pair]:
    net = _net(nn)
    state = dict(net.state_dict())
    steps = itertools.count(1)
    args = ocp.args.StandardRestore({name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in state.items()})
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with (
        jm.checkpoint.CheckpointManager(os.path.join(folder, "ours"), max_to_keep=1) as ours,
        ocp.CheckpointManager(os.path.join(folder, "theirs"), options=options) as theirs,
    ):

        def save() -> None:
            ours.save(next(steps), net=net)
            ours.wait_until_finished()

        def save_plain() -> None:
            theirs.save(next(steps), args=ocp.args.StandardSave(state))
            theirs.wait_until_finished()

        def restore() -> Any:
            ours.restore(net=net)
            return net[0].weight.value

        yield "save a checkpoint", save, "Orbax", save_plain
        yield "restore a checkpoint", restore, "Orbax", lambda: theirs.restore(theirs.latest_step(), args=args)


def _programs() -> Iterator[Pair]:
    net, x = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8))), jnp.ones((8, 64))
    program, compiled = jm.export.export(net, x), jm.jit(net)
    yield "call an exported program", lambda: program(x), "jm.jit", lambda: compiled(x)
