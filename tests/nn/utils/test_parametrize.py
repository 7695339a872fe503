"""Parametrizations against torch: what they do to modules, and how they are refused."""

import copy
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
P = nn.utils.parametrize


def kinds(s: Any) -> Any:
    """Define some parametrizations in one library."""

    class Symmetric(s.Module):
        def forward(self, X):
            return X + X.T

    class Double(s.Module):
        def forward(self, X):
            return 2 * X

        def right_inverse(self, Y):
            return Y / 2

    class Sum(s.Module):
        def forward(self, X, Y):
            return X + Y

        def right_inverse(self, Z):
            return Z * 0.25, Z * 0.75

    class Shift(s.Module):
        def __init__(self):
            super().__init__()
            self.by = s.Parameter(s.array(1.0))

        def forward(self, X):
            return X + self.by

        def right_inverse(self, Y):
            raise NotImplementedError

    class First(s.Module):
        def forward(self, X):
            return X[0]

    class Pick(s.Module):
        def __init__(self, function=None, inverse=None):
            super().__init__()
            self.function = function
            if inverse is not None:
                self.right_inverse = inverse

        def forward(self, *X):
            return X[0] if self.function is None else self.function(*X)

    scope = locals()
    return type("Kinds", (), {name: kind for name, kind in scope.items() if isinstance(kind, type)})


def registered(*statements: str) -> Any:
    """Make a script that runs statements about a layer ``m``, and returns it with its values."""

    def script(s):
        m = s.Linear(3, 3)
        m.register_buffer("scale", s.array([1.0, 2.0]))
        scope = {"s": s, "m": m, "k": kinds(s), "P": s.utils.parametrize, "out": []}
        scope["reg"] = s.utils.parametrize.register_parametrization
        for statement in statements:
            exec(statement, scope)
        names = ["weight", "bias", "scale"]
        values = [getattr(m, name, None) for name in names]
        return [scope["out"], m, [v for v in values if v is not None], type(m), type(m).__bases__]

    return script


SCRIPTS = {
    "one": ["reg(m, 'weight', k.Symmetric())"],
    "a bias": ["reg(m, 'bias', k.Double())"],
    "a buffer": ["reg(m, 'scale', k.Double())"],
    "two stacked": ["reg(m, 'weight', k.Double())", "reg(m, 'weight', k.Symmetric())"],
    "two attributes": ["reg(m, 'weight', k.Double())", "reg(m, 'scale', k.Double())", "reg(m, 'bias', k.Shift())"],
    "several originals": ["reg(m, 'weight', k.Sum())"],
    "several originals of a buffer": ["reg(m, 'scale', k.Sum())"],
    "several originals, frozen": ["m.weight.requires_grad_(False)", "reg(m, 'weight', k.Sum())"],
    "several originals, stacked": ["reg(m, 'weight', k.Sum())", "reg(m, 'weight', k.Double())"],
    "parameters of its own": ["reg(m, 'weight', k.Shift())"],
    "keeps the parameter": [
        "w = m.weight",
        "reg(m, 'weight', k.Double())",
        "out = m.parametrizations.weight.original is w",
    ],
    "follows train and eval": [
        "m.eval()",
        "reg(m, 'weight', k.Double())",
        "out = m.parametrizations.weight[0].training",
    ],
    "assigned": ["reg(m, 'weight', k.Double())", "m.weight = s.array([[1.0, 2, 3]] * 3)"],
    "assigned through two": [
        "reg(m, 'weight', k.Sum())",
        "reg(m, 'weight', k.Double())",
        "m.weight = s.array([[1.0]])",
    ],
    "assigned a buffer": ["reg(m, 'scale', k.Double())", "m.scale = s.array([5.0, 6.0])"],
    "assigned a buffer of two": ["reg(m, 'scale', k.Sum())", "m.scale = s.array([5.0, 6.0])"],
    "unsafe shape": ["reg(m, 'weight', k.First(), unsafe=True)"],
    "unsafe stays": [
        "reg(m, 'weight', k.First(), unsafe=True)",
        "reg(m, 'weight', k.Double())",
        "out = m.parametrizations.weight.unsafe",
    ],
    "an original": [
        "reg(m, 'weight', k.Double())",
        "reg(m.parametrizations.weight, 'original', k.Symmetric())",
        "out = list(m.state_dict()), type(m.parametrizations.weight).__name__",
    ],
    "removed": ["reg(m, 'weight', k.Double())", "P.remove_parametrizations(m, 'weight')"],
    "removed to the original": [
        "reg(m, 'weight', k.Symmetric())",
        "w = m.parametrizations.weight.original",
        "P.remove_parametrizations(m, 'weight', leave_parametrized=False)",
        "out = m.weight is w",
    ],
    "removed, same parameter": [
        "w = m.weight",
        "reg(m, 'weight', k.Symmetric())",
        "P.remove_parametrizations(m, 'weight')",
        "out = [m.weight is w, list(m._parameters)]",
    ],
    "removed one of two": [
        "reg(m, 'weight', k.Double())",
        "reg(m, 'bias', k.Double())",
        "P.remove_parametrizations(m, 'weight')",
        "out = [P.is_parametrized(m), P.is_parametrized(m, 'weight'), P.is_parametrized(m, 'bias')]",
    ],
    "removed both": [
        "reg(m, 'weight', k.Double())",
        "reg(m, 'bias', k.Double())",
        "P.remove_parametrizations(m, 'weight')",
        "P.remove_parametrizations(m, 'bias')",
        "out = [P.is_parametrized(m), hasattr(m, 'parametrizations'), type(m) is s.Linear]",
    ],
    "removed several originals": ["reg(m, 'weight', k.Sum())", "P.remove_parametrizations(m, 'weight')"],
    "removed several, frozen": [
        "m.weight.requires_grad_(False)",
        "reg(m, 'weight', k.Sum())",
        "P.remove_parametrizations(m, 'weight')",
    ],
    "removed from a buffer": ["reg(m, 'scale', k.Double())", "P.remove_parametrizations(m, 'scale')"],
    "removed several from a buffer": ["reg(m, 'scale', k.Sum())", "P.remove_parametrizations(m, 'scale')"],
    "types": [
        "before = P.type_before_parametrizations(m)",
        "reg(m, 'weight', k.Double())",
        "out = [before, P.type_before_parametrizations(m), isinstance(m, s.Linear)]",
    ],
    "transferred": [
        "reg(m, 'weight', k.Symmetric())",
        "reg(m, 'bias', k.Sum())",
        "t = P.transfer_parametrizations_and_params(m, s.Linear(3, 3))",
        "out = [t, t.weight, t.bias, t.parametrizations.weight.original is m.parametrizations.weight.original]",
    ],
    "transferred one": [
        "reg(m, 'weight', k.Symmetric())",
        "reg(m, 'bias', k.Double())",
        "t = P.transfer_parametrizations_and_params(m, s.Linear(3, 3), 'bias')",
        "out = [t, t.bias]",
    ],
    "transferred to nothing": [
        "reg(m, 'weight', k.Symmetric())",
        "t = P.transfer_parametrizations_and_params(m, s.Module())",
        "out = [t, t.weight]",
    ],
    "transferred none": ["out = P.transfer_parametrizations_and_params(m, s.Linear(1, 1))"],
    "copied": [
        "import copy",
        "reg(m, 'weight', k.Double())",
        "t = copy.deepcopy(m)",
        "m.weight = s.array([[1.0]])",
        "out = [t, t.weight, type(t) is type(m)]",
    ],
    "loaded": [
        "reg(m, 'weight', k.Sum())",
        "d = {name: 2 * value for name, value in m.state_dict().items()}",
        "out = str(m.load_state_dict(d))",
    ],
    "cast": ["reg(m, 'weight', k.Double())", "m.half()", "out = m.weight.dtype"],
    "called": ["reg(m, 'weight', k.Symmetric())", "out = m(s.array([[1.0, 2.0, 3.0]]))"],
}

X = "s.array([[1.0, 2.0, 3.0]])"
INT = "to(s.dtypes.int32)"
REFUSED: dict[str, tuple[Any, list[str]]] = {
    "no such attribute": (ValueError, ["reg(m, 'missing', k.Double())"]),
    "an attribute that is no array": (ValueError, ["reg(m, 'in_features', k.Double())"]),
    "a parameter that is None": (AttributeError, ["m.bias = None", "reg(m, 'bias', k.Double())"]),
    "a change of shape": (ValueError, ["reg(m, 'weight', k.First())"]),
    "a change of shape by the second": (
        ValueError,
        ["reg(m, 'weight', k.Double())", "reg(m, 'weight', k.First())"],
    ),
    "no array": (ValueError, ["reg(m, 'weight', k.Pick(lambda X: [X]))"]),
    "no array by the second": (
        ValueError,
        ["reg(m, 'weight', k.Double())", "reg(m, 'weight', k.Pick(lambda X: 3))"],
    ),
    "an inverse that is no array": (ValueError, ["reg(m, 'weight', k.Pick(None, lambda X: 3))"]),
    "an inverse with an element that is no array": (ValueError, ["reg(m, 'weight', k.Pick(None, lambda X: (X, 3)))"]),
    "an inverse of the second that is no array": (
        ValueError,
        ["reg(m, 'weight', k.Double())", "reg(m, 'weight', k.Pick(None, lambda X: 3))"],
    ),
    "an inverse of the second of another shape": (
        ValueError,
        ["reg(m, 'weight', k.Double())", "reg(m, 'weight', k.Pick(None, lambda X: X[0]))"],
    ),
    "assigning without an inverse": (RuntimeError, ["reg(m, 'weight', k.Symmetric())", "m.weight = m.weight"]),
    "assigning with an inverse that is not implemented": (
        NotImplementedError,
        ["reg(m, 'weight', k.Shift())", "m.weight = m.weight"],
    ),
    "assigning a parameter": (KeyError, ["reg(m, 'weight', k.Double())", "m.weight = s.Parameter(m.weight)"]),
    "an inverse that later returns no array": (
        ValueError,
        [
            "reg(m, 'weight', k.Double())",
            "m.parametrizations.weight[0].right_inverse = lambda X: 3",
            "m.weight = m.weight",
        ],
    ),
    "an inverse that later returns another number": (
        ValueError,
        [
            "reg(m, 'weight', k.Sum())",
            "m.parametrizations.weight[0].right_inverse = lambda X: (X,)",
            "m.weight = m.weight",
        ],
    ),
    "an inverse that later returns one": (
        ValueError,
        [
            "reg(m, 'weight', k.Sum())",
            "m.parametrizations.weight[0].right_inverse = lambda X: 3",
            "m.weight = m.weight",
        ],
    ),
    "removing what is not there": (ValueError, ["P.remove_parametrizations(m, 'weight')"]),
    "removing to several originals": (
        ValueError,
        ["reg(m, 'weight', k.Sum())", "P.remove_parametrizations(m, 'weight', leave_parametrized=False)"],
    ),
    "an empty list": (ValueError, ["P.ParametrizationList([], m.weight)"]),
    "pickling": (RuntimeError, ["import pickle", "reg(m, 'weight', k.Double())", "pickle.dumps(m)"]),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_parametrization(both: Check, case: str) -> None:
    both(registered(*SCRIPTS[case]))


@pytest.mark.parametrize("case", REFUSED)
def test_refusal(both: Check, case: str) -> None:
    error, statements = REFUSED[case]
    both(registered(*statements), raises=error)


def test_refusal_leaves_the_module_as_it_was(agree: Check) -> None:
    statement = "s.utils.parametrize.register_parametrization(net, 'weight', s.Flatten(0))"
    agree(lambda s: s.Linear(2, 2), statement, raises=ValueError)


def test_change_of_dtype_is_refused() -> None:
    class Round(nn.Module):
        def forward(self, X):
            return X.astype(jnp.int32)

        def right_inverse(self, X):
            return X

    with pytest.raises(ValueError, match="may not change the dtype.*unless `unsafe`.*\nunparametrized dtype: float32"):
        P.register_parametrization(nn.Linear(2, 2), "weight", Round())
    Round.right_inverse = lambda self, X: X.astype(jnp.float16)
    with pytest.raises(ValueError, match="outputs one tensor, it may not change the dtype"):
        P.register_parametrization(nn.Linear(2, 2), "weight", Round())


def test_change_of_device_is_refused() -> None:
    class Move(nn.Module):
        def forward(self, X):
            return X

        def right_inverse(self, X):
            return jax.device_put(X, jax.devices()[1])

    with pytest.raises(ValueError, match="may not change the device"):
        P.register_parametrization(nn.Linear(2, 2), "weight", Move())


def test_cached_computes_once(both: Check) -> None:
    def script(s):
        calls = []

        class Count(s.Module):
            def forward(self, X):
                calls.append(1)
                return X * 2

        P = s.utils.parametrize
        net = P.register_parametrization(s.Linear(2, 2), "weight", Count())
        P.register_parametrization(net, "bias", Count())
        del calls[:]
        with P.cached():
            with P.cached():
                first = net.weight
            same = [net.weight is first, net.bias is net.bias]
        inside = len(calls)
        return [same, inside, net.weight is net.weight, len(calls)]

    both(script)


def counting() -> tuple[Any, list[int]]:
    """Make a layer whose weight is doubled, and the list that every doubling is noted in."""
    calls: list[int] = []

    class Count(nn.Module):
        def forward(self, X):
            calls.append(1)
            return X * 2

    return P.register_parametrization(nn.Linear(2, 2), "weight", Count()), calls


def test_cached_value_is_not_taken_into_a_trace() -> None:
    net, _ = counting()
    with P.cached():
        assert isinstance(net.weight, jax.Array)
        grads = jm.grad(lambda net: (net.weight * net.weight).sum())(net)
    expected = 8 * net.parametrizations.weight.original.value
    np.testing.assert_allclose(grads["parametrizations.weight.original"], expected, rtol=1e-6)


def test_compiled_function_knows_whether_values_are_cached() -> None:
    net, calls = counting()
    net.parametrizations.weight[0].register_buffer("reads", jnp.zeros(()))

    def count(module, args):
        module.reads = module.reads + 1

    net.parametrizations.weight[0].register_forward_pre_hook(count)
    twice = jm.jit(lambda net: net.weight + net.weight)
    twice(net)
    with P.cached():
        twice(net)
    assert float(net.parametrizations.weight[0].reads) == 3
    with P.cached():
        twice(net)
    assert float(net.parametrizations.weight[0].reads) == 4


def double(layer: Any) -> Any:
    """Parametrize the weight of a layer by its double."""
    return P.register_parametrization(layer, "weight", kinds(nn).Double())


def test_gradients_have_the_names_of_the_originals() -> None:
    net, x = double(nn.Linear(2, 3)), jnp.ones((1, 2), jnp.float32)
    grads = jm.grad(lambda net: net(x).sum())(net)
    assert list(grads) == ["bias", "parametrizations.weight.original"]
    np.testing.assert_array_equal(grads["parametrizations.weight.original"], jnp.full((3, 2), 2.0, jnp.float32))


def test_optimizer_made_before_goes_on() -> None:
    net, x = nn.Linear(2, 3), jnp.ones((1, 2), jnp.float32)
    optimizer = jm.optim.SGD(net.parameters(), lr=1.0)
    before = net.weight.value
    double(net)
    optimizer.step(jm.grad(lambda net: net(x).sum())(net))
    np.testing.assert_allclose(net.weight, before - 4, rtol=1e-6)


def test_compiled_function_sees_registration_and_removal() -> None:
    traces = []

    class Triple(nn.Module):
        def forward(self, X):
            return 3 * X

    @jm.jit
    def apply(net, x):
        traces.append(1)
        return net(x)

    net, x = nn.Linear(2, 3), jnp.zeros((1, 2), jnp.float32)
    plain = apply(net, x)
    P.register_parametrization(net, "bias", Triple())
    for _ in range(3):
        np.testing.assert_allclose(apply(net, x), 3 * plain, rtol=1e-6)
    P.remove_parametrizations(net, "bias", leave_parametrized=False)
    np.testing.assert_allclose(apply(net, x), plain, rtol=1e-6)
    assert len(traces) == 2


def test_copy_outlives_the_parametrization_of_the_original() -> None:
    net = double(nn.Linear(2, 3))
    twin = copy.deepcopy(net)
    P.remove_parametrizations(net, "weight")
    np.testing.assert_array_equal(twin.weight, net.weight.value)
    assert type(net) is nn.Linear and P.is_parametrized(twin, "weight")


def test_modules_of_equal_structure_share_a_class_and_a_program() -> None:
    traces = []

    @jm.jit
    def apply(net, x):
        traces.append(1)
        return net(x)

    one = double(nn.Linear(2, 3))
    two = copy.deepcopy(one)
    assert type(one) is type(two) is type(double(nn.Linear(5, 5)))
    two.weight = jnp.zeros((3, 2), jnp.float32)
    np.testing.assert_array_equal(apply(two, jnp.ones((1, 2), jnp.float32))[0], two.bias.value)
    apply(one, jnp.ones((1, 2), jnp.float32))
    assert len(traces) == 1


def test_assignment_in_a_compiled_function_is_written_back() -> None:
    net = double(nn.Linear(2, 2))

    @jm.jit
    def assign(net, value):
        net.weight = value
        return net.weight

    value = jnp.arange(4.0, dtype=jnp.float32).reshape(2, 2)
    np.testing.assert_array_equal(assign(net, value), value)
    np.testing.assert_array_equal(net.parametrizations.weight.original, value / 2)


def test_assignment_cuts_gradients(ours: Any) -> None:
    net = double(nn.Linear(2, 2))

    def loss(net, value):
        net.weight = value
        return net.weight.sum()

    x = jnp.ones((2, 2), jnp.float32)
    np.testing.assert_array_equal(jm.grad(loss, argnums=1)(net, x), 0 * x)


def test_is_a_pytree() -> None:
    net, x = double(nn.Linear(2, 3)), jnp.ones((1, 2), jnp.float32)
    np.testing.assert_allclose(jax.jit(lambda net, x: net(x))(net, x), net(x), rtol=1e-6)
    zeros = jax.tree.map(jnp.zeros_like, net)
    assert type(zeros) is type(net) and not zeros.weight.any() and net.weight.any()


def test_functionalize() -> None:
    net, x = double(nn.Linear(2, 3)), jnp.ones((1, 2), jnp.float32)
    apply, params, state = jm.functionalize(net)
    assert list(params) == ["bias", "parametrizations.weight.original"] and not state
    out, _ = jax.jit(apply)(jax.tree.map(lambda p: 2 * p, params), state, x)
    np.testing.assert_allclose(out, 2 * net(x), rtol=1e-6)


def test_class_that_copies_and_pickles_itself() -> None:
    class Own(nn.Linear):
        def __deepcopy__(self, memo):
            return "a copy"

    net = double(Own(2, 2))
    assert copy.deepcopy(net) == "a copy"
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(net)
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        copy.copy(net)


def test_setter_of_a_property_takes_traced_values() -> None:
    class Celsius(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kelvin", jnp.zeros(()))

        @property
        def degrees(self):
            return self.kelvin - 273

        @degrees.setter
        def degrees(self, value):
            self.kelvin = value + 273

    net = Celsius()
    jm.jit(lambda net, value: setattr(net, "degrees", value))(net, 20.0)
    assert float(net.degrees) == 20 and float(net.kelvin) == 293
