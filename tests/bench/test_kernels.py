"""The benchmark of the kernels: its sides agree, and its parts run."""

import csv
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxmodules.bench import kernels
from jaxmodules.bench._kernel_cases import BOTH, CASES, FORWARD, INPUT, WEIGHT

PARTS = {
    ("conv", "LeNet 2"): (FORWARD, INPUT, WEIGHT),
    ("pool", "max pooling: LeNet"): (FORWARD, BOTH),
    ("norm", "MLP"): (FORWARD, BOTH),
    ("rnn", "64 to 128"): (FORWARD, BOTH),
}


@pytest.fixture(autouse=True)
def textbook() -> Iterator[None]:
    """Let the primitives broadcast as textbooks do."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_a_part_runs(group: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = kernels.main(["--quick", f"--only={group}", f"--name={name}", f"--out={tmp_path}"])
    assert tuple(row.measure for row in rows) == PARTS[group, name]
    assert all(set(row.ratios) == {"primitive", "PyTorch"} for row in rows)
    assert "Geometric means" in capsys.readouterr().out
    assert (tmp_path / "kernels.png").exists()
    with (tmp_path / "kernels.csv").open() as file:
        assert [row["measure"] for row in csv.DictReader(file)] == list(PARTS[group, name])


def test_every_name_of_a_family_is_its_own() -> None:
    names = [(case.family, case.name) for case in CASES]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize(("arguments", "message"), [("--only=linear", "--only knows conv"), ("--name=x?", "no case")])
def test_what_is_not_there_is_refused(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        kernels.main([arguments])
    assert message in capsys.readouterr().err


def test_programs_compare_whatever_their_origin() -> None:
    x = jnp.ones(8)
    tanh, same, other = (jax.jit(f).lower(x).compile() for f in (jnp.tanh, lambda x: jnp.tanh(x), jnp.sin))
    assert kernels.text_of(tanh) == kernels.text_of(same) != kernels.text_of(other)


def test_sides_that_differ_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "primitive", lambda case: lambda x: x[..., ::2, ::2])
    with pytest.raises(RuntimeError, match="max pooling: LeNet.*: jaxmodules differs from the primitive by"):
        kernels.main(["--quick", "--only=pool", "--name=max pooling: LeNet", f"--out={tmp_path}"])
