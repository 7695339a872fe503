"""The older weight norm and spectral norm against torch, and the attribute that their hooks derive."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn

Check = Callable[..., None]
KINDS = {
    "weight_norm": "weight_norm(m)",
    "weight_norm, whole": "weight_norm(m, dim=None)",
    "weight_norm, last": "weight_norm(m, dim=1)",
    "weight_norm, bias": "weight_norm(m, 'bias')",
    "spectral_norm": "spectral_norm(m)",
    "spectral_norm, iterations": "spectral_norm(m, 'weight', 3, 1e-3)",
    "spectral_norm, dim": "spectral_norm(m, dim=1)",
}
BOTH = ["weight_norm", "spectral_norm"]


def apply(library: Any, kind: str, m: Any) -> Any:
    """Apply a norm without torch's deprecation warnings."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return eval(KINDS[kind], {"m": m, **vars(library.utils)})


def test_weight_norm_warns(both: Check) -> None:
    both(lambda s: s.utils.weight_norm(s.Linear(2, 2)), raises=FutureWarning)


@pytest.mark.parametrize("layer", [lambda s: s.Linear(4, 3), lambda s: s.Conv1d(2, 3, 2)], ids=["Linear", "Conv1d"])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_state_are_torchs(both: Check, kind: str, layer: Any) -> None:
    def script(s):
        m = apply(s, kind, layer(s))
        x = s.array([[1.0, 2.0, -1.0, 3.0]] * 2)
        out = [m, m.weight, m(x), m, m.weight, m(x), m, "weight" in m._parameters, "weight" in m._buffers]
        return [*out, m.eval()(x), m.weight, m]

    both(script)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [True, False])
def test_gradients_are_torchs(kind: str, mode: bool) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    jm.manual_seed(0), torch.manual_seed(0)
    ours = apply(nn, kind, nn.Linear(4, 3)).train(mode)
    theirs = apply(torch.nn, kind, torch.nn.Linear(4, 3)).train(mode)
    grads = jm.grad(lambda net: (net(x) ** 2).sum())(ours)
    (theirs(torch.tensor(x)) ** 2).sum().backward()
    assert list(grads) == [name for name, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", BOTH)
def test_compiled_training_is_torchs(kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    ours, theirs = apply(nn, kind, nn.Linear(4, 3)), apply(torch.nn, kind, torch.nn.Linear(4, 3))
    our_optimizer = jm.optim.SGD(ours.parameters(), lr=0.05)
    their_optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05)
    traces = []

    @jm.jit(donate=True)
    def step(net, optimizer, x):
        traces.append(1)
        optimizer.step(jm.grad(lambda net: (net(x) ** 2).sum())(net))

    for _ in range(4):
        step(ours, our_optimizer, jnp.asarray(x))
        their_optimizer.zero_grad()
        (theirs(torch.tensor(x)) ** 2).sum().backward()
        their_optimizer.step()
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert len(traces) <= 3  # donation looks at the writes in a trace of its own


@pytest.mark.parametrize("kind", KINDS)
def test_removal_is_torchs(both: Check, kind: str) -> None:
    def script(s):
        m = apply(s, kind, s.Linear(4, 3))
        m(s.array([[1.0, 2.0, 3.0, 4.0]]))
        name, tensor = kind.partition(",")[0], "bias" if "bias" in kind else "weight"
        m = getattr(s.utils, f"remove_{name}")(m, tensor)
        return [m, m.weight, m.bias, len(m._forward_pre_hooks), len(m._state_dict_hooks)]

    both(script)


def test_module_loads_plain_files_after_removal() -> None:
    net = nn.utils.remove_spectral_norm(nn.utils.spectral_norm(nn.Linear(2, 3)))
    assert not net._load_state_dict_pre_hooks  # torch forgets this one, and refuses the file
    net.load_state_dict(nn.Linear(2, 3).state_dict())


REFUSED = {
    "weight norm twice": (RuntimeError, "weight_norm(weight_norm(m))"),
    "weight norm of a lazy layer": (ValueError, "weight_norm(s.LazyLinear(2))"),
    "spectral norm of a lazy layer": (ValueError, "spectral_norm(s.LazyLinear(2))"),
    "spectral norm twice": (RuntimeError, "spectral_norm(spectral_norm(m))"),
    "spectral norm of None": (ValueError, "spectral_norm(s.Linear(2, 2, bias=False), 'bias')"),
    "no iterations": (ValueError, "spectral_norm(m, n_power_iterations=0)"),
    "removing no weight norm": (ValueError, "remove_weight_norm(m)"),
    "removing no spectral norm": (ValueError, "remove_spectral_norm(m, 'bias')"),
    "no such parameter": (KeyError, "spectral_norm(m, 'missing')"),
    "weight norm of no such parameter": (AttributeError, "weight_norm(m, 'missing')"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal(both: Check, case: str) -> None:
    error, expression = REFUSED[case]

    def script(s):
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return eval(expression, {"m": s.Linear(3, 2), "s": s, **vars(s.utils)})

    both(script, raises=error)


def test_two_norms_of_one_layer(both: Check) -> None:
    def script(s):
        m = apply(s, "weight_norm", apply(s, "weight_norm, bias", s.Linear(2, 3)))
        return [m, m(s.array([[1.0, 2.0]])), m.bias]

    both(script)


@pytest.mark.parametrize("kind", BOTH)
def test_value_assigned_by_hand_stands_until_the_next_call(both: Check, kind: str) -> None:
    def script(s):
        m = apply(s, kind, s.Linear(2, 2)).eval()
        m.weight = s.array([[1.0, 2.0], [3.0, 4.0]])
        return [m.weight, m(s.array([[1.0, 2.0]])), m.weight]

    both(script)


def test_state_dict_has_torchs_metadata(both: Check) -> None:
    def script(s):
        net = s.Sequential(s.utils.spectral_norm(s.Linear(2, 3)))
        d = net.state_dict()
        return [list(d), {key: dict(value) for key, value in d._metadata.items()}, str(net.load_state_dict(d)), net]

    both(script)


@pytest.mark.parametrize("drop", [None, "metadata", "metadata and v", "weight_u"])
def test_older_files_load(both: Check, drop: str | None) -> None:
    def script(s):
        m = s.utils.spectral_norm(s.Linear(2, 3))
        m(s.array([[1.0, 2.0]]))
        d, x = m.state_dict(), s.array([[1.0, 2.0]])
        if drop == "metadata":
            d = dict(d)
        elif drop is not None:
            d["weight"] = m.weight
            del d["weight_v"], d._metadata[""]["spectral_norm"]
            d.pop(drop, None)
        twin = s.utils.spectral_norm(s.Linear(2, 3))
        try:
            return [str(twin.load_state_dict(d)), twin.eval()(x)]
        except RuntimeError as error:
            return str(error)

    both(script)


@pytest.mark.parametrize("kind", BOTH)
def test_works_in_every_transform(kind: str) -> None:
    net, x = apply(nn, kind, nn.Linear(2, 3)).eval(), jnp.ones((4, 2), jnp.float32)
    expected = net(x)
    apply_net, params, state = jm.functionalize(net)
    programs = {
        "jm.jit": lambda: jm.jit(net)(x),
        "jax.jit, closure": lambda: jax.jit(lambda x: net(x))(x),
        "jax.jit, argument": lambda: jax.jit(lambda net, x: net(x))(net, x),
        "vmap": lambda: jm.vmap(net)(x),
        "functionalize": lambda: apply_net(params, state, x)[0],
        "functional_call": lambda: jm.functional_call(net, {**params, **state}, x),
        "deepcopy": lambda: copy.deepcopy(net)(x),
        "pickle": lambda: pickle.loads(pickle.dumps(net))(x),
    }
    for name, program in programs.items():
        np.testing.assert_allclose(program(), expected, rtol=1e-5, err_msg=name)
    grads = jm.grad(lambda net: net(x).sum())(net)
    through_call = jax.grad(lambda p: jm.functional_call(net, p, x).sum())(dict(params))
    for name, gradient in grads.items():
        np.testing.assert_allclose(through_call[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_module_lists_nothing_but_its_state() -> None:
    net = apply(nn, "weight_norm", nn.Linear(2, 3))
    assert hasattr(net, "weight") and "weight" not in vars(net)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(net)]
    assert names == [".bias", ".weight_g", ".weight_v"]


@pytest.mark.parametrize("kind", BOTH)
def test_modules_with_equal_hooks_share_a_program_and_can_be_stacked(kind: str) -> None:
    nets, x, traces = [apply(nn, kind, nn.Linear(2, 3)).eval() for _ in range(2)], jnp.ones((4, 2), jnp.float32), []

    @jm.jit
    def call(net, x):
        traces.append(1)
        return net(x)

    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    outputs = [net(x) for net in nets]
    for net, output in zip(nets, outputs, strict=True):
        np.testing.assert_allclose(call(net, x), output, rtol=1e-5)
    assert len(traces) == 1
    stacked = jm.vmap(lambda net, x: net(x), in_axes=(0, None))(stack, x)
    np.testing.assert_allclose(stacked, jnp.stack(outputs), rtol=1e-5)


def test_compiled_read_of_the_weight_is_not_stale() -> None:
    net = nn.utils.spectral_norm(nn.Linear(2, 3))
    read = jm.jit(lambda net: net.weight)
    np.testing.assert_array_equal(read(net), net.weight_orig.value)
    net.eval()(jnp.ones((1, 2), jnp.float32))
    np.testing.assert_allclose(read(net), net.weight, rtol=1e-6)
    assert not np.allclose(net.weight, net.weight_orig.value)
