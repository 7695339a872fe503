"""``jm.to_torch``: weights go into the tensors that are there, all or none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.interop.helpers import Block, Tied, TorchBlock, TorchTied
from tests.interop.test_from_torch import DTYPES, WIDE, tensor_of


def snapshot(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Copy what a torch module holds."""
    return {name: value.detach().clone().numpy() for name, value in module.state_dict().items()}


def assert_unchanged(module: torch.nn.Module, before: dict[str, np.ndarray]) -> None:
    for name, value in snapshot(module).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_weights_and_buffers_go_into_the_same_tensors() -> None:
    theirs = torch.nn.Sequential(TorchBlock(2), torch.nn.BatchNorm2d(2)).requires_grad_(False)
    ours = jm.from_torch(theirs, {TorchBlock: Block})
    for parameter in ours.parameters():
        parameter.data += 1
    ours[1].running_mean = jnp.full(2, 7.0)
    ours[0].scale = jnp.full((1, 1, 1, 1), 9.0)  # not persistent
    tensors = [*theirs.parameters(), *theirs.buffers()]
    assert jm.to_torch(ours, theirs) is theirs
    assert all(a is b for a, b in zip(tensors, [*theirs.parameters(), *theirs.buffers()], strict=True))
    assert theirs[1].running_mean.tolist() == [7, 7] and theirs[0].scale.item() == 9
    for name, parameter in theirs.named_parameters():
        np.testing.assert_array_equal(ours.get_parameter(name), parameter)
    assert not theirs[0].conv.weight.requires_grad


@pytest.mark.parametrize("dtype", [*DTYPES, *WIDE])
def test_dtypes_go_back_bit_by_bit(dtype: str) -> None:
    theirs, empty = torch.nn.Module(), torch.nn.Module()
    theirs.register_buffer("array", tensor_of(dtype))
    empty.register_buffer("array", torch.zeros_like(theirs.array))
    with jax.enable_x64(dtype in WIDE):
        jm.to_torch(jm.from_torch(theirs), empty)
    bits = [m.array.contiguous().reshape(-1).view(torch.uint8) for m in (theirs, empty)]
    assert empty.array.dtype == theirs.array.dtype and torch.equal(*bits)


def test_dtype_and_tying_of_torch_stay() -> None:
    theirs = TorchTied().to(torch.bfloat16)
    ours = jm.from_torch(theirs, {TorchTied: Tied}).float()
    ours.embed.weight.data[0, 0] = 5.0
    jm.to_torch(ours, theirs)
    assert theirs.head.weight is theirs.embed.weight and theirs.head.weight.dtype == torch.bfloat16
    assert theirs.head.weight[0, 0].item() == 5


def test_no_memory_is_shared() -> None:
    ours, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    expected = np.array(ours.weight)
    jm.to_torch(ours, theirs)
    with torch.no_grad():
        theirs.weight.zero_()
    np.testing.assert_array_equal(ours.weight, expected)


def test_old_spectral_norm_and_lazy_layer_are_filled() -> None:
    ours = jm.from_torch(torch.nn.utils.spectral_norm(torch.nn.Linear(3, 2)))
    theirs = jm.to_torch(ours, torch.nn.utils.spectral_norm(torch.nn.Linear(3, 2)))
    np.testing.assert_array_equal(theirs.weight_u, ours.weight_u)
    lazy = jm.to_torch(nn.Linear(3, 2), torch.nn.LazyLinear(2))
    assert lazy.weight.shape == (2, 3)


MISFITS = [
    (lambda lib: [lib.Linear(3, 2)], 'Missing key.*"1.weight", "1.bias", "1.running_mean", "1.running_var"'),
    (lambda lib: [lib.Linear(3, 2), lib.BatchNorm1d(2), lib.PReLU()], r'Unexpected key.*"2.weight"\. $'),
    (
        lambda lib: [lib.Linear(3, 4), lib.BatchNorm1d(2)],
        r"mismatch for 0.weight: .*\[4, 3\].* is torch.Size\(\[2, 3\]",
    ),
]


@pytest.mark.parametrize("layers, message", MISFITS, ids=["missing", "unexpected", "size"])
def test_misfits_are_torchs_report_and_change_nothing(layers: Any, message: str) -> None:
    ours = nn.Sequential(*layers(nn))
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    before = snapshot(theirs)
    with pytest.raises(RuntimeError, match=message) as raised:
        jm.to_torch(ours, theirs)
    assert_unchanged(theirs, before)
    with pytest.raises(RuntimeError, match=message) as expected:
        theirs.load_state_dict(torch.nn.Sequential(*layers(torch.nn)).state_dict())
    assert str(raised.value) == str(expected.value)


def test_misfit_of_a_buffer_outside_the_state_dict_changes_nothing() -> None:
    theirs = TorchBlock(2)
    ours = jm.from_torch(theirs, {TorchBlock: Block})
    ours.scale = jnp.ones(3)
    ours.conv.weight.data += 1
    before = snapshot(theirs)
    with pytest.raises(RuntimeError, match=r"size mismatch for scale: .*\[3\].*\[1, 1, 1, 1\]"):
        jm.to_torch(ours, theirs)
    assert_unchanged(theirs, before)


class TorchExtra(torch.nn.PReLU):
    """A module whose state is more than tensors."""

    step = 1

    def get_extra_state(self) -> Any:
        return self.step

    def set_extra_state(self, state: Any) -> None:
        self.step = state


class Extra(nn.PReLU):
    """The same."""

    def get_extra_state(self) -> Any:
        return self.step

    def set_extra_state(self, state: Any) -> None:
        self.step = state


def test_extra_state_goes_along_if_all_fits() -> None:
    theirs = torch.nn.Sequential(TorchExtra())
    theirs[0].step = 7
    ours = jm.from_torch(theirs, {TorchExtra: Extra})
    ours[0].step = 9
    with pytest.raises(RuntimeError, match='Unexpected key.*"1.weight"'):
        jm.to_torch(nn.Sequential(ours[0], nn.PReLU()), theirs)
    assert theirs[0].step == 7
    assert jm.to_torch(ours, theirs)[0].step == 9


def test_parameters_that_are_one_there_must_be_equal_here() -> None:
    theirs = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    theirs[1].weight = theirs[0].weight
    ours = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with pytest.raises(ValueError, match="'0.weight' and '1.weight' are one tensor in torch_module"):
        jm.to_torch(ours, theirs)
    ours[1].weight.data = ours[0].weight.value
    jm.to_torch(ours, theirs)
    assert theirs[1].weight is theirs[0].weight


class Narrow(nn.Module):
    """A module with a buffer of a type that torch has no values of."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Buffer(jnp.ones(2, jnp.int4))


def on_meta(library: Any) -> Any:
    """Make a layer without data."""
    with (torch if library is torch.nn else jm).device("meta"):
        return library.Linear(2, 2)


REFUSED = [
    (lambda: torch.nn.ReLU(), lambda: torch.nn.ReLU(), TypeError, "expected a jaxmodules Module, got ReLU"),
    (lambda: nn.ReLU(), lambda: nn.ReLU(), TypeError, "expected a torch.nn.Module, got jaxmodules.*ReLU"),
    (lambda: Narrow(), lambda: torch.nn.PReLU(2), TypeError, "'weight' can't go to torch: torch has no dtype int4"),
    (lambda: on_meta(nn), lambda: torch.nn.Linear(2, 2), NotImplementedError, "'weight' of net is on the meta device"),
    (lambda: nn.Linear(2, 2), lambda: on_meta(torch.nn), NotImplementedError, "of torch_module is on the meta device"),
]


@pytest.mark.parametrize("ours, theirs, error, message", REFUSED, ids=map(str, range(len(REFUSED))))
def test_refusals_say_what_to_do(ours: Any, theirs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jm.to_torch(ours(), theirs())
