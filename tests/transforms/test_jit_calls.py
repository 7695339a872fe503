"""``jm.jit``: what can be compiled, what can be passed, and what it sees by itself."""

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import BATCH, Custom, X, accumulate, counted, mlp, multiply, plain, same

GLOBAL = nn.Linear(3, 2)
swapped_global: Any = None


def by_global(x: Any) -> Any:
    return GLOBAL(x)


def by_swapped_global(x: Any) -> Any:
    return swapped_global(x)


def helper(x: Any) -> Any:
    return by_global(x)


def by_helper(x: Any) -> Any:
    return helper(x) + 1


class Holder:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)

    def run(self, x: Any) -> Any:
        return self.net(x)


def closures() -> dict[str, Any]:
    net = nn.Linear(3, 2)
    nested = {"a": [net], "b": (net,)}

    def defaulted(x: Any, net: Any = net) -> Any:
        return net(x)

    def keyword(x: Any, *, net: Any = net) -> Any:
        return net(x)

    def inner(x: Any) -> Any:
        return net(x)

    @functools.wraps(inner)
    def wrapped(x: Any) -> Any:
        return inner(x)

    return {
        "cell": lambda x: net(x),
        "global": by_global,
        "global of a helper": by_helper,
        "default": defaulted,
        "keyword default": keyword,
        "nested helper": lambda x: inner(x),
        "wrapped": wrapped,
        "container": lambda x: nested["a"][0](x) + nested["b"][0](x),
        "partial": functools.partial(lambda net, x: net(x), net),
        "partial keyword": functools.partial(lambda x, net: net(x), net=net),
        "bound method": Holder(net=net).run,
        "bound forward": net.forward,
        "plain object": functools.partial(lambda holder, x: holder.net(x), Holder(net=net)),
        "namespace": functools.partial(lambda scope, x: scope.net(x), types.SimpleNamespace(net=net)),
        "parameter": lambda x: x @ net.weight.t(),
        "jax.checkpoint": jax.checkpoint(lambda x: net(x)),
        "jax.vmap": jax.vmap(lambda x: net(x)),
        "jm.vmap": jm.vmap(net),
        "jm.jit": jm.jit(lambda x: net(x)),
        "jax.jit": jax.jit(lambda x: net(x)),
    }


@pytest.mark.parametrize("kind", closures())
def test_state_in_sight_is_an_argument_of_the_program(kind: str) -> None:
    function = closures()[kind]
    compiled = jm.jit(function)
    same(compiled(BATCH), function(BATCH))
    assert not compiled.trace(BATCH).jaxpr.consts


def rebound_cell() -> tuple[Any, Any]:
    net = nn.Linear(3, 2)

    def swap() -> None:
        nonlocal net
        net = nn.Linear(3, 2)

    return lambda x: net(x), swap


def rebound_global() -> tuple[Any, Any]:
    def swap() -> None:
        globals()["swapped_global"] = nn.Linear(3, 2)

    swap()
    return by_swapped_global, swap


def rebound_attribute() -> tuple[Any, Any]:
    holder = Holder(net=nn.Linear(3, 2))
    return holder.run, lambda: setattr(holder, "net", nn.Linear(3, 2))


def grown_list() -> tuple[Any, Any]:
    nets = [nn.Linear(3, 2)]
    return lambda x: sum(net(x) for net in nets), lambda: nets.append(nn.Linear(3, 2))


def grown_dict() -> tuple[Any, Any]:
    holder = Holder(nets={"a": nn.Linear(3, 2)})
    return lambda x: sum(net(x) for net in holder.nets.values()), lambda: holder.nets.update(b=nn.Linear(3, 2))


def shrunk_list() -> tuple[Any, Any]:
    nets = [nn.Linear(3, 2), nn.Linear(3, 2)]
    return lambda x: sum(net(x) for net in nets), nets.pop


def none_at_first() -> tuple[Any, Any]:
    holder = Holder(net=None)
    return lambda x: x if holder.net is None else holder.net(x), lambda: setattr(holder, "net", nn.Linear(3, 2))


def rebound_attribute_of_a_module() -> tuple[Any, Any]:
    other = nn.Linear(3, 2)

    def swap() -> None:
        nonlocal other
        other = nn.Linear(3, 2)

    return Custom(lambda module, x: module.call(x), call=lambda x: other(x)), swap


REBINDINGS = [
    rebound_cell,
    rebound_global,
    rebound_attribute,
    grown_list,
    grown_dict,
    shrunk_list,
    none_at_first,
    rebound_attribute_of_a_module,
]


@pytest.mark.parametrize("make", REBINDINGS, ids=lambda make: make.__name__)
def test_rebinding_between_calls_is_seen(make: Any) -> None:
    function, swap = make()
    compiled = jm.jit(function)
    same(compiled(BATCH), function(BATCH))
    swap()
    same(compiled(BATCH), function(BATCH))


class Hidden:
    net = nn.Sequential(nn.BatchNorm1d(3))
    net[0].weight.grad = jnp.ones(3, jnp.float32)


UNSEEN = {
    "call": lambda x: Hidden.net(x[None].repeat(2, 0)),
    "parameter": lambda x: x + Hidden.net[0].weight.value[:1],
    "data": lambda x: x + Hidden.net[0].weight.data[:1],
    "state_dict": lambda x: x + Hidden.net.state_dict()["0.weight"][:1],
    "buffer": lambda x: x + Hidden.net[0].running_mean,
    "buffers()": lambda x: x + next(Hidden.net.buffers()),
    "_buffers": lambda x: x + Hidden.net[0]._buffers["running_mean"],
    "grad": lambda x: x + Hidden.net[0].weight.grad,
    "jax pytree": lambda x: x + jax.tree.leaves(Hidden.net)[0],
}


@pytest.mark.parametrize("kind", UNSEEN)
def test_state_out_of_sight_is_an_error(kind: str) -> None:
    with pytest.raises(RuntimeError, match="pass the module as an argument, or name it in the function's closure"):
        jm.jit(UNSEEN[kind])(X)


def test_error_about_unseen_state_says_which_layer_reads_it() -> None:
    with pytest.raises(RuntimeError, match=r"Sequential\.0"):
        jm.jit(lambda x: Hidden.net(x))(BATCH)


def test_modules_nest_in_arguments_of_any_form() -> None:
    nets = [nn.Linear(3, 2) for _ in range(4)]

    def function(first: Any, table: Any, *rest: Any, scale: Any, named: Any) -> Any:
        return (first(BATCH) + table["a"][0](table["x"]) + rest[0][0](BATCH) + named["net"](BATCH)) * scale

    call = (nets[0], {"a": [nets[1]], "x": jnp.asarray(BATCH)}, (nets[2], None))
    compiled = jm.jit(function)
    for _ in range(2):
        same(compiled(*call, scale=2.0, named={"net": nets[3]}), function(*call, scale=2.0, named={"net": nets[3]}))
        nets[3].weight.data.mul_(3)


def test_nested_modules_are_written() -> None:
    nets = [Custom(accumulate), Custom(accumulate)]
    compiled = jm.jit(lambda table, *, extra: table["a"][0](X) + extra(X))
    compiled({"a": [nets[0]]}, extra=nets[1])
    compiled({"a": [nets[0]]}, extra=nets[1])
    same([net.total for net in nets], [2 * X, 2 * X])


def test_parameters_buffers_and_generators_are_arguments() -> None:
    box, generator = nn.Parameter(X), jm.Generator().manual_seed(3)
    compiled = jm.jit(lambda box, generator, x: (box * x, jm.rand(2, generator=generator)))
    first, draw = compiled(box, generator, X)
    box.value = -X
    second, other = compiled(box, generator, X)
    same(first, -second)
    assert not jnp.array_equal(draw, other)


@pytest.mark.parametrize("net", [mlp, plain])
def test_module_itself_is_compiled(net: Any) -> None:
    net = net().eval()
    compiled = jm.jit(net)
    same(compiled(BATCH), net(BATCH))
    assert compiled.training is False and list(compiled.state_dict()) == list(net.state_dict())


def test_module_compile_runs_compiled() -> None:
    body = counted(multiply)
    net = Custom(body)
    net.compile()
    same(net(X), net(X))
    assert len(body.calls) == 1


@jm.jit
def decorated(net: Any, x: Any) -> Any:
    """Call the net."""
    return net(x)


@jm.jit(static_argnames="power", donate=True)
def decorated_with_settings(net: Any, x: Any, power: int = 1) -> Any:
    return net(x) ** power


def test_decorator_forms() -> None:
    net = nn.Linear(3, 2)
    same(decorated(net, BATCH), net(BATCH))
    same(decorated_with_settings(net, BATCH, power=2), net(BATCH) ** 2)
    assert decorated.__name__ == "decorated" and decorated.__doc__ == "Call the net."


class Method(nn.Linear):
    @jm.jit
    def run(self, x: Any) -> Any:
        return self(x)

    @jm.jit(static_argnums=2)
    def power(self, x: Any, exponent: int) -> Any:
        return self(x) ** exponent if exponent > 1 else self(x)


class PlainMethod:
    def __init__(self) -> None:
        self.net = nn.Linear(3, 2)

    @jm.jit
    def run(self, x: Any) -> Any:
        return self.net(x)

    @jm.jit(static_argnums=2)
    def power(self, x: Any, exponent: int) -> Any:
        return self.net(x) ** exponent if exponent > 1 else self.net(x)


@dataclasses.dataclass
class Record:
    net: Any

    @jm.jit
    def run(self, x: Any) -> Any:
        return self.net(x)


@dataclasses.dataclass(frozen=True)
class EqualRecord:
    name: str
    net: Any = dataclasses.field(compare=False)

    @jm.jit
    def run(self, x: Any) -> Any:
        return self.net(x)


METHODS = {
    "module": lambda: Method(3, 2),
    "plain class": PlainMethod,
    "dataclass": lambda: Record(nn.Linear(3, 2)),
    "frozen dataclass": lambda: EqualRecord("same", nn.Linear(3, 2)),
}


@pytest.mark.parametrize("kind", METHODS)
def test_methods_are_compiled_for_each_instance(kind: str) -> None:
    one, two = METHODS[kind](), METHODS[kind]()
    for owner in (one, two, one):
        net = owner if isinstance(owner, nn.Module) else owner.net
        same(owner.run(BATCH), net(BATCH))


@pytest.mark.parametrize("kind", ["module", "plain class"])
def test_static_argument_of_a_method(kind: str) -> None:
    owner = METHODS[kind]()
    same(owner.power(BATCH, 2), owner.power(BATCH, 1) ** 2)


@pytest.mark.parametrize("kind", ["module", "plain class"])
def test_compiled_method_can_be_lowered(kind: str) -> None:
    assert "dot" in METHODS[kind]().run.lower(BATCH).as_text()


STATICS: dict[str, tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]] = {
    "position": ({"static_argnums": 2}, (2,), {}),
    "negative position": ({"static_argnums": -1}, (2,), {}),
    "positions": ({"static_argnums": (2,)}, (2,), {}),
    "position by name": ({"static_argnums": 2}, (), {"power": 2}),
    "name": ({"static_argnames": "power"}, (), {"power": 2}),
    "name by position": ({"static_argnames": ("power",)}, (2,), {}),
    "left out": ({"static_argnames": "power"}, (), {}),
}


@pytest.mark.parametrize("kind", STATICS)
def test_static_arguments_arrive_as_python_values(kind: str) -> None:
    settings, args, kwargs = STATICS[kind]

    def function(net: Any, x: Any, power: int = 2) -> Any:
        return net(x) if power == 1 else net(x) ** power

    net = nn.Linear(3, 2)
    same(jm.jit(function, **settings)(net, BATCH, *args, **kwargs), net(BATCH) ** 2)


def test_static_argument_is_part_of_the_program() -> None:
    function = counted(lambda net, x, mode: net(x) * (2 if mode == "double" else 1))
    compiled, net = jm.jit(function, static_argnums=2), nn.Linear(3, 2)
    for mode, factor in [("double", 2), ("single", 1), ("double", 2), ("single", 1)]:
        same(compiled(net, BATCH, mode), net(BATCH) * factor)
    assert len(function.calls) == 2


def test_equal_static_arguments_of_other_types_are_others() -> None:
    compiled = jm.jit(lambda x, flag: x * (2 if flag is True else 3), static_argnums=1)
    same([compiled(X, True), compiled(X, 1), compiled(X, True)], [2 * X, 3 * X, 2 * X])


def test_unhashable_static_argument_is_an_error() -> None:
    with pytest.raises(ValueError, match="static arguments of a jm.jit function must be hashable.*list"):
        jm.jit(lambda x, axes: x, static_argnums=1)(X, [0])


def test_unknown_static_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="static_argnames names 'powr', but the arguments are power, x"):
        jm.jit(lambda x, power: x, static_argnames="powr")


@pytest.mark.parametrize("value", ["text", object(), {1, 2}], ids=["str", "object", "set"])
def test_argument_of_a_wrong_type_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=r"argument \[1\]\['mode'\] of a jm.jit function must be an array.*static_arg"):
        jm.jit(lambda x, table: x)(X, {"mode": value})


def test_what_is_no_function_is_an_error() -> None:
    with pytest.raises(TypeError, match="expected a function or a Module to compile, got 3"):
        jm.jit(3)


@pytest.mark.parametrize("value", [2, 2.5, True, 1j, np.float32(3), np.int32(4), X, None], ids=str)
def test_scalars_and_numpy_arrays_are_arguments(value: Any) -> None:
    ours = jm.jit(lambda net, y: (net(X), None if y is None else y * 2))(Custom(multiply), value)[1]
    theirs = jax.jit(lambda y: None if y is None else y * 2)(value)
    assert value is None or (ours.dtype, ours.weak_type) == (theirs.dtype, theirs.weak_type)
    assert value is None or jnp.array_equal(ours, theirs)


def test_python_scalars_are_not_constants() -> None:
    function = counted(lambda net, scale: net(X) * scale)
    compiled, net = jm.jit(function), Custom(multiply)
    for scale in (1.0, 2.0, 3.0):
        same(compiled(net, scale), net(X) * scale)
    assert len(function.calls) == 1


def test_arguments_in_another_form_are_another_program() -> None:
    compiled = jm.jit(lambda x, other=None: x if other is None else x + other)
    results = [
        compiled(X),
        compiled(X, X),
        compiled(X, None),
        compiled(X, other=X),
        compiled(x=X, other=X),
        compiled(X),
    ]
    same(results, [X, 2 * X, X, 2 * X, 2 * X, X])


def test_array_and_module_take_turns_as_an_argument() -> None:
    box, net = nn.Parameter(2 * X), Custom(multiply)
    compiled = jm.jit(lambda thing: thing(X) if isinstance(thing, nn.Module) else thing * X)
    for thing in (X, box, net, jnp.asarray(X), net, box):
        same(compiled(thing), thing(X) if thing is net else jnp.asarray(thing) * X)


def test_lowered_program_has_no_weights_in_it() -> None:
    net = nn.Linear(37, 41)
    net.weight.data.fill_(0.123456789)
    text = jm.jit(net).lower(np.ones((2, 37), np.float32)).compile().as_text()
    assert "0.123456" not in text and "f32[41,37]" in text


def test_cost_is_that_of_plain_jax() -> None:
    net, x = plain(), jnp.ones((8, 3), jnp.float32)
    ours = jm.jit(net).lower(x).compile().cost_analysis()
    w0, b0, w1, b1 = (p.value for p in net.parameters())
    theirs = jax.jit(lambda w0, b0, w1, b1, x: jnp.tanh(x @ w0.T + b0[None]) @ w1.T + b1[None])
    assert ours["flops"] == theirs.lower(w0, b0, w1, b1, x).compile().cost_analysis()["flops"]


def test_program_is_lowered_from_shapes_and_nothing_is_written() -> None:
    net = Custom(accumulate)
    lowered = jm.jit(net).lower(jax.ShapeDtypeStruct((3,), jnp.float32))
    assert lowered.as_text() and jnp.array_equal(net.total, jnp.zeros(3))


@pytest.mark.parametrize("donate", [False, True])
def test_trace_shows_the_jaxpr(donate: bool) -> None:
    traced = jm.jit(Custom(accumulate), donate=donate).trace(X)
    assert "add" in str(traced.jaxpr) and not traced.jaxpr.consts


def test_clear_cache_forgets_programs() -> None:
    function = counted(lambda net, x: net(x))
    compiled, net = jm.jit(function), Custom(multiply)
    compiled(net, X)
    compiled.clear_cache()
    same(compiled(net, X), net(X))
    assert len(function.calls) == 2


@pytest.mark.parametrize(
    "pick",
    [lambda net: net, lambda net: net[0], lambda net: net[0].weight, lambda net: {"a": [net[2]], "b": net}],
    ids=["module", "submodule", "parameter", "pytree"],
)
def test_own_objects_come_back_as_themselves(pick: Any) -> None:
    net = plain()
    compiled = jm.jit(lambda net, x: (pick(net), net(x)))
    for _ in range(2):
        ours = jax.tree.leaves(compiled(net, BATCH)[0], is_leaf=lambda v: isinstance(v, nn.Module | nn.Parameter))
        theirs = jax.tree.leaves(pick(net), is_leaf=lambda v: isinstance(v, nn.Module | nn.Parameter))
        assert all(a is b for a, b in zip(ours, theirs, strict=True))


def test_new_module_comes_back_as_a_new_module() -> None:
    def function(x: Any) -> Any:
        net = nn.Linear(3, 2)
        net.weight.data.copy_(x[:2, :])
        return net, nn.Parameter(x[0])

    net, box = jm.jit(function)(BATCH)
    assert isinstance(net, nn.Linear) and isinstance(box, nn.Parameter)
    same(net.weight, BATCH[:2])
    same(box, BATCH[0])


def test_optimizer_comes_back_as_itself() -> None:
    net = plain()
    optimizer = jm.optim.SGD(net.parameters(), lr=0.1)
    assert jm.jit(lambda net, optimizer: optimizer)(net, optimizer) is optimizer


def test_jit_does_nothing_where_jax_is_told_not_to() -> None:
    net = Custom(accumulate)
    with jax.disable_jit():
        jm.jit(net)(X)
    same(net.total, X)
