"""Backward hooks against torch: when they run, what they get, what their results do; and under every transform."""

import copy
import gc
import pickle
import warnings
import weakref
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn

Check = Callable[..., None]
FULL = "register_full_backward_hook"
PRE = "register_full_backward_pre_hook"


def gradients(s: Any, fn: Any, *inputs: Any) -> list[Any]:
    """Return the gradient of ``fn`` with respect to each input, zeros where it has none."""
    if s.nn is nn:
        return list(jm.grad(fn, tuple(range(len(inputs))))(*inputs))
    leaves = [x.clone().requires_grad_() for x in inputs]
    fn(*leaves).backward()
    return [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]


def parameter_gradients(s: Any, net: Any, fn: Any) -> list[Any]:
    """Return the gradient of ``fn()`` with respect to the parameters of ``net``."""
    if s.nn is nn:
        return list(jm.grad(lambda net: fn())(net).values())
    fn().backward()
    return [p.grad for p in net.parameters()]


def mixer(s: Any) -> Any:
    """A module of several arguments and results, some of which are no arrays."""

    class Mixer(s.Module):
        def forward(self, a, b=None, flag="x", *, by=2.0):
            return a * by, (a if b is None else b) * 3, flag

    return Mixer()


def log_of(s: Any, build: Any, call: Any, *registrations: Any) -> Any:
    """Run a call with hooks that log what they get, for gradients of one or two inputs."""
    net, log = build(s), []
    for name, options in registrations:
        tag = len(log), name
        getattr(net, name)(lambda module, *seen, tag=tag: log.append([*tag, type(module).__name__, *seen]), **options)
    x, y = s.array([1.0, 2.0]), s.array([3.0, 4.0])
    return [gradients(s, lambda x, y: call(net, x, y), x, y), log]


BOTH = ((FULL, {}), (PRE, {}))
CALLS = {
    "one argument": (lambda net, x, y: net(x)[0].sum() + y.sum(), BOTH),
    "two arguments": (lambda net, x, y: (net(x, y)[0] * net(x, y)[1]).sum(), BOTH),
    "unused result": (lambda net, x, y: net(x, y)[1].sum(), BOTH),
    "keywords have no gradient": (lambda net, x, y: net(x, b=y, by=4.0)[1].sum() + x.sum(), BOTH),
    "no array among the arguments": (lambda net, x, y: net(x, y, "z")[0].sum(), BOTH),
    "twice in a row": (lambda net, x, y: net(net(x)[0], y)[0].sum(), BOTH),
    "result unused": (lambda net, x, y: net(x, y)[0].sum() * 0 + net(y, x)[1].sum(), BOTH),
    "several of a kind": (lambda net, x, y: net(x, y)[0].sum(), (*BOTH, *BOTH)),
    "prepended": (lambda net, x, y: net(x, y)[0].sum(), (*BOTH, (FULL, {"prepend": True}), (PRE, {"prepend": True}))),
}


@pytest.mark.parametrize("case", CALLS)
def test_hooks_see_what_torch_shows(both: Check, case: str) -> None:
    call, registrations = CALLS[case]
    both(lambda s: log_of(s, mixer, call, *registrations))


def replaced(register: str, result: Any) -> Any:
    """Make a script with a hook that returns ``result(library, *gradients)``."""

    def script(s):
        net = mixer(s)
        getattr(net, register)(lambda module, *seen: result(s, *seen))
        return gradients(
            s, lambda x, y: net(x, y)[0].sum() + net(y, x)[1].sum(), s.array([1.0, 2.0]), s.array([3.0, 4.0])
        )

    return script


REPLACED = {
    "a tuple": (FULL, lambda s, gi, go: (gi[0] * 10, None if gi[1] is None else gi[1] + 1, None)),
    "a list": (FULL, lambda s, gi, go: [g if g is None else g * 2 for g in gi]),
    "nothing for all": (FULL, lambda s, gi, go: (None, None, None)[: len(gi)]),
    "from the results' gradients": (FULL, lambda s, gi, go: (s.array([7.0, 8.0]), gi[1])),
    "of the results": (PRE, lambda s, go: tuple(g if g is None else g * 5 for g in go)),
    "of one result": (PRE, lambda s, go: (None, *go[1:])),
}
REFUSED = {
    "too few": (FULL, lambda s, gi, go: gi[:-1], RuntimeError),
    "too many": (FULL, lambda s, gi, go: (*gi, None), RuntimeError),
    "too few results": (PRE, lambda s, go: go[:1], RuntimeError),
    "too many results": (PRE, lambda s, go: (*go, None), RuntimeError),
    "no array": (FULL, lambda s, gi, go: ("a", *gi[1:]), TypeError),
    "no sequence": (FULL, lambda s, gi, go: 3, TypeError),
}


@pytest.mark.parametrize("case", REPLACED)
def test_returned_gradients_flow_on(both: Check, case: str) -> None:
    register, result = REPLACED[case]
    both(replaced(register, lambda s, *seen: tuple(result(s, *seen))[: len(seen[0])]))


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_results_are_refused(both: Check, case: str) -> None:
    register, result, error = REFUSED[case]
    both(replaced(register, result), raises=error)


@pytest.mark.parametrize("new", [jnp.ones(3), jnp.ones((1, 2))], ids=["longer", "deeper"])
@pytest.mark.parametrize("register", [FULL, PRE])
def test_gradient_of_another_shape_is_refused(register: str, new: Any) -> None:
    net = nn.Tanh()
    getattr(net, register)(lambda module, *seen: (new,))
    with pytest.raises(RuntimeError, match="has changed the size of value"):
        jm.grad(lambda x: net(x).sum())(jnp.ones(2))


def test_gradient_of_another_dtype_is_refused() -> None:
    net = nn.Tanh()
    net.register_full_backward_hook(lambda module, gi, go: (gi[0].astype(jnp.bfloat16),))
    with pytest.raises(RuntimeError, match="has changed the type of value .was float32 got bfloat16"):
        jm.grad(lambda x: net(x).sum())(jnp.ones(2))


def test_hooks_of_nested_modules_run_outside_in(both: Check) -> None:
    def script(s):
        log, net = [], s.Sequential(s.Tanh(), s.Sequential(s.Sigmoid(), s.Softplus()))
        for name, module in net.named_modules():
            module.register_full_backward_pre_hook(lambda m, go, name=name: log.append(["pre", name, *go]))
            module.register_full_backward_hook(lambda m, gi, go, name=name: log.append(["hook", name, *gi, *go]))
        return [gradients(s, lambda x: net(x).sum(), s.array([1.0, 2.0])), log]

    both(script)


def test_global_hooks_run_before_a_modules_own(both: Check) -> None:
    def script(s):
        log, net = [], s.Sequential(s.Tanh(), s.Sigmoid())
        net[0].register_full_backward_pre_hook(lambda m, go: log.append(["own pre", *go]))
        net[0].register_full_backward_hook(lambda m, gi, go: log.append(["own", *gi]))
        pre = s.hooks.register_module_full_backward_pre_hook(lambda m, go: log.append(["pre", type(m).__name__]))
        post = s.hooks.register_module_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))
        with pre, post:
            grads = gradients(s, lambda x: net(x).sum(), s.array([1.0, 2.0]))
        return [grads, log, gradients(s, lambda x: net(x).sum(), s.array([1.0, 2.0])), len(log)]

    both(script)


def without_inputs(result: Any, quiet: bool = True) -> Any:
    """Make a script that differentiates with respect to parameters alone, with a hook that returns ``result``."""

    def script(s):
        log, net = [], s.Linear(2, 2)
        net.register_full_backward_hook(lambda m, gi, go: [log.append([*gi, *go]), result][1])
        net.register_full_backward_pre_hook(lambda m, go: (go[0] * 2,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if quiet else "error")
            return [parameter_gradients(s, net, lambda: net(s.array([[1.0, 2.0]])).sum()), log]

    return script


@pytest.mark.parametrize("result", [None, (None,), (None, None)], ids=str)
def test_hook_without_differentiated_inputs_sees_the_results_only(both: Check, result: Any) -> None:
    both(without_inputs(result))


def test_hook_without_differentiated_inputs_warns(both: Check) -> None:
    both(without_inputs(None, quiet=False), raises=UserWarning)


@pytest.mark.parametrize("result", [(1.0,), [None], 3], ids=str)
def test_hook_without_differentiated_inputs_may_return_nothing(both: Check, result: Any) -> None:
    both(without_inputs(result), raises=RuntimeError)


def test_hooks_do_not_run_where_no_gradient_reaches_the_module(both: Check) -> None:
    def script(s):
        log, net = [], s.Tanh()
        net.register_full_backward_hook(lambda m, gi, go: log.append("hook"))
        net.register_full_backward_pre_hook(lambda m, go: log.append("pre"))
        return [gradients(s, lambda x: [net(x), x.sum()][1], s.array([1.0, 2.0])), log]

    both(script)


RESULTS = {
    "dict": lambda s, x: {"out": x * 2},
    "list": lambda s, x: [x * 2],
    "number": lambda s, x: 3.0,
}


@pytest.mark.parametrize("register", [FULL, PRE])
@pytest.mark.parametrize("case", RESULTS)
def test_result_that_is_no_tuple_of_arrays_warns(both: Check, register: str, case: str) -> None:
    def script(s):
        net = wrapping(s, lambda x: RESULTS[case](s, x))
        getattr(net, register)(lambda *args: None)
        net(s.array([1.0]))

    both(script, raises=UserWarning)


def wrapping(s: Any, function: Any) -> Any:
    """A module whose forward is ``function``."""

    class Wrapping(s.Module):
        def forward(self, *args):
            return function(*args)

    return Wrapping()


def test_named_tuple_of_results_stays_one() -> None:
    Pair = namedtuple("Pair", "first second")
    net = wrapping(jm.nn, lambda x: Pair(x * 2, "text"))
    net.register_full_backward_hook(lambda m, gi, go: (go[0] * 10,))
    seen = []
    jm.grad(lambda x: [out := net(x), seen.append(type(out)), out.first.sum()][2])(jnp.ones(2))
    assert seen == [Pair]


MIXES = {
    "full after plain": ("register_backward_hook", FULL),
    "plain after full": (FULL, "register_backward_hook"),
}


@pytest.mark.parametrize("case", MIXES)
def test_module_has_one_kind_of_hook(both: Check, case: str) -> None:
    def script(s):
        net = s.Tanh()
        for name in MIXES[case]:
            getattr(net, name)(lambda *args: None).remove()

    both(script, raises=RuntimeError)


@pytest.mark.parametrize("first,second", [(True, False), (False, True)])
def test_global_hooks_are_of_one_kind(ours: Any, first: bool, second: bool) -> None:
    register = {True: ours.hooks.register_module_full_backward_hook, False: ours.hooks.register_module_backward_hook}
    with register[first](lambda *args: None):
        with pytest.raises(RuntimeError, match="Cannot use both .* as a global Module hook"):
            register[second](lambda *args: None)
    register[second](lambda *args: None).remove()


def test_hooks_are_listed_as_in_torch(both: Check) -> None:
    def script(s):
        full, plain = s.Tanh(), s.Tanh()
        before = full._is_full_backward_hook
        full.register_full_backward_hook(print)
        full.register_full_backward_pre_hook(print)
        plain.register_backward_hook(print)
        kinds = [before, full._is_full_backward_hook, plain._is_full_backward_hook]
        lists = [*full._get_backward_hooks(), *plain._get_backward_hooks(), full._get_backward_pre_hooks()]
        return [*kinds, *map(len, lists)]

    both(script)


def test_plain_hook_of_one_operation(both: Check) -> None:
    def script(s):
        log, net = [], s.Sigmoid()
        net.register_backward_hook(lambda m, gi, go: [log.append([*gi, *go]), (gi[0] * 3,)][1])
        return [gradients(s, lambda x: net(x * 1).sum(), s.array([1.0, 2.0])), log]

    both(script)


@pytest.mark.parametrize("change", [lambda g: g[:-1], lambda g: g * 2], ids=["fewer", "more"])
def test_plain_hook_has_to_return_as_many(change: Any) -> None:
    net = nn.Sigmoid()
    net.register_backward_hook(lambda m, gi, go: change(gi))
    with pytest.raises(RuntimeError, match="got [02], but expected 1"):
        jm.grad(net)(1.0)


PLAIN = {
    "argument is a list": (lambda xs: xs[0] * 1, lambda x: [x]),
    "result is a list": (lambda x: [x * 1], lambda x: x),
    "several results": (lambda x: (x * 1, x * 2), lambda x: x),
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_hook_warns_of_what_it_misses(both: Check, case: str) -> None:
    def script(s):
        forward, argument = PLAIN[case]
        net = wrapping(s, forward)
        net.register_backward_hook(lambda *args: None)

        def total(x):
            out = net(argument(x))
            return (out if not isinstance(out, list | tuple) else out[0]).sum()

        gradients(s, total, s.array([1.0, 2.0]))

    both(script, raises=FutureWarning)


def test_removed_hooks_do_not_run(both: Check) -> None:
    def script(s):
        log, net = [], s.Tanh()
        handles = [getattr(net, name)(lambda *args, name=name: log.append(name)) for name in (FULL, PRE, FULL)]
        handles[0].remove()
        run = lambda: gradients(s, lambda x: net(x).sum(), s.array([1.0, 2.0]))  # noqa: E731
        first = run()
        handles[1].remove()
        handles[2].remove()
        return [first, run(), log]

    both(script)


def test_hook_that_removes_itself_runs_once(both: Check) -> None:
    def script(s):
        log, net, handles = [], s.Tanh(), []
        handles.append(net.register_full_backward_hook(lambda *args: [log.append("hook"), handles[0].remove()][1]))
        for _ in range(2):
            gradients(s, lambda x: net(x).sum(), s.array([1.0, 2.0]))
        return log

    both(script)


def leaky(module: Any, grad_input: Any, grad_output: Any) -> Any:
    """A hook whose effect depends on the point, so that no transform can get it right by luck."""
    return (grad_input[0] * 3 + grad_output[0] ** 2,)


def two_layers() -> Any:
    """A small net with a hook on its last layer, which has differentiated inputs."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
    net[1].register_full_backward_hook(leaky)
    net[2].register_full_backward_pre_hook(lambda module, go: (go[0] * 2,))
    return net


X = np.linspace(-1, 1, 6).reshape(2, 3).astype(np.float32)


def loss(net: Any, x: Any) -> Any:
    return (net(x) ** 2).sum()


def by_scan(net: Any, x: Any) -> Any:
    return jax.lax.scan(lambda total, row: (total + loss(net, row), None), jnp.zeros(()), x)[0]


TRANSFORMS = {
    "jit of grad": lambda net: jm.jit(jm.grad(loss))(net, X),
    "grad of jit": lambda net: jm.grad(jm.jit(loss))(net, X),
    "jit of backward": lambda net: (
        [jm.jit(lambda net, x: jm.backward(lambda: loss(net, x), net))(net, X)]
        and {name: p.grad for name, p in net.named_parameters()}
    ),
    "checkpoint": lambda net: jm.grad(lambda net: jax.checkpoint(lambda x: loss(net, x))(X))(net),
    "scan": lambda net: jm.grad(by_scan)(net, X),
    "jit of scan": lambda net: jm.jit(jm.grad(by_scan))(net, X),
    "vmap of grad": lambda net: jax.tree.map(lambda g: g.sum(0), jm.vmap(lambda x: jm.grad(loss)(net, x))(X)),
    "grad of vmap": lambda net: jm.grad(lambda net: jm.vmap(lambda x: loss(net, x))(X).sum())(net),
    "functionalize": lambda net: functional(net, jax.grad),
    "jit of functionalize": lambda net: functional(net, lambda f: jax.jit(jax.grad(f))),
    "vjp": lambda net: jm.vjp(lambda net: loss(net, X), net)[1](jnp.ones(()))[0],
}


def functional(net: Any, transform: Any) -> Any:
    apply, params, state = jm.functionalize(net)
    return transform(lambda params: (apply(params, state, X)[0] ** 2).sum())(params)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("case", TRANSFORMS)
def test_hooks_do_the_same_under_every_transform(case: str) -> None:
    net = two_layers()
    expected = jm.grad(loss)(net, X)
    found = TRANSFORMS[case](net)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)


def test_forward_mode_is_not_concerned() -> None:
    net, plain = two_layers(), two_layers()
    plain.load_state_dict(net.state_dict())
    plain[1]._backward_hooks.clear()
    plain[2]._backward_pre_hooks.clear()
    tangents = [jax.jvp(lambda x, net=n: net(x), (jnp.asarray(X),), (jnp.ones_like(X),))[1] for n in (net, plain)]
    np.testing.assert_array_equal(*tangents)


def test_each_differentiation_runs_the_hooks() -> None:
    net = nn.Identity()
    net.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))
    cube = lambda x: net(x) ** 3  # noqa: E731
    assert [float(jm.grad(cube)(1.0)), float(jm.grad(jm.grad(cube))(1.0))] == [6, 24]


def test_hook_added_between_compiled_calls_is_honoured() -> None:
    net, count = nn.Tanh(), []
    step = jm.jit(lambda net, x: [count.append(1), jm.grad(lambda x: net(x))(x)][1])
    plain = step(net, jnp.ones(()))
    with net.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,)):
        np.testing.assert_allclose(step(net, jnp.ones(())), 2 * plain)
    np.testing.assert_array_equal(step(net, jnp.ones(())), plain)
    assert len(count) == 2


def test_global_hook_added_between_compiled_calls_is_honoured(ours: Any) -> None:
    net = nn.Tanh()
    step = jm.jit(lambda net, x: jm.grad(lambda x: net(x))(x))
    plain = step(net, jnp.ones(()))
    with ours.hooks.register_module_full_backward_hook(lambda m, gi, go: (gi[0] * 2,)):
        np.testing.assert_allclose(step(net, jnp.ones(())), 2 * plain)
    np.testing.assert_array_equal(step(net, jnp.ones(())), plain)


def test_hook_in_a_compiled_backward_pass_reads_the_current_weights() -> None:
    net = nn.Linear(1, 1, bias=False)
    net.register_full_backward_hook(lambda m, gi, go: (gi[0] + m.weight.value,))
    step = jm.jit(jm.grad(lambda x, net: net(x).sum()))
    for value in (2.0, 5.0):
        net.weight.data.fill_(value)
        assert float(step(jnp.ones((1, 1)), net)[0, 0]) == 2 * value


def test_hook_that_would_bake_weights_in_is_refused() -> None:
    net = nn.Linear(1, 1, bias=False)
    net.register_full_backward_hook(lambda m, gi, go: (gi[0] + m.weight.value,))
    with pytest.raises(RuntimeError, match="was read inside a jm.jit function that was not given it"):
        jm.grad(jm.jit(lambda x, net: net(x).sum()))(jnp.ones((1, 1)), net)


def test_compiled_function_does_not_keep_a_hooked_model_alive() -> None:
    net = nn.Tanh()
    net.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))
    step = jm.jit(lambda net, x: net(x))
    step(net, jnp.ones(()))
    jm.jit(lambda net, x: jm.grad(net)(x))(net, jnp.ones(()))
    ref = weakref.ref(net)
    del net
    gc.collect()
    assert ref() is None


def halving(module: Any, grad_input: Any, grad_output: Any) -> Any:
    """Halve the gradient; at module level so that it can be pickled."""
    return tuple(g / 2 for g in grad_input)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_have_the_hooks(twin: Any) -> None:
    net = nn.ReLU()
    handle = net.register_full_backward_hook(halving)
    other = twin(net)
    handle.remove()
    assert float(jm.grad(other)(1.0)) == 0.5 and float(jm.grad(net)(1.0)) == 1
