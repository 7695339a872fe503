"""Every standard layer comes across as our constructor makes it."""

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, prune

import jaxmodules as jm
from jaxmodules import nn
from tests.databases import module_db, to_ours
from tests.interop.helpers import assert_same_output, differences
from tests.rows import FAMILIES

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

REST = {
    "Container": "Container()",
    "LazyBatchNorm1d": "LazyBatchNorm1d(affine=False)",
    "LazyBatchNorm2d": "LazyBatchNorm2d()",
    "LazyBatchNorm3d": "LazyBatchNorm3d()",
    "LazyInstanceNorm1d": "LazyInstanceNorm1d(affine=True, track_running_stats=True)",
    "LazyInstanceNorm2d": "LazyInstanceNorm2d()",
    "LazyInstanceNorm3d": "LazyInstanceNorm3d()",
    "LazyLinear": "LazyLinear(3)",
    "Module": "Module()",
    "ModuleDict": "ModuleDict({'b': Linear(2, 1), 'a': ReLU()})",
    "ModuleList": "ModuleList([Linear(2, 1), None])",
    "NLLLoss2d": "NLLLoss2d()",
    "ParameterDict": "ParameterDict({'b': Parameter(ones(2)), 'a': 3})",
    "ParameterList": "ParameterList([Parameter(ones(2), False), ones(3), 'text'])",
    "RNNBase": "RNNBase('LSTM', 2, 3, bidirectional=True)",
    "RNNCellBase": "RNNCellBase(2, 3, True, 4)",
    "Sequential": "Sequential(Sequential(), Linear(2, 2).train(False))",
}
NO_COUNTERPART = {"DataParallel"}  # threads over GPUs


def check(theirs: Any, ours: Any) -> list[str]:
    """Say how what comes of a torch module differs from what our constructor makes."""
    made = jm.from_torch(theirs)
    found = [f"{type(theirs).__name__}{line}" for line in differences(made, ours)]
    if repr(made) != repr(ours):
        found.append(f"{made!r}, expected {ours!r}")
    if list(made.state_dict()) != list(theirs.state_dict()):
        found.append(f"{list(made.state_dict())}, expected {list(theirs.state_dict())}")
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_the_table_are_as_constructed(family: str) -> None:
    rows = getattr(FAMILIES[family], "LAYERS", ())
    assert [line for row in rows for line in check(row.make(torch.nn), row.make(nn))] == []


def test_layers_of_the_database_are_as_constructed() -> None:
    found = []
    for info in module_db:
        inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
        for given in list({str(i.constructor_input.kwargs): i.constructor_input for i in inputs}.values())[:4]:
            ours = getattr(nn, info.name.removeprefix("nn."))
            theirs = info.module_cls(*given.args, **given.kwargs)
            found += check(theirs, ours(*map(to_ours, given.args), **to_ours(given.kwargs)))
    assert found == []


@pytest.mark.parametrize("name", REST)
def test_rest_is_as_constructed(name: str) -> None:
    theirs = eval(REST[name], {**vars(torch.nn), "ones": torch.ones})
    assert check(theirs, eval(REST[name], {**vars(nn), "ones": lambda n: jnp.ones(n, jnp.float32)})) == []


def test_every_class_of_torch_is_among_these() -> None:
    classes = {name for name, c in vars(torch.nn).items() if inspect.isclass(c) and issubclass(c, torch.nn.Module)}
    rows = {row.name for family in FAMILIES.values() for row in getattr(family, "LAYERS", ())}
    assert classes - {i.name.removeprefix("nn.") for i in module_db} - rows - REST.keys() == NO_COUNTERPART


def linear(change: Callable[[torch.nn.Linear], Any]) -> Callable[[], torch.nn.Module]:
    """Return a function that makes a linear layer and changes it."""
    return lambda: change(torch.nn.Linear(4, 3))


def pruned_twice(net: torch.nn.Linear) -> torch.nn.Linear:
    """Prune single weights, then a row."""
    return prune.ln_structured(prune.l1_unstructured(net, "weight", 2), "weight", 1, 2, 0)


CHANGED = {
    "weight_norm": linear(parametrizations.weight_norm),
    "spectral_norm": linear(parametrizations.spectral_norm),
    "orthogonal": linear(parametrizations.orthogonal),
    "cayley": linear(lambda net: parametrizations.orthogonal(net, orthogonal_map="cayley", use_trivialization=False)),
    "two": linear(lambda net: parametrizations.weight_norm(parametrizations.spectral_norm(net), "bias")),
    "old weight_norm": linear(torch.nn.utils.weight_norm),
    "old spectral_norm": linear(torch.nn.utils.spectral_norm),
    "pruned": linear(lambda net: prune.l1_unstructured(net, "weight", 2)),
    "pruned twice": linear(pruned_twice),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_parametrizations_norms_and_masks_come_along(kind: str) -> None:
    theirs = CHANGED[kind]()
    ours = jm.from_torch(theirs)
    assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
    np.testing.assert_allclose(ours.weight, theirs.weight.detach(), 2e-5, 2e-5)
    x = np.ones((2, 4), np.float32)
    assert_same_output(theirs, ours, x)
    assert_same_output(theirs.eval(), copy.deepcopy(ours.eval()), x)
    ours.load_state_dict(theirs.state_dict())


def test_norm_loads_files_of_the_older_one() -> None:
    ours = jm.from_torch(CHANGED["weight_norm"]())
    older = torch.nn.utils.weight_norm(torch.nn.Linear(4, 3))
    ours.load_state_dict(older.state_dict())
    np.testing.assert_allclose(ours.weight, older.weight.detach(), 2e-5, 2e-5)


def test_mask_can_be_removed() -> None:
    theirs = CHANGED["pruned twice"]()
    ours = nn.utils.prune.remove(jm.from_torch(theirs), "weight")
    np.testing.assert_array_equal(ours.weight, prune.remove(theirs, "weight").weight.detach())


def test_lazy_layers_find_their_shapes_here() -> None:
    ours = jm.from_torch(torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.LazyBatchNorm1d()))
    ours(jnp.ones((2, 5), jnp.float32))
    assert ours[0].weight.shape == (3, 5) and ours[1].running_mean.shape == (3,)


def test_lazy_layer_takes_shapes_of_a_state_dict() -> None:
    ours = jm.from_torch(torch.nn.LazyLinear(3))
    ours.load_state_dict(torch.nn.Linear(4, 3).state_dict())
    assert ours.weight.shape == (3, 4)


def test_encoder_learns_the_same() -> None:
    theirs = torch.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation=torch.nn.functional.gelu)
    ours = jm.from_torch(theirs)
    x = np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32)
    theirs(torch.tensor(x)).square().sum().backward()
    gradients = jm.jit(jm.grad(lambda net: (net(x) ** 2).sum()))(ours)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad, 1e-4, 1e-4, err_msg=name)


def test_result_is_pickled_and_shares_compiled_programs() -> None:
    traced = []

    @jm.jit
    def run(net: nn.Module, x: Any) -> Any:
        traced.append(1)
        return net(x)

    layers = [[lib.Conv2d(1, 2, 3, padding=1), lib.BatchNorm2d(2), lib.PReLU()] for lib in (nn, torch.nn)]
    built, made = nn.Sequential(*layers[0]), jm.from_torch(torch.nn.Sequential(*layers[1]))
    for net in (built, made, pickle.loads(pickle.dumps(made))):
        run(net, np.ones((1, 1, 2, 2), np.float32))
    assert len(traced) == 1


def test_nothing_is_drawn_and_nothing_shared() -> None:
    theirs = torch.nn.Linear(3, 2)
    before = jm.get_rng_state().copy()
    with warnings.catch_warnings(action="error"):
        ours = jm.from_torch(theirs)
    expected = np.array(ours.weight)
    with torch.no_grad():
        theirs.weight.zero_()
    np.testing.assert_array_equal(ours.weight, expected)
    np.testing.assert_array_equal(jm.get_rng_state(), before)
