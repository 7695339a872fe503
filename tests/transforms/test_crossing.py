"""Every transform over every kind of state: output, gradients, buffers and random key are those of the Python loop.

A row is a layer whose output has the shape of its input. A transform is a pair of functions of a module and an input:
the one that uses it, and the Python code that it stands for. To extend the table, add an entry to either.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.random import next_key
from tests.transforms.helpers import assert_clean

Run = Callable[[Any, Any], Any]


class Counter(nn.Module):
    """Count its calls in an integer buffer, and scale by the count."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(jnp.full(4, 0.5))
        self.register_buffer("calls", jnp.zeros((), jnp.int32))

    def forward(self, x: Any) -> Any:
        self.calls = self.calls + 1
        return x * self.weight[None, None] + self.calls


class First(nn.Module):
    """Return the first output of a layer that is called with one input several times."""

    def __init__(self, layer: nn.Module, times: int) -> None:
        super().__init__()
        self.layer = layer
        self.times = times

    def forward(self, x: Any) -> Any:
        return self.layer(*[x] * self.times)[0]


class Trained(nn.Module):
    """Take a step of an optimizer before every call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.outer = nn.Linear(4, 4)
        self.optimizer = jm.optim.Adam(self.inner.parameters(), lr=0.1)

    def forward(self, x: Any) -> Any:
        fixed = jax.lax.stop_gradient(x)
        self.optimizer.step(jm.grad(lambda inner: jnp.mean(inner(fixed) ** 2))(self.inner))
        return self.outer(x) + jax.lax.stop_gradient(self.inner(fixed))


def spectral() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm": lambda: nn.BatchNorm1d(2),
    "InstanceNorm": lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
    "Dropout": lambda: nn.Dropout(0.5),
    "RReLU": lambda: nn.RReLU(),
    "spectral norm": spectral,
    "LSTM": lambda: First(nn.LSTM(4, 4, num_layers=2, dropout=0.5), 1),
    "MultiheadAttention": lambda: First(nn.MultiheadAttention(4, 2, dropout=0.5), 3),
    "counter": Counter,
    "optimizer": Trained,
    "several": lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 4), nn.BatchNorm1d(2), nn.RReLU()),
}


class Transform(NamedTuple):
    """What uses a transform, and the Python code that it stands for."""

    ours: Run
    python: Run
    has_gradient: bool = True


def assert_arrays(ours: Any, theirs: Any) -> None:
    assert list(ours) == list(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


def times(count: int) -> Run:
    def run(net: Any, x: Any) -> Any:
        for _ in range(count):
            x = jnp.tanh(net(x))
        return x

    return run


def call(net: Any, x: Any) -> Any:
    return jnp.tanh(net(x))


def each(net: Any, x: Any) -> Any:
    return sum(call(net, row) for row in (x, 2 * x, 3 * x))


def rows(x: Any) -> Any:
    return jnp.stack([x, 2 * x, 3 * x])


def applied(net: Any, x: Any) -> Any:
    """Run the pure form of a module, and put everything back by hand."""
    apply, params, state = jm.functionalize(net)
    generator = jm.random.current_generator()

    def run(params: Any, state: Any, key: Any, x: Any) -> Any:
        with jm.fork_rng(key) as forked:
            out, state = apply(params, state, x)
            return out, state, forked._key.value

    out, state, key = jax.jit(run)(params, state, generator._key.value, x)
    jm.update(net, {}, state)
    generator.set_key(key)
    return jnp.tanh(out)


def counting(net: Any, x: Any) -> Any:
    return jm.while_loop(lambda v: v[0] < 2, lambda v: (v[0] + 1, call(net, v[1])), (0, x))[1]


def asking(net: Any, x: Any) -> Any:
    """Let the condition of a loop call the module."""
    return jm.while_loop(lambda v: jnp.sum(call(net, v[1])) * 0 + v[0] < 2, lambda v: (v[0] + 1, v[1] + 1), (0, x))[1]


def asking_in_python(net: Any, x: Any) -> Any:
    for i in range(3):
        call(net, x + i)
    return x + 2


TRANSFORMS: dict[str, Transform] = {
    "jm.jit": Transform(lambda net, x: jm.jit(call)(net, x), call),
    "jm.jit twice": Transform(lambda net, x: (f := jm.jit(call))(net, f(net, x)), times(2)),
    "scan over time": Transform(
        lambda net, x: jm.scan(lambda c, row: (c + call(net, row), None), 0 * x, rows(x))[0], each
    ),
    "scan outputs": Transform(
        lambda net, x: jm.scan(lambda c, row: (c, call(net, row)), None, rows(x))[1].sum(0), each
    ),
    "reversed scan": Transform(
        lambda net, x: jm.scan(lambda c, row: (c, call(net, row)), None, rows(x)[::-1], reverse=True)[1].sum(0), each
    ),
    "module in the carry": Transform(
        lambda net, x: jm.scan(lambda c, _: ((c[0], call(*c)), None), (net, x), length=2)[0][1], times(2)
    ),
    "nested scan": Transform(
        lambda net, x: jm.scan(
            lambda c, _: (jm.scan(lambda c, _: (call(net, c), None), c, length=2)[0], None), x, length=2
        )[0],
        times(4),
    ),
    "fori_loop": Transform(lambda net, x: jm.fori_loop(0, 2, lambda i, x: call(net, x), x), times(2)),
    "while_loop": Transform(counting, times(2), has_gradient=False),
    "while_loop's condition": Transform(asking, asking_in_python, has_gradient=False),
    "cond": Transform(lambda net, x: jm.cond(x.sum() > -99, lambda x: call(net, x), lambda x: x, x), call),
    "cond, not taken": Transform(
        lambda net, x: jm.cond(x.sum() < -99, lambda x: call(net, x), lambda x: x, x), lambda net, x: x
    ),
    "switch": Transform(
        lambda net, x: jm.switch(1, [lambda net, x: x, call, lambda net, x: call(net, call(net, x))], net, x), call
    ),
    "remat": Transform(lambda net, x: jnp.tanh(jm.remat(net)(x)), call),
    "remat of a loop": Transform(
        lambda net, x: jm.checkpoint(lambda x: jm.fori_loop(0, 2, lambda i, x: call(net, x), x))(x), times(2)
    ),
    "scan of remat": Transform(
        lambda net, x: jm.scan(lambda c, _: (jm.remat(call, prevent_cse=False)(net, c), None), x, length=2)[0],
        times(2),
    ),
    "functionalize": Transform(applied, call, has_gradient=False),
}


def snapshot(net: Any) -> dict[str, Any]:
    """Return all state of a module, its optimizer and the random key."""
    arrays = {name: np.array(value) for name, value in net.state_dict().items()}
    optimizers = [m.optimizer for m in net.modules() if hasattr(m, "optimizer")]
    arrays |= {
        f"optimizer.{i}": np.array(leaf) for i, leaf in enumerate(jax.tree.leaves([o.state_dict() for o in optimizers]))
    }
    return {**arrays, "key": np.asarray(jm.random.current_generator()._key.value)}


def outcome(build: Any, run: Any) -> tuple[Any, dict[str, Any]]:
    """Return what ``run`` returns, by name, and the state that it leaves."""
    jm.manual_seed(0)
    net = build()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 4)), jnp.float32)
    net.train()
    out = run(net, x)
    assert_clean(net)
    return out if isinstance(out, dict) else {"out": out}, snapshot(net)


def differentiated(run: Run) -> Run:
    """Return the value and all gradients of a function of a module."""

    def loss(net: Any, x: Any) -> Any:
        out = run(net, x)
        return jnp.sum(out * jnp.arange(out.size).reshape(out.shape)), out

    def both(net: Any, x: Any) -> Any:
        (_, out), (grads, of_x) = jm.value_and_grad(loss, (0, 1), has_aux=True)(net, x)
        return dict(sorted({"out": out, "x": of_x, **grads}.items()))

    return both


def compare(build: Any, ours: Run, python: Run) -> None:
    for mine, expected in zip(outcome(build, ours), outcome(build, python), strict=True):
        assert_arrays(mine, expected)


CROSSED = ("jm.jit", "scan over time", "while_loop", "cond", "remat", "functionalize")  # the others vary these
CELLS = [
    pytest.param(layer, name, id=f"{name}-{layer}")
    for name in TRANSFORMS
    for layer in (LAYERS if name in CROSSED else ("several", "optimizer"))
    if (name, layer) != ("functionalize", "optimizer")  # the pure form is that of a module alone
]


@pytest.mark.parametrize(("layer", "transform"), CELLS)
def test_state_is_that_of_the_python_loop(layer: str, transform: str) -> None:
    ours, python, has_gradient = TRANSFORMS[transform]
    if has_gradient and layer != "optimizer":
        compare(LAYERS[layer], lambda net, x: jm.jit(differentiated(ours))(net, x), differentiated(python))
    else:
        compare(LAYERS[layer], ours, python)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_state_is_that_of_the_python_loop_without_jit(transform: str) -> None:
    ours, python, has_gradient = TRANSFORMS[transform]
    wrap = differentiated if has_gradient else lambda run: run
    compare(LAYERS["several"], wrap(ours), wrap(python))


def stack(nets: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)


def members(layer: str) -> list[Any]:
    jm.manual_seed(1)
    return [LAYERS[layer]() for _ in range(3)]


MODULES = [layer for layer in LAYERS if layer != "optimizer"]
MAPPED = [("several", "same"), ("Dropout", "same"), *((layer, "different") for layer in MODULES)]
X = np.random.default_rng(1).standard_normal((3, 2, 4)).astype(np.float32)


def loss_of(layers: Any, loop: Any) -> Any:
    out = loop(layers, jnp.asarray(X))
    return jnp.sum(out * jnp.arange(out.size).reshape(out.shape)), out


def in_order(layers: Any, x: Any) -> Any:
    for layer in layers:
        x = call(layer, x)
    return x


@pytest.mark.parametrize("layer", MODULES)
def test_scan_over_blocks_is_the_python_loop(layer: str) -> None:
    def scanned(layers: Any, x: Any) -> Any:
        return jm.scan(lambda x, block: (call(block, x), None), x, layers)[0]

    results = []
    for loop, wrap in ((in_order, lambda f: f), (scanned, jm.jit)):
        layers = nn.ModuleList(members(layer))
        (_, out), grads = wrap(jm.value_and_grad(lambda layers: loss_of(layers, loop), has_aux=True))(layers)  # noqa: B023
        results.append((dict(sorted({"out": out, **grads}.items())), snapshot(layers)))
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert_arrays(ours, theirs)


@pytest.mark.parametrize("layer", MODULES)
def test_scan_over_a_stacked_module_is_the_python_loop(layer: str) -> None:
    nets, stacked = members(layer), stack(members(layer))
    jm.manual_seed(2)
    expected = in_order(nets, X)
    jm.manual_seed(2)
    ours = jm.scan(lambda x, block: (call(block, x), None), X, stacked, length=3)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    assert_arrays(snapshot(stacked), snapshot(stack(nets)) | {"key": snapshot(stacked)["key"]})


@pytest.mark.parametrize(("layer", "randomness"), MAPPED)
def test_vmap_over_an_ensemble_is_the_python_loop(layer: str, randomness: Any) -> None:
    nets, stacked = members(layer), stack(members(layer))
    jm.manual_seed(2)
    key = next_key()
    keys = [key] * 3 if randomness == "same" else jax.random.split(key, 3)
    outs, grads = [], []
    for net, key in zip(nets, keys, strict=True):
        with jm.fork_rng(key):
            (_, out), grad = jm.value_and_grad(lambda net: loss_of(net, call), has_aux=True)(net)
        outs.append(out)
        grads.append(grad)
    jm.manual_seed(2)

    def ensemble(stacked: Any) -> Any:
        losses, out = jm.vmap(lambda net: loss_of(net, call), randomness=randomness, axis_size=3)(stacked)
        return losses.sum(), out

    (_, out), gradient = jm.jit(jm.value_and_grad(ensemble, has_aux=True))(stacked)
    np.testing.assert_allclose(out, jnp.stack(outs), rtol=1e-5, atol=1e-6)
    assert_arrays(dict(sorted(gradient.items())), {n: jnp.stack([g[n] for g in grads]) for n in sorted(grads[0])})
    assert_arrays(snapshot(stacked) | {"key": 0}, snapshot(stack(nets)) | {"key": 0})


@pytest.mark.parametrize(("layer", "randomness"), [cell for cell in MAPPED if cell[0] != "counter"])
def test_vmap_over_a_batch_is_the_python_loop(layer: str, randomness: Any) -> None:
    net = members(layer)[0]
    for module in net.modules():
        module.training = not any(name.startswith(("running", "_u", "calls")) for name in module._buffers)
    batch = jnp.stack([X, 2 * X, 3 * X])
    jm.manual_seed(2)
    key = next_key()
    keys = [key] * 3 if randomness == "same" else jax.random.split(key, 3)
    expected = []
    for row, key in zip(batch, keys, strict=True):
        with jm.fork_rng(key):
            expected.append(net(row))
    jm.manual_seed(2)
    ours = jm.jit(jm.vmap(net, randomness=randomness))(batch)
    np.testing.assert_allclose(ours, jnp.stack(expected), rtol=1e-5, atol=1e-6)
