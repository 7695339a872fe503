"""Containers against torch: one table of statements for each."""

import copy
import pickle
from collections import OrderedDict
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


def sequential(s: Any) -> Any:
    return s.Sequential(s.Linear(2, 2), s.ReLU(), s.Linear(2, 2))


def named(s: Any) -> Any:
    return s.Sequential(OrderedDict(first=s.Linear(2, 2), act=s.ReLU()))


def module_list(s: Any) -> Any:
    return s.ModuleList([s.Linear(2, 2), s.ReLU(), s.ReLU()])


def module_dict(s: Any) -> Any:
    return s.ModuleDict({"lin": s.Linear(2, 2), "act": s.ReLU()})


def parameter_list(s: Any) -> Any:
    return s.ParameterList([s.array([1.0, 2.0]), "note", s.Parameter(s.array([3.0, 4.0]))])


def parameter_dict(s: Any) -> Any:
    return s.ParameterDict({"right": s.array([1.0, 2.0]), "left": s.Parameter(s.array([3.0, 4.0])), "note": "text"})


BUILDERS = (sequential, named, module_list, module_dict, parameter_list, parameter_dict)

STATEMENTS = {
    sequential: """
        out = net(s.array([[1.0, -2.0]]))
        out = [len(net), [type(m) for m in net], list(net._modules)]
        out = [net[0], net[-1], net[True]]
        out = [net[1:], net[::-1], net[5:], net[-2:]]
        out = net[1:][0]
        out = net[1:].append(s.Tanh())
        net[0] = s.Tanh()
        net[-1] = s.Tanh()
        net[0] = None
        del net[0]
        del net[-1]
        del net[1:]
        del net[::2]
        del net[:]
        out = net.append(s.Tanh()) is net
        out = net.insert(0, s.Tanh()) is net
        net.insert(-1, s.Tanh())
        net.insert(3, s.Tanh())
        out = net.extend(s.Sequential(s.Tanh(), s.ReLU())) is net
        net.extend([s.Tanh()])
        out = net.pop(1)
        out = net.pop(-1)
        out = net.pop(slice(0, 2))
        out = net + s.Sequential(s.Tanh())
        net += s.Sequential(s.Tanh())
        out = net * 2
        out = 2 * net
        net *= 3
        net *= 1
        out = (net * 2)[0] is (net * 2)[3]
        out = [m for m in reversed(net)]
        out = net[0] in net
        out = [name for name in dir(net) if name.isdigit()]
        out = [bool(s.Sequential()), s.Sequential(), s.Sequential(net)]
        out = s.Sequential(net, net)
        net.add_module("extra", s.Tanh())
        net.append(net[0])
        delattr(net, "1")
    """,
    named: """
        out = net(s.array([[1.0, -2.0]]))
        out = [net.act, net[0], net[-1], net[1:]]
        net[0] = s.Tanh()
        del net[0]
        del net[1:]
        net.append(s.Tanh())
        net.insert(2, s.Tanh())
        out = net + net
        out = net * 2
        out = net.pop(0)
        out = "act" in dir(net)
    """,
    module_list: """
        out = [len(net), [type(m) for m in net], list(net._modules), net[0] in net]
        out = [net[0], net[-1], net[1:], net[::-1]]
        out = [s.ModuleList(), s.ModuleList(m for m in net), s.ModuleList([net, net])]
        net[1] = s.Tanh()
        net[0] = None
        del net[0]
        del net[-1]
        del net[::2]
        out = net.append(s.Tanh()) is net
        net.insert(0, s.Tanh())
        net.insert(3, s.Tanh())
        out = net.extend([s.Tanh(), s.ReLU()]) is net
        net.extend({s.Tanh(): 0})
        net += [s.Tanh()]
        out = net + [s.Tanh()]
        out = net + net
        out = net.pop(0)
        out = net.pop(-1)
        out = net.pop(slice(1, 3))
        out = [name for name in dir(net) if name.isdigit()]
        net.extend(s.Linear(3, 3) for _ in range(3))
        net.append(s.ModuleList([s.Sequential(s.ReLU(), s.ReLU())] * 2))
        net.norm = s.Tanh()
    """,
    module_dict: """
        out = [len(net), list(net), list(net.keys()), list(net.values()), list(net.items()), "lin" in net, "x" in net]
        out = [net["lin"], net.lin, s.ModuleDict(), s.ModuleDict([["a", s.ReLU()], ("b", s.Tanh())])]
        net["new"] = s.Tanh()
        net["act"] = s.Tanh()
        net["none"] = None
        del net["lin"]
        net.clear()
        out = net.pop("act")
        net.update({"z": s.Tanh(), "act": s.Tanh(), "a": s.ReLU()})
        net.update(OrderedDict(z=s.Tanh(), a=s.ReLU()))
        net.update(s.ModuleDict({"z": s.Tanh()}))
        net.update([("z", s.Tanh()), ["a", s.ReLU()]])
        net.update(("z", s.Tanh()) for _ in range(1))
        out = "lin" in dir(net)
    """,
    parameter_list: """
        out = [len(net), list(net), [type(p).__name__ for p in net]]
        out = [net[0], net[-1], net[1], net[1:], net[::-1]]
        out = [s.ParameterList(), s.ParameterList(net), s.ParameterList([s.array([[1.0, 2.0]])])]
        net[0] = s.array([5.0, 6.0])
        net[1] = s.array([5.0, 6.0])
        net[1] = 7
        net[0] = None
        net[-1] = s.Parameter(s.array([5.0, 6.0]))
        out = net.append(s.array([5.0, 6.0])) is net
        net.append({"plain": "value"})
        net.append(s.ReLU())
        net.append(None)
        out = net.extend([s.array([5.0, 6.0]), 3]) is net
        net.extend(net)
        net += [s.array([5.0, 6.0])]
        out = net[0] is s.ParameterList([net[0]])[0]
        out = [name for name in dir(net) if name.isdigit()]
        net.half()
        net.requires_grad_(False)
    """,
    parameter_dict: """
        out = [len(net), list(net), list(reversed(net)), list(net.keys()), list(net.items()), list(net.values())]
        out = [net["left"], net.left, net["note"], "left" in net, "x" in net]
        out = [s.ParameterDict(), s.ParameterDict(OrderedDict(b=s.array([1.0]), a=2)), s.ParameterDict([("b", 1)])]
        net["new"] = s.array([5.0, 6.0])
        net["left"] = s.array([5.0, 6.0])
        net["note"] = s.array([5.0, 6.0])
        net["left"] = None
        net["module"] = s.ReLU()
        del net["left"]
        del net["note"]
        net.clear()
        out = net.pop("left")
        out = [net.popitem(), net.popitem()]
        out = [net.get("left"), net.get("x"), net.get("x", 3)]
        out = [net.setdefault("left", 3), net.setdefault("x"), net.setdefault("y", s.array([5.0, 6.0]))]
        out = net.fromkeys(["b", "a"], s.array([5.0, 6.0]))
        out = net.fromkeys("ba")
        out = [net.copy(), net.copy()["left"] is net["left"], net.copy() is net]
        net.update({"z": s.array([5.0, 6.0]), "left": s.array([7.0, 8.0]), "a": 1})
        net.update(OrderedDict(z=s.array([5.0, 6.0]), a=1))
        net.update(s.ParameterDict({"z": s.array([5.0, 6.0])}))
        net.update([("z", s.array([5.0, 6.0])), ["a", 1]])
        out = net | s.ParameterDict({"left": s.array([5.0, 6.0]), "z": 1})
        out = s.ParameterDict({"left": s.array([5.0, 6.0]), "z": 1}) | net
        out = list({"left": 1, "z": 1} | net)
        net |= s.ParameterDict({"left": s.array([5.0, 6.0]), "z": 1})
        net |= {"z": 1, "a": 2}
        net.other = s.Parameter(s.array([5.0, 6.0]))
    """,
}

ERRORS = {
    sequential: {
        "net[3]": IndexError,
        "net[-4]": IndexError,
        "net['0']": TypeError,
        "net[3] = s.ReLU()": IndexError,
        "net[0] = 3": TypeError,
        "del net[3]": IndexError,
        "net.pop(3)": IndexError,
        "net.append(3)": TypeError,
        "net.append('x')": TypeError,
        "net.extend([s.ReLU(), 3])": TypeError,
        "net.insert(0, 3)": AssertionError,
        "net.insert(4, s.ReLU())": IndexError,
        "net.insert(-4, s.ReLU())": IndexError,
        "net + [s.ReLU()]": ValueError,
        "net += [s.ReLU()]": ValueError,
        "net * 0": ValueError,
        "net * 1.5": TypeError,
        "'a' * net": TypeError,
        "net *= -1": ValueError,
        "net *= 'a'": TypeError,
        "s.Sequential(3)": TypeError,
        "s.Sequential([s.ReLU()])": TypeError,
        "s.Sequential({'a': s.ReLU()})": TypeError,
        "s.Sequential(OrderedDict([('a.b', s.ReLU())]))": KeyError,
        "s.Sequential(OrderedDict([('', s.ReLU())]))": KeyError,
        "s.Sequential(OrderedDict([('forward', s.ReLU())]))": KeyError,
    },
    named: {"net['act']": TypeError, "net[2]": IndexError},
    module_list: {
        "net[3]": IndexError,
        "net[-4]": IndexError,
        "net['0']": TypeError,
        "net[3] = s.ReLU()": IndexError,
        "net[0] = 3": TypeError,
        "del net[3]": IndexError,
        "net.pop(-4)": IndexError,
        "net.append(3)": TypeError,
        "net.extend(3)": TypeError,
        "net.extend(None)": TypeError,
        "net.extend(s.ModuleDict({'a': s.ReLU()}))": TypeError,
        "net += 3": TypeError,
        "net + 3": TypeError,
        "net + [3]": TypeError,
        "net(1)": NotImplementedError,
        "s.ModuleList(s.ReLU())": TypeError,
    },
    module_dict: {
        "net['x']": KeyError,
        "del net['x']": KeyError,
        "net.pop('x')": KeyError,
        "net['x'] = 3": TypeError,
        "net[3] = s.ReLU()": TypeError,
        "net['a.b'] = s.ReLU()": KeyError,
        "net[''] = s.ReLU()": KeyError,
        "net['keys'] = s.ReLU()": KeyError,
        "net.update(3)": TypeError,
        "net.update([3])": TypeError,
        "net.update([('a', s.ReLU(), 1)])": ValueError,
        "net.update([('a', s.ReLU()), ('b',)])": ValueError,
        "net.update({'a': s.ReLU(), 'b': 3})": TypeError,
        "s.ModuleDict([3])": TypeError,
        "net(1)": NotImplementedError,
    },
    parameter_list: {
        "net[3]": IndexError,
        "net[-4]": IndexError,
        "net['0']": TypeError,
        "net[3] = 1": IndexError,
        "net[0] = 'text'": TypeError,
        "net.extend(3)": TypeError,
        "net += None": TypeError,
        "del net[0]": (AttributeError, TypeError),
        "net(1)": RuntimeError,
    },
    parameter_dict: {
        "net['x']": AttributeError,
        "del net['x']": KeyError,
        "net.pop('x')": AttributeError,
        "net['a.b'] = s.array([1.0])": KeyError,
        "net['keys'] = s.array([1.0])": KeyError,
        "net['left'] = 3": TypeError,
        "s.ParameterDict().popitem()": KeyError,
        "net.update(3)": TypeError,
        "net.update([3])": TypeError,
        "net.update([('a', 1, 2)])": ValueError,
        "net(1)": RuntimeError,
    },
}

IN_ORDER = [
    pytest.param(build, line.strip(), id=f"{build.__name__}: {line.strip()}")
    for build, lines in STATEMENTS.items()
    for line in lines.strip().splitlines()
]
REFUSED = [
    pytest.param(build, line, raises, id=f"{build.__name__}: {line}")
    for build, lines in ERRORS.items()
    for line, raises in lines.items()
]


@pytest.mark.parametrize("build,statement", IN_ORDER)
def test_operation_does_what_torch_does(agree: Check, build: Build, statement: str) -> None:
    agree(build, "from collections import OrderedDict\n" + statement)


@pytest.mark.parametrize("build,statement,raises", REFUSED)
def test_bad_operation_is_refused_as_by_torch(
    agree: Check, build: Build, statement: str, raises: type[Exception]
) -> None:
    agree(build, "from collections import OrderedDict\n" + statement, raises)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_containers_are_pickled_and_copied_whole(ours: Any, build: Build) -> None:
    net = build(ours)
    for again in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert repr(again) == repr(net)
        assert list(again.state_dict()) == list(net.state_dict())
        assert all(p is not q for p, q in zip(again.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_containers_are_pytrees(ours: Any, build: Build) -> None:
    net = build(ours)
    doubled = jax.tree.map(lambda leaf: leaf * 2, net)
    assert repr(doubled) == repr(net) and type(doubled) is type(net)
    for new, old in zip(doubled.parameters(), net.parameters(), strict=True):
        np.testing.assert_array_equal(new.value, old.value * 2)


def test_numpy_arrays_become_parameters() -> None:
    assert type(nn.ParameterList([np.ones(2, np.float32)])[0]) is nn.Parameter
    assert type(nn.ParameterDict({"a": np.ones(2, np.float32)})["a"]) is nn.Parameter


@pytest.mark.parametrize("container", [nn.Sequential, lambda *layers: nn.ModuleList(layers)], ids=["seq", "list"])
def test_a_container_can_be_extended_by_itself(container: Build) -> None:
    net = container(nn.ReLU(), nn.Tanh())
    net += net
    assert [type(layer) for layer in net] == [nn.ReLU, nn.Tanh] * 2


def test_multiplying_named_modules_in_place_numbers_the_copies() -> None:
    net = nn.Sequential(OrderedDict(act=nn.ReLU()))
    net *= 3
    assert list(net._modules) == ["act", "1", "2"]


def test_module_list_inserts_from_the_end_as_a_list_does() -> None:
    layers = nn.ModuleList([nn.ReLU(), nn.ReLU()])
    layers.insert(-1, nn.Tanh())
    assert [type(layer) for layer in layers] == [nn.ReLU, nn.Tanh, nn.ReLU]


def test_inserting_before_named_modules_changes_nothing() -> None:
    net = nn.Sequential(OrderedDict(first=nn.ReLU(), second=nn.Tanh()))
    with pytest.raises(KeyError, match="0"):
        net.insert(0, nn.Tanh())
    assert list(net._modules) == ["first", "second"]


def test_module_list_leaves_no_gaps() -> None:
    with pytest.raises(IndexError, match="Index out of range: 3"):
        nn.ModuleList([nn.ReLU()]).insert(3, nn.Tanh())


def test_key_that_is_no_string_is_not_half_added() -> None:
    values = nn.ParameterDict()
    with pytest.raises(TypeError, match=r"not a string \(type is 'int'\)"):
        values[3] = jnp.ones(2)
    assert len(values) == 0


def test_parameters_of_a_container_are_trained() -> None:
    values = nn.ParameterDict({"scale": jnp.ones(2), "unused": "note"})
    grads = jm.grad(lambda values: (values["scale"] * jnp.arange(2.0)).sum())(values)
    np.testing.assert_array_equal(grads["scale"], [0.0, 1.0])


def test_changed_container_is_compiled_anew() -> None:
    net = nn.Sequential(nn.ReLU())
    apply = jm.jit(lambda net, x: net(x))
    x = jnp.asarray([-1.0, 1.0])
    before = apply(net, x)
    net[0] = nn.Identity()
    np.testing.assert_array_equal(before, [0.0, 1.0])
    np.testing.assert_array_equal(apply(net, x), x)


def test_plain_value_changed_in_a_parameter_dict_is_compiled_anew() -> None:
    values = nn.ParameterDict({"scale": jnp.ones(2), "times": 2})
    apply = jm.jit(lambda values: values["scale"] * values["times"])
    assert apply(values).tolist() == [2.0, 2.0]
    values["times"] = 3
    assert apply(values).tolist() == [3.0, 3.0]
