"""state_dict and load_state_dict against torch: keys, metadata, hooks, and one message for all that is wrong."""

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules import nn

Check = Callable[..., None]
Build = Callable[..., Any]


def net_of(s: Any) -> Any:
    """A module with nested, missing, non-persistent and extra state."""

    class Extra(s.Module):
        _version = 3

        def __init__(self):
            super().__init__()
            self.register_buffer("count", s.array([1.0, 2.0]))
            self.register_buffer("scratch", s.array([1.0, 2.0]), persistent=False)
            self.register_buffer("none", None)
            self.register_parameter("absent", None)
            self.level = 5

        def get_extra_state(self):
            return {"level": self.level}

        def set_extra_state(self, state):
            self.level = state["level"]

    deep = s.Sequential(s.Linear(2, 2, bias=False), s.ReLU())
    return s.Sequential(OrderedDict(lin=s.Linear(2, 2), extra=Extra(), deep=deep))


SAVES = """
out = list(net.state_dict())
out = net.state_dict()
out = net.state_dict(prefix="top.")
out = net.state_dict(keep_vars=True)["lin.weight"]
out = isinstance(net.state_dict(), OrderedDict)
net.deep.append(net.lin); out = net.state_dict()
out = net.state_dict()._metadata
out = net.state_dict(prefix="top.")._metadata
out = net.state_dict(destination={"first": 1}, prefix="top.")
out = [d := OrderedDict(), net.state_dict(destination=d) is d]
out = net.deep.state_dict()
out = net.lin.state_dict().copy()
out = net.state_dict()["extra._extra_state"]
net.extra.absent = s.Parameter(s.array([5.0, 6.0])); out = list(net.state_dict())
net.lin.bias = None; out = list(net.state_dict())
net.deep = None; out = list(net.state_dict())
""".strip().splitlines()

LOADS = """
out = net.load_state_dict(state)
out = str(net.load_state_dict(state))
out = net.load_state_dict(dict(state))
state["lin.bias"] = s.array([5.0, 6.0]); net.load_state_dict(state)
state["extra.count"] = s.array([5.0, 6.0]); net.load_state_dict(state); out = net.extra.count
state["extra._extra_state"] = {"level": 9}; net.load_state_dict(state); out = net.extra.level
del state["lin.bias"]; out = net.load_state_dict(state, strict=False)
del state["lin.bias"]; out = repr(net.load_state_dict(state, strict=False))
state["new"] = s.array([1.0]); out = net.load_state_dict(state, strict=False)
state["new.deep"] = s.array([1.0]); out = net.load_state_dict(state, False)
state["lin.new"] = 1; del state["extra.count"]; out = net.load_state_dict(state, strict=False).unexpected_keys
out = net.load_state_dict({}, strict=False)
out = net.lin.load_state_dict({"weight": s.array([[1.0, 2.0], [3.0, 4.0]])}, strict=False)
box = net.lin.weight; net.load_state_dict(state); out = net.lin.weight is box
box = net.lin.weight; net.load_state_dict(state, assign=True); out = [net.lin.weight is box, type(net.lin.weight)]
net.lin.weight.requires_grad_(False); net.load_state_dict(state, assign=True); out = net.lin.weight.requires_grad
state = net.half().state_dict(); net.float(); net.load_state_dict(state); out = net.lin.weight.dtype
state = net.half().state_dict(); net.float(); net.load_state_dict(state, assign=True); out = net.lin.weight.dtype
state["lin.bias"] = s.Parameter(s.array([5.0, 6.0])); net.load_state_dict(state)
keys = list(state); net.load_state_dict(state); out = keys == list(state)
kept = {k: state[k] for k in state}; state.pop("lin.bias"); net.load_state_dict(state, strict=False); out = list(state)
net.extra.register_buffer("scalar", s.array(1.0)); state["extra.scalar"] = s.array([7.0]); net.load_state_dict(state)
""".strip().splitlines()

FAILURES = """
net.load_state_dict({})
del state['lin.bias']; net.load_state_dict(state)
del state['extra._extra_state']; net.load_state_dict(state)
del state['lin.bias'], state['deep.0.weight']; net.load_state_dict(state)
state['new'] = s.array([1.0]); net.load_state_dict(state)
state['new'] = state['lin.other'] = state['no.where'] = s.array([1.0]); net.load_state_dict(state)
state['deep.0.bias'] = s.array([1.0]); net.load_state_dict(state)
state['deep.0._extra_state'] = 1; net.load_state_dict(state)
state['extra.none'] = s.array([1.0]); net.load_state_dict(state)
state['lin.bias'] = s.array([1.0, 2.0, 3.0]); net.load_state_dict(state)
state['lin.bias'] = s.array([1.0, 2.0, 3.0]); net.load_state_dict(state, strict=False)
state['lin.bias'] = s.array([1.0, 2.0, 3.0]); net.load_state_dict(state, assign=True)
state['extra.count'] = s.array([[1.0]]); state['lin.bias'] = s.array(1.0); net.load_state_dict(state)
state['x'] = state['extra.count'] = s.array([1.0]); del state['lin.bias']; net.load_state_dict(state)
""".strip().splitlines()


def with_state(statement: str) -> Any:
    return f"from collections import OrderedDict\nstate = net.state_dict()\n{statement}"


@pytest.mark.parametrize("statement", SAVES)
def test_saving_does_what_torch_does(agree: Check, statement: str) -> None:
    agree(net_of, with_state(statement))


@pytest.mark.parametrize("statement", LOADS)
def test_loading_does_what_torch_does(agree: Check, statement: str) -> None:
    agree(net_of, with_state(statement))


@pytest.mark.parametrize("statement", FAILURES)
def test_failed_loading_says_what_torch_says_and_changes_nothing(agree: Check, statement: str) -> None:
    agree(net_of, with_state(statement), RuntimeError)


@pytest.mark.parametrize("state", ["[1]", "None", "'path'"])
def test_only_mappings_are_loaded(agree: Check, state: str) -> None:
    agree(net_of, f"net.load_state_dict({state})", TypeError)


def test_positional_arguments_are_deprecated(both: Check) -> None:
    both(lambda s: s.ReLU().state_dict({}), raises=FutureWarning)


def test_one_bad_key_leaves_every_good_one_unloaded() -> None:
    net = nn.Linear(2, 2)
    before = net.weight.value
    with pytest.raises(RuntimeError, match=r"size mismatch for bias.*\[3\].*\[2\]"):
        net.load_state_dict({"weight": jnp.zeros((2, 2)), "bias": jnp.zeros(3)})
    assert net.weight.value is before


def test_extra_state_of_a_failed_load_is_put_back(ours: Any) -> None:
    net = net_of(ours)
    state = net.state_dict()
    state["extra._extra_state"] = {"level": 9}
    state["deep.0.weight"] = jnp.zeros(3)
    with pytest.raises(RuntimeError, match="size mismatch for deep.0.weight"):
        net.load_state_dict(state)
    assert net.extra.level == 5


def test_extra_state_may_be_a_module_whose_state_loads_next() -> None:
    class Holder(nn.Module):
        def __init__(self, held: Any) -> None:
            super().__init__()
            self.held = held

        def get_extra_state(self) -> Any:
            return self.held

        def set_extra_state(self, state: Any) -> None:
            self.held = state

    source, target = Holder(Holder(3)), Holder("plain")
    assert not target.load_state_dict(source.state_dict()).unexpected_keys
    assert target.held is source.held


@pytest.mark.parametrize("prefix", ["module.", "lin"])
def test_prefixes_are_consumed(agree: Check, prefix: str) -> None:
    saved = 'net.state_dict(prefix="module.")'
    strip = f"s.modules.utils.consume_prefix_in_state_dict_if_present(state, {prefix!r})"
    agree(net_of, f"state = {saved}; {strip}; out = [list(state), state._metadata]")


@pytest.mark.parametrize("convert", [np.asarray, lambda x: torch.tensor(np.asarray(x)), jnp.asarray])
def test_anything_that_is_an_array_can_be_loaded(convert: Build) -> None:
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    target.load_state_dict({key: convert(value) for key, value in source.state_dict().items()})
    np.testing.assert_array_equal(target.weight.value, source.weight.value)
    assert isinstance(target.weight.value, jax.Array)


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(RuntimeError, match='parameter named "bias", expected'):
        nn.Linear(2, 2).load_state_dict({"weight": jnp.zeros((2, 2)), "bias": "text"})


def test_torchs_own_state_loads_and_gives_torchs_output(libraries: Any) -> None:
    theirs, ours = (library.Sequential(library.Linear(2, 2), library.BatchNorm1d(2)) for library in libraries)
    theirs(torch.randn(4, 2))
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    x = np.ones((3, 2), np.float32)
    want = theirs.eval()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours.eval()(jnp.asarray(x)), want, rtol=1e-5, atol=1e-6)


def test_state_is_a_picture_of_the_moment() -> None:
    net = nn.Linear(2, 2)
    state = net.state_dict()
    before = np.asarray(state["weight"])
    net.weight.data.zero_()
    np.testing.assert_array_equal(state["weight"], before)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["deepcopy", "pickle"])
def test_state_keeps_its_metadata_when_copied(again: Build) -> None:
    state = nn.Sequential(nn.Linear(2, 2)).state_dict()
    assert again(state)._metadata == state._metadata
    assert list(again(state)) == list(state)


def test_state_dict_hooks_run_in_order(both: Check) -> None:
    def script(s):
        net, log = net_of(s), []
        net.lin.register_state_dict_pre_hook(lambda m, prefix, keep: log.append(["pre", prefix, keep]))
        net.lin.register_state_dict_post_hook(lambda m, d, prefix, meta: log.append(["post", prefix, len(d), meta]))
        net._register_state_dict_hook(lambda m, d, prefix, meta: log.append(["private", prefix, len(d), meta]))
        return [list(net.state_dict(prefix="top.", keep_vars=True)), log]

    both(script)


def test_state_dict_post_hook_changes_in_place(both: Check) -> None:
    def script(s):
        net = net_of(s)
        net.lin.register_state_dict_post_hook(lambda m, d, prefix, meta: d.__delitem__(prefix + "bias"))
        handle = net.lin.register_state_dict_pre_hook(lambda m, prefix, keep: m.half())
        first = net.state_dict()
        handle.remove()
        return [first, list(net.deep.state_dict())]

    both(script)


def test_private_state_dict_hook_replaces_at_the_root_only(both: Check) -> None:
    def script(s):
        net = net_of(s)
        net._register_state_dict_hook(lambda m, d, prefix, meta: OrderedDict(root=1))
        net.lin._register_state_dict_hook(lambda m, d, prefix, meta: OrderedDict(child=1))
        return [net.state_dict(), net.lin.state_dict(), list(net.deep.state_dict())]

    both(script)


def test_public_state_dict_hook_may_not_return(both: Check) -> None:
    def script(s):
        net = net_of(s)
        net.register_state_dict_post_hook(lambda m, d, prefix, meta: d)
        net.state_dict()

    both(script, raises=RuntimeError)


def test_one_function_is_not_registered_both_ways(both: Check) -> None:
    def script(s):
        def hook(module, state, prefix, metadata):
            return None

        net = net_of(s)
        net.register_state_dict_post_hook(hook)
        net._register_state_dict_hook(hook)

    both(script, raises=RuntimeError)


@pytest.mark.parametrize("with_module", [True, False])
def test_load_pre_hooks_see_and_change_the_state(both: Check, with_module: bool) -> None:
    def script(s):
        net, log = net_of(s), []

        def rename(*args):
            module, (state, prefix, meta, strict, missing, unexpected, errors) = args[: len(args) - 7], args[-7:]
            log.append([[type(m).__name__ for m in module], prefix, dict(meta), strict, missing, unexpected, errors])
            state[prefix + "bias"] = state.pop(prefix + "old")

        net.lin._register_load_state_dict_pre_hook(rename, with_module=with_module)
        state = net.state_dict()
        state["lin.old"] = state.pop("lin.bias") * 0
        return [net.load_state_dict(state), net, log, "lin.old" in state]

    both(script)


def test_public_load_pre_hook_gets_the_module(both: Check) -> None:
    def script(s):
        net, log = net_of(s), []
        handle = net.extra.register_load_state_dict_pre_hook(lambda m, *args: log.append([type(m).__name__, args[1:3]]))
        net.load_state_dict(net.state_dict())
        handle.remove()
        net.load_state_dict(net.state_dict())
        return log

    both(script)


def test_load_pre_hook_may_report_errors(both: Check) -> None:
    def script(s):
        net = net_of(s)
        net.register_load_state_dict_pre_hook(lambda m, *args: args[-1].append("too old"))
        net.load_state_dict(net.state_dict())

    both(script, raises=RuntimeError)


def test_load_post_hooks_see_and_clear_the_keys(both: Check) -> None:
    def script(s):
        net, log = net_of(s), []

        def forgive(module, keys):
            log.append([type(module).__name__, list(keys.missing_keys), list(keys.unexpected_keys)])
            keys.missing_keys.clear()

        net.lin.register_load_state_dict_post_hook(forgive)
        state = net.state_dict()
        del state["lin.bias"]
        return [net.load_state_dict(state), log]

    both(script)


def test_load_post_hook_may_not_return(both: Check) -> None:
    def script(s):
        net = net_of(s)
        net.register_load_state_dict_post_hook(lambda module, keys: keys)
        net.load_state_dict(net.state_dict())

    both(script, raises=AssertionError)


def test_overridden_loading_gets_torchs_arguments(both: Check) -> None:
    def script(s):
        class Versioned(s.Linear):
            _version = 2

            def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
                if local_metadata.get("version", 1) < 2:
                    state_dict[prefix + "bias"] = state_dict.pop(prefix + "offset")
                super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

        net = s.Sequential(Versioned(2, 2))
        old = OrderedDict({"0.weight": net[0].weight.detach(), "0.offset": s.array([5.0, 6.0])})
        return [net.load_state_dict(old), net, net.load_state_dict(net.state_dict()), net.state_dict()._metadata]

    both(script)


def test_overridden_saving_is_used(both: Check) -> None:
    def script(s):
        class Packed(s.Linear):
            def _save_to_state_dict(self, destination, prefix, keep_vars):
                super()._save_to_state_dict(destination, prefix, keep_vars)
                destination[prefix + "packed"] = destination.pop(prefix + "bias")

        return s.Sequential(Packed(2, 2)).state_dict(prefix="top.")

    both(script)


def test_prefix_of_keys_is_taken_off(both: Callable[..., None]) -> None:
    def script(s: Any) -> Any:
        state = s.Sequential(OrderedDict(module=s.Linear(2, 2), moduleless=s.Linear(1, 1))).state_dict()
        s.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
        s.Linear(2, 2).load_state_dict(state, strict=False)
        return list(state), state._metadata

    both(script)
