"""Parameters: PyTorch's attributes and in-place writes, and arrays everywhere JAX takes arrays."""

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn

Check = Callable[..., None]
Build = Callable[..., Any]

VALUES = [[1.0, -2.0], [3.0, 0.5]]

WRITES = """
p.data[0, 0] = 42
p.data[0] = s.array([7.0, 8.0])
p.data[:] += 1
p.data[:, 1] *= 2
p.data[p.data > 0] = 9
p.data[s.array([1, 0])] = s.array([[1.0, 2.0], [3.0, 4.0]])
p.data += 1
p.data -= s.array([[1.0, 2.0], [3.0, 4.0]])
p.data *= p.data.abs() >= 2
p.data /= 2
p.data = s.array([[1.0, 2.0], [3.0, 4.0]])
p.data.fill_(3)
p.data.fill_(0.5)
p.data.zero_()
p.data.copy_(s.array([[1.0, 2.0], [3.0, 4.0]]))
p.data.copy_(s.array([1.0, 2.0]))
p.data.normal_()
p.data.normal_(1.0, 0.5)
p.data.normal_(mean=0.0, std=0.02)
p.data.uniform_()
p.data.uniform_(-10, 10)
p.data.mul_(2)
p.data.mul_(s.array([[1.0, 2.0], [3.0, 4.0]]))
p.data.add_(1)
p.data.add_(s.array([[1.0, 2.0], [3.0, 4.0]]), alpha=0.5)
p.data.sub_(1)
p.data.div_(2)
p.data.clamp_(-1, 1)
p.data.clamp_(min=0)
p.data.clamp_(max=0)
p.data.fill_(2).mul_(3).add_(1)
p.data.abs_()
p.data.neg_()
p.data.masked_fill_(p.data > 0, -1.0)
q = p.data; q[0, 0] = 42
p.grad = s.array([[1.0, 2.0], [3.0, 4.0]]); p.data.add_(p.grad, alpha=-0.1)
p.requires_grad = False; p[0] = s.array([7.0, 8.0])
p.requires_grad_(False); p.fill_(3); p += 1
out = p.requires_grad_(False) is p
out = [p.requires_grad, p.is_leaf, p.grad_fn, p.grad, p.shape, p.dtype, p.ndim, p.numel(), p.dim(), len(p)]
out = [p.data.shape, p.data.dtype, p.data.requires_grad, p.data.grad]
out = [p.detach(), p.clone(), p.t(), p.T, p.abs(), p.view(-1), p.view(4, 1), p.data.view(-1)]
out = [p.sum(), p.mean(), p.max(), p.min(), p.reshape(4), p.data.sum(), p.is_floating_point(), p.data.abs()]
out = [p.tolist(), [row.tolist() for row in p], p[0], p[0, 1], p[:, 1], p[..., None], p[p > 0]]
q = p.detach(); out = [float(q[0, 0]), int(q[1, 0]), bool(q[0, 0] > 0), q[0, 0].item(), f"{q[0, 0].item():.2f}"]
out = [s.Parameter(s.array([1.0]), requires_grad=False), s.Parameter(p), s.Parameter(p) is p, s.Parameter(p.data)]
out = s.Parameter().shape
out = s.Parameter(s.array([1, 2]), requires_grad=False)
out = [p + 1, 1 - p, p * p, 2 / p, p**2, -p, abs(p), p @ p, p // 2, p % 2, p > 0, p <= 1, p == p, p != 3]
""".strip().splitlines()

REFUSED = {
    "s.Parameter(s.array([1, 2]))": (RuntimeError, "can require gradients"),
    "s.Parameter(s.array([1, 2]), requires_grad=False).requires_grad_()": (RuntimeError, "require.* gradients"),
    "p.data.copy_(s.array([1.0, 2.0, 3.0]))": (RuntimeError, "3"),
    "p.grad = s.array([1.0])": (RuntimeError, "size"),
    "bool(p)": ((RuntimeError, ValueError), "ambiguous"),
    "float(p)": ((ValueError, TypeError), "scalar|converted"),
    "p.missing": (AttributeError, "no attribute 'missing'"),
}

FUNCTIONS = {
    "add": lambda p: jnp.add(p, p),
    "matmul": lambda p: jnp.matmul(p, p),
    "dot": lambda p: jnp.dot(p, p),
    "einsum": lambda p: jnp.einsum("ij,kj->ik", p, p),
    "tensordot": lambda p: jnp.tensordot(p, p, axes=1),
    "outer": lambda p: jnp.outer(p, p),
    "kron": lambda p: jnp.kron(p, p),
    "where": lambda p: jnp.where(p > 0, p, -p),
    "maximum": lambda p: jnp.maximum(p, 0),
    "minimum": lambda p: jnp.minimum(0, p),
    "clip": lambda p: jnp.clip(p, -1, 1),
    "power": lambda p: jnp.power(p, 2),
    "exp": jnp.exp,
    "abs": jnp.abs,
    "square": jnp.square,
    "sign": jnp.sign,
    "tanh": jnp.tanh,
    "sum": jnp.sum,
    "mean": lambda p: jnp.mean(p, axis=0),
    "var": jnp.var,
    "std": jnp.std,
    "max": lambda p: jnp.max(p, axis=1),
    "argmax": jnp.argmax,
    "argsort": jnp.argsort,
    "sort": jnp.sort,
    "cumsum": lambda p: jnp.cumsum(p, axis=0),
    "prod": jnp.prod,
    "isnan": jnp.isnan,
    "allclose": lambda p: jnp.allclose(p, p),
    "array_equal": lambda p: jnp.array_equal(p, p),
    "reshape": lambda p: jnp.reshape(p, (4,)),
    "ravel": jnp.ravel,
    "transpose": jnp.transpose,
    "swapaxes": lambda p: jnp.swapaxes(p, 0, 1),
    "moveaxis": lambda p: jnp.moveaxis(p, 0, 1),
    "expand_dims": lambda p: jnp.expand_dims(p, 0),
    "squeeze": jnp.squeeze,
    "concatenate": lambda p: jnp.concatenate([p, p]),
    "stack": lambda p: jnp.stack([p, p]),
    "split": lambda p: jnp.split(p, 2)[0],
    "tile": lambda p: jnp.tile(p, (2, 1)),
    "repeat": lambda p: jnp.repeat(p, 2, axis=0),
    "flip": jnp.flip,
    "roll": lambda p: jnp.roll(p, 1),
    "pad": lambda p: jnp.pad(p, 1),
    "broadcast_to": lambda p: jnp.broadcast_to(p, (3, 2, 2)),
    "take": lambda p: jnp.take(p, jnp.asarray([1, 0]), axis=0),
    "diag": jnp.diag,
    "triu": jnp.triu,
    "trace": jnp.trace,
    "zeros_like": jnp.zeros_like,
    "ones_like": jnp.ones_like,
    "full_like": lambda p: jnp.full_like(p, 3),
    "asarray": jnp.asarray,
    "array": jnp.array,
    "astype": lambda p: jnp.astype(p, jnp.float16),
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "sigmoid": jax.nn.sigmoid,
    "logsumexp": jax.nn.logsumexp,
    "standardize": jax.nn.standardize,
    "norm": jnp.linalg.norm,
    "inv": jnp.linalg.inv,
    "det": jnp.linalg.det,
    "svd": lambda p: jnp.linalg.svd(p, compute_uv=False),
    "qr": lambda p: jnp.linalg.qr(p)[1],
    "solve": lambda p: jnp.linalg.solve(p, p),
    "eigvalsh": lambda p: jnp.linalg.eigvalsh(p + p.T),
    "cholesky": lambda p: jnp.linalg.cholesky(p @ p.T),
    "matrix_power": lambda p: jnp.linalg.matrix_power(p, 2),
    "vmap": jax.vmap(lambda row: row * 2),
    "indexed update": lambda p: p.at[0].set(1.0),
}

OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lt", "le", "gt", "ge", "eq", "ne")
OTHERS = {"jax": jnp.asarray(VALUES), "numpy": np.asarray(VALUES, np.float32), "float": 2.0, "int": 3}


@pytest.fixture
def parameter() -> nn.Parameter:
    return nn.Parameter(jnp.asarray(VALUES))


def run(statement: str):
    def script(s):
        scope = {"s": s, "p": s.Parameter(s.array(VALUES)), "out": None}
        exec(statement, scope)
        return [scope["p"], scope["out"]]

    return script


@pytest.mark.parametrize("statement", WRITES)
def test_statement_does_what_torch_does(both: Check, statement: str) -> None:
    both(run(statement))


@pytest.mark.parametrize("statement", REFUSED)
def test_statement_raises_what_torch_raises(libraries: Any, statement: str) -> None:
    raises, match = REFUSED[statement]
    for library in libraries:
        with pytest.raises(raises, match=match):
            exec(statement, {"s": library, "p": library.Parameter(library.array(VALUES))})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_takes_a_parameter(parameter: nn.Parameter, name: str) -> None:
    function = FUNCTIONS[name]
    want = function(parameter.value)
    np.testing.assert_allclose(function(parameter), want, rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_takes_a_parameter_inside_jit(parameter: nn.Parameter, name: str) -> None:
    function = FUNCTIONS[name]
    want = jax.jit(function)(parameter.value)
    np.testing.assert_allclose(jax.jit(lambda p: function(p))(parameter), want, rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_takes_a_module_parameter_under_our_jit(name: str) -> None:
    function = FUNCTIONS[name]
    net = nn.ParameterList([jnp.asarray(VALUES)])
    got = jm.jit(lambda net: function(net[0]))(net)
    np.testing.assert_allclose(got, function(net[0].value), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_takes_arrays_and_scalars_on_either_side(parameter: nn.Parameter, name: str, other: str) -> None:
    function, other = getattr(operator, name), OTHERS[other]
    if name == "matmul" and not hasattr(other, "shape"):
        other = jnp.asarray(VALUES)
    for left, right in ((parameter, other), (other, parameter), (parameter, parameter)):
        plain = [x.value if isinstance(x, nn.Parameter) else x for x in (left, right)]
        got = function(left, right)
        assert isinstance(got, jax.Array)
        np.testing.assert_allclose(got, function(*plain), rtol=1e-6)


def test_value_carries_gradients_and_data_does_not(parameter: nn.Parameter) -> None:
    net = nn.ParameterList([parameter])
    grads = jm.grad(lambda net: (net[0] * net[0].data).sum())(net)
    np.testing.assert_allclose(grads["0"], parameter.value)


def test_a_parameter_is_itself_wherever_it_is_read(parameter: nn.Parameter) -> None:
    layer = nn.Linear(2, 2)
    layer.weight = parameter
    layer.weight.data[0, 0] = 42
    assert layer.weight is parameter and float(parameter[0, 0]) == 42
    assert type(layer.bias) is nn.Parameter


def test_tied_parameters_are_listed_once(parameter: nn.Parameter) -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[0].weight = net[1].weight = parameter
    assert [name for name, _ in net.named_parameters()] == ["0.weight"]
    assert list(jm.grad(lambda net: net(jnp.ones((1, 2))).sum())(net)) == ["0.weight"]


def test_tied_parameters_stay_tied_in_a_copy(parameter: nn.Parameter) -> None:
    twin = copy.deepcopy(nn.ParameterList([parameter, parameter]))
    assert twin[0] is twin[1] and twin[0] is not parameter


@pytest.mark.parametrize("again", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"])
def test_a_copy_keeps_everything_and_shares_nothing(parameter: nn.Parameter, again: Build) -> None:
    parameter.requires_grad_(False).grad = jnp.ones((2, 2))
    parameter.note = "kept"
    twin = again(parameter)
    assert (twin.requires_grad, twin.note, twin.grad.tolist()) == (False, "kept", [[1.0, 1.0], [1.0, 1.0]])
    twin.data.zero_()
    assert parameter.value.tolist() == VALUES


def test_hash_is_identity_and_equality_is_elementwise(parameter: nn.Parameter) -> None:
    assert {parameter: 1}[parameter] == 1
    assert hash(parameter) != hash(nn.Parameter(parameter.value))
    assert (parameter == parameter.value).all()


def test_numpy_sees_an_array(parameter: nn.Parameter) -> None:
    np.testing.assert_array_equal(np.asarray(parameter), np.asarray(VALUES, np.float32))
    np.testing.assert_array_equal(np.asarray(parameter.data, np.float16), np.asarray(VALUES, np.float16))
    assert np.asarray(parameter).dtype == np.float32


def test_one_element_converts_to_python_numbers() -> None:
    one = nn.Parameter(jnp.asarray(3.0))
    assert (float(one), int(one), bool(one), complex(one), one.item()) == (3.0, 3, True, 3 + 0j, 3.0)


@pytest.mark.parametrize("convert", [np.asarray, nn.Parameter, jnp.asarray, list])
def test_value_is_always_a_jax_array(parameter: nn.Parameter, convert: Build) -> None:
    parameter.value = convert(np.zeros((2, 2), np.float32))
    assert isinstance(parameter.value, jax.Array) and parameter.value.sum() == 0


def test_repr_names_the_box_and_shows_the_array(parameter: nn.Parameter) -> None:
    assert repr(parameter) == f"Parameter containing:\n{parameter.value!r}"
    assert repr(parameter.data) == repr(parameter.value)


def test_item_assignment_writes_the_parameter(parameter: nn.Parameter) -> None:
    parameter[0] = jnp.asarray([7.0, 8.0])
    parameter[1, 1] = 9
    assert parameter.value.tolist() == [[7.0, 8.0], [3.0, 9.0]]


def test_numpy_input_is_copied(parameter: nn.Parameter) -> None:
    source = np.asarray(VALUES, np.float32)
    boxes = [nn.Parameter(source), nn.Parameter(jnp.zeros((2, 2)))]
    boxes[1].data.copy_(source)
    source[:] = 0
    assert all(box.value.tolist() == VALUES for box in boxes)


def test_a_traced_value_is_refused_at_the_write(parameter: nn.Parameter) -> None:
    def leak(x):
        parameter.data[0, 0] = x
        return x

    with pytest.raises(RuntimeError, match="return the value from the function instead"):
        jax.jit(leak)(1.0)
    assert parameter.value.tolist() == VALUES


def test_dtype_is_kept_by_every_write() -> None:
    half = nn.Parameter(jnp.ones(2, jnp.bfloat16))
    half.data.copy_(np.asarray([1.5, 2.5], np.float32)).add_(1.0)
    half.data[0] = 7.0
    half.data *= np.float32(2)
    assert half.dtype == jnp.bfloat16 and half.value.tolist() == [14.0, 7.0]


def test_a_parameter_is_a_pytree_of_one_leaf(parameter: nn.Parameter) -> None:
    (leaf,), structure = jax.tree.flatten(parameter)
    assert leaf is parameter.value
    assert type(jax.tree.unflatten(structure, [leaf])) is nn.Parameter


def test_a_subclass_keeps_its_class() -> None:
    class Scale(nn.Parameter):
        pass

    scale = Scale(jnp.ones(2))
    twin = copy.deepcopy(scale)
    assert type(twin) is Scale and repr(twin).startswith("Scale containing:") is True
    assert [type(p) for p in nn.ParameterList([scale]).parameters()] == [Scale]
