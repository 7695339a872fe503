"""What the table cannot say about losses: kinks, chunks, lengths known late, and values checked on the host."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules import nn
from jaxmodules.nn import functional as F
from jaxmodules.nn.functional.linear_cross_entropy_options import LinearCrossEntropyOptions

RNG = np.random.default_rng(0)
FEATURES, WEIGHT = (RNG.standard_normal(shape).astype(np.float32) for shape in ((7, 3), (11, 3)))
LABELS = RNG.integers(0, 11, 7)


@pytest.mark.parametrize("size", [1, 3, 7, 20])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_chunks_change_neither_the_loss_nor_its_gradients(size: int, reduction: str) -> None:
    factors = RNG.uniform(1, 2, 11).astype(np.float32)

    def loss(options: LinearCrossEntropyOptions | None, *arrays: jax.Array) -> jax.Array:
        settings = dict(weight=factors, ignore_index=int(LABELS[0]), reduction=reduction, options=options)
        return (F.linear_cross_entropy(arrays[0], arrays[1], LABELS, linear_bias=arrays[2], **settings) ** 2).sum()

    arrays = (FEATURES, WEIGHT, factors)
    whole, chunked = (
        jax.jit(jax.value_and_grad(lambda *a, o=options: loss(o, *a), argnums=(0, 1, 2)))(*arrays)
        for options in (None, LinearCrossEntropyOptions(batch_chunk_size=size))
    )
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, 1e-4, 1e-5), chunked, whole)


def test_chunks_are_never_computed_all_at_once() -> None:
    def shapes(options: LinearCrossEntropyOptions | None) -> str:
        function = jax.grad(lambda x: F.linear_cross_entropy(x, WEIGHT, LABELS, options=options))
        return str(jax.make_jaxpr(function)(FEATURES))

    assert "f32[7,11]" in shapes(None) and "f32[7,11]" not in shapes(LinearCrossEntropyOptions(batch_chunk_size=2))


@pytest.mark.parametrize("method", ["auto", "aspect_ratio", "aspect_ratio:3"])
@pytest.mark.parametrize("sizes", [(64, 4, 100), (100, 16, 17), (3, 8, 2)])
def test_chunk_sizes_are_those_of_torch(method: str, sizes: tuple[int, int, int]) -> None:
    theirs = torch.nn.LinearCrossEntropyOptions(chunking_method=method)
    for dtype in ("float32", "bfloat16"):
        expected = theirs._adjust(*sizes, getattr(torch, dtype), torch.device("cpu")).batch_chunk_size
        assert LinearCrossEntropyOptions(chunking_method=method).chunk_size(*sizes, jnp.dtype(dtype)) == expected


def test_chunk_options_are_checked_and_print_as_in_torch() -> None:
    assert repr(nn.LinearCrossEntropyOptions()) == repr(torch.nn.LinearCrossEntropyOptions())
    for options, message in (
        (dict(acc_policy="fast"), "invalid acc_policy: 'fast'"),
        (dict(chunking_method="rows"), "invalid chunking_method: 'rows'"),
        (dict(batch_chunk_size=0), "batch_chunk_size must be positive int or None, got 0"),
        (dict(acc_dtype=jnp.int32), "acc_dtype must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            nn.LinearCrossEntropyOptions(**options)
    both = nn.LinearCrossEntropyOptions(batch_chunk_size=3, chunking_method="aspect_ratio")
    with pytest.raises(ValueError, match="give different chunk sizes"):
        F.linear_cross_entropy(FEATURES, WEIGHT, LABELS, options=both)
    with pytest.warns(UserWarning, match="``options`` ignored"):
        F.linear_cross_entropy(FEATURES, WEIGHT, LABELS, label_smoothing=0.1, options=nn.LinearCrossEntropyOptions())


def test_ctc_takes_lengths_known_at_run_time() -> None:
    scores = jax.nn.log_softmax(RNG.standard_normal((8, 3, 5)).astype(np.float32))
    targets, lengths = np.array([1, 1, 2, 4, 3, 4]), (np.array([8, 6, 5]), np.array([3, 1, 2]))
    options = dict(reduction="none")
    eager = F.ctc_loss(scores, targets, *lengths, **options)
    traced = jax.jit(lambda *a: F.ctc_loss(*a, **options))(scores, targets, *lengths)
    static = jax.jit(lambda s: F.ctc_loss(s, targets, (8, 6, 5), (3, 1, 2), **options))(scores)
    np.testing.assert_allclose(traced, eager, 1e-6)
    np.testing.assert_allclose(static, eager, 1e-6)


def test_ctc_of_impossible_targets_has_the_gradients_of_torch() -> None:
    scores = RNG.standard_normal((3, 2, 4)).astype(np.float32)
    targets, lengths = np.array([[1, 1], [1, 2]]), ((2, 3), (2, 2))
    for zero in (True, False):
        tensor = torch.tensor(scores, requires_grad=True)
        torch.nn.functional.ctc_loss(tensor, torch.tensor(targets), *lengths, zero_infinity=zero).backward()
        found = jax.grad(lambda s, z=zero: F.ctc_loss(s, targets, *lengths, zero_infinity=z))(scores)
        np.testing.assert_allclose(found, tensor.grad, 1e-5, 1e-6)


def test_ctc_stays_finite_where_a_class_is_impossible() -> None:
    scores = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    loss, gradient = jax.value_and_grad(lambda s: F.ctc_loss(s, np.array([1, 2]), (3,), (2,), reduction="sum"))(scores)
    assert loss == pytest.approx(np.log(2)) and jnp.isfinite(gradient).all()


def test_binary_cross_entropy_checks_what_it_can_see() -> None:
    with pytest.raises(RuntimeError, match="all elements of input should be between 0 and 1"):
        F.binary_cross_entropy(jnp.array([1.5]), jnp.array([1.0]))
    with pytest.raises(RuntimeError, match="all elements of target should be between 0 and 1"):
        F.binary_cross_entropy(jnp.array([0.5]), jnp.array([jnp.nan]))


@pytest.mark.parametrize("name", ["multi_margin_loss", "multilabel_margin_loss"])
def test_classes_out_of_range_raise_where_known_and_give_nan_where_traced(name: str) -> None:
    function = getattr(F, name)
    scores, target = jnp.zeros((1, 3)), np.array([[3, -1, -1]])[:, : 3 if "label" in name else 1]
    target = target if "label" in name else target[0]
    with pytest.raises(RuntimeError, match="out of range"):
        function(scores, target)
    assert jnp.isnan(jax.jit(function)(scores, target))


def test_kl_div_warns_of_mean_as_torch_does() -> None:
    with pytest.warns(UserWarning, match="'batchmean' divides only by the batch size"):
        F.kl_div(jnp.zeros((2, 3)), jnp.ones((2, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert F.kl_div(jnp.zeros((2, 3)), jnp.ones((2, 3)), reduction="batchmean") == 0


def test_gradients_at_the_ends_of_the_scale_are_finite() -> None:
    far, zero = jnp.array([jnp.inf, -jnp.inf, 1e30]), jnp.zeros(3)
    for function in (F.smooth_l1_loss, F.huber_loss, F.l1_loss):
        gradient = jax.grad(lambda x, f=function: f(x, zero, reduction="sum"))(far)
        np.testing.assert_array_equal(gradient, [1, -1, 1])
    near = jax.grad(lambda x: F.gaussian_nll_loss(zero, zero, x, reduction="sum"))(jnp.array([0.0, 1e-9, 2.0]))
    np.testing.assert_allclose(near, [5e5, 5e5, 0.25], 1e-5)


def test_adaptive_softmax_sums_to_one_and_predicts_the_largest() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], div_value=2.0)
    ours = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], div_value=2.0)
    ours.load_state_dict(theirs.state_dict())
    x = 5 * RNG.standard_normal((20, 8)).astype(np.float32)
    np.testing.assert_allclose(ours.log_prob(x), theirs.log_prob(torch.tensor(x)).detach(), 1e-4, 1e-4)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(torch.tensor(x)))
    np.testing.assert_allclose(jnp.exp(ours.log_prob(x)).sum(1), 1, 1e-5)


def test_deprecated_loss_names_warn() -> None:
    with pytest.warns(FutureWarning, match="`NLLLoss2d` has been deprecated"):
        loss = nn.NLLLoss2d(ignore_index=1)
    assert loss(jnp.zeros((1, 2, 2, 2)), jnp.zeros((1, 2, 2), int)) == 0


def test_triplets_take_a_layer_as_their_distance() -> None:
    net = nn.TripletMarginWithDistanceLoss(distance_function=nn.PairwiseDistance(p=1.0, eps=0.0))
    assert list(dict(net.named_children())) == ["distance_function"]
    assert net(jnp.zeros(2), jnp.array([1.0, 1.0]), jnp.array([2.0, 0.5])) == 0.5


def test_weights_of_classes_have_one_axis() -> None:
    with pytest.raises(ValueError, match="expected weight to be None or 1D tensor, got 2D"):
        nn.MultiMarginLoss(weight=jnp.ones((2, 2)))
    with pytest.raises(RuntimeError, match=r"expected weight shape to be \(5,\), got \(4,\)"):
        nn.LinearCrossEntropyLoss(3, 5, weight=jnp.ones(4))
