"""Copies, pickles and classes that are defined anew: what is shared, what points where, and what still compiles."""

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodules as jm
from jaxmodules import nn

Check = Callable[..., None]
X = np.arange(6, dtype=np.float32).reshape(2, 3) / 3

COPY: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda value, n=n: pickle.loads(pickle.dumps(value, n)) for n in range(6)},
    "cloudpickle": lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
}
every_copy = pytest.mark.parametrize("how", COPY.values(), ids=COPY)


class Linked(nn.Module):
    """A module whose parts refer to each other in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.order = [self.b, self.a]
        self.method = self.scale
        self.compiled = jm.jit(self.a)
        self.register_buffer("total", jnp.zeros((1, 3)))
        self.register_buffer("cache", jnp.ones((1, 3)), persistent=False)
        self.a.register_forward_hook(self.hook)

    def hook(self, module: Any, args: Any, output: Any) -> Any:
        return output + self.total

    def scale(self, x: Any) -> Any:
        return x * self.cache

    def forward(self, x: Any) -> Any:
        return self.method(self.order[0](self.compiled(x)))


@jm.jit
def global_step(net: Any, x: Any) -> Any:
    return net(x)


def assert_apart(net: Linked, new: Linked) -> None:
    expected = net(X)
    np.testing.assert_allclose(new(X), expected, rtol=1e-6)
    assert new.order[1] is new.a and new.b.weight is new.a.weight is not net.a.weight
    assert new.method.__self__ is new and new.compiled.__wrapped__ is new.a
    assert next(iter(new.a._forward_hooks.values())).__self__ is new
    new.a.weight.data.zero_()
    new.total += 1
    np.testing.assert_array_equal(net(X), expected)
    np.testing.assert_allclose(new(X), np.tile(new.b.bias.value, (2, 1)), rtol=1e-6)


@every_copy
def test_copy_points_into_itself_and_shares_nothing(how: Any) -> None:
    net = Linked()
    net(X)
    new = how(net)
    assert [n for n, _ in new.named_buffers()] == ["total", "cache"] and "cache" not in new.state_dict()
    assert_apart(net, new)


def test_copy_is_where_the_original_is_and_bound_to_it_no_more() -> None:
    for net in (nn.Linear(2, 1), nn.Linear(2, 1, device=jax.devices()[1])):
        old, new = net.weight.value, copy.deepcopy(net).weight.value
        assert (new.committed, new.sharding) == (old.committed, old.sharding)


def test_copy_through_jax_is_like_any_other() -> None:
    net = Linked()
    net(X)
    new = jax.tree.map(lambda leaf: leaf, net)
    assert jax.tree.structure(new) == jax.tree.structure(net)
    assert_apart(net, new)


def test_shallow_copy_shares_what_torchs_shares(both: Check) -> None:
    def script(s: Any) -> Any:
        net = s.Sequential(s.Linear(3, 2), s.BatchNorm1d(2))
        new = copy.copy(net)
        new.append(s.Identity())
        new.eval()
        new[0].bias.requires_grad_(False)
        new[1].running_mean = new[1].running_mean + 1
        return [net, new, new[0] is net[0], new._modules is net._modules, net.training, net[0].training]

    both(script)


def test_shallow_copy_compiles_beside_its_original() -> None:
    net = nn.Linear(3, 2)
    step = jm.jit(lambda net, x: net(x))
    first = step(net, X)
    new = copy.copy(net)
    np.testing.assert_array_equal(step(new, X), first)
    new.weight.data.zero_()
    assert new.weight is net.weight and np.ptp(step(net, X), axis=0).max() == 0


def test_shallow_copy_of_a_parameter_is_a_box_of_its_own() -> None:
    weight = nn.Parameter(jnp.ones(3), requires_grad=False)
    weight.note = "mine"
    new = copy.copy(weight)
    assert new is not weight and new.value is weight.value and new.note == "mine" and not new.requires_grad
    new.data.zero_()
    np.testing.assert_array_equal(weight, np.ones(3))


@every_copy
def test_parameter_keeps_what_it_has(how: Any) -> None:
    weight = nn.Parameter(jnp.ones(3), requires_grad=False)
    weight.note = "mine"
    new = how(weight)
    assert type(new) is nn.Parameter and new.note == "mine" and not new.requires_grad
    new.data.zero_()
    np.testing.assert_array_equal(weight, np.ones(3))


@pytest.mark.parametrize("how", [COPY[n] for n in COPY if n not in ("pickle 0", "pickle 1")])  # as JAX's PyTreeDef
def test_model_and_optimizer_stay_a_pair(how: Any) -> None:
    net = nn.Linear(3, 2)
    optimizer = jm.optim.Adam(net.parameters(), lr=0.1)
    gradient = jm.grad(lambda net: jnp.sum(net(X) ** 2))
    jm.jit(optimizer.step)(gradient(net))
    new, copied = how((net, optimizer))
    for model, steps in ((net, optimizer), (new, copied)):
        steps.step(gradient(model))
    assert copied.param_groups[0]["params"][0] is new.weight
    np.testing.assert_allclose(new.weight, net.weight, rtol=1e-6)


def test_optimizer_of_an_optax_transformation_is_cloudpickled() -> None:
    net = nn.Linear(3, 2)
    optimizer = jm.optim.Optimizer(net, optax.adam(0.1))
    new, copied = cloudpickle.loads(cloudpickle.dumps((net, optimizer)))
    copied.step(jm.grad(lambda net: jnp.sum(net(X)))(new))
    assert not np.array_equal(new.weight, net.weight)


@every_copy
def test_generator_continues_where_it_was(how: Any) -> None:
    generator = jm.Generator().manual_seed(3)
    jm.rand(5, generator=generator)
    new = how(generator)
    np.testing.assert_array_equal(jm.rand(3, generator=new), jm.rand(3, generator=generator))
    assert bool(new.next_key() == generator.next_key())


@every_copy
def test_compiled_module_is_copied_with_its_module(how: Any) -> None:
    compiled = jm.jit(nn.Linear(3, 2), donate=True)
    expected = compiled(X)
    new = how(compiled)
    np.testing.assert_array_equal(new(X), expected)
    assert new.__wrapped__ is not compiled.__wrapped__ and new._settings == compiled._settings


@every_copy
def test_compiled_function_of_a_file_is_pickled_by_name(how: Any) -> None:
    global_step(nn.Linear(3, 2), X)
    assert how(global_step) is global_step or how is COPY["cloudpickle"]


def test_compiled_closure_says_that_it_has_no_name() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="(?i)can't pickle local object"):
        pickle.dumps(jm.jit(lambda x: x))
    assert cloudpickle.loads(cloudpickle.dumps(jm.jit(lambda x: x + 1)))(1) == 2


def test_compile_is_left_behind_as_in_torch(both: Check) -> None:
    def script(s: Any) -> Any:
        net = s.Linear(3, 2)
        net._compiled_call_impl = print
        return [pickle.loads(pickle.dumps(net))._compiled_call_impl, copy.deepcopy(net)._compiled_call_impl]

    both(script)


def local_net(factor: float) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.add_module("inner", nn.ModuleList([nn.Dropout(0.0)]))

        def forward(self, x: Any) -> Any:
            return self.inner[0](self.linear(x)) * factor

    return Net()


def test_local_class_travels_by_cloudpickle() -> None:
    net = local_net(3.0)
    text = cloudpickle.dumps(net)
    new, again = cloudpickle.loads(text), cloudpickle.loads(text)
    np.testing.assert_array_equal(jm.jit(new)(X), net(X))
    assert type(new) is type(again) and jax.tree.structure(new) == jax.tree.structure(again)


def forward_in_child(net: Any, x: Any) -> Any:
    return np.asarray(jm.jit(net)(x)), np.asarray(net.total)


def test_module_goes_to_a_spawned_process_and_back() -> None:
    net = Linked()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        out, total = pool.apply(forward_in_child, (net, X))
    np.testing.assert_allclose(out, net(X), rtol=1e-5)
    np.testing.assert_array_equal(total, np.zeros((1, 3)))


CELL = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x) * {factor}
"""


def run_cell(scope: dict[str, Any], factor: float) -> type[Any]:
    exec(CELL.format(factor=factor), scope)
    return scope["Net"]


def notebook() -> dict[str, Any]:
    module = ModuleType("notebook")
    module.__dict__["nn"] = nn
    return vars(module)


def test_class_of_a_cell_may_be_defined_again() -> None:
    scope = notebook()
    old = run_cell(scope, 1.0)()
    step = jm.jit(lambda net, x: net(x))
    first = step(old, X)
    new = run_cell(scope, 2.0)()
    new.load_state_dict(old.state_dict())
    np.testing.assert_allclose(step(new, X), 2 * first, rtol=1e-6)
    np.testing.assert_array_equal(step(old, X), first)
    assert jax.tree.structure(old) != jax.tree.structure(new) and not isinstance(old, type(new))
    assert type(jax.tree.map(lambda leaf: leaf, old)) is type(old)


GIVE = {"assigned": setattr, "behind its back": object.__setattr__}


@pytest.mark.parametrize("give", GIVE.values(), ids=GIVE)
def test_object_given_the_new_class_compiles_anew(give: Any) -> None:
    scope = notebook()
    net = nn.Sequential(run_cell(scope, 1.0)())
    step, call = jm.jit(lambda net, x: net(x)), jm.jit(net)
    first = step(net, X), call(X)
    give(net[0], "__class__", run_cell(scope, 2.0))  # as autoreload does
    for old, new in zip(first, (step(net, X), call(X)), strict=True):
        np.testing.assert_allclose(new, 2 * old, rtol=1e-6)
    assert type(jax.tree.map(lambda leaf: leaf, net)[0]) is type(net[0])


def test_method_replaced_in_a_class_needs_clear_cache() -> None:
    kind = run_cell(notebook(), 1.0)
    net = kind()
    step = jm.jit(lambda net, x: net(x))
    first = step(net, X)
    kind.forward = lambda self, x: self.linear(x) * 3
    step.clear_cache()
    np.testing.assert_allclose(step(net, X), 3 * first, rtol=1e-6)
