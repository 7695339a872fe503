"""Tied, shared and recursive: what several names lead to is one leaf, one gradient, one update, as in PyTorch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn

W = np.arange(9, dtype=np.float32).reshape(3, 3) / 10
X = np.arange(6, dtype=np.float32).reshape(2, 3) / 5 - 0.4


def tied(library: Any) -> Any:
    """Return a net with three names for one weight, a module under two names, and a buffer under two names."""

    class Tied(library.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (library.Linear(3, 3) for _ in range(3))
            self.b.weight = self.c.weight = self.a.weight
            self.again = self.a
            self.register_buffer("shift", library.array(np.ones((1, 3), np.float32)))
            self.register_buffer("same_shift", self.shift)
            self.plain = library.Linear(3, 3, bias=False)

        def forward(self, x: Any) -> Any:
            x = self.a(x) * 2 + self.b(x) * 3 + self.c(x) * 5 + self.again(x) * 7
            x = x + self.shift * 11 + self.same_shift * 13 + self.plain(x)
            return x + self.extra if hasattr(self, "extra") else x

    return Tied()


@pytest.fixture
def pair(libraries: Any) -> tuple[Any, Any]:
    """Give the net in our library and in torch."""
    theirs, ours = map(tied, libraries)
    ours.load_state_dict(theirs.state_dict())
    ours.same_shift = ours.shift
    return ours, theirs


ONE, TWO, ROW, BIAS = W, 2 * W, W[:1], W[0]
ALL = {
    f"{m}.{n}": (W if n == "weight" else BIAS) for m in ("a", "b", "c", "again") for n in ("weight", "bias")
} | {"shift": ROW, "same_shift": ROW, "plain.weight": W}  # fmt: skip
BOTH = [{}, {"tie_weights": False}]
CALLS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "nothing": ({}, BOTH),
    "first name": ({"a.weight": ONE}, BOTH),
    "second name": ({"b.weight": ONE}, BOTH),
    "name of the shared module": ({"again.weight": ONE}, BOTH),
    "bias of the shared module": ({"again.bias": W[0]}, BOTH),
    "all names, one array": (dict.fromkeys(("a.weight", "b.weight", "c.weight", "again.weight"), ONE), BOTH),
    "all names, two arrays": ({"a.weight": ONE, "again.weight": ONE, "b.weight": TWO, "c.weight": ONE}, BOTH),
    "shared, two arrays": ({"a.bias": W[0], "again.bias": W[1]}, BOTH),
    "two names, untied": ({"a.weight": ONE, "b.weight": TWO}, [{"tie_weights": False}]),
    "buffer": ({"shift": ROW}, BOTH),
    "second buffer": ({"same_shift": ROW}, BOTH),
    "both buffers": ({"shift": ROW, "same_shift": ROW}, BOTH),
    "two buffers": ({"shift": ROW, "same_shift": 2 * ROW}, BOTH),
    "two dicts": (({"a.weight": ONE}, {"shift": ROW}), BOTH),
    "strict": (ALL, [{"strict": True}, {"strict": True, "tie_weights": False}]),
    "strict, one name": ({k: v for k, v in ALL.items() if k[0] in "asp" and "again" not in k}, [{"strict": True}]),
    "strict, one name of each": (
        {k: v for k, v in ALL.items() if k not in ("b.weight", "c.weight", "same_shift", "again.weight", "again.bias")},
        [{"strict": True}, {"strict": True, "tie_weights": False}],
    ),
    "strict, unexpected": (ALL | {"more": ROW}, [{"strict": True}]),
    "attribute that is not there": ({"extra": ROW}, BOTH),
    "parameter that is None": ({"plain.bias": W[0]}, BOTH),
    "module that is not there": ({"d.weight": ONE}, BOTH),
}  # fmt: skip


def converted(given: Any, array: Callable[[Any], Any]) -> Any:
    """Return dicts of arrays of a library, where one NumPy array becomes one array."""
    memo: dict[int, Any] = {}

    def convert(value: Any) -> Any:
        return memo.setdefault(id(value), array(value))

    if isinstance(given, tuple):
        return tuple({k: convert(v) for k, v in one.items()} for one in given)
    return {k: convert(v) for k, v in given.items()}


def outcome(call: Any, net: Any, given: Any, settings: Any, array: Any) -> Any:
    try:
        return np.asarray(call(net, converted(given, array), (array(X),), **settings))
    except (ValueError, RuntimeError, AttributeError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("settings", range(2), ids=["first", "second"])
@pytest.mark.parametrize("kind", CALLS)
def test_functional_call_treats_tied_names_as_torch_does(pair: Any, kind: str, settings: int) -> None:
    given, choices = CALLS[kind]
    if settings >= len(choices):
        return
    ours, theirs = pair
    with torch.no_grad():
        expected = outcome(torch.func.functional_call, theirs, given, choices[settings], torch.tensor)
    got = outcome(jm.functional_call, ours, given, choices[settings], jnp.asarray)
    if isinstance(expected, tuple):
        assert got[0] is expected[0] and expected[1] in got[1]
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert not hasattr(ours, "extra") and ours.plain.bias is None
    assert ours.a.weight is ours.b.weight is ours.c.weight


@pytest.mark.parametrize("under", [jax.jit, jm.jit, lambda f: lambda *a: jax.vmap(f)(*(x[None] for x in a))[0]])
def test_functional_call_with_tied_names_in_a_transform(pair: Any, under: Any) -> None:
    net, _ = pair
    untied = {"a.weight": jnp.asarray(W), "b.weight": jnp.asarray(2 * W), "extra": jnp.asarray(ROW)}
    for given, settings in (({"a.weight": jnp.asarray(W), "shift": jnp.asarray(ROW)}, {}), (untied, BOTH[1])):
        names = list(given)

        def call(*arrays: Any, names: Any = names, settings: Any = settings) -> Any:
            return jm.functional_call(net, dict(zip(names, arrays, strict=True)), (X,), **settings)

        if under is jm.jit:  # buffers are arguments of the program each
            given["same_shift"] = given.get("shift", net.shift)
            names.append("same_shift")
        np.testing.assert_allclose(
            under(call)(*given.values()), jm.functional_call(net, given, (X,), **settings), rtol=1e-4
        )


LOADED = "state = {k: v * 1 for k, v in net.state_dict().items()}; state"
SCRIPTS: dict[str, str] = {
    "names": "out = [n for n, _ in net.named_parameters()], [n for n, _ in net.named_buffers()]",
    "all names": "out = [n for n, _ in net.named_parameters(remove_duplicate=False)]",
    "modules": "out = [n for n, _ in net.named_modules()], [n for n, _ in net.named_modules(remove_duplicate=False)]",
    "state dict": "out = list(net.state_dict())",
    "children": "out = [n for n, _ in net.named_children()]",
    "load one name": f"{LOADED}['a.weight'] *= 2; net.load_state_dict(state)",
    "load another name": f"{LOADED}['c.weight'] *= 2; net.load_state_dict(state)",
    "load the last name": f"{LOADED}['again.weight'] *= 2; net.load_state_dict(state)",
    "load one of a module": f"{LOADED}['again.bias'] *= 2; net.load_state_dict(state)",
    "load without a name": (
        "state = net.state_dict(); del state['b.weight'], state['again.bias']\n"
        "out = net.load_state_dict(state, strict=False).missing_keys"
    ),
    "assign": (
        f"{LOADED}['a.weight'] *= 2; net.load_state_dict(state, assign=True)\n"
        "out = net.a.weight is net.b.weight, net.a is net.again"
    ),
    "deepcopy": "net = copy.deepcopy(net); out = net.a.weight is net.c.weight, net.a is net.again",
    "pickle": "net = pickle.loads(pickle.dumps(net)); out = net.a.weight is net.c.weight, net.a is net.again",
    "freeze": "net.b.weight.requires_grad_(False); out = [p.requires_grad for p in net.parameters()]",
    "untie": "net.b.weight = s.Parameter(s.array([[1.0]])); out = net.a.weight is net.c.weight",
    "mode": "net.again.eval(); out = net.a.training",
    "apply": "seen = []; net.apply(lambda m: seen.append(type(m).__name__)); out = seen",
    "half": "net.half(); out = net.a.weight is net.b.weight",
    "zero_grad": "net.zero_grad(); out = [p.grad for p in net.parameters()]",
    "delete a name": "del net.a; out = [n for n, _ in net.named_parameters()]",
    "replace one name of a module": "net.a = s.Linear(3, 3); out = [n for n, _ in net.named_parameters()]",
}  # fmt: skip


def containers(library: Any) -> Any:
    """Return a net of containers with the same names."""
    net = library.ModuleDict({name: library.Linear(3, 3) for name in "abc"})
    net.b.weight = net.c.weight = net.a.weight
    net["again"] = net.a
    net.register_buffer("shift", library.array([[1.0, 2.0, 3.0]]))
    net.register_buffer("same_shift", net.shift)
    return net


@pytest.mark.parametrize("kind", SCRIPTS)
def test_tied_model_behaves_as_torchs(agree: Any, kind: str) -> None:
    agree(containers, f"import copy, pickle\n{SCRIPTS[kind]}")


def trained(net: Any, optimizer: Any, backward: Callable[[], Any]) -> dict[str, np.ndarray]:
    for _ in range(3):
        optimizer.zero_grad()
        backward()
        optimizer.step()
    return {k: np.asarray(v) for k, v in net.state_dict().items()}


def test_gradient_of_a_tied_weight_is_one_sum(pair: Any) -> None:
    ours, theirs = pair
    (theirs(torch.tensor(X)) ** 2).sum().backward()
    grads = jm.jit(jm.grad(lambda net: (net(X) ** 2).sum()))(ours)
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert grads.keys() == expected.keys()
    for name, grad in expected.items():
        np.testing.assert_allclose(grads[name], grad, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("under", [lambda f: f, jm.jit], ids=["eager", "jit"])
def test_tied_weight_is_updated_once(pair: Any, under: Any) -> None:
    ours, theirs = pair
    settings: Any = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.1}
    x = torch.tensor(X)
    expected = trained(
        theirs, torch.optim.SGD(theirs.parameters(), **settings), lambda: (theirs(x) ** 2).sum().backward()
    )
    backward = under(lambda: jm.backward(lambda net: (net(X) ** 2).sum(), ours))
    got = trained(ours, jm.optim.SGD(ours.parameters(), **settings), backward)
    assert list(got) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert ours.a.weight is ours.b.weight and ours.a is ours.again


def test_tied_names_are_one_leaf(pair: Any) -> None:
    net, _ = pair
    assert len(jax.tree.leaves(net)) == len([*net.parameters()]) + 2
    copy = jax.tree.map(lambda leaf: leaf * 2, net)
    assert copy.a.weight is copy.c.weight and copy.again is copy.a


class Tree(nn.Module):
    """A net that calls itself on the branches of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf, self.node = nn.Linear(3, 3), nn.Linear(6, 3)

    def forward(self, tree: Any) -> Any:
        if isinstance(tree, tuple):
            return jnp.tanh(self.node(jnp.concatenate([self(tree[0]), self(tree[1])], axis=-1)))
        return self.leaf(tree)


@pytest.mark.parametrize("trees", [(X, (X, X)), ((X, X), X), ((X, (X, X)), (X, X))], ids=["right", "left", "both"])
def test_module_that_calls_itself(trees: Any) -> None:
    net = Tree()
    np.testing.assert_allclose(jm.jit(net)(trees), net(trees), rtol=1e-5)
    grads = jm.grad(lambda net: net(trees).sum())(net)
    compiled = jm.jit(jm.grad(lambda net: net(trees).sum()))(net)
    for name, grad in grads.items():
        np.testing.assert_allclose(compiled[name], grad, rtol=1e-4, atol=1e-6, err_msg=name)


class Child(nn.Module):
    def __init__(self, **links: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(jnp.ones((1, 3)))
        for name, value in links.items():
            setattr(self, name, value)

    def forward(self, x: Any) -> Any:
        return x * self.weight


LINKS: dict[str, Callable[[Any, Any], Any]] = {
    "list": lambda child, parent: setattr(child, "parents", [parent]),
    "tuple": lambda child, parent: setattr(child, "parents", (parent,)),
    "dict": lambda child, parent: setattr(child, "parents", {"mine": parent}),
    "__dict__": lambda child, parent: child.__dict__.update(parent=parent),
    "method": lambda child, parent: setattr(child, "call", parent.forward),
    "itself": lambda child, parent: setattr(child, "me", [child]),
}


@pytest.mark.parametrize("kind", LINKS)
def test_module_that_knows_its_parent(kind: str) -> None:
    parent = nn.Sequential(Child(), nn.Linear(3, 3))
    LINKS[kind](parent[0], parent)
    np.testing.assert_allclose(jm.jit(parent)(X), parent(X), rtol=1e-5)
    np.testing.assert_allclose(jm.jit(parent[0])(X), parent[0](X), rtol=1e-5)
    assert list(parent.state_dict()) == ["0.weight", "1.weight", "1.bias"]
    assert list(jm.grad(lambda net: net(X).sum())(parent)) == list(parent.state_dict())
    clone = jax.tree.map(lambda leaf: leaf * 2, parent)
    np.testing.assert_allclose(clone[0].weight, 2 * parent[0].weight)


CYCLES = {
    "named_modules": "net[0].parent = net; out = [n for n, _ in net.named_modules()]",
    "named_parameters": "net[0].parent = net; out = [n for n, _ in net.named_parameters()]",
}


@pytest.mark.parametrize("kind", CYCLES)
def test_registered_cycle_is_walked_once(both: Any, kind: str) -> None:
    def script(s: Any) -> Any:
        scope = {"net": s.Sequential(s.Linear(2, 2), s.Tanh()), "out": None}
        exec(CYCLES[kind], scope)
        return scope["out"]

    both(script)


@pytest.mark.parametrize("call", ["state_dict", "train", "half"])
def test_registered_cycle_recurses_without_end_where_torchs_does(libraries: Any, call: str) -> None:
    for library in libraries:
        net = library.Sequential(library.Linear(2, 2))
        net[0].parent = net
        with pytest.raises(RecursionError, match="recursion"):
            getattr(net, call)()


def test_registered_cycle_runs_compiled() -> None:
    net = nn.Sequential(Child(), Child())
    net[0].parent = net
    compiled = jm.jit(net)
    np.testing.assert_allclose(compiled(X), X)
    net[1].weight.data.mul_(2)
    np.testing.assert_allclose(compiled(X), 2 * X)
