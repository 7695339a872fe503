"""``jm.compare``: the first submodule that differs, and both models as they were."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.interop.helpers import Block, Tied, TorchBlock, TorchTied

X = np.linspace(-1, 1, 12).reshape(3, 4)


def make_pair() -> tuple[Any, Any]:
    """Build a net with a deep layer, and its counterpart."""
    inner = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 2))
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 4), inner, torch.nn.Tanh())
    return theirs, jm.from_torch(theirs)


def test_counterpart_agrees_on_every_call() -> None:
    result = jm.compare(*make_pair(), X)
    assert result and result.equal and result.first is None and result.notes == []
    assert [row.name for row in result.rows] == ["0", "1.0", "1.1", "1.2", "1", "2", ""]
    assert all(row.status == "equal" and row.absolute < 1e-5 for row in result.rows)


def test_wrong_weight_in_a_deep_layer_is_the_first_that_differs() -> None:
    theirs, ours = make_pair()
    ours[1][2].weight.data[0, 0] += 0.5
    result = jm.compare(theirs, ours, X)
    assert not result and result.first is not None
    assert (result.first.name, result.first.kind, result.first.shape) == ("1.2", "Linear", "(3, 2)")
    assert [row.agrees for row in result.rows] == [True, True, True, False, False, False, False]
    assert result.notes == ["in 1.2 itself: weight differs by up to 5.0e-01"]


TABLE = """
module   class       shape   max abs  max rel  status
-------  ----------  ------  -------  -------  -------
0        Flatten     (2, 2)        0        0  equal
1        Threshold   (2, 2)  2.0e+00  1.0e+00  differs
(whole)  Sequential  (2, 2)  2.0e+00  1.0e+00  differs
-------  ----------  ------  -------  -------  -------
1 of 3 calls agree; the first that does not: 1 (Threshold): differs
in 1 itself: value is 0.0 in torch, 2.0 in net
"""


def test_result_prints_as_a_table() -> None:
    theirs = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Threshold(0.5, 0.0))
    ours = jm.from_torch(theirs)
    ours[1].value = 2.0
    result = jm.compare(theirs, ours, np.array([[[0.0], [2.0]], [[1.0], [1.0]]]))
    assert str(result) == repr(result) == TABLE.strip()


def held_by(module: Any) -> dict[str, Any]:
    """Return the parameters and buffers of a module: which objects, and what is in them."""
    state = module.state_dict(keep_vars=True)
    return {name: (id(value), value.tolist()) for name, value in state.items()}


def test_both_are_left_as_they_were() -> None:
    theirs, ours = make_pair()
    theirs.append(torch.nn.Dropout(0.5)), ours.append(nn.Dropout(0.5))
    held = [held_by(module) for module in (theirs, ours)]
    random = torch.get_rng_state(), jm.get_rng_state().copy()
    result = jm.compare(theirs, ours, X)
    assert result.notes == ["random numbers were drawn, and the two draw different ones: call .eval() on both"]
    for module, before in zip((theirs, ours), held, strict=True):
        assert held_by(module) == before
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert torch.equal(random[0], torch.get_rng_state()) and np.array_equal(random[1], jm.get_rng_state())


class TorchSteps(torch.nn.Module):
    """Call one child twice, keep count, and return a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
        self.register_buffer("count", torch.zeros(()))
        self.calls = 0

    def forward(self, x: Any, scale: Any = 1.0) -> Any:
        self.count = self.count + 1
        self.calls += 1
        return {"y": self.a(self.a(x)) * scale, "z": (self.b(x), None)}


class Steps(nn.Module):
    """The same."""

    def forward(self, x: Any, scale: Any = 1.0) -> Any:
        self.count = self.count + 1
        self.calls += 1
        return {"y": self.a(self.a(x)) * scale, "z": (self.b(x), None)}


class Once(nn.Module):
    """Call the child once, another one in a transform, and scale twice."""

    def forward(self, x: Any, scale: Any = 1.0) -> Any:
        return {"y": self.a(x), "z": (jax.jit(lambda x: self.b(x))(x) * 2, None)}


class Halved(nn.Module):
    """Return another dtype, then fail."""

    def forward(self, x: Any, scale: Any = 1.0) -> Any:
        self.b(x)
        return self.a(x[:, :3])


class Alone(nn.Module):
    """Return one array only."""

    def forward(self, x: Any, scale: Any = 1.0) -> Any:
        return self.a(self.a(x))


def statuses(cls: Any, *inputs: Any, **kwargs: Any) -> dict[str, str]:
    """Compare the steps with their counterpart of some class, and return the status of each call."""
    theirs = TorchSteps()
    ours = jm.from_torch(theirs, {TorchSteps: cls})
    result = jm.compare(theirs, ours, *inputs, **kwargs)
    assert theirs.calls == ours.calls == 0 and theirs.count.item() == ours.count.item() == 0
    return {f"{row.name}#{row.call}": row.status for row in result.rows}


INPUTS = [
    ((X,), {}),
    ((X.astype(np.float32),), {"scale": 2.0}),
    ((jnp.asarray(X, jnp.float32), np.float32(2)), {}),
    ((torch.tensor(X, dtype=torch.float32),), {"scale": torch.ones(4)}),
    (((X, 2.0),), {}),
    (({"x": X, "scale": jnp.ones(4, jnp.float32)},), {}),
]


@pytest.mark.parametrize("inputs, kwargs", INPUTS, ids=map(str, range(len(INPUTS))))
def test_inputs_of_every_kind_reach_both(inputs: Any, kwargs: Any) -> None:
    with jax.numpy_rank_promotion("allow"):
        found = statuses(Steps, *inputs, **kwargs)
    assert found == {"a#0": "equal", "a#1": "equal", "b#0": "equal", "#0": "equal"}


def test_missing_calls_and_calls_in_transforms_are_told() -> None:
    expected = {"a#0": "equal", "a#1": "not called in net", "b#0": "inside a transform", "#0": "differs at ['y']"}
    assert statuses(Once, X) == expected


def test_number_of_arrays_is_compared() -> None:
    assert statuses(Alone, X)["#0"] == "2 arrays in torch, 1 in net"


def test_call_that_one_leaves_out_is_no_difference() -> None:
    theirs, ours = make_pair()
    ours.forward = lambda x: ours[1](ours[0](x))
    theirs[2] = torch.nn.Dropout(0.0)
    rows = {row.name: row for row in jm.compare(theirs, ours, X).rows}
    assert rows["2"].status == "not called in net" and rows["2"].agrees is None and rows[""].agrees


def test_error_in_one_of_them_is_a_row() -> None:
    assert statuses(Halved, X) == {"b#0": "equal", "a#0": "net raised RuntimeError"}
    theirs, ours = make_pair()
    result = jm.compare(theirs, ours, np.ones((2, 3), np.float32))
    assert [(row.name, row.status) for row in result.rows] == [
        ("0", "torch raised RuntimeError"),
        ("0", "net raised RuntimeError"),
    ]
    assert result.notes[0].startswith("torch: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert not theirs[0]._forward_hooks and not ours[0]._forward_hooks


def test_shape_and_dtype_are_compared() -> None:
    theirs = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Identity())
    ours = nn.Sequential(nn.Flatten(0), nn.Identity())
    row = jm.compare(theirs, ours, np.ones((2, 2), np.float32)).rows[0]
    assert row.status == "shape (2, 2) in torch, (4,) in net" and row.agrees is False
    ours = nn.Sequential(nn.Flatten(), nn.Identity())
    ours[0].register_forward_hook(lambda module, args, output: output.astype(jnp.float16))
    row = jm.compare(theirs, ours, np.ones((2, 2), np.float32)).rows[0]
    assert row.status == "dtype float32 in torch, float16 in net"


def test_other_shapes_inside_a_module_that_agrees_do_not_count() -> None:
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2, 4], 1.0)  # torch computes the rows of a cluster only
    result = jm.compare(theirs, jm.from_torch(theirs), X, np.array([1, 2, 5]))
    assert result.equal and [row.agrees for row in result.rows].count(None) == 6


def test_modules_of_one_tree_only_are_listed() -> None:
    theirs, ours = make_pair()
    ours.append(nn.Identity()), theirs[0].add_module("extra", torch.nn.Sequential(torch.nn.ReLU()))
    result = jm.compare(theirs, ours, X)
    found = [(row.name, row.status) for row in result.rows if row.agrees is None]
    assert result.equal and found == [("0.extra", "only in torch"), ("3", "only in net")]


@pytest.mark.parametrize(
    "theirs, ours, agrees",
    [
        ([1.0, 2.0], [1.0, 2.00001], True),
        ([1.0, 2.0], [1.0, 2.001], False),
        ([np.nan, np.inf], [np.nan, np.inf], True),
        ([np.nan, 1.0], [1.0, 1.0], False),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
        ([1000000, 1], [1000001, 1], False),
    ],
)
def test_tolerance_is_that_of_the_dtype(theirs: Any, ours: Any, agrees: bool) -> None:
    modules = torch.nn.Identity(), nn.Identity()
    modules[0].register_forward_hook(lambda *_: torch.tensor(theirs))
    modules[1].register_forward_hook(lambda *_: jnp.asarray(torch.tensor(ours).numpy()))
    assert jm.compare(*modules, X).equal is agrees


def test_tolerances_can_be_given() -> None:
    theirs, ours = make_pair()
    ours[0].bias.data += 0.01
    assert not jm.compare(theirs, ours, X) and jm.compare(theirs, ours, X, atol=1.0)
    assert not jm.compare(theirs, ours, X, rtol=1e-6, atol=0.001)


def test_transformer_is_walked_past_fused_kernels_and_compiled_calls() -> None:
    theirs = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1).eval()
    ours = jm.from_torch(theirs)
    ours.compile()
    padded = np.array([[False, False, True]])
    result = jm.compare(theirs, ours, np.ones((1, 3, 4)), src_key_padding_mask=padded)
    assert result.equal and {"layers.0.self_attn", "layers.0.linear1"} < {row.name for row in result.rows}
    assert torch.backends.mha.get_fastpath_enabled()


def test_numpys_default_stands_for_the_dtype_of_the_weights() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        theirs = torch.nn.Linear(4, 2, dtype=dtype)
        assert jm.compare(theirs, jm.from_torch(theirs), X)


def test_recurrent_net_takes_packed_sequences() -> None:
    theirs = torch.nn.GRU(4, 2)
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3, 4), torch.ones(2, 4)])
    result = jm.compare(theirs, jm.from_torch(theirs), (packed,))
    assert result.equal and result.rows[0].shape == "(5, 2), (3,), ..."


@pytest.mark.parametrize("theirs, ours", [(TorchTied, Tied), (lambda: TorchBlock(2), Block)])
def test_integer_and_image_inputs(theirs: Any, ours: Any) -> None:
    module = theirs()
    x = jnp.array([1, 2]) if ours is Tied else np.ones((1, 2, 3, 3))
    assert jm.compare(module, jm.from_torch(module, {type(module): ours}), x)


def test_interrupt_passes_and_leaves_no_hooks() -> None:
    theirs, ours = make_pair()

    def interrupt(module: Any, args: Any) -> None:
        raise KeyboardInterrupt("stop")

    handle = ours[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        jm.compare(theirs, ours, X)
    handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*theirs.modules(), *ours.modules()])
    assert torch.is_grad_enabled() and jm.compare(theirs, ours, X)


def test_modes_must_be_the_same() -> None:
    theirs, ours = make_pair()
    ours[1].eval()
    message = r"'1' is in training mode, its counterpart in net in evaluation mode: call .eval\(\), or .train\(\)"
    with pytest.raises(ValueError, match=message):
        jm.compare(theirs, ours, X)


REFUSED = [
    (lambda: nn.ReLU(), lambda: nn.ReLU(), TypeError, "a torch.nn.Module, got jaxmodules.*ReLU: call compare"),
    (
        lambda: torch.nn.ReLU(),
        lambda: torch.nn.ReLU(),
        TypeError,
        "a jaxmodules Module, got ReLU: call compare",
    ),
    (lambda: torch.nn.LazyLinear(2), lambda: nn.Linear(4, 2), ValueError, "'weight' of torch_module has no shape yet"),
]


@pytest.mark.parametrize("theirs, ours, error, message", REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_can_not_be_compared_is_refused(theirs: Any, ours: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jm.compare(theirs(), ours(), X)
