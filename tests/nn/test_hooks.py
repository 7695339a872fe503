"""Hooks against torch: when they run, what they get, what their results do, and how they are taken off."""

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
Build = Callable[..., Any]


def scale(s: Any) -> Any:
    """A module that multiplies, fails on request, and takes a keyword."""

    class Scale(s.Module):
        def forward(self, input, by=2.0, fail=False):
            if fail:
                raise ValueError("forward failed")
            return input * by

    return Scale()


def hooked(register, *hooks, call="net(x)", **options):
    """Make a script that registers hooks, runs ``call`` and returns its result and the hooks' log."""

    def script(s):
        net, log, x = scale(s), [], s.array([1.0, 2.0])
        handles = [getattr(net, register)(hook(log), **options) for hook in hooks]
        scope = {"net": net, "x": x, "handles": handles, "log": log, "s": s, "out": None}
        try:
            exec(f"out = {call}" if "\n" not in call else call, scope)
        except ValueError as error:
            log.append(str(error))
        return [scope["out"], log]

    return script


def logs(name: str) -> Any:
    """Log the call and change nothing."""

    def make(log):
        def hook(module, *args):
            log.append([name, type(module).__name__, *args])

        return hook

    return make


def returns(function: Build) -> Any:
    """Log the call and return what ``function`` makes of the arguments after the module."""

    def make(log):
        def hook(module, *args):
            log.append(list(args))
            return function(*args)

        return hook

    return make


FORWARD_PRE = {
    "sees the arguments": hooked("register_forward_pre_hook", logs("a")),
    "does not see keywords": hooked("register_forward_pre_hook", logs("a"), call="net(x, by=3.0)"),
    "sees keywords": hooked("register_forward_pre_hook", logs("a"), call="net(x, by=3.0)", with_kwargs=True),
    "runs in order": hooked("register_forward_pre_hook", logs("a"), logs("b")),
    "runs first when prepended": hooked("register_forward_pre_hook", logs("a"), logs("b"), prepend=True),
    "replaces by a value": hooked("register_forward_pre_hook", returns(lambda args: args[0] + 1)),
    "replaces by a tuple": hooked("register_forward_pre_hook", returns(lambda args: (args[0] + 1, 5.0))),
    "passes results on": hooked("register_forward_pre_hook", returns(lambda args: args[0] + 1), logs("b")),
    "replaces keywords": hooked(
        "register_forward_pre_hook", returns(lambda args, kwargs: (args, {"by": 7.0})), logs("b"), with_kwargs=True
    ),
    "runs for every call": hooked("register_forward_pre_hook", logs("a"), call="net(net(x))"),
}

FORWARD = {
    "sees input and output": hooked("register_forward_hook", logs("a")),
    "does not see keywords": hooked("register_forward_hook", logs("a"), call="net(x, by=3.0)"),
    "sees keywords": hooked("register_forward_hook", logs("a"), call="net(x, by=3.0)", with_kwargs=True),
    "runs in order": hooked("register_forward_hook", logs("a"), logs("b")),
    "runs first when prepended": hooked("register_forward_hook", logs("a"), logs("b"), prepend=True),
    "replaces the output": hooked("register_forward_hook", returns(lambda args, out: out + 1), logs("b")),
    "replaces by a tuple": hooked("register_forward_hook", returns(lambda args, out: (out, out))),
    "does not run when forward fails": hooked("register_forward_hook", logs("a"), call="net(x, fail=True)"),
    "runs when forward fails": hooked("register_forward_hook", logs("a"), call="net(x, fail=True)", always_call=True),
    "runs once when forward succeeds": hooked("register_forward_hook", logs("a"), always_call=True),
    "sees keywords when forward fails": hooked(
        "register_forward_hook", logs("a"), call="net(x, fail=True)", always_call=True, with_kwargs=True
    ),
}

HANDLES = {
    "remove": "handles[0].remove()\nout = net(x)",
    "remove twice": "handles[0].remove()\nhandles[0].remove()\nout = net(x)",
    "remove one of two": "handles[1].remove()\nout = net(x)",
    "context manager": "with handles[0] as h:\n    net(x)\nout = net(x)",
    "ids differ": "out = handles[0].id != handles[1].id and handles[1].id > handles[0].id",
    "emptied table": "handles[0].remove()\nhandles[1].remove()\nout = len(net._forward_hooks)",
}


@pytest.mark.parametrize("case", FORWARD_PRE)
def test_forward_pre_hook(both: Check, case: str) -> None:
    both(FORWARD_PRE[case])


@pytest.mark.parametrize("case", FORWARD)
def test_forward_hook(both: Check, case: str) -> None:
    both(FORWARD[case])


@pytest.mark.parametrize("case", HANDLES)
def test_handle(both: Check, case: str) -> None:
    both(hooked("register_forward_hook", logs("a"), logs("b"), call=HANDLES[case], with_kwargs=True))


@pytest.mark.parametrize("result", [3, (1, 2, 3), [1, 2]], ids=str)
def test_pre_hook_with_kwargs_has_to_return_a_pair(both: Check, result: Any) -> None:
    def script(s):
        net = scale(s)
        net.register_forward_pre_hook(lambda module, args, kwargs: result, with_kwargs=True)
        return net(s.array([1.0, 2.0]))

    both(script, raises=RuntimeError)


def test_failing_always_called_hook_does_not_hide_the_error(both: Check) -> None:
    def script(s):
        net = scale(s)
        net.register_forward_hook(lambda *args: 1 / 0, always_call=True)
        net(s.array([1.0, 2.0]), fail=True)

    both(script, raises=UserWarning)


def test_always_called_hook_runs_when_an_earlier_hook_fails(both: Check) -> None:
    def script(s):
        net, log = scale(s), []
        net.register_forward_hook(lambda *args: 1 / 0)
        net.register_forward_hook(logs("always")(log), always_call=True)
        try:
            net(s.array([1.0, 2.0]))
        except ZeroDivisionError as error:
            log.append(str(error))
        return log

    both(script)


@pytest.mark.parametrize(
    "register,options",
    [
        ("register_module_forward_pre_hook", {}),
        ("register_module_forward_hook", {}),
        ("register_module_forward_hook", {"with_kwargs": True}),
        ("register_module_forward_hook", {"always_call": True}),
    ],
)
@pytest.mark.parametrize("fail", [True, False])
def test_global_hook_runs_for_every_module_before_its_own(
    both: Check, register: str, options: dict[str, bool], fail: bool
) -> None:
    def script(s):
        log, net = [], s.Sequential(s.ReLU(), scale(s))
        net.register_forward_hook(logs("own")(log))
        with getattr(s.hooks, register)(logs("global")(log), **options):
            try:
                net[1](net[0](s.array([1.0, 2.0])), fail=fail)
                net(s.array([1.0, 2.0]))
            except ValueError as error:
                log.append(str(error))
        return [log, net(s.array([1.0, 2.0]))]

    both(script)


def test_global_hooks_replace_inputs_and_outputs(both: Check) -> None:
    def script(s):
        net = scale(s)
        with s.hooks.register_module_forward_pre_hook(lambda module, args: args[0] + 1):
            first = net(s.array([1.0, 2.0]))
        with s.hooks.register_module_forward_hook(lambda module, args, output: output * 10):
            return [first, net(s.array([1.0, 2.0]))]

    both(script)


REGISTRATIONS = {
    "parameter": "register_module_parameter_registration_hook",
    "buffer": "register_module_buffer_registration_hook",
    "module": "register_module_module_registration_hook",
}


@pytest.mark.parametrize("kind", REGISTRATIONS)
def test_registration_hook_sees_every_registration(both: Check, kind: str) -> None:
    def script(s):
        log = []
        with getattr(s.hooks, REGISTRATIONS[kind])(lambda m, name, value: log.append([type(m).__name__, name])):
            net = s.Sequential(s.Linear(2, 2), s.Module())
            net[1].register_buffer("running_mean", s.array([1.0]))
            net.extra = s.ReLU()
            net.extra = None
            net[0].weight = s.Parameter(s.array([1.0]))
            net[1].running_mean = s.array([1.0])
        net.late = s.ReLU()
        return log

    both(script)


@pytest.mark.parametrize(
    "kind,statement",
    [
        ("parameter", "net.register_parameter('new', s.Parameter(s.array([1.0])))"),
        ("parameter", "net.new = s.Parameter(s.array([1.0]))"),
        ("buffer", "net.register_buffer('new', s.array([1.0]))"),
        ("buffer", "net.new = s.Buffer(s.array([1.0]))"),
        ("module", "net.add_module('new', s.ReLU())"),
        ("module", "net.new = s.ReLU()"),
    ],
)
def test_registration_hook_replaces_the_value(both: Check, kind: str, statement: str) -> None:
    def script(s):
        net = s.Sequential()
        new = {"parameter": s.Parameter(s.array([7.0])), "buffer": s.array([7.0]), "module": s.Tanh()}[kind]
        with getattr(s.hooks, REGISTRATIONS[kind])(lambda module, name, value: new):
            exec(statement, {"net": net, "s": s})
        return [net, net.new is new]

    both(script)


def keep(module: Any, args: Any, output: Any) -> Any:
    """Double the output; at module level so that it can be pickled."""
    return output * 2


def test_handle_is_pickled_with_its_module() -> None:
    net = nn.ReLU()
    handle = net.register_forward_hook(keep)
    twin, twin_handle = pickle.loads(pickle.dumps((net, handle)))
    assert float(twin(jnp.asarray(1.0))) == 2
    twin_handle.remove()
    assert float(twin(jnp.asarray(1.0))) == 1 and float(net(jnp.asarray(1.0))) == 2


def test_hooks_of_a_copy_are_its_own() -> None:
    net = nn.ReLU()
    handle = net.register_forward_hook(keep)
    twin = copy.deepcopy(net)
    handle.remove()
    assert float(twin(jnp.asarray(1.0))) == 2 and float(net(jnp.asarray(1.0))) == 1


def test_hook_added_between_compiled_calls_is_honoured() -> None:
    net, x = nn.ReLU(), jnp.asarray([1.0, -1.0])
    apply = jm.jit(lambda net, x: net(x))
    plain = apply(net, x)
    with net.register_forward_hook(keep):
        np.testing.assert_array_equal(apply(net, x), 2 * plain)
    np.testing.assert_array_equal(apply(net, x), plain)


def test_global_hook_added_between_compiled_calls_is_honoured(ours: Any) -> None:
    net, x = nn.ReLU(), jnp.asarray([1.0, -1.0])
    apply = jm.jit(lambda net, x: net(x))
    plain = apply(net, x)
    with ours.hooks.register_module_forward_hook(keep):
        np.testing.assert_array_equal(apply(net, x), 2 * plain)
    np.testing.assert_array_equal(apply(net, x), plain)


def test_hooks_run_inside_transforms() -> None:
    net = nn.Linear(2, 2, bias=False)
    plain = jm.grad(lambda net: net(jnp.ones((1, 2))).sum())(net)["weight"]
    net.register_forward_hook(keep)
    hooked_grad = jm.grad(lambda net: net(jnp.ones((1, 2))).sum())(net)["weight"]
    np.testing.assert_allclose(hooked_grad, 2 * plain)


def test_hook_that_writes_elsewhere_leaves_no_tracer() -> None:
    seen, net = nn.Module(), nn.Linear(2, 2)
    seen.register_buffer("output", jnp.zeros((1, 2)))
    net.register_forward_hook(lambda module, args, output: setattr(seen, "output", output))
    jm.grad(lambda net: net(jnp.ones((1, 2))).sum())(net)
    np.testing.assert_allclose(np.asarray(seen.output), net(jnp.ones((1, 2))), rtol=1e-6)


def test_hook_that_leaks_is_named() -> None:
    net = nn.Linear(2, 2)
    handle = net.register_forward_hook(lambda module, args, output: setattr(module, "last", output))
    with pytest.raises(RuntimeError, match="attribute 'Linear.last' of Linear.*outlives the trace"):
        jax.jit(lambda x: net(x))(jnp.ones((1, 2)))
    handle.remove()
    assert not hasattr(net, "last")
