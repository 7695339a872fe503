"""Module against torch: the surface, where attributes go, names, traversal, conversion, copies and texts."""

import copy
import inspect
import pickle
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

PUBLIC = [name for name in dir(torch.nn.Module) if not name.startswith(("_", "T_"))]
OVERRIDDEN = [
    "_apply", "_call_impl", "_get_name", "_load_from_state_dict", "_named_members",
    "_register_load_state_dict_pre_hook", "_register_state_dict_hook",
    "_save_to_state_dict", "_version", "_wrapped_call_impl", "__call__", "__delattr__",
    "__dir__", "__getattr__", "__getstate__", "__init__", "__repr__", "__setattr__", "__setstate__",
]  # fmt: skip


def leaf(s: Any) -> Any:
    """A module with one of everything."""

    class Leaf(s.Module):
        def __init__(self):
            super().__init__()
            self.note = "text"
            self.weight = s.Parameter(s.array([1.0, 2.0]))
            self.register_parameter("bias", None)
            self.register_buffer("count", s.array([3.0, 4.0]))
            self.register_buffer("scratch", s.array([5.0, 6.0]), persistent=False)
            self.act = s.ReLU()

    return Leaf()


def tree(s: Any) -> Any:
    """A module with shared parameters, shared children and an empty place."""

    class Tree(s.Module):
        def __init__(self):
            super().__init__()
            self.left = leaf(s)
            self.right = leaf(s)
            self.again = self.left
            self.right.tied = self.left.weight
            self.right.shared = self.left.count
            self.register_module("none", None)
            self.inner = s.Sequential(leaf(s), s.ReLU())

    return Tree()


STATEMENTS = {
    leaf: """
        net.weight = s.Parameter(s.array([5.0, 6.0]))
        net.weight = None
        net.bias = s.Parameter(s.array([5.0, 6.0]))
        net.bias = None
        net.count = s.array([5.0, 6.0])
        net.count = s.array([5.0, 6.0, 7.0])
        net.count = None
        net.count = None; net.count = s.array([5.0, 6.0])
        net.scratch = s.array([7.0, 8.0])
        net.count += 1
        net.count = net.count * 2
        net.count = s.Buffer(s.array([5.0, 6.0]))
        net.count = s.Buffer(s.array([5.0, 6.0]), persistent=False)
        net.scratch = s.Buffer(s.array([5.0, 6.0]))
        net.fresh = s.Buffer(s.array([5.0, 6.0]))
        net.fresh = s.Buffer(s.array([5.0, 6.0]), persistent=False)
        net.fresh = s.array([5.0, 6.0]); out = ["fresh" in net._buffers, net.fresh]
        net.fresh = s.Parameter(s.array([5.0, 6.0]), requires_grad=False)
        net.count = s.Parameter(s.array([5.0, 6.0]))
        net.act = s.Parameter(s.array([5.0, 6.0]))
        net.note = s.Parameter(s.array([5.0, 6.0])); out = "note" in net.__dict__
        net.note = s.Tanh(); out = "note" in net.__dict__
        net.act = s.Tanh()
        net.act = None
        net.act = None; net.act = s.Tanh()
        net.count = s.Tanh()
        net.note = 3; out = net.note
        del net.weight
        del net.bias
        del net.count
        del net.scratch; net.register_buffer("scratch", s.array([5.0, 6.0]))
        del net.act
        del net.note; out = hasattr(net, "note")
        net.register_buffer("fresh", s.array([5.0, 6.0]))
        net.register_buffer("fresh", s.array([5.0, 6.0]), persistent=False)
        net.register_buffer("fresh", None)
        net.register_buffer("count", s.array([5.0, 6.0]), False)
        net.register_buffer("scratch", s.array([5.0, 6.0]))
        net.register_parameter("fresh", s.Parameter(s.array([5.0, 6.0])))
        net.register_parameter("weight", None)
        net.add_module("fresh", s.Tanh())
        net.add_module("act", None)
        net.register_module("fresh", s.Tanh())
        out = [net.weight, net.bias, net.count, net.scratch, net.act, net.note, net.training]
        out = [list(d) for d in (net._parameters, net._buffers, net._modules, net._non_persistent_buffers_set)]
        out = [name for name in dir(net) if name in ("weight", "bias", "count", "scratch", "act", "note", "training")]
        out = [name for name in dir(net) if not hasattr(net, name)]
        out = [net.get_submodule(""), net.get_submodule("act"), net.get_parameter("weight"), net.get_buffer("count")]
        net.set_submodule("act", s.Tanh())
        net.set_submodule("act", s.Tanh(), strict=True)
        net.set_submodule("fresh", s.Tanh())
        out = [net.train(False) is net, net.training, net.act.training]
        out = [net.eval() is net, net.eval().train() is net]
        out = net.requires_grad_(False) is net
        net.weight.grad = s.array([1.0, 1.0]); net.zero_grad(); out = net.weight.grad
        net.weight.grad = s.array([1.0, 1.0]); net.zero_grad(set_to_none=False); out = net.weight.grad
        net.zero_grad()
        out = net.half() is net
        net.bfloat16(); net.float()
        net.to(s.dtypes.float16)
        net.to(dtype=s.dtypes.bfloat16)
        net.to("cpu", s.dtypes.float16)
        net.to("cpu", s.dtypes.float16, True)
        net.to("cpu", non_blocking=True)
        net.to()
        net.to(device="cpu")
        net.to(s.array([1.0]).half() if s.dtypes.__name__ == "torch" else s.array([1.0]).astype("float16"))
        out = net.to("cpu") is net and net.cpu() is net
        net.type(s.dtypes.float16)
        net.register_buffer("index", s.array([1, 2])); net.half()
        net.register_buffer("index", s.array([1, 2])); net.type(s.dtypes.float16)
        net.weight.grad = s.array([1.0, 1.0]); net.half(); out = net.weight.grad
        before = net.weight; net.half(); out = net.weight is before
        out = [p.shape for p in net.to_empty(device="cpu").state_dict().values()]; net = None
        net.training = False
        out = net._get_name(), net._version, net.extra_repr(), net.dump_patches, net.call_super_init
        net.__dict__["direct"] = 3; out = net.direct
        net._parameters["direct"] = s.Parameter(s.array([5.0, 6.0])); out = net.direct
        net._buffers["direct"] = s.array([5.0, 6.0]); out = net.direct
        net._modules["direct"] = s.Tanh(); out = net.direct
        out = net._apply(lambda t: t * 2) is net
        out = [type(net.share_memory()).__name__]
        net.weight = net.weight
        out = [net == net, net != net.act, hash(net) == hash(net), net in [net]]
    """,
    tree: """
        out = [n for n, _ in net.named_parameters()]
        out = [n for n, _ in net.named_parameters(prefix="top")]
        out = [n for n, _ in net.named_parameters("top", False)]
        out = [n for n, _ in net.named_parameters(remove_duplicate=False)]
        out = [n for n, _ in net.right.named_parameters(prefix="top", recurse=False)]
        out = [len(list(net.parameters())), len(list(net.parameters(recurse=False)))]
        out = [n for n, _ in net.named_buffers()]
        out = [n for n, _ in net.named_buffers(prefix="top", remove_duplicate=False)]
        out = [len(list(net.buffers())), len(list(net.buffers(recurse=False)))]
        out = [n for n, _ in net.named_modules()]
        out = [n for n, _ in net.named_modules(prefix="top")]
        out = [n for n, _ in net.named_modules(remove_duplicate=False)]
        out = [type(m) for m in net.modules()]
        out = [n for n, _ in net.named_modules(memo=set(net.left.modules()))]
        out = [n for n, _ in net.named_children()]
        out = [type(m) for m in net.children()]
        out = [n for n, _ in net._named_members(lambda m: m._parameters.items(), "top")]
        out = [net.get_submodule("inner.0.act"), net.get_parameter("inner.0.weight"), net.get_buffer("right.scratch")]
        net.set_submodule("inner.0.act", s.Tanh())
        net.set_submodule("inner.1", s.Tanh(), True)
        net.set_submodule("left.fresh", s.Tanh())
        out = []; net.apply(lambda m: out.append(type(m)))
        out = net.apply(lambda m: None) is net
        net.left.eval()
        net.eval().inner.train()
        net.inner[0].requires_grad_(False)
        net.left.weight = s.Parameter(s.array([5.0, 6.0]))
        net.half()
        del net.left
        net.none = s.Tanh()
        net._apply(lambda t: t + 1, recurse=False)
        net.left.weight.grad = s.array([1.0, 1.0]); net.zero_grad(); out = net.right.tied.grad
    """,
}

ERRORS = {
    "net.weight = 3": TypeError,
    "net.weight = s.array([5.0, 6.0])": TypeError,
    "net.weight = s.Tanh()": TypeError,
    "net.bias = 'x'": TypeError,
    "net.act = 3": TypeError,
    "net.act = s.array([5.0, 6.0])": TypeError,
    "net.count = 'x'": TypeError,
    "net.count = 3": TypeError,
    "net.missing": AttributeError,
    "net.act.missing": AttributeError,
    "del net.missing": AttributeError,
    "net.register_buffer(3, None)": TypeError,
    "net.register_buffer('a.b', None)": KeyError,
    "net.register_buffer('', None)": KeyError,
    "net.register_buffer('note', None)": KeyError,
    "net.register_buffer('weight', None)": KeyError,
    "net.register_buffer('forward', None)": KeyError,
    "net.register_buffer('fresh', 3)": TypeError,
    "net.register_buffer('fresh', 'text')": TypeError,
    "net.register_parameter(3, None)": TypeError,
    "net.register_parameter('a.b', None)": KeyError,
    "net.register_parameter('', None)": KeyError,
    "net.register_parameter('act', None)": KeyError,
    "net.register_parameter('count', None)": KeyError,
    "net.register_parameter('fresh', 3)": TypeError,
    "net.register_parameter('fresh', s.array([5.0, 6.0]))": TypeError,
    "net.add_module(3, s.Tanh())": TypeError,
    "net.add_module('a.b', s.Tanh())": KeyError,
    "net.add_module('', s.Tanh())": KeyError,
    "net.add_module('weight', s.Tanh())": KeyError,
    "net.add_module('note', s.Tanh())": KeyError,
    "net.add_module('fresh', 3)": TypeError,
    "net.add_module('fresh', s.Tanh)": TypeError,
    "net.get_submodule('missing')": AttributeError,
    "net.get_submodule('act.missing')": AttributeError,
    "net.get_submodule('note')": AttributeError,
    "net.get_submodule('weight')": AttributeError,
    "net.get_parameter('missing')": AttributeError,
    "net.get_parameter('act.weight')": AttributeError,
    "net.get_parameter('count')": AttributeError,
    "net.get_parameter('bias')": AttributeError,
    "net.get_buffer('missing')": AttributeError,
    "net.get_buffer('weight')": AttributeError,
    "net.set_submodule('', s.Tanh())": ValueError,
    "net.set_submodule('act', 3)": ValueError,
    "net.set_submodule('note', s.Tanh())": AttributeError,
    "net.set_submodule('missing.act', s.Tanh())": AttributeError,
    "net.set_submodule('fresh', s.Tanh(), strict=True)": AttributeError,
    "net.train(1)": ValueError,
    "net.train('yes')": ValueError,
    "net(1)": NotImplementedError,
    "s.Module(3)": TypeError,
    "s.Module(size=3)": TypeError,
    "net.to(s.dtypes.int32)": TypeError,
    "net.to('cpu', copy=True)": RuntimeError,
    "net.to(s.dtypes.float16, True, False)": RuntimeError,
}


@pytest.mark.parametrize("arguments", [("cpu", True), (None, True), (True,), ("cpu", jnp.float16, True, 1)])
def test_flags_of_to_follow_a_dtype(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="invalid combination of arguments - got .*bool"):
        nn.ReLU().to(*arguments)


@pytest.mark.parametrize("name", PUBLIC + OVERRIDDEN)
def test_every_name_of_torch_is_there(name: str) -> None:
    assert hasattr(nn.Module, name)


@pytest.mark.parametrize("name", [name for name in PUBLIC + OVERRIDDEN if callable(getattr(torch.nn.Module, name))])
def test_signature_is_torchs(name: str) -> None:
    theirs = inspect.signature(getattr(torch.nn.Module, name)).parameters.values()
    ours = inspect.signature(getattr(nn.Module, name)).parameters
    for argument in theirs:
        assert argument.name in ours, f"{name} lacks {argument}"
        assert ours[argument.name].default == argument.default
        assert ours[argument.name].kind == argument.kind


@pytest.mark.parametrize(
    "build,statement",
    [
        pytest.param(build, line.strip(), id=f"{build.__name__}: {line.strip()}")
        for build, lines in STATEMENTS.items()
        for line in lines.strip().splitlines()
    ],
)
def test_statement_does_what_torch_does(agree: Check, build: Build, statement: str) -> None:
    agree(build, statement)


@pytest.mark.parametrize("statement", ERRORS)
def test_statement_is_refused_as_by_torch(agree: Check, statement: str) -> None:
    agree(leaf, statement, ERRORS[statement])


@pytest.mark.parametrize(
    "statement",
    [
        "self.weight = s.Parameter(s.array([1.0]))",
        "self.act = s.ReLU()",
        "self.mean = s.Buffer(s.array([1.0]))",
        "self.register_buffer('mean', s.array([1.0]))",
        "self.register_parameter('weight', None)",
    ],
)
def test_assigning_before_init_is_refused(both: Check, statement: str) -> None:
    def script(s):
        class Early(s.Module):
            def __init__(self):
                exec(statement, {"self": self, "s": s})

        Early()

    both(script, raises=AttributeError)


def test_plain_attributes_may_come_before_init(both: Check) -> None:
    def script(s):
        class Early(s.Module):
            def __init__(self):
                self.size = 3
                super().__init__()

        return Early().size

    both(script)


def test_getattr_of_a_wrapper_reaches_the_wrapped(both: Check) -> None:
    def script(s):
        class Wrapper(s.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def __getattr__(self, name):
                try:
                    return super().__getattr__(name)
                except AttributeError:
                    return getattr(self.inner, name)

        net = Wrapper(s.Linear(2, 2))
        return [net.weight, net.in_features, hasattr(net, "missing"), net]

    both(script)


def test_forward_can_be_replaced_on_the_object(both: Check) -> None:
    def script(s):
        net = s.ReLU()
        net.forward = lambda input: input * 2
        return net(s.array([1.0, -1.0]))

    both(script)


@pytest.mark.parametrize("text", ["", "one", "one\ntwo", "one\n\nthree"])
@pytest.mark.parametrize("child", [True, False])
def test_repr_lays_out_extra_lines_and_children(both: Check, text: str, child: bool) -> None:
    def script(s):
        class Shown(s.Module):
            def extra_repr(self):
                return text

        net = s.Sequential(Shown())
        if child:
            net[0].inner = s.Sequential(Shown(), s.Linear(2, 2))
        return [repr(net), repr(net[0]), str(net)]

    both(script)


def test_call_super_init_passes_arguments_on(both: Check) -> None:
    def script(s):
        class Other:
            def __init__(self, size):
                self.size = size

        class Net(s.Module, Other):
            call_super_init = True

            def __init__(self, size):
                super().__init__(size)

        return Net(3).size

    both(script)


def test_old_state_without_hook_tables_is_completed(both: Check) -> None:
    def script(s):
        net = s.Linear(2, 2)
        state = {k: v for k, v in net.__getstate__().items() if "hook" not in k and k != "_non_persistent_buffers_set"}
        again = s.Linear.__new__(s.Linear)
        state |= {"_forward_hooks": {}, "_backward_hooks": {}}
        again.__setstate__(state)
        return [again, again(s.array([[1.0, 2.0]]))]

    both(script)


def test_properties_that_raise_say_their_own_error(both: Check) -> None:
    def script(s):
        class Broken(s.Module):
            @property
            def size(self):
                return self.missing

        return Broken().size

    both(script, raises=AttributeError)


def test_properties_with_setters_work(both: Check) -> None:
    def script(s):
        class Sized(s.Module):
            @property
            def size(self):
                return self._size

            @size.setter
            def size(self, value):
                self._size = value * 2

        net = Sized()
        net.size = 3
        return net.size

    both(script)


def test_register_buffer_without_persistent_is_respected(both: Check) -> None:
    def script(s):
        class Old(s.Module):
            def register_buffer(self, name, tensor):
                super().register_buffer(name, tensor)

        net = Old()
        net.mean = s.Buffer(s.array([1.0]))
        net.mean = s.Buffer(s.array([2.0]), persistent=False)

    both(script, raises=RuntimeError)


def test_extra_state_is_not_there_unless_defined() -> None:
    with pytest.raises(RuntimeError, match="get_extra_state"):
        nn.Module().get_extra_state()
    with pytest.raises(RuntimeError, match="set_extra_state"):
        nn.Module().set_extra_state(3)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "gpu", "tpu", "cpu:99", "nonsense"])
def test_device_that_is_not_there_is_named(ours: Any, device: str) -> None:
    net = leaf(ours)
    with pytest.raises(RuntimeError, match=device.split(":")[0]):
        net.to(device)
    assert net.weight.device == jax.devices()[0]


def test_moves_to_a_device_and_a_sharding(ours: Any) -> None:
    device = jax.devices()[1]
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    net = leaf(ours)
    assert net.to(device).weight.device == device and net.count.device == device
    assert net.to("cpu:0").weight.device == jax.devices()[0]
    assert net.to(sharding).weight.sharding == sharding


def test_double_follows_the_x64_setting(ours: Any) -> None:
    with jax.enable_x64(True):
        assert leaf(ours).double().weight.dtype == jnp.float64


def test_to_empty_keeps_shapes_and_dtypes(ours: Any) -> None:
    net = leaf(ours).half().to_empty(device="cpu")
    assert [(x.shape, x.dtype) for x in net.state_dict().values()] == [((2,), jnp.float16)] * 2


class Copied(nn.Module):
    """Everything that a copy has to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.note = ["list"]
        self.layer = nn.Linear(2, 2)
        self.tied = self.layer
        self.register_buffer("count", jnp.zeros(2), persistent=False)
        self.register_forward_hook(double)

    def forward(self, input):
        return self.tied(input)


def double(module: Any, args: Any, output: Any) -> Any:
    return output * 2


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_equal_and_shares_nothing(again: Build) -> None:
    net = Copied().eval()
    twin = again(net)
    x = jnp.ones((1, 2))
    np.testing.assert_array_equal(twin(x), net(x))
    assert twin.tied is twin.layer and twin.layer is not net.layer
    assert twin.note is not net.note and not twin.training and list(twin.state_dict()) == list(net.state_dict())
    twin.layer.weight.data.zero_()
    assert float(jnp.abs(net.layer.weight).sum()) > 0


def test_a_shallow_copy_shares_parameters(ours: Any) -> None:
    net = leaf(ours)
    twin = copy.copy(net)
    assert twin.weight is net.weight and twin.act is net.act


def test_numpy_arrays_are_taken_as_buffers(ours: Any) -> None:
    net = leaf(ours)
    net.register_buffer("mask", np.ones(2, np.float32))
    net.count = np.zeros(2, np.float32)
    assert isinstance(net.mask, jax.Array) and isinstance(net.count, jax.Array)


def test_names_of_a_subclass_do_not_clash_with_ours() -> None:
    taken = {name for name in set(dir(nn.Module())) - set(dir(torch.nn.Module())) if not name.startswith("__")}
    assert taken and all(name.startswith("_jm_") for name in taken)
