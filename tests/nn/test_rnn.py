"""Packed sequences, dropout between layers, and weights that come from elsewhere."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn.functional.rnn import recurrence
from jaxmodules.nn.modules.rnn import apply_permutation
from jaxmodules.nn.utils import rnn as ours
from tests.table import Case, build_pair, leaves

theirs = torch.nn.utils.rnn
LENGTHS = [3, 5, 1, 3]
X = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
LAYERS = [
    Case("RNN", (3, 2)),
    Case("GRU", (3, 2, 2), dict(bidirectional=True)),
    Case("LSTM", (3, 2, 2), dict(bidirectional=True, bias=False, batch_first=True)),
    Case("LSTM", (3, 4), dict(proj_size=2, bidirectional=True)),
]
DERIVED = [  # with the batch sizes of a packed input
    (Case("RNN", (3, 2)), None),
    (Case("RNN", (3, 2), dict(nonlinearity="relu")), [4, 4, 3, 1]),
    (Case("GRU", (3, 2), dict(bidirectional=True)), [4, 4, 3, 1]),
    (Case("GRU", (3, 2), dict(bias=False)), None),
    (Case("LSTM", (3, 4), dict(proj_size=2)), None),
    (Case("LSTM", (3, 4), dict(proj_size=2)), [4, 4, 3, 1]),
]

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def same(one: Any, other: Any) -> None:
    for mine, its in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_allclose(mine, its.detach().numpy(), 1e-5, 1e-5)


def states(net: torch.nn.RNNBase) -> Any:
    rng = np.random.default_rng(1)
    count = net.num_layers * (1 + net.bidirectional)
    sizes = [net.proj_size or net.hidden_size, *[net.hidden_size] * (net.mode == "LSTM")]
    arrays = tuple(rng.standard_normal((count, 4, size)).astype(np.float32) for size in sizes)
    return arrays if net.mode == "LSTM" else arrays[0]


@pytest.mark.parametrize("case", LAYERS, ids=str)
@pytest.mark.parametrize("lengths, is_sorted", [(LENGTHS, False), (sorted(LENGTHS, reverse=True), True)])
def test_packed_sequences_give_the_output_states_and_gradients_of_torch(
    case: Case, lengths: list[int], is_sorted: bool
) -> None:
    net, other = build_pair(case)
    x, hx = torch.tensor(X, requires_grad=True), jax.tree.map(torch.tensor, states(other))
    packed = theirs.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=is_sorted)
    expected, expected_states = other(packed, hx)
    (expected.data.sin().sum() + sum(state.cos().sum() for state in leaves(expected_states))).backward()

    @jax.jit
    def run(net: Any, x: Any) -> Any:
        output, final = net(ours.pack_padded_sequence(x, lengths, enforce_sorted=is_sorted), states(other))
        return jnp.sin(output.data).sum() + sum(jnp.cos(state).sum() for state in leaves(final)), (output, final)

    (_, (output, final)), (gradient, given) = jax.value_and_grad(run, (0, 1), has_aux=True)(net, X)
    assert isinstance(output, ours.PackedSequence)
    same(tuple(output), tuple(expected))
    same(final, expected_states)
    same(given, x.grad)
    for name, parameter in other.named_parameters():
        np.testing.assert_allclose(gradient.get_parameter(name), parameter.grad, 1e-5, 1e-5, err_msg=name)


def test_a_packed_sequence_goes_in_and_out_of_compiled_functions() -> None:
    packed = ours.pack_padded_sequence(X, LENGTHS, enforce_sorted=False)
    net = nn.GRU(3, 2)
    expected, _ = net(packed)
    for output in (jm.jit(lambda net, packed: net(packed)[0])(net, packed), jm.jit(lambda net: net(packed)[0])(net)):
        assert isinstance(output, ours.PackedSequence)
        assert output.batch_sizes.dtype == np.int64 and (output.batch_sizes == packed.batch_sizes).all()
        np.testing.assert_allclose(output.data, expected.data, 1e-6, 1e-6)
    padded, lengths = jax.jit(ours.pad_packed_sequence)(packed)
    np.testing.assert_array_equal(padded, ours.pad_packed_sequence(packed)[0])
    assert lengths.tolist() == LENGTHS


def test_a_packed_sequence_is_a_named_tuple_with_conversions() -> None:
    packed = ours.pack_padded_sequence(X, LENGTHS, enforce_sorted=False)
    data, batch_sizes, order, inverse = packed
    assert batch_sizes.tolist() == [4, 3, 3, 1, 1] and order[inverse].tolist() == [0, 1, 2, 3]
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), ours.PackedSequence((data, batch_sizes))):
        assert isinstance(twin, ours.PackedSequence) and (twin.data == data).all()
    assert packed.half().data.dtype == jnp.float16 and packed.int().data.dtype == jnp.int32
    assert packed.to(jnp.bfloat16).float().data.dtype == jnp.float32 and packed.float() is packed
    assert packed.cpu() is packed and packed.to("cpu", jnp.float32) is packed
    assert packed.to("cpu", jnp.float16).data.dtype == jnp.float16 and packed.cpu().batch_sizes is batch_sizes
    leaves_of = jax.tree_util.tree_leaves_with_path(packed)
    assert [jax.tree_util.keystr(path) for path, _ in leaves_of] == [".data", ".sorted_indices", ".unsorted_indices"]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("total", [None, 7])
def test_padding_and_packing_agree_with_torch(batch_first: bool, total: int | None) -> None:
    x = np.arange(40).reshape(4, 5, 2) if batch_first else np.arange(40).reshape(5, 4, 2)
    one = ours.pack_padded_sequence(x, np.array(LENGTHS), batch_first, enforce_sorted=False)
    other = theirs.pack_padded_sequence(torch.tensor(x), torch.tensor(LENGTHS), batch_first, enforce_sorted=False)
    same(tuple(one), tuple(other))
    options = dict(batch_first=batch_first, padding_value=-1, total_length=total)
    (padded, lengths), (expected, _) = (
        ours.pad_packed_sequence(one, **options),
        theirs.pad_packed_sequence(other, **options),
    )
    same(padded, expected)
    same(ours.unpad_sequence(padded, lengths, batch_first), theirs.unpack_sequence(other))
    same(ours.unpack_sequence(one), theirs.unpack_sequence(other))


@pytest.mark.parametrize("side", ["left", "right"])
def test_pad_sequence_agrees_with_torch_for_known_and_traced_arrays(side: str) -> None:
    parts = [X[:length, 0] for length in LENGTHS]
    expected = theirs.pad_sequence([torch.tensor(part) for part in parts], True, 2.5, side)
    same(ours.pad_sequence(parts, True, 2.5, side), expected)
    same(ours.pad_sequence([*map(jnp.asarray, parts)], True, 2.5, side), expected)
    same(jax.jit(lambda parts: ours.pad_sequence(parts, True, 2.5, side))(parts), expected)
    same(tuple(ours.pack_sequence(parts, False)), tuple(theirs.pack_sequence([*map(torch.tensor, parts)], False)))


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda s, x: s.pack_padded_sequence(x, [3]),
            r"Expected `len\(lengths\)` to be equal to batch_size, but got 1",
        ),
        (lambda s, x: s.pack_padded_sequence(x, [3, 3, 3, 0]), "Length of all samples has to be greater than 0"),
        (lambda s, x: s.pack_padded_sequence(x, LENGTHS), "`lengths` array must be sorted in decreasing order when"),
        (lambda s, x: s.pack_padded_sequence(x[:, :0], []), "Cannot pack empty tensors"),
        (lambda s, x: s.pack_padded_sequence(x[0, 0], [1]), "Dimension out of range"),
        (lambda s, x: s.pad_packed_sequence(s.pack_sequence([x]), total_length=2), "Expected total_length to be at"),
        (lambda s, x: s.pad_sequence([]), "received an empty list of sequences"),
        (lambda s, x: s.pad_sequence(5), "Expected iterable for input sequences, but got arg of type: <class 'int'>"),
        (lambda s, x: s.pad_sequence([x], padding_side="up"), "Expected padding_side to be one of left or right"),
        (lambda s, x: s.pad_sequence([x, x[:, :2]]), r"The size of tensor a \(4\) must match the size of tensor b"),
        (lambda s, x: s.PackedSequence(x), "Expected data to be a list or tuple of length 2"),
    ],
)
def test_refusals_are_of_the_class_and_words_of_torch(call: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as refusal:  # noqa: B017 - the class is torch's to choose
        call(theirs, torch.tensor(X))
    with pytest.raises(refusal.type, match=message):
        call(ours, X)


def test_lengths_must_be_known_to_a_compiled_function() -> None:
    with pytest.raises(RuntimeError, match="lengths decide shapes, so they must be known.*pack outside and pass"):
        jax.jit(lambda x, lengths: ours.pack_padded_sequence(x, lengths).data)(X, jnp.array([5, 4, 3, 2]))
    with pytest.raises(ValueError, match="batch_sizes should always be on CPU, but they are traced"):
        jax.jit(lambda x, sizes: ours.PackedSequence(x, sizes).data)(X[0], jnp.array([2, 2]))
    with pytest.raises(RuntimeError, match="Expected lengths of at most 5, the time steps of the input, but got 6"):
        ours.pack_padded_sequence(X, [6, 1, 1, 1])
    with pytest.raises(RuntimeError, match=r"Expected sum\(batch_sizes\) = 4 rows of packed data, got 5"):
        nn.RNN(3, 2)(ours.PackedSequence(jnp.asarray(X[:, 0]), np.array([2, 2])))


def test_dropout_between_layers_draws_anew_and_only_in_training() -> None:
    net, x = nn.LSTM(3, 8, 2, dropout=0.5), jnp.asarray(X)
    apply, params, state = jm.functionalize(net)
    one, two = (apply(params, state, x, rng=jax.random.key(seed))[0][0] for seed in (1, 2))
    assert (one != two).any() and (one == apply(params, state, x, rng=jax.random.key(1))[0][0]).all()
    assert (net(x)[0] != net(x)[0]).any()
    assert (net.eval()(x)[0] == net(x)[0]).all()
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last recurrent layer"):
        nn.GRU(3, 2, dropout=0.5)


@pytest.mark.parametrize("name, cell", [("RNN", "RNNCell"), ("LSTM", "LSTMCell"), ("GRU", "GRUCell")])
def test_a_cell_repeated_is_the_layer(name: str, cell: str) -> None:
    layer, one = getattr(nn, name)(3, 2), getattr(nn, cell)(3, 2)
    one.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.state_dict().items()})
    state, outputs = None, []
    for x in X:
        state = one(x, state)
        outputs.append(leaves(state)[0])
    output, final = layer(X)
    np.testing.assert_allclose(output, jnp.stack(outputs), 1e-6, 1e-6)
    jax.tree.map(lambda mine, its: np.testing.assert_allclose(mine[0], its, 1e-6, 1e-6), final, state)


def test_weights_are_read_by_name_at_each_call() -> None:
    net = nn.GRU(3, 2)
    before = net(X)[0]
    net.weight_hh_l0 = nn.Parameter(jnp.zeros((6, 2)))
    replaced = net(X)[0]
    assert net.all_weights[0][1] is net.weight_hh_l0 is net._flat_weights[1] and (before != replaced).any()
    del net.weight_hh_l0
    net.weight_hh_l0 = jnp.ones((6, 2))
    assert (net(X)[0] != replaced).any() and len(list(net.parameters())) == 3
    assert sum(isinstance(weight, nn.Parameter) for weight in net._flat_weights) == 3
    assert net._flat_weights_names == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    net.flatten_parameters()


def test_padding_of_a_packed_sequence_takes_no_part_in_gradients() -> None:
    x = X.copy()
    x[0, 1] = np.nan  # the sequence that is packed first
    packed = ours.pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    gradient = jax.grad(lambda packed: nn.LSTM(3, 2)(packed)[1][0][0, 2].sum(), allow_int=True)(packed)
    assert np.isfinite(ours.pad_packed_sequence(packed._replace(data=gradient.data))[0][:, 2]).all()


def test_second_derivatives_agree_forward_and_reverse() -> None:
    for net in (nn.GRU(3, 2, bidirectional=True), nn.LSTM(3, 2)):

        def function(x: Any, net: Any = net) -> Any:
            return (net(x[:3, :1])[0] ** 2).sum()

        x = jnp.asarray(X)
        forward, reverse = jax.jacfwd(jax.grad(function))(x), jax.jacrev(jax.grad(function))(x)
        np.testing.assert_allclose(forward, reverse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case, batch_sizes", DERIVED, ids=str)
def test_forward_and_reverse_derivatives_of_each_argument_agree(case: Case, batch_sizes: list[int] | None) -> None:
    net, sizes = getattr(nn, case.name)(*case.args, **case.kwargs), batch_sizes and np.array(batch_sizes)
    x, hx = jnp.asarray(X if batch_sizes is None else X[:3].reshape(12, 3)), states(net)
    arguments = x, hx if isinstance(hx, tuple) else (hx,), tuple(weight.value for weight in net._flat_weights)
    arguments = jax.tree.map(jnp.asarray, arguments)
    tangents = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), arguments)

    @partial(jax.jit, static_argnums=0)
    def both(index: int, arguments: Any, tangents: Any) -> tuple[Any, Any]:
        def function(argument: Any) -> Any:  # of one alone, so that the others have no tangent
            x, hx, weights = (*arguments[:index], argument, *arguments[index + 1 :])
            output, final = recurrence(
                net.mode, x, hx, weights, net.bias, 1, 0.0, False, net.bidirectional, False, sizes
            )
            return jnp.sin(output).sum() + sum((part**2).sum() for part in final)

        gradient = jax.tree.leaves(jax.grad(function)(arguments[index]))
        reverse = sum(map(jnp.vdot, gradient, jax.tree.leaves(tangents[index])))
        return jax.jvp(function, (arguments[index],), (tangents[index],))[1], reverse

    for index in range(3):
        forward, reverse = both(index, arguments, tangents)
        np.testing.assert_allclose(forward, reverse, 1e-5)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_the_loop_of_a_derivative_multiplies_once_and_adds_up_no_weights(name: str) -> None:
    net = getattr(nn, name)(3, 2)
    compiled = jax.jit(jax.grad(lambda net: net(X)[0].sum())).lower(net).as_text()
    bodies = [body for body in compiled.split("func.func private")[1:] if "dot_general" in body]
    assert all(body.count("dot_general") == 1 for body in bodies), compiled
    # the input's projection, the gradients of both weights, and one product in each of the two loops
    assert compiled.count("stablehlo.dot_general") == 5, compiled


def test_double_precision_is_kept() -> None:
    with jax.enable_x64(True):
        output, (h, c) = nn.LSTM(3, 2, dtype=jnp.float64)(X.astype(np.float64))
        assert output.dtype == h.dtype == c.dtype == jnp.float64
        with pytest.raises(ValueError, match=r"RNN input dtype \(float64\) does not match weight dtype \(float32\)"):
            nn.LSTM(3, 2)(X.astype(np.float64))


def test_permutations_reorder_the_batch_and_the_deprecated_function_says_so() -> None:
    order = np.array([1, 0])
    with pytest.warns(FutureWarning, match="`apply_permutation` is deprecated, please use"):
        moved = apply_permutation(X[:, :2], order)
    np.testing.assert_array_equal(moved, X[:, order])
    h, c = nn.LSTM(3, 2).permute_hidden((X[:, :2], X[:, 2:]), ours.invert_permutation(order))
    np.testing.assert_array_equal(jnp.stack([h, c]), [X[:, [1, 0]], X[:, [3, 2]]])
