"""``vmap`` and ``eval_shape``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import (
    BATCH,
    Custom,
    X,
    accumulate,
    arrays,
    assert_arrays,
    assert_clean,
    mlp,
    multiply,
    plain,
    same,
)


def stack(nets: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)


TREE = {"x": BATCH, "y": BATCH[:, 0]}
AXES: dict[str, tuple[Any, Any, Any]] = {
    "default": (0, 0, (BATCH, BATCH)),
    "last": (1, 0, (BATCH, BATCH)),
    "negative": (-1, 0, (BATCH, BATCH)),
    "some": ((0, None), 0, (BATCH, X)),
    "other": ((None, 1), 0, (BATCH[:, 0], BATCH)),
    "out": (0, 1, (BATCH, BATCH)),
    "list": ([0, 0], 0, (BATCH, BATCH)),
}


@pytest.mark.parametrize("kind", AXES)
def test_axes_are_those_of_jax(kind: str) -> None:
    in_axes, out_axes, args = AXES[kind]
    ours = jm.vmap(lambda a, b: a * b + 1, in_axes, out_axes)(*args)
    same(
        ours,
        jax.vmap(lambda a, b: a * b + 1, tuple(in_axes) if isinstance(in_axes, list) else in_axes, out_axes)(*args),
    )


PYTREES: dict[str, tuple[Any, Any]] = {
    "dict": (({"x": 0, "y": 0},), 0),
    "prefix": ((0,), {"s": 0, "n": None}),
    "none inside": (({"x": 0, "y": None},), 0),
}


def of_tree(tree: Any) -> Any:
    return {"s": tree["x"].sum() + tree["y"].sum(), "n": jnp.ones(())}


@pytest.mark.parametrize("kind", PYTREES)
def test_axes_of_pytrees_are_those_of_jax(kind: str) -> None:
    in_axes, out_axes = PYTREES[kind]
    ours, theirs = (f(of_tree, in_axes, out_axes)(TREE) for f in (jm.vmap, jax.vmap))
    assert_arrays(ours, theirs)


def test_keyword_arguments_are_mapped_over_their_first_axis() -> None:
    ours = jm.vmap(lambda a, *, b: a * b)(BATCH, b=BATCH)
    same(ours, jax.vmap(lambda a, *, b: a * b)(BATCH, b=BATCH))


@pytest.mark.parametrize("form", ["module", "closure", "argument", "nested"])
def test_shared_module(form: str) -> None:
    net = plain()
    run = {
        "module": lambda: jm.vmap(net)(BATCH),
        "closure": lambda: jm.vmap(lambda x: net(x))(BATCH),
        "argument": lambda: jm.vmap(lambda net, x: net(x), (None, 0))(net, BATCH),
        "nested": lambda: jm.vmap(lambda tree, x: tree["a"][0](x), (None, 0))({"a": [net]}, BATCH),
    }[form]
    same(run(), net(BATCH))
    same(jm.jit(run)(), net(BATCH))


@pytest.mark.parametrize("in_axes", [0, (0, None), (0, 0)], ids=str)
def test_ensemble_is_a_stacked_module(in_axes: Any) -> None:
    nets = [plain() for _ in range(4)]
    x = BATCH if in_axes != (0, None) else BATCH[0]
    ours = jm.vmap(lambda net, x: net(x), in_axes)(stack(nets), x)
    same(ours, jnp.stack([net(x if x.ndim == 1 else x[i]) for i, net in enumerate(nets)]))


def test_ensemble_writes_its_own_buffers() -> None:
    nets = [Custom(accumulate) for _ in range(4)]
    ensemble = stack(nets)
    jm.vmap(lambda net, x: net(x))(ensemble, BATCH)
    same(ensemble.total, BATCH)
    jm.jit(jm.vmap(lambda net, x: net(x)))(ensemble, BATCH)
    same(ensemble.total, 2 * BATCH)


def test_ensemble_trains_like_its_members() -> None:
    nets = [plain() for _ in range(3)]
    ensemble = stack(nets)
    optimizer = jm.optim.Adam(ensemble.parameters(), lr=0.1)

    @jm.jit
    def step(ensemble: Any, optimizer: Any) -> None:
        optimizer.step(jm.grad(lambda e: jm.vmap(lambda net: jnp.mean(net(BATCH) ** 2))(e).sum())(ensemble))

    for _ in range(2):
        step(ensemble, optimizer)
    for net in nets:
        own = jm.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(2):
            own.step(jm.grad(lambda net: jnp.mean(net(BATCH) ** 2))(net))
    assert_arrays(arrays(ensemble), arrays(stack(nets)))


def test_same_write_to_a_shared_module_is_kept() -> None:
    net = Custom(lambda module, x: accumulate(module, jnp.ones(3)) * x)
    jm.vmap(net)(BATCH)
    same(net.total, jnp.ones(3))


@pytest.mark.parametrize("run", [lambda net: jm.vmap(net)(BATCH), lambda net: jm.jit(jm.vmap(net))(BATCH)])
def test_write_that_differs_is_refused_by_name(run: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    net[1].forward = lambda x: setattr(net[1], "running_mean", x) or x
    before = arrays(net)
    with pytest.raises(RuntimeError, match=r"'1.running_mean' of a shared module was written.*call eval\(\)"):
        run(net)
    assert_arrays(arrays(net), before)
    assert_clean(net)


def test_batch_norm_in_training_is_refused() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(RuntimeError, match=r"shared module was written with a value that differs.*call eval\(\)"):
        jm.vmap(net)(jnp.asarray(BATCH)[:, None].repeat(2, 1))
    net.eval()
    same(jm.vmap(net)(BATCH[:, None]), net(BATCH)[:, None])


@pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["plain", "jm.jit"])
@pytest.mark.parametrize("inner", [lambda f: f, jm.jit], ids=["", "of jm.jit"])
def test_randomness_modes(wrap: Any, inner: Any) -> None:
    net = nn.Sequential(nn.Dropout(0.5))
    x = jnp.ones((4, 32))
    with pytest.raises(RuntimeError, match="vmap: called random operation while in randomness error mode"):
        wrap(jm.vmap(inner(net)))(x)
    rows = np.array(wrap(jm.vmap(inner(net), randomness="same"))(x))
    assert (rows == rows[0]).all()
    rows = np.array(wrap(jm.vmap(inner(net), randomness="different"))(x))
    assert len(np.unique(rows, axis=0)) == 4


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_randomness_advances(randomness: Any) -> None:
    run = jm.vmap(nn.Sequential(nn.Dropout(0.5)), randomness=randomness)
    assert not jnp.array_equal(run(jnp.ones((4, 32))), run(jnp.ones((4, 32))))


def test_random_layer_in_evaluation_draws_nothing() -> None:
    same(jm.vmap(nn.Sequential(nn.Dropout(0.5)).eval())(BATCH), BATCH)


def test_nested_vmap() -> None:
    net = plain()
    x = np.stack([BATCH, 2 * BATCH])
    same(jm.vmap(jm.vmap(net))(x), jax.vmap(net)(x))
    same(jm.vmap(lambda row: jax.vmap(net)(row))(x), jax.vmap(net)(x))


def test_axis_name_and_size() -> None:
    centred = jm.vmap(lambda x: x - jax.lax.pmean(x, "batch"), axis_name="batch")(BATCH)
    same(centred, BATCH - BATCH.mean(0, keepdims=True))
    same(jm.vmap(lambda: jnp.ones(3), axis_size=2)(), jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("run", "match"),
    [
        (lambda: jm.vmap(lambda x: x, (0, 0))(X), "2 entries for 1 arguments"),
        (lambda: jm.vmap(lambda x: x, None)(X), "vmap must have at least one"),
        (lambda: jm.vmap(lambda x, y: x)(X, X[:2]), "inconsistent sizes"),
        (lambda: jm.vmap(lambda x, y: x)(X, 1.0), "rank 0|should be at least 1|ndim 0|scalar"),
    ],
)
def test_bad_arguments_are_named(run: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        run()


EVALUATED: dict[str, Any] = {
    "net": lambda net: net,
    "function": lambda net: lambda x: net(x),
    "training step": lambda net: lambda x: step_of(net, x),
}


def step_of(net: Any, x: Any) -> Any:
    optimizer = jm.optim.SGD(net.parameters(), lr=0.1)
    optimizer.step(jm.grad(lambda net: jnp.mean(net(x)))(net))
    return net(x)


@pytest.mark.parametrize("kind", ["net", "function"])
def test_eval_shape_changes_nothing(kind: str) -> None:
    net = mlp()
    before, state = arrays(net), jm.get_rng_state()
    out = jm.eval_shape(EVALUATED[kind](net), jax.ShapeDtypeStruct((5, 3), jnp.float32))
    assert (out.shape, out.dtype) == ((5, 2), jnp.float32)
    assert_arrays(arrays(net), before)
    np.testing.assert_array_equal(jm.get_rng_state(), state)


def test_eval_shape_of_a_training_step_changes_nothing() -> None:
    net = plain()
    optimizer = jm.optim.Adam(net.parameters())

    def step(net: Any, optimizer: Any, x: Any) -> Any:
        optimizer.zero_grad()
        loss = jm.backward(lambda: jnp.mean(net(x)), net)
        optimizer.step()
        return loss

    before = arrays(net)
    assert jm.eval_shape(step, net, optimizer, BATCH).shape == ()
    assert_arrays(arrays(net), before)
    assert all(p.grad is None for p in net.parameters())
    assert_clean(net)


def test_eval_shape_returns_own_objects_and_pytrees() -> None:
    net = Custom(multiply)
    out = jm.eval_shape(lambda net, x: (net, {"y": net(x), "p": net.weight}), net, X)
    assert out[0] is net and out[1]["p"] is net.weight and out[1]["y"].shape == (3,)


def test_eval_shape_of_keyword_arguments_and_dtypes() -> None:
    out = jm.eval_shape(lambda *, x: x.astype(jnp.bfloat16), x=BATCH)
    assert (out.shape, out.dtype) == ((4, 3), jnp.bfloat16)
