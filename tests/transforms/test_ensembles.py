"""``stack_module_state`` with ``functional_call`` and ``vmap``, against ``torch.func``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, assert_arrays, same


def models(library: Any, *layers: Any, count: int = 3) -> list[Any]:
    return [library.Sequential(*(make(library) for make in layers)) for _ in range(count)]


def linear(library: Any) -> Any:
    return library.Linear(3, 4)


def norm(library: Any) -> Any:
    return library.BatchNorm1d(4)


def seeded(*layers: Any) -> tuple[list[Any], list[Any]]:
    """Build the same models in both libraries."""
    jm.manual_seed(0)
    torch.manual_seed(0)
    return models(nn, *layers), models(torch.nn, *layers)


@pytest.mark.parametrize("mapped", [jm.vmap, jax.vmap], ids=["jm.vmap", "jax.vmap"])
@pytest.mark.parametrize("data_axis", [None, 0])
def test_ensembling_as_in_torchs_tutorial(mapped: Any, data_axis: int | None) -> None:
    ours, theirs = seeded(linear, norm)
    for model in (*ours, *theirs):
        model.eval()
    x = BATCH if data_axis is None else np.stack([BATCH, 2 * BATCH, 3 * BATCH])
    params, buffers = jm.stack_module_state(ours)
    out = mapped(lambda p, b, x: jm.functional_call(ours[0], (p, b), x), (0, 0, data_axis))(params, buffers, x)
    their_params, their_buffers = torch.func.stack_module_state(theirs)
    expected = torch.func.vmap(lambda p, b, x: torch.func.functional_call(theirs[0], (p, b), x), (0, 0, data_axis))(
        their_params, their_buffers, torch.tensor(x)
    )
    same(out, expected.detach().numpy())
    assert_arrays(params, {name: value.detach().numpy() for name, value in their_params.items()})
    assert_arrays(buffers, {name: value.numpy() for name, value in their_buffers.items()})


def test_state_of_a_module_list() -> None:
    layers = nn.ModuleList(models(nn, linear))
    params, buffers = jm.stack_module_state(layers)
    assert {name: value.shape for name, value in params.items()} == {"0.weight": (3, 4, 3), "0.bias": (3, 4)}
    assert buffers == {}


def frozen(library: Any) -> Any:
    layer = library.Linear(3, 4)
    layer.weight.requires_grad_(False)
    return layer


REFUSED: dict[str, Any] = {
    "none": lambda s: [],
    "mode": lambda s: [linear(s), linear(s).eval()],
    "class": lambda s: [linear(s), s.Bilinear(3, 3, 4)],
    "requires_grad": lambda s: [linear(s), frozen(s)],
    "shape": lambda s: [linear(s), s.Linear(2, 4)],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_do_not_fit_are_refused_in_torchs_words(kind: str) -> None:
    with pytest.raises(RuntimeError) as theirs:
        torch.func.stack_module_state(REFUSED[kind](torch.nn))
    with pytest.raises(RuntimeError) as ours:
        jm.stack_module_state(REFUSED[kind](nn))
    assert str(theirs.value) in str(ours.value)


def test_models_with_other_names_are_refused() -> None:
    with pytest.raises(RuntimeError, match="Expected all models to have '1.weight', only some do"):
        jm.stack_module_state([*models(nn, linear, norm, count=1), *models(nn, linear, count=1)])


def drawn(library: Any, randomness: str) -> np.ndarray:
    """Map a random function, and return which elements it has dropped."""
    x = np.ones((4, 64), np.float32)
    if library is torch:
        run = lambda x: torch.nn.functional.dropout(x, 0.5)  # noqa: E731
        return torch.func.vmap(run, randomness=randomness)(torch.tensor(x)).numpy() == 0
    return np.asarray(jm.vmap(lambda x: nn.functional.dropout(x, 0.5), randomness=randomness)(x)) == 0


@pytest.mark.parametrize("library", [torch, jm], ids=["torch", "jm"])
@pytest.mark.parametrize(("randomness", "distinct"), [("same", 1), ("different", 4)])
def test_randomness_is_torchs(library: Any, randomness: str, distinct: int) -> None:
    assert len(np.unique(drawn(library, randomness), axis=0)) == distinct


@pytest.mark.parametrize("randomness", ["error", "some"])
def test_refusals_of_randomness_are_in_torchs_words(randomness: str) -> None:
    with pytest.raises(RuntimeError) as theirs:
        drawn(torch, randomness)
    with pytest.raises(RuntimeError) as ours:
        drawn(jm, randomness)
    assert str(theirs.value) in str(ours.value)


def test_members_of_an_ensemble_draw_apart_and_count_for_themselves() -> None:
    members = [nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)) for _ in range(3)]
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    scaled = np.stack([BATCH, 2 * BATCH, 3 * BATCH])
    outs = jm.jit(jm.vmap(lambda net, x: net(x), randomness="different"))(ensemble, scaled)
    assert len(np.unique(np.asarray(outs == 0), axis=0)) == 3
    for i, net in enumerate(members):
        net(scaled[i])
        same(ensemble[0].running_mean[i], net[0].running_mean)
    same(ensemble[0].num_batches_tracked, [1, 1, 1])
