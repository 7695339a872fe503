"""What the rows of the table can't say of embedding bags, one-hot codes and grouped products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F
from tests.table import Case, build_pair

TABLE = np.arange(6.0, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_write_renormalised_rows_back(mode: str) -> None:
    ours, theirs = build_pair(Case("EmbeddingBag", (5, 3), dict(max_norm=0.5, mode=mode)))
    index, offsets = np.array([0, 2, 2]), np.array([0, 2])
    theirs(torch.tensor(index), torch.tensor(offsets)).sum().backward()
    gradient = jm.grad(lambda net: net(index, offsets).sum())(ours)["weight"]
    np.testing.assert_allclose(ours.weight, theirs.weight.detach().numpy(), 1e-6, 1e-6)
    np.testing.assert_allclose(gradient, theirs.weight.grad.numpy(), 1e-6, 1e-6)


def test_bags_from_pretrained_are_frozen_unless_told() -> None:
    assert not nn.EmbeddingBag.from_pretrained(TABLE).weight.requires_grad
    net = nn.EmbeddingBag.from_pretrained(jnp.asarray(TABLE), freeze=False, mode="max", padding_idx=-1)
    assert net.weight.requires_grad and net.padding_idx == 2 and net.mode == "max"
    assert net(jnp.array([[0, 1, 2]])).tolist() == [[2.0, 3.0]]
    with pytest.raises(AssertionError, match="Embeddings parameter is expected to be 2-dimensional"):
        nn.EmbeddingBag.from_pretrained(TABLE[0])
    with pytest.raises(AssertionError, match="Shape of weight does not match num_embeddings and embedding_dim"):
        nn.EmbeddingBag(4, 2, _weight=TABLE)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_wrong_indices_raise_where_known_and_give_nan_where_traced(mode: str) -> None:
    for wrong in (3, -1):
        for index, offsets in ((np.array([0, wrong]), np.array([0])), (np.array([[0, wrong]]), None)):
            message = f"found idx to be {wrong}" if mode == "max" else f"Index 1 of input takes value {wrong} which"
            for call in (torch.nn.functional.embedding_bag, F.embedding_bag):
                kind = torch.tensor if call is not F.embedding_bag else np.asarray
                with pytest.raises(RuntimeError, match=message):
                    call(kind(index), kind(TABLE), offsets if offsets is None else kind(offsets), mode=mode)
            traced = jax.jit(lambda *args: F.embedding_bag(*args, mode=mode))(index, TABLE, offsets)  # noqa: B023
            assert jnp.isnan(traced).all()


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_last_bag_ends_where_that_of_torch_does(mode: str, padding_idx: int | None) -> None:
    index = np.array([0, 1, 1, 0])
    for offsets in (np.array([0, 3, 3]), np.array([0, 3, 4])):
        options = dict(mode=mode, padding_idx=padding_idx, include_last_offset=True)
        expected = torch.nn.functional.embedding_bag(*map(torch.tensor, (index, TABLE, offsets)), **options)
        np.testing.assert_allclose(F.embedding_bag(index, TABLE, offsets, **options), expected, rtol=1e-6)


def test_bags_refuse_offsets_that_are_known_to_be_wrong() -> None:
    index = np.array([0, 1, 2])
    with pytest.raises(RuntimeError, match=r"offsets\[0\] has to be 0, .* However, got 1"):
        F.embedding_bag(index, TABLE, np.array([1, 2]))
    with pytest.raises(RuntimeError, match=r"offsets\[-1\] can not be greater than input's length 3 .* of 4"):
        F.embedding_bag(index, TABLE, np.array([0, 4]))


def test_bags_take_their_arguments_in_the_old_order_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="Argument order of nn.functional.embedding_bag was changed"):
        swapped = F.embedding_bag(TABLE, np.array([0, 2]), np.array([0]))
    assert swapped.tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_scale_gradients_by_frequency_as_single_vectors_do(mode: str) -> None:
    index = np.array([[2, 0, 2, 1], [2, 2, 0, 0]])

    def loss(table: jax.Array, bags: bool) -> jax.Array:
        if bags:
            reduced = F.embedding_bag(index, table, mode=mode, scale_grad_by_freq=True)
        else:
            reduced = getattr(F.embedding(index, table, scale_grad_by_freq=True), mode)(1)
        return (reduced * np.arange(1, 5.0, dtype=np.float32).reshape(2, 2)).sum()

    one, other = (jax.grad(loss)(jnp.asarray(TABLE), bags) for bags in (True, False))
    np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(("spec", "expected"), [((None, "b"), ("a", None, "b")), ((None, "a"), ("a", None, None))])
def test_rows_lie_as_their_indices_do(spec: tuple[str | None, ...], expected: tuple[str | None, ...]) -> None:
    mesh = jax.make_mesh((2, 2), ("a", "b"))
    index = jax.device_put(np.zeros((2, 3), np.int32), NamedSharding(mesh, PartitionSpec("a")))
    weight = jax.device_put(jnp.ones((5, 4), jnp.float32), NamedSharding(mesh, PartitionSpec(*spec)))
    assert F.embedding(index, weight).sharding.spec == PartitionSpec(*expected)
    gradient = jax.jit(jax.grad(lambda weight, index: F.embedding(index, weight).sum()))(weight, index)
    assert gradient.sharding.spec == weight.sharding.spec


def test_one_hot_counts_classes_where_they_are_known() -> None:
    index = np.array([[1, 0], [2, 2]])
    expected = torch.nn.functional.one_hot(torch.tensor(index))
    np.testing.assert_array_equal(F.one_hot(index), expected)
    assert F.one_hot(index.astype(np.uint8)).shape == (2, 2, 3)
    with pytest.raises(RuntimeError, match="Class values must be non-negative. Got -1"):
        F.one_hot(np.array([-1]))
    with pytest.raises(RuntimeError, match="give num_classes, for example"):
        jax.jit(F.one_hot)(index)
    assert jax.jit(lambda x: F.one_hot(x, 2))(index).sum() == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_grouped_products_leave_out_what_no_group_holds(dtype: str) -> None:
    a, b = (np.random.default_rng(0).standard_normal(shape).astype(dtype) for shape in ((6, 8), (3, 8, 8)))
    offsets = np.array([1, 1, 4], np.int32)
    result = F.grouped_mm(jnp.asarray(a), jnp.asarray(b), offs=offsets)
    expected = torch._grouped_mm(
        *(torch.tensor(x.astype(np.float32)).to(getattr(torch, dtype)) for x in (a, b)), offs=torch.tensor(offsets)
    )
    assert result.dtype == dtype and (result[4:] == 0).all()
    np.testing.assert_allclose(result[:4].astype(jnp.float32), expected[:4].float(), rtol=0.02, atol=0.02)
