"""Loops and branches: JAX's results and errors, blocks, and what is refused.

That state comes out of them as out of Python's loops is the table in ``test_crossing``.
"""

import functools
import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, arrays, assert_arrays, assert_clean, same

STEPS = jnp.arange(3.0)


def pairs(f: Any, *args: Any) -> None:
    """Run a function with our transforms and with JAX's, and compare."""
    ours, theirs = f(jm, *args), f(jax.lax, *args)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (mine.shape, mine.dtype, mine.weak_type) == (other.shape, other.dtype, other.weak_type)
        same(mine, other)


PLAIN: dict[str, Any] = {
    "scan": lambda lax: lax.scan(lambda c, x: (c + x, {"y": (c, None)}), 0.0, STEPS),
    "scan of nothing": lambda lax: lax.scan(lambda c, _: (c * 2, c), jnp.ones(2), None, 3),
    "scan of a tree": lambda lax: lax.scan(
        lambda c, x: (c + x["a"] * x["b"][0], None), 0.0, {"a": STEPS, "b": [STEPS]}
    ),
    "reverse": lambda lax: lax.scan(lambda c, x: (c * 2 + x, c), jnp.ones(()), STEPS, reverse=True),
    "unroll": lambda lax: lax.scan(lambda c, x: (c * 2 + x, c), jnp.ones(()), STEPS, unroll=2),
    "weak carry": lambda lax: lax.scan(lambda c, x: (c + x, c), 0, STEPS),
    "length 0": lambda lax: lax.scan(lambda c, x: (c + x, c), 1.0, STEPS[:0]),
    "while": lambda lax: lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] * 2), (0, STEPS)),
    "weak while": lambda lax: lax.while_loop(lambda c: c < 5, lambda c: c + jnp.ones(()), 0),
    "fori": lambda lax: lax.fori_loop(0, 4, lambda i, c: c + i, STEPS),
    "fori, traced": lambda lax: lax.fori_loop(jnp.int32(1), jnp.int32(4), lambda i, c: c * i, STEPS),
    "fori, unrolled": lambda lax: lax.fori_loop(0, 4, lambda i, c: c + i, STEPS, unroll=2),
    "cond": lambda lax: lax.cond(STEPS.sum() > 9, lambda x, y: x, lambda x, y: y, STEPS, 2 * STEPS),
    "weak cond": lambda lax: lax.cond(True, lambda x: 1.0, lambda x: x, jnp.ones(())),
    "switch": lambda lax: lax.switch(7, [lambda x: x, lambda x: -x], STEPS),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_functions_give_what_jax_gives(kind: str) -> None:
    pairs(PLAIN[kind])


BAD: dict[str, tuple[Any, Any]] = {
    "shape of the carry": (TypeError, lambda lax: lax.scan(lambda c, x: (c[:1], None), STEPS, STEPS)),
    "tree of the carry": (TypeError, lambda lax: lax.scan(lambda c, x: ((c, c), None), STEPS, STEPS)),
    "no pair": (TypeError, lambda lax: lax.scan(lambda c, x: c, STEPS, STEPS)),
    "no axis": (ValueError, lambda lax: lax.scan(lambda c, x: (c, None), STEPS, 1.0)),
    "no length": (ValueError, lambda lax: lax.scan(lambda c, x: (c, None), STEPS)),
    "lengths": (ValueError, lambda lax: lax.scan(lambda c, x: (c, None), STEPS, (STEPS, STEPS[:2]))),
    "branches": (TypeError, lambda lax: lax.cond(True, lambda x: x, lambda x: (x, x), STEPS)),
    "shapes of branches": (TypeError, lambda lax: lax.cond(True, lambda x: x, lambda x: x[0], STEPS)),
    "predicate": (TypeError, lambda lax: lax.cond(STEPS, lambda x: x, lambda x: x, STEPS)),
    "index": (TypeError, lambda lax: lax.switch(1.0, [lambda x: x, lambda x: x], STEPS)),
    "no branches": (ValueError, lambda lax: lax.switch(1, [], STEPS)),
    "condition": (TypeError, lambda lax: lax.while_loop(lambda c: c, lambda c: c, STEPS)),
    "bounds": (TypeError, lambda lax: lax.fori_loop(0, 3.5, lambda i, c: c, STEPS)),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arguments_are_refused_as_jax_refuses_them(kind: str) -> None:
    error, run = BAD[kind]
    with pytest.raises(error) as theirs:
        run(jax.lax)
    start = str(theirs.value).split()[0]
    with pytest.raises(error, match=f"^{start}"):
        run(jm)


def stack(nets: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)


def linears(count: int = 3) -> list[nn.Module]:
    return [nn.Linear(3, 3) for _ in range(count)]


def through(blocks: Any, x: Any = BATCH, **options: Any) -> Any:
    return jm.scan(lambda x, block: (block(x), None), x, blocks, **options)[0]


BLOCKS: dict[str, Any] = {
    "ModuleList": nn.ModuleList,
    "Sequential": lambda blocks: nn.Sequential(*blocks),
    "list": list,
    "stacked": stack,
    "slice": lambda blocks: nn.ModuleList([nn.Tanh(), *blocks])[1:],
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_run_in_order(kind: str) -> None:
    blocks = linears()
    same(through(BLOCKS[kind](blocks)), nn.Sequential(*blocks)(BATCH))
    same(through(BLOCKS[kind](blocks), reverse=True), nn.Sequential(*blocks[::-1])(BATCH))


def test_stacked_sequential_is_one_module() -> None:
    nets = [nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(4)]
    same(through(stack(nets)), nn.Sequential(*nets)(BATCH))


def test_blocks_are_part_of_a_pytree() -> None:
    blocks, scales = linears(), jnp.arange(1.0, 4.0)
    x, norms = jm.scan(
        lambda x, layer: (layer["scale"] * layer["block"](x), jnp.linalg.norm(x)),
        BATCH,
        {"block": blocks, "scale": scales},
    )
    expected = BATCH
    for block, scale in zip(blocks, scales, strict=True):
        expected = scale * block(expected)
    same(x, expected)
    assert norms.shape == (3,)


def test_gradients_reach_the_parameters_of_every_block_and_of_what_they_share() -> None:
    shared = nn.Linear(3, 3)
    net = nn.ModuleDict({"shared": shared, "blocks": nn.ModuleList([nn.Sequential(b, shared) for b in linears()])})
    ours = jm.jit(jm.grad(lambda net: jnp.sum(through(net["blocks"]) ** 2)))(net)
    theirs = jm.grad(lambda net: jnp.sum(nn.Sequential(*net["blocks"])(BATCH) ** 2))(net)
    assert_arrays(dict(sorted(ours.items())), dict(sorted(theirs.items())))


def test_block_listed_several_times_is_one_state() -> None:
    norm = nn.BatchNorm1d(3)
    through([norm] * 3)
    assert int(norm.num_batches_tracked) == 3


def test_buffer_that_only_some_blocks_share_is_refused_when_written() -> None:
    norm = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="a buffer or parameter that only some of the blocks share"):
        through([norm, norm, nn.BatchNorm1d(3)])
    assert int(norm.num_batches_tracked) == 0


def dropping(p: float) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Dropout(p))


def frozen() -> nn.Module:
    net = nn.Linear(3, 3)
    net.weight.requires_grad_(False)
    return net


def hooked() -> nn.Module:
    net = nn.Linear(3, 3)
    net.register_forward_hook(lambda *_: None)
    return net


UNEQUAL: dict[str, tuple[Any, Any, str]] = {
    "attribute": (dropping(0.1), dropping(0.2), r"\[1\] differs from block \[0\]: the attribute '1.p' is 0.1 in"),
    "mode": (dropping(0.1), dropping(0.1).eval(), "'training' is True in one and False"),
    "class": (dropping(0.1), nn.Sequential(nn.Linear(3, 3), nn.Tanh()), "'1' is a Dropout in one and a Tanh in the"),
    "length": (dropping(0.1), nn.Sequential(nn.Linear(3, 3)), "a module '1' in only one of them"),
    "parameters": (nn.Linear(3, 3), nn.Linear(3, 3, bias=False), r"weight, bias in one and weight, bias \(None\)"),
    "frozen": (nn.Linear(3, 3), frozen(), r"weight, bias in one and weight \(frozen\), bias"),
    "shape": (Custom(accumulate), Custom(accumulate), r"'total' is float32\[3\] in block \[0\] and float32\[2\] in"),
    "hook": (nn.Linear(3, 3), hooked(), "they have other hooks"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNEQUAL)
def test_unequal_blocks_are_refused_by_name(kind: str) -> None:
    first, second, match = UNEQUAL[kind]
    if kind == "shape":
        second.body, second.total = first.body, jnp.zeros(2)
    with pytest.raises(ValueError, match=match):
        through(nn.ModuleList([first, second]))


def test_empty_list_and_generator_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one block to run over, got an empty ModuleList"):
        through(nn.ModuleList())
    with pytest.raises(TypeError, match=r"can't run over a Generator: split a JAX key"):
        through(jm.Generator())


def test_module_as_an_output_is_refused() -> None:
    net = nn.Linear(3, 3)
    with pytest.raises(TypeError, match="scan can't stack modules"):
        jm.scan(lambda c, x: (c, net), 0.0, STEPS)


def test_buffer_that_changes_its_shape_is_refused() -> None:
    net = Custom(lambda module, x: setattr(module, "total", jnp.zeros(2)) or x)
    with pytest.raises(TypeError, match=r"'total' has shape \(3,\) before an iteration of a loop and \(2,\) after"):
        jm.scan(lambda c, _: (net(c), None), X, length=2)
    assert net.total.shape == (3,)


def test_buffer_takes_the_dtype_that_is_written() -> None:
    net = Custom(lambda module, x: setattr(module, "total", (module.total + x).astype(jnp.bfloat16)) or x)
    jm.scan(lambda c, _: (net(c), None), X, length=2)
    assert net.total.dtype == jnp.bfloat16
    same(net.total.astype(jnp.float32), 2 * X)


def leaky(module: Any, x: Any) -> Any:
    module.seen = x
    return x


LOOPS: dict[str, Any] = {
    "scan": lambda f: jm.scan(lambda c, _: (f(c), None), X, length=2),
    "while_loop": lambda f: jm.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, f(c[1])), (0, X)),
    "fori_loop": lambda f: jm.fori_loop(0, 2, lambda i, c: f(c), X),
    "cond": lambda f: jm.cond(True, f, lambda c: c, X),
    "switch": lambda f: jm.switch(0, [f, lambda c: c], X),
    "remat": lambda f: jm.grad(lambda c: jm.remat(f)(c).sum())(jnp.asarray(X)),
}


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: jm.jit(f)], ids=["eager", "jm.jit"])
def test_traced_value_never_stays_behind(kind: str, wrap: Any) -> None:
    net = Custom(leaky)
    with pytest.raises(RuntimeError, match="a traced value was about to be stored in the attribute '.*seen'"):
        wrap(lambda: LOOPS[kind](net))()
    assert_clean(net)
    assert not hasattr(net, "seen")


@pytest.mark.parametrize("kind", LOOPS)
def test_exception_leaves_everything_as_it_was(kind: str) -> None:
    def failing(module: Any, x: Any) -> Any:
        accumulate(module, x)
        jm.random.next_key()
        raise KeyboardInterrupt("stop")

    net, state = Custom(failing), jm.get_rng_state()
    before = arrays(net)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        LOOPS[kind](net)
    assert_clean(net)
    assert_arrays(arrays(net), before)
    np.testing.assert_array_equal(jm.get_rng_state(), state)


@pytest.mark.parametrize("kind", [kind for kind in LOOPS if kind != "remat"])
def test_function_is_traced_once(kind: str) -> None:
    calls: list[int] = []
    net = Custom(lambda module, x: calls.append(1) or accumulate(module, x) * 0 + x)
    LOOPS[kind](net)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", [kind for kind in LOOPS if kind != "while_loop"])
def test_weights_are_no_constants(kind: str) -> None:
    net = Custom(lambda module, x: x * module.weight)
    run = jm.jit(lambda: jax.tree.leaves(LOOPS[kind](net)))
    first = run()
    net.weight.data.mul_(2)
    assert not jnp.array_equal(run()[-1], first[-1])


def test_module_made_in_the_body_is_an_ordinary_value() -> None:
    x = jm.scan(lambda x, _: (nn.Linear(3, 3)(x), None), BATCH, length=2)[0]
    assert x.shape == BATCH.shape


def test_module_made_in_the_body_cannot_be_kept() -> None:
    net = nn.Sequential(nn.Identity())

    def body(x: Any, _: Any) -> Any:
        net[0] = nn.Linear(3, 3)
        return x, None

    with pytest.raises(RuntimeError, match="a traced value was about to be stored in the module"):
        jm.scan(body, X, length=2)
    assert type(net[0]) is nn.Identity


def test_parameter_in_the_carry_is_its_array() -> None:
    start = nn.Parameter(jnp.zeros(3))
    gradient = jm.grad(lambda p: jm.scan(lambda c, x: (c * 2 + x, None), p, jnp.asarray(BATCH))[0].sum())(start)
    same(gradient, jnp.full(3, 16.0))
    assert isinstance(jm.cond(True, lambda p: p, lambda p: 2 * p, start), jax.Array)


def test_modules_that_are_operands_and_carries_come_back_as_themselves() -> None:
    net = nn.Linear(3, 3)
    assert jm.cond(True, lambda n: (n, 1.0), lambda n: (n, 2.0), net)[0] is net
    assert jm.scan(lambda c, _: (c, None), {"net": net, "x": X}, length=2)[0]["net"] is net


def test_training_with_gradients_in_the_parameters() -> None:
    def trained(loop: Any) -> dict[str, Any]:
        jm.manual_seed(0)
        net = nn.Linear(3, 1)
        optimizer = jm.optim.Adam(net.parameters(), lr=0.1)

        def step(_: Any, x: Any) -> Any:
            optimizer.zero_grad()
            loss = jm.backward(lambda: jnp.mean(net(x) ** 2), net)
            optimizer.step()
            return None, loss

        losses = loop(step, jnp.stack([BATCH, 2 * BATCH]))
        return {"losses": losses, **arrays(net), "grad": net.weight.grad}

    def python(step: Any, xs: Any) -> Any:
        return jnp.stack([step(None, x)[1] for x in xs])

    expected = trained(python)
    assert_arrays(trained(lambda step, xs: jm.scan(step, None, xs)[1]), expected)
    assert_arrays(trained(lambda step, xs: jm.jit(lambda xs: jm.scan(step, None, xs)[1])(xs)), expected)


@pytest.mark.parametrize("taken", [True, False])
def test_gradient_of_the_branch_that_ran(taken: bool) -> None:
    net = nn.Linear(3, 1)
    jm.cond(taken, lambda: jm.backward(lambda: net(BATCH).sum(), net), lambda: jnp.float32(0))
    same(net.bias.grad, [4.0 * taken])


def test_lazy_module_finds_its_shape_in_a_branch_and_in_a_loop() -> None:
    first, second = nn.LazyLinear(3), nn.LazyLinear(3)
    assert jm.cond(False, lambda x: x, first, BATCH).shape == BATCH.shape
    assert jm.scan(lambda x, _: (second(x), None), BATCH, length=2)[0].shape == BATCH.shape
    assert first.weight.shape == second.weight.shape == (3, 3)


def test_compiled_loop_over_blocks_does_the_work_of_a_raw_one() -> None:
    stacked = stack([nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(8)])
    x, params = jnp.ones((4, 16)), {name: p.value for name, p in stacked.named_parameters()}

    def raw(params: Any, x: Any) -> Any:
        step = lambda x, p: (jnp.tanh(x @ p["0.weight"].T + p["0.bias"][None]), None)  # noqa: E731
        return jax.lax.scan(step, x, params)[0].sum()

    theirs = jax.jit(jax.grad(raw)).lower(params, x).compile().cost_analysis()
    ours = jm.jit(jm.grad(lambda net, x: through(net, x).sum())).lower(stacked, x).compile().cost_analysis()
    assert ours["flops"] <= 1.02 * theirs["flops"]
    assert ours["bytes accessed"] <= 1.1 * theirs["bytes accessed"]


class Deep(nn.Module):
    """Run through its blocks: with ``scan``, each computed again in the backward pass, or in Python."""

    def __init__(self, is_scanned: bool) -> None:
        super().__init__()
        jm.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)) for _ in "123")
        self.skip = nn.Linear(3, 3)
        self.is_scanned = is_scanned

    def forward(self, x: Any) -> Any:
        if self.is_scanned:
            return jm.scan(lambda x, block: (jm.remat(block)(x) + self.skip(x), None), x, self.blocks)[0]
        for block in self.blocks:
            x = block(x) + self.skip(x)
        return x


def squares(net: Any) -> Any:
    return jnp.sum(net(jnp.asarray(BATCH)) ** 2)


def pure_gradient(net: Any) -> Any:
    apply, params, state = jm.functionalize(net)

    def loss(params: Any) -> Any:
        out, after = apply(params, state, BATCH, rng=jax.random.key(1))
        return jnp.sum(out**2), after

    return jax.jit(jax.grad(loss, has_aux=True))(params)


MODEL: dict[str, Any] = {
    "jm.grad": lambda net: jm.grad(squares)(net),
    "jm.grad(jm.jit)": lambda net: jm.grad(jm.jit(squares))(net),
    "jm.jit(donate)": lambda net: jm.jit(squares, donate=True)(net),
    "functionalize": pure_gradient,
    "jm.vmap": lambda net: jm.vmap(squares, randomness="different")(stack([net, net])),
    "jax.vmap": lambda net: jax.vmap(net.eval())(jnp.stack([BATCH, BATCH])),
    "jax.jit of a pytree": lambda net: jax.jit(squares)(net.eval()),
    "jax.hessian": lambda net: jax.hessian(net.eval())(jnp.asarray(BATCH)),
    "functional_call": lambda net: jm.functional_call(net, {"skip.bias": jnp.ones(3)}, BATCH),
}


@pytest.mark.parametrize("kind", MODEL)
def test_model_that_scans_its_blocks_is_the_model_that_loops(kind: str) -> None:
    nets = [Deep(is_scanned) for is_scanned in (True, False)]
    outs = []
    for net in nets:
        jm.manual_seed(1)
        outs.append([*jax.tree.leaves(MODEL[kind](net)), jax.random.bits(jm.random.next_key())])
    for scanned, looped in zip(*outs, strict=True):
        np.testing.assert_allclose(scanned, looped, rtol=1e-4, atol=2e-5)
    assert_arrays(arrays(nets[0]), arrays(nets[1]))


def test_eager_loop_is_compiled_once_and_sees_every_change() -> None:
    calls: list[int] = []
    net = Custom(lambda module, x: calls.append(1) or accumulate(module, x) * module.scale, scale=1.0)

    def step(c: Any, _: Any) -> Any:
        return net(c), None

    for _ in range(3):
        jm.scan(step, X, length=2)
    assert len(calls) == 1
    net.scale = 0.0
    same(jm.scan(step, X, length=2)[0], 0 * X)
    assert len(calls) == 2


@pytest.mark.parametrize("form", ["partial", "module", "method"])
def test_eager_loop_does_not_keep_its_functions_alive(form: str) -> None:
    net = Custom(accumulate)
    function = {"partial": functools.partial(Custom.forward, net), "module": net, "method": net.forward}[form]
    jm.while_loop(lambda c: c.sum() < 9, function, jnp.asarray(X))
    jm.cond(True, function, lambda c: c, jnp.asarray(X))
    ref = weakref.ref(net)
    del net, function
    gc.collect()
    assert ref() is None
