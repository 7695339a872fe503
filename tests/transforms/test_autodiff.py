"""``grad``, ``value_and_grad`` and ``backward``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, assert_arrays, assert_clean, multiply, plain, same


def total(net: Any, *rest: Any) -> Any:
    return sum((jnp.sum(r) for r in rest), jnp.sum(net(BATCH) ** 2))


def test_gradient_is_a_dict_in_the_order_of_the_parameters() -> None:
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(11)))
    value, grads = jm.value_and_grad(total)(net)
    assert list(grads) == [name for name, _ in net.named_parameters()]
    assert all(isinstance(g, jax.Array) and g.shape == net.get_parameter(n).shape for n, g in grads.items())
    same(value, total(net))


def test_gradients_are_those_of_torch() -> None:
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    ours.load_state_dict(theirs.state_dict())
    theirs(torch.tensor(BATCH)).pow(2).sum().backward()
    grads = jm.grad(total)(ours)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad, rtol=1e-3, atol=1e-4)
    same(ours[1].running_mean, theirs[1].running_mean)


ARGNUMS: dict[str, tuple[Any, Any]] = {
    "0": (0, lambda g: [g["weight"].shape]),
    "1": (1, lambda g: [g.shape]),
    "last": (-1, lambda g: [g["a"][0].shape]),
    "one tuple": ((0,), lambda g: [g[0]["weight"].shape, len(g)]),
    "mixed": ((2, 0), lambda g: [g[0]["a"][0].shape, g[1]["weight"].shape]),
}


@pytest.mark.parametrize("kind", ARGNUMS)
def test_argnums_pick_what_is_differentiated(kind: str) -> None:
    argnums, shapes = ARGNUMS[kind]
    args = Custom(multiply), jnp.ones(3), {"a": [jnp.ones(3)]}

    def function(net: Any, x: Any, tree: Any) -> Any:
        return jnp.sum(net(x) * tree["a"][0])

    expected = {"0": [(3,)], "1": [(3,)], "last": [(3,)], "one tuple": [(3,), 1], "mixed": [(3,), (3,)]}[kind]
    assert shapes(jm.grad(function, argnums)(*args)) == expected
    assert shapes(jm.jit(jm.grad(function, argnums))(*args)) == expected


@pytest.mark.parametrize("argnums", [2, -3, (0, 5)])
def test_argnums_beyond_the_arguments_are_an_error(argnums: Any) -> None:
    with pytest.raises(TypeError, match="argnums names argument .*, but the call has 2 positional arguments"):
        jm.grad(lambda net, x: 0.0, argnums)(Custom(multiply), X)


def test_auxiliary_output() -> None:
    net = Custom(accumulate)
    (value, aux), grads = jm.value_and_grad(lambda net: (net(X).sum(), {"out": net.total}), has_aux=True)(net)
    same(aux["out"], X)
    same(grads["weight"], X)
    grads, aux = jm.grad(lambda net: (net(X).sum(), net), has_aux=True)(net)
    assert aux is net and float(value) == 14.0


def test_parameter_is_differentiated_like_an_array() -> None:
    box = nn.Parameter(X)
    grad = jm.grad(lambda box: jnp.sum(box**2))(box)
    same(grad, 2 * X)
    assert isinstance(grad, jax.Array) and not isinstance(grad, nn.Parameter)


def test_container_of_modules_and_arrays() -> None:
    nets = [Custom(multiply), {"net": nn.Linear(3, 1), "x": jnp.asarray(X), "p": nn.Parameter(X)}]
    grads = jm.grad(lambda n: n[0](n[1]["x"]).sum() + n[1]["net"](n[1]["x"]).sum() + jnp.sum(n[1]["p"] ** 2))(nets)
    same(grads[0]["weight"], X)
    same(grads[1]["net"]["weight"], X[None])
    same(grads[1]["x"], nets[0].weight + nets[1]["net"].weight[0])
    same(grads[1]["p"], 2 * X)


def test_frozen_parameters_have_no_gradient() -> None:
    net = plain()
    net[0].requires_grad_(False)
    assert list(jm.grad(total)(net)) == ["2.weight", "2.bias"]
    net[0].requires_grad_(True)
    net[2].bias.requires_grad = False
    assert list(jm.grad(total)(net)) == ["0.weight", "0.bias", "2.weight"]


def test_tied_parameter_has_one_summed_gradient() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    w = net[0].weight.value
    grads = jm.grad(total)(net)
    assert list(grads) == ["0.weight"]
    same(grads["0.weight"], jax.grad(lambda w: jnp.sum((BATCH @ w.T @ w.T) ** 2))(w))


def test_module_in_the_closure_is_no_target_but_is_written() -> None:
    net = Custom(accumulate)
    same(jm.grad(lambda x: net(x).sum())(jnp.asarray(X)), net.weight)
    same(net.total, X)


def test_module_is_a_function_to_differentiate() -> None:
    net = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    same(jm.grad(lambda x: net(x)[0])(X[None]), net[0].weight)


def test_python_control_flow_on_values() -> None:
    def function(net: Any, x: Any) -> Any:
        steps = 0
        while x[0] < 3 and steps < 9:
            x = net(x) * 2 if bool(net.weight.value[0] > 0) else x
            steps += 1
        return jnp.sum(x)

    net = Custom(multiply)
    value, grads = jm.value_and_grad(function)(net, jnp.asarray(X))
    theirs = jax.grad(lambda w: jnp.sum(X * (2 * w) ** 2))(net.weight.value)
    same(grads["weight"], theirs)
    same(value, jnp.sum(X * (2 * net.weight.value) ** 2))


def test_print_of_a_parameter_works_under_grad() -> None:
    net = Custom(lambda module, x: (repr(module.weight), str(module), x * module.weight)[2])
    same(jm.grad(lambda net: net(X).sum())(net)["weight"], X)


@pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["eager", "jm.jit"])
def test_output_must_be_a_scalar(wrap: Any) -> None:
    with pytest.raises(TypeError, match="Gradient only defined for scalar-output functions"):
        wrap(jm.grad(lambda net: net(X)))(Custom(multiply))


def test_optimizer_is_nothing_to_differentiate() -> None:
    net = plain()
    with pytest.raises(TypeError, match="expected modules, parameters and arrays to differentiate"):
        jm.grad(lambda optimizer: 0.0)(jm.optim.SGD(net.parameters(), lr=0.1))


def test_integer_argument_is_jax_error() -> None:
    with pytest.raises(TypeError, match="grad requires real- or complex-valued inputs"):
        jm.grad(lambda n: n * 1.0)(3)


def test_complex_and_half_parameters() -> None:
    net = Custom(lambda module, x: jnp.sum(jnp.abs(module.c.value) ** 2) + jnp.sum(module.h.value.astype(jnp.float32)))
    net.c, net.h = nn.Parameter(jnp.array([1 + 2j])), nn.Parameter(jnp.ones(2, jnp.bfloat16))
    grads = jm.grad(lambda net: net(X))(net)
    same(grads["c"], jax.grad(lambda c: jnp.sum(jnp.abs(c) ** 2))(jnp.array([1 + 2j])))
    assert grads["h"].dtype == jnp.bfloat16


def test_unused_parameters_have_zero_gradients() -> None:
    net = Custom(lambda module, x: x.sum())
    same(jm.grad(lambda net: net(jnp.asarray(X)))(net)["weight"], 0 * X)


@pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["eager", "jm.jit"])
def test_backward_fills_and_accumulates(wrap: Any) -> None:
    net = plain()
    expected = jm.grad(total)(net)
    run = wrap(lambda: jm.backward(lambda: total(net), net))
    for i in (1, 2):
        same(run(), total(net))
        assert_arrays({n: p.grad for n, p in net.named_parameters()}, {n: i * g for n, g in expected.items()})


FINDS: dict[str, Any] = {
    "argument": lambda net: jm.backward(lambda net: total(net), net),
    "closure": lambda net: jm.backward(lambda: total(net)),
    "closure and argument": lambda net: jm.backward(lambda: total(net), net),
    "default": lambda net: jm.backward(lambda net=net: total(net)),
    "container": lambda net: (lambda nets: jm.backward(lambda: total(nets[0])))([net]),
}


@pytest.mark.parametrize("kind", FINDS)
def test_backward_finds_the_modules(kind: str) -> None:
    net = nn.Linear(3, 1)
    FINDS[kind](net)
    same(net.weight.grad, jm.grad(total)(net)["weight"])


def test_backward_skips_frozen_parameters() -> None:
    net = plain()
    net[0].requires_grad_(False)
    jm.backward(lambda: total(net), net)
    assert net[0].weight.grad is None and net[2].weight.grad is not None


def test_backward_of_some_modules_leaves_others_alone() -> None:
    a, b = nn.Linear(3, 1), nn.Linear(3, 1)
    jm.backward(lambda: total(a) + total(b), a)
    assert a.weight.grad is not None and b.weight.grad is None


unrelated: Any = None


class Holder:
    def __init__(self, net: Any) -> None:
        self.unrelated = net


def test_backward_is_not_misled_by_the_name_of_an_attribute() -> None:
    globals()["unrelated"] = nn.Linear(3, 1)
    holder = Holder(nn.Linear(3, 1))
    jm.backward(lambda: total(holder.unrelated))
    assert unrelated.weight.grad is None and holder.unrelated.weight.grad is not None


def test_backward_of_several_modules() -> None:
    nets = [nn.Linear(3, 3), nn.Linear(3, 1)]
    jm.backward(lambda a, b: total(nn.Sequential(a, b)), *nets)
    expected = jm.grad(total)(nn.Sequential(*nets))
    same(nets[0].weight.grad, expected["0.weight"])
    same(nets[1].bias.grad, expected["1.bias"])


def test_backward_of_a_tied_parameter_adds_once() -> None:
    a, b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    b.weight = a.weight
    jm.backward(lambda: total(nn.Sequential(a, b)), a, b)
    w = a.weight.value
    same(a.weight.grad, jax.grad(lambda w: jnp.sum((BATCH @ w.T @ w.T) ** 2))(w))


def test_backward_writes_buffers() -> None:
    net = Custom(accumulate)
    jm.backward(lambda: net(X).sum(), net)
    same(net.total, X)
    assert_clean(net)


@pytest.mark.parametrize(
    ("run", "error", "match"),
    [
        (
            lambda net: jm.backward(lambda: net(BATCH), net),
            RuntimeError,
            r"only for scalar outputs, got shape \(4, 1\)",
        ),
        (lambda net: jm.backward(lambda: 1j * net(BATCH).sum(), net), RuntimeError, "only for real scalar outputs"),
        (lambda net: jm.backward(lambda: 1.0, net), RuntimeError, "the loss depends on no trainable parameter of Lin"),
        (
            lambda net: (net.requires_grad_(False), jm.backward(lambda: total(net), net)),
            RuntimeError,
            "element 0 of tensors does not require grad and does not have a grad_fn",
        ),
        (lambda net: jm.backward(lambda: 0.0, 3), TypeError, "expected modules after the loss function, got 3"),
        (lambda net: jm.backward(lambda: jnp.zeros(())), TypeError, "expected the modules whose parameters get grad"),
    ],
    ids=["non-scalar", "complex", "constant", "all frozen", "no module", "none found"],
)
def test_backward_says_what_is_wrong(run: Any, error: Any, match: str) -> None:
    net = nn.Linear(3, 1)
    with pytest.raises(error, match=match):
        run(net)
    assert net.weight.grad is None


def test_gradient_names_find_their_parameters_whatever_the_order() -> None:
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(11)))
    expected = {n: p.value - jm.grad(total)(net)[n] for n, p in net.named_parameters()}
    optimizer = jm.optim.SGD(net.parameters(), lr=1.0)
    grads = jax.jit(lambda g: g)(jm.grad(total)(net))
    optimizer.step(grads)
    assert_arrays({n: p.value for n, p in net.named_parameters()}, expected)


@pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["eager", "jm.jit"])
def test_backward_leaves_the_grad_of_what_took_no_part(wrap: Any) -> None:
    net = nn.ModuleDict({name: nn.Linear(3, 1) for name in ("used", "unused", "detached")})
    net["unused"].bias.grad = jnp.ones(1, jnp.float32)
    step = wrap(lambda: jm.backward(lambda: total(net["used"]) + jax.lax.stop_gradient(total(net["detached"])), net))
    for _ in range(2):
        step()
    without = [name for name, p in net.named_parameters() if p.grad is None]
    assert without == ["unused.weight", "detached.weight", "detached.bias"]
    same(net["unused"].bias.grad, np.ones(1))
    same(net["used"].weight.grad, 2 * jm.grad(total)(net["used"])["weight"])


@pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["eager", "jm.jit"])
def test_optimizer_leaves_alone_what_took_no_part(wrap: Any) -> None:
    net = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
    optimizer = jm.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    before = np.asarray(net[1].weight)

    def step(net: Any, optimizer: Any) -> None:
        jm.backward(lambda: total(net[0]), net)
        optimizer.step()

    wrap(step)(net, optimizer)
    np.testing.assert_array_equal(net[1].weight, before)
    assert net[0].weight in optimizer.state and net[1].weight not in optimizer.state


@pytest.mark.parametrize("wrap", [lambda f: f, jm.jit], ids=["eager", "jm.jit"])
def test_gradients_of_micro_batches_add_up(wrap: Any) -> None:
    net = plain()
    expected = jm.grad(lambda net: jnp.mean(net(BATCH) ** 2))(net)

    def accumulate(net: Any) -> None:
        for rows in (BATCH[:2], BATCH[2:]):
            jm.backward(lambda net, rows=rows: jnp.mean(net(rows) ** 2) / 2, net)

    wrap(accumulate)(net)
    assert_arrays({n: p.grad for n, p in net.named_parameters()}, expected)


def test_backward_takes_one_element_and_bare_parameters() -> None:
    weight, frozen = nn.Parameter(X), nn.Parameter(X, requires_grad=False)
    assert jm.backward(lambda: weight[:1] ** 2 * frozen[:1]).shape == (1,)
    same(weight.grad, [2.0, 0.0, 0.0])
    jm.backward(lambda w: jnp.sum(w * frozen), weight)
    same(weight.grad, X + np.array([2.0, 0.0, 0.0]))
    assert frozen.grad is None


GRADS: dict[str, tuple[Any, Any, str]] = {
    "shape": (np.ones(2, np.float32), RuntimeError, r"different size: expected shape \(3,\), got \(2,\)"),
    "dtype": (jnp.ones(3, jnp.int32), RuntimeError, "gradient with dtype int32 to a parameter of dtype float32"),
    "list": ([1.0, 2.0, 3.0], TypeError, "assigned grad expected to be an array or None but got grad of type list"),
}


@pytest.mark.parametrize("kind", GRADS)
def test_grad_must_fit_its_parameter(kind: str) -> None:
    value, error, match = GRADS[kind]
    weight = nn.Parameter(X)
    with pytest.raises(error, match=match):
        weight.grad = value
    assert weight.grad is None
