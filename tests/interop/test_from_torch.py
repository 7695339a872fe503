"""``jm.from_torch``: custom classes, tying, flags, dtypes, and what is refused."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.interop.helpers import Block, Tied, TiedByHand, TorchBlock, TorchTied, assert_same_output

DTYPES = (
    "bool uint8 int8 int16 uint16 int32 uint32 float16 bfloat16 float32 complex64 float8_e4m3fn float8_e5m2"
    " float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
).split()
WIDE = ["int64", "uint64", "float64", "complex128"]


def tensor_of(dtype: str) -> torch.Tensor:
    """Return one tensor of each dtype, not in the order of memory."""
    return torch.tensor([[1.0, 0.5, 4.0], [0.0, 2.0, 448.0]]).to(getattr(torch, dtype)).T


def test_custom_class_gets_all_attributes() -> None:
    theirs = torch.nn.Sequential(TorchBlock(2), torch.nn.ReLU())
    ours = jm.from_torch(theirs, {TorchBlock: Block})
    block = ours[0]
    assert type(block) is Block and block.act is nn.functional.gelu and block.norm_layer is nn.BatchNorm2d
    assert block.downsample is None and block.sizes == {"channels": [2, (3, jnp.float16)]}
    assert list(block.named_buffers()) and block._non_persistent_buffers_set == {"scale"}
    assert_same_output(theirs, ours, np.ones((1, 2, 3, 3), np.float32))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_what_is_shared_stays_shared() -> None:
    theirs = TorchTied()
    ours = jm.from_torch(theirs, {TorchTied: Tied})
    assert ours.head.weight is ours.embed.weight and ours.again is ours.embed
    assert ours.hidden[0] is ours.head and ours.mask is ours.alias
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_same_output(theirs, ours, np.array([1, 2]))


def test_flags_are_kept_one_by_one() -> None:
    theirs = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout().eval(), torch.nn.Linear(2, 2).eval())
    theirs[0].bias.requires_grad_(False)
    theirs[2].weight.no_decay = True
    theirs.table = np.zeros(2)
    theirs._compiled_call_impl = theirs.forward
    ours = jm.from_torch(theirs)
    theirs.table += 1
    assert ours.table.tolist() == [0, 0] and ours._compiled_call_impl is None
    assert [m.training for m in ours.modules()] == [m.training for m in theirs.modules()]
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]
    assert ours[2].weight.no_decay is True


@pytest.mark.parametrize("dtype", [*DTYPES, *WIDE])
def test_dtypes_come_bit_by_bit(dtype: str) -> None:
    theirs = torch.nn.Module()
    theirs.register_buffer("array", tensor_of(dtype))
    with jax.enable_x64(dtype in WIDE):
        array = jm.from_torch(theirs).array
    assert str(array.dtype) == dtype and array.shape == (3, 2)
    expected = theirs.array.contiguous().reshape(-1).view(torch.uint8).numpy()
    np.testing.assert_array_equal(np.asarray(array).reshape(-1).view(np.uint8), expected)


def test_meta_parameters_stay_without_data() -> None:
    with torch.device("meta"):
        theirs = torch.nn.BatchNorm1d(3)
    ours = jm.from_torch(theirs)
    assert ours.weight.is_meta and ours.running_mean == jax.ShapeDtypeStruct((3,), jnp.float32)
    with jm.device("meta"):
        assert jm.from_torch(torch.nn.Linear(3, 2)).weight.is_meta


def test_state_dict_on_meta_is_assigned() -> None:
    ours = nn.Linear(3, 2)
    ours.load_state_dict(torch.nn.Linear(3, 2, device="meta").state_dict(), assign=True)
    assert ours.weight.is_meta and ours.weight.shape == (2, 3)


def test_tensors_of_views_are_read() -> None:
    conjugate = torch.view_as_complex(torch.ones(2, 2)).conj()
    theirs = torch.nn.ParameterList([torch.nn.Parameter(conjugate), torch.nn.Parameter(conjugate.imag)])
    ours = jm.from_torch(theirs)
    assert ours[0].tolist() == [1 - 1j, 1 - 1j] and ours[1].tolist() == [-1, -1]


def test_registered_classes_are_found() -> None:
    class Theirs(torch.nn.Module):
        pass

    class Mine(nn.Module):
        pass

    class Local(nn.Module):
        pass

    assert jm.interop.register(Theirs)(Mine) is Mine
    assert type(jm.from_torch(Theirs())) is Mine
    assert type(jm.from_torch(Theirs(), {Theirs: Local})) is Local
    jm.interop.register(f"{Theirs.__module__}.{Theirs.__qualname__}", Local)
    assert type(jm.from_torch(Theirs())) is Mine  # the class itself comes before its name
    assert type(jm.from_torch(torch.nn.ReLU(), {"torch.nn.modules.activation.ReLU": Local})) is Local


def test_function_makes_a_counterpart_that_weights_are_loaded_into() -> None:
    def make(module: Any) -> nn.Module:
        return TiedByHand(module.embed.embedding_dim)

    theirs = torch.nn.Sequential(TorchTied(), torch.nn.Linear(4, 5, bias=False)).eval()
    theirs[1].weight = theirs[0].embed.weight
    theirs[0].embed.weight.requires_grad_(False)
    ours = jm.from_torch(theirs, {TorchTied: make})
    tied = ours[0]
    assert type(tied) is TiedByHand and tied.head.weight is tied.embed.weight is ours[1].weight
    assert not tied.embed.training and not tied.embed.weight.requires_grad and tied.mask.tolist() == [1, 1]
    assert_same_output(theirs[0], tied, np.array([1, 2]))


def test_function_may_convert_what_it_likes() -> None:
    def make(module: Any, convert: Any) -> nn.Module:
        net = nn.Sequential(convert(module.conv), nn.PReLU())
        net[1].weight = convert(module.bn.bias)
        return net

    theirs = TorchBlock(2)
    with pytest.raises(RuntimeError, match='Unexpected key.*"bn.weight", "bn.running_mean"'):
        jm.from_torch(theirs, {TorchBlock: make})
    theirs.bn = torch.nn.Module()
    theirs.bn.bias = torch.nn.Parameter(torch.ones(1))
    ours = jm.from_torch(theirs, {TorchBlock: make})
    assert ours[1].weight.tolist() == [1] and [m.training for m in ours.modules()] == [True] * 3


def test_weights_that_do_not_fit_are_reported_together() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.more = nn.Linear(1, 1)

    message = (
        'loading state_dict for Other:\n\tMissing key.*"more.weight", "more.bias".*\n\tUnexpected key.*"mask".*\n\t'
        r"size mismatch for embed.weight: copying a param with shape torch.Size\(\[5, 4\]\)"
    )
    with pytest.raises(RuntimeError, match=message):
        jm.from_torch(TorchTied(), {TorchTied: lambda module, convert: Other()})


def square(x: Any) -> Any:
    """Compute with tensors."""
    return torch.square(x)


def test_everything_unknown_is_named_in_one_error() -> None:
    theirs = torch.nn.ModuleDict({"a": TorchBlock(1), "b": TorchBlock(1), "c": torch.nn.DataParallel(TorchTied())})
    theirs["d"] = torch.nn.TransformerEncoderLayer(4, 2, 8, activation=torch.sin)
    theirs["e"] = torch.nn.TransformerEncoderLayer(4, 2, 8, activation=functools.partial(square))
    theirs["f"] = torch.nn.Conv1d(1, 1, 1)
    home = TorchBlock.__module__
    message = (
        rf"(?s)some classes or functions in ModuleDict:\n    {home}.TorchBlock, at 'a', 'b'\n"
        rf".*DataParallel, at 'c'\n    {home}.TorchTied, at 'c.module'\n    torch.sin, at 'd.activation'\n"
        r".*square, at 'e.activation.0'\n.*jm.interop.register\(Theirs, Ours\)"
    )
    with pytest.raises(TypeError, match=message):
        jm.from_torch(theirs, {torch.nn.Conv1d: lambda module, convert: convert(theirs["a"]).conv})


def test_functions_can_be_mapped_too() -> None:
    theirs = torch.nn.TransformerEncoderLayer(4, 2, 8, activation=square)
    theirs.other = functools.partial(torch.sin)
    ours = jm.from_torch(theirs, {square: jnp.square, "torch.sin": jnp.sin})
    assert ours.activation is jnp.square and ours.other.func is jnp.sin


def test_hooks_are_told_of_and_can_be_mapped() -> None:
    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        return -output

    theirs = torch.nn.Sequential(torch.nn.Linear(2, 2))
    theirs[0].register_forward_hook(hook, with_kwargs=True)
    theirs.handles = [theirs[0].weight.register_hook(square)]
    with pytest.warns(UserWarning, match=r"2 hooks stay behind.*\n.*0: .*hook \(forward_hooks\)\n.*0.weight: square"):
        ours = jm.from_torch(theirs)
    assert not ours[0]._forward_hooks and ours.handles == [None]
    theirs = torch.nn.Sequential(torch.nn.Linear(2, 2))
    theirs[0].register_forward_hook(hook, with_kwargs=True)
    assert_same_output(theirs, jm.from_torch(theirs, {hook: hook}), np.ones((1, 2), np.float32))


REFUSED = [
    (torch.nn.Linear, "got the class torch.nn.modules.linear.Linear: call from_torch"),
    (torch.ones(2), "got torch.Tensor: .* load_state_dict takes"),
    (nn.ReLU(), "got jaxmodules.nn.modules.activation.ReLU"),
    (None, "got builtins.NoneType"),
]


@pytest.mark.parametrize("value, message", REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_is_no_torch_module_is_refused(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"expected a torch.nn.Module, {message}"):
        jm.from_torch(value)


def test_absence_of_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "torch")
    with pytest.raises(TypeError, match="got builtins.int: .*torch has not been imported in this process"):
        jm.from_torch(3)


@pytest.mark.parametrize(
    "theirs, ours, message",
    [
        (3, nn.ReLU, "expected a class or function of torch's, or its dotted name, got 3"),
        (torch.nn.ReLU(), nn.ReLU, "expected a class, got a ReLU module"),
        (torch.nn.ReLU, 3, "expected a Module class, or a function of .* got 3"),
    ],
)
def test_registry_refuses_what_can_not_be_meant(theirs: Any, ours: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        jm.interop.register(theirs, ours)
    with pytest.raises(TypeError, match=message):
        jm.from_torch(torch.nn.ReLU(), {theirs: ours})


def test_mapping_is_a_mapping() -> None:
    with pytest.raises(TypeError, match="expected a mapping of classes, got .*Tied.*: give {TheirClass: YourClass}"):
        jm.from_torch(TorchTied(), Tied)  # type: ignore[arg-type]


def test_function_must_return_a_module() -> None:
    with pytest.raises(TypeError, match="registered for .*TorchTied, returned int: expected a jaxmodules Module"):
        jm.from_torch(TorchTied(), {TorchTied: lambda module, convert: 3})


def test_unusual_tensors_are_named() -> None:
    theirs = torch.nn.Module()
    theirs.register_buffer("sparse", torch.eye(2).to_sparse())
    with pytest.raises(TypeError, match="a tensor of layout torch.sparse_coo and dtype torch.float32, at 'sparse'"):
        jm.from_torch(theirs)
