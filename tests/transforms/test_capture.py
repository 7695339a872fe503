"""``jm.capture``: the outputs of submodules by name, in every transform, without a trace of its own left anywhere."""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules._tracing import epoch
from jaxmodules.nn.modules._hooks import recorders
from tests.transforms.helpers import counted, mlp

X = np.linspace(-1, 1, 12).reshape(4, 3).astype(np.float32)


def three() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Sequential(nn.Linear(4, 2)))


def by_hand(net: Any, x: Any) -> tuple[Any, dict[str, Any]]:
    hidden = jnp.tanh(net[0](x))
    return net[2](hidden), {"1": hidden, "2.0": net[2](hidden)}


def same(found: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


CALLS = {
    "eager": lambda net: jm.capture(net, ["1", "2.0"])(X),
    "jit of capture": lambda net: jm.jit(jm.capture(net, ["1", "2.0"]))(X),
    "capture in jit": lambda net: jm.jit(lambda net, x: jm.capture(net, ["1", "2.0"])(x))(net, X),
    "raw jit": lambda net: jax.jit(jm.capture(net, ["1", "2.0"]))(X),
    "vmap": lambda net: jm.vmap(jm.capture(net, ["1", "2.0"]))(X),
    "compiled net": lambda net: [net.compile(), net[2].compile(), jm.capture(net, ["1", "2.0"])(X)][2],
    "checkpoint around": lambda net: jax.checkpoint(jm.capture(net, ["1", "2.0"]))(X),
}


@pytest.mark.parametrize("case", CALLS)
def test_outputs_of_submodules_come_beside_the_output(case: str) -> None:
    net = three()
    same(CALLS[case](net), by_hand(net, X))


def penalty(outputs: tuple[Any, dict[str, Any]]) -> Any:
    return (outputs[0] ** 2).sum() + (outputs[1]["1"] ** 3).sum()


@pytest.mark.parametrize("transform", [lambda f: f, jm.jit], ids=["eager", "jit"])
def test_captured_outputs_are_differentiable(transform: Any) -> None:
    net = three()
    found = transform(jm.grad(lambda net: penalty(jm.capture(net, ["1", "2.0"])(X))))(net)
    same(found, jm.grad(lambda net: penalty(by_hand(net, X)))(net))


def test_state_is_updated_once_as_by_any_call() -> None:
    net, twin = mlp(), mlp()
    twin.load_state_dict(net.state_dict())
    output, _ = jm.jit(jm.capture(net.eval().train(), "1"))(X)
    jm.jit(twin)(X)
    assert output.shape == (4, 2)
    same(dict(net.named_buffers()), dict(twin.named_buffers()))


def test_nothing_retraces_and_nothing_changes() -> None:
    net, plain = three(), counted(lambda net, x: net(x))
    captured = counted(lambda net, x: jm.capture(net, "1")(x))
    both = jm.jit(plain), jm.jit(captured)
    for function in both:
        function(net, X)
    before = epoch.count
    for function in (*both, jm.capture(net, "0"), *both):
        function(*([net, X] if function in both else [X]))
    assert (plain.calls, captured.calls, epoch.count) == ([1], [1], before)


@pytest.mark.parametrize(
    "names,found",
    [
        ("0", ["0"]),
        ("2.*", ["2.0"]),
        ("*", ["0", "1", "2", "2.0"]),
        (["2*", "0"], ["2", "2.0", "0"]),
        ("", [""]),
        ([], []),
    ],
    ids=str,
)
def test_names_and_patterns(names: Any, found: list[str]) -> None:
    assert list(jm.capture(three(), names)(X)[1]) == found


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.alias = self.layer
        self.idle = nn.Tanh()

    def forward(self, x: Any, inner: Any = None) -> Any:
        return self.layer(inner(self.layer)(x) if inner else self.alias(x))


@pytest.mark.parametrize("name", ["layer", "alias"])
def test_module_called_twice_gives_a_list(name: str) -> None:
    net = Twice()
    output, outputs = jm.capture(net, name)(X)
    same(outputs[name], [net.layer(X), output])


def test_module_that_is_not_called_is_named() -> None:
    with pytest.raises(RuntimeError, match="the forward pass of Twice did not call 'idle'"):
        jm.capture(Twice(), ["layer", "idle"])(X)
    with pytest.raises(RuntimeError, match=r"did not call 'id\*'"):
        jm.capture(Twice(), ["layer", "id*"])(X)


def test_pattern_leaves_out_what_is_not_called() -> None:
    assert jm.capture(Twice(), "*")(X)[1].keys() == {"layer", "alias"}


UNKNOWN = {
    "nope": "Twice has no attribute `nope`",
    "layer.nope": "Linear has no attribute `nope`",
    "layer.weight": "`weight` is not an nn.Module",
    "x*": r"Twice has no submodule that matches `x\*`",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_name_is_refused_at_once(name: str) -> None:
    with pytest.raises(AttributeError, match=UNKNOWN[name]):
        jm.capture(Twice(), [name])


def test_only_modules_are_captured_from() -> None:
    with pytest.raises(TypeError, match="(?s)expected a Module to capture from.*put transforms around"):
        jm.capture(jm.jit(Twice()), "layer")


INNER = {
    "checkpoint": jax.checkpoint,
    "jit": jax.jit,
    "vmap": jax.vmap,
    "jm.jit": jm.jit,
}


@pytest.mark.parametrize("outer", [lambda f: f, jm.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("case", INNER)
def test_module_inside_an_inner_transform_is_refused(case: str, outer: Any) -> None:
    net = Twice()
    with pytest.raises(RuntimeError, match="the output of 'layer' can't be captured: .* inside a transform"):
        outer(lambda x: jm.capture(net, "layer")(x, inner=INNER[case]))(X)
    assert recorders == []


def test_hooks_are_part_of_the_output() -> None:
    net = three()
    net[1].register_forward_hook(lambda module, args, output: output * 2)
    output, outputs = jm.capture(net, ["1"])(X)
    same((output, outputs["1"]), (net[2](outputs["1"]), 2 * jnp.tanh(net[0](X))))


def test_captures_nest_and_equal_blocks_are_told_apart() -> None:
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(4)))

    def inner(x: Any) -> Any:
        output, outputs = jm.capture(blocks, "3")(x)
        return jm.capture(blocks[:2], "1")(x)[1]["1"], output, outputs["3"]

    half, output, last = jm.jit(inner)(X)
    same([half, output, last], [blocks[:2](X), blocks(X), blocks(X)])


def test_other_threads_are_not_captured() -> None:
    net = three()

    def elsewhere(module: Any, args: Any) -> None:
        thread = threading.Thread(target=lambda: net[0](X * 100))
        thread.start()
        thread.join()

    net[1].register_forward_pre_hook(elsewhere)
    same(jm.capture(net, "0")(X)[1]["0"], net[0](X))
