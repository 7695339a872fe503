"""Measure files, checkpoints and exported programs beside what they stand in for."""

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
import safetensors.torch
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.bench._measure import Side, interleave, ratio
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
    net, torch_net = _net(nn), _net(torch.nn)
    state, torch_state = net.state_dict(), torch_net.state_dict()
    pickled, plain, written = (os.path.join(folder, name) for name in ("a.pt", "model.safetensors", "b.pt"))
    torch.save(torch_state, pickled)
    safetensors.torch.save_file(torch_state, plain)

    def fill_torch() -> None:
        torch_net.load_state_dict(safetensors.torch.load_file(plain))

    def fill() -> Any:
        jm.from_pretrained_files(net, plain)
        return net[0].weight.value

    yield "read a .pt file", lambda: [*jm.load(pickled).values()], "torch.load", lambda: torch.load(pickled)
    yield (
        "write a .pt file",
        lambda: jm.save(state, written, format="torch"),
        "torch.save",
        lambda: torch.save(torch_state, written),
    )
    yield (
        "read a .safetensors file",
        lambda: [*jm.load(plain).values()],
        "safetensors.flax.load_file",
        lambda: [*safetensors.flax.load_file(plain).values()],
    )
    yield "fill a module from it", fill, "torch: load_file, load_state_dict", fill_torch


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
