"""Attention and the transformer where a table of cases can't tell: chance, hints, warnings, old files, whole models."""

import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F
from jaxmodules.nn.modules import transformer
from tests.table import Case, build_pair

RNG = np.random.default_rng(0)
Q, K, V = (RNG.standard_normal((2, 3, size, 4)).astype(np.float32) for size in (5, 6, 6))
SEEN = np.array([[True, False] * 3, [False] * 6, [True] * 6, [False] * 6, [False] * 5 + [True]])


def language_model(library: Any) -> Any:
    """Write a block of nanoGPT in either library."""

    class Block(library.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = library.LayerNorm(8, bias=False), library.LayerNorm(8, bias=False)
            self.c_attn, self.c_proj = library.Linear(8, 24), library.Linear(8, 8)
            self.mlp = library.Sequential(library.Linear(8, 32), library.GELU(), library.Linear(32, 8))

        def forward(self, x: Any) -> Any:
            q, k, v = (self.c_attn(self.ln_1(x)).reshape(2, 5, 3, 2, 4)[:, :, i].swapaxes(1, 2) for i in range(3))
            y = library.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.c_proj(y.swapaxes(1, 2).reshape(2, 5, 8))
            return x + self.mlp(self.ln_2(x))

    return library.Sequential(library.Embedding(7, 8), Block(), Block(), library.Linear(8, 7))


def masked_encoder(library: Any) -> Any:
    """Write a small BERT in either library."""
    layer = library.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True)
    return library.Sequential(
        library.Embedding(7, 8, padding_idx=0), library.TransformerEncoder(layer, 2), library.Linear(8, 7)
    )


@pytest.mark.parametrize("build", [language_model, masked_encoder])
def test_models_compute_and_learn_as_in_torch(build: Callable[[Any], Any]) -> None:
    torch.manual_seed(0), jm.manual_seed(0)
    theirs, ours = build(torch.nn), build(nn)
    tokens, labels = RNG.integers(0, 7, (2, 2, 5))
    expected = torch.nn.functional.cross_entropy(
        theirs(torch.tensor(tokens)).reshape(-1, 7), torch.tensor(labels).ravel()
    )
    expected.backward()
    loss, grads = jm.jit(jm.value_and_grad(lambda net: F.cross_entropy(net(tokens).reshape(-1, 7), labels.ravel())))(
        ours
    )
    np.testing.assert_allclose(loss, expected.item(), 1e-5)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad.numpy(), 1e-4, 1e-6, err_msg=name)


def test_rows_without_keys_are_zeros_with_finite_derivatives_of_every_order() -> None:
    values = V[..., :3]  # of another size, which keeps torch from a kernel without second derivatives

    def total(q: Any) -> Any:
        return jnp.square(F.scaled_dot_product_attention(q, K, values, SEEN)).sum()

    assert (F.scaled_dot_product_attention(Q, K, values, SEEN)[:, :, 1] == 0).all()
    first, second = jax.jit(lambda q: jax.jvp(jax.grad(total), (q,), (jnp.ones_like(q),)))(jnp.asarray(Q))
    q = torch.tensor(Q, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    gradient = torch.autograd.functional.hvp(
        lambda q: attend(q, torch.tensor(K), torch.tensor(values), torch.tensor(SEEN)).square().sum(),
        q,
        torch.ones_like(q),
    )[1]
    np.testing.assert_allclose(second, gradient.numpy(), 1e-4, 1e-5)
    assert jnp.isfinite(first).all()


def test_weights_of_rows_without_keys_are_nan_as_in_torch() -> None:
    ours, theirs = build_pair(Case("MultiheadAttention", (4, 2)))
    x, mask = RNG.standard_normal((5, 4)).astype(np.float32), np.eye(5, dtype=bool) | (np.arange(5)[:, None] == 2)
    expected = theirs(*[torch.tensor(x)] * 3, attn_mask=torch.tensor(mask))
    for one, other in zip(ours(x, x, x, attn_mask=mask), expected, strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), 1e-5, 1e-6)
    assert jnp.isfinite(ours(x, x, x, attn_mask=mask, need_weights=False)[0]).all()


def test_dropout_drops_weights_anew_in_every_call_and_layer() -> None:
    one, two = (
        F.scaled_dot_product_attention(Q, K, np.ones((2, 3, 6, 1), np.float32), dropout_p=0.5) for _ in range(2)
    )
    assert (one != two).any() and (one > 1).any() and (one < 1).any()
    net = nn.MultiheadAttention(8, 2, dropout=0.5)
    x = jnp.ones((50, 2, 8))
    weights = jm.jit(lambda net: net(x, x, x, average_attn_weights=False)[1])(net)
    np.testing.assert_allclose(jnp.unique(weights), [0, 0.04], 1e-5, 1e-7)
    assert (weights[0, 0] != weights[0, 1]).any() and (net.eval()(x, x, x)[1] > 0).all()
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, 0.5, batch_first=True), 2).layers
    first, second = jm.jit(lambda layers: [layer(x) for layer in layers])(layers)
    assert (first != second).any()


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_causal_masks_are_told_from_others(dtype: Any) -> None:
    causal = np.triu(np.full((4, 4), -np.inf).astype(dtype), 1)
    for mask, hint, size in [
        (causal, None, None), (causal, None, 4), (causal, None, 3), (causal.T, None, 4), (causal, False, 4),
        (causal.T, True, 4), (causal[None], None, 4), (None, None, 4), (None, True, 4),
    ]:  # fmt: skip
        given = None if mask is None else torch.tensor(mask)
        expected = torch.nn.modules.transformer._detect_is_causal_mask(given, hint, size)
        assert transformer._detect_is_causal_mask(mask, hint, size) == expected
    assert not jax.jit(lambda mask: transformer._detect_is_causal_mask(mask))(causal)
    mask = nn.Transformer.generate_square_subsequent_mask(4, dtype=dtype)
    np.testing.assert_array_equal(mask, causal)


@pytest.mark.parametrize(
    "options",
    [dict(norm_first=True), dict(batch_first=False), dict(bias=False), dict(activation=F.tanh), dict(nhead=1)],
)
def test_encoder_warns_as_torch_where_nested_tensors_are_out(options: dict[str, Any]) -> None:
    settings = dict(d_model=4, nhead=2, dim_feedforward=4, batch_first=True) | options
    theirs = settings | ({"activation": torch.tanh} if "activation" in options else {})
    with pytest.warns(UserWarning, match="enable_nested_tensor is True") as expected:
        torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(**theirs), 1)
    with pytest.warns(UserWarning, match="enable_nested_tensor is True") as found:
        net = nn.TransformerEncoder(nn.TransformerEncoderLayer(**settings), 1)
    assert str(found[0].message) == str(expected[0].message)
    assert net.enable_nested_tensor and not net.use_nested_tensor
    with pytest.warns(UserWarning, match="encoder_layer was not TransformerEncoderLayer"):
        nn.TransformerEncoder(nn.Linear(4, 4), 1)


def test_masks_of_two_types_warn_and_add_up() -> None:
    ours, theirs = build_pair(Case("MultiheadAttention", (4, 2)))
    x, padding = RNG.standard_normal((5, 2, 4)).astype(np.float32), np.arange(10).reshape(2, 5) % 5 > 2
    bias = RNG.standard_normal((4, 5, 5)).astype(np.float32)
    with pytest.warns(UserWarning, match="Support for mismatched key_padding_mask and attn_mask is deprecated"):
        expected, _ = theirs(*[torch.tensor(x)] * 3, torch.tensor(padding), attn_mask=torch.tensor(bias))
    with pytest.warns(UserWarning, match="Support for mismatched key_padding_mask and attn_mask is deprecated"):
        np.testing.assert_allclose(ours(x, x, x, padding, attn_mask=bias)[0], expected.detach().numpy(), 1e-5, 1e-6)


def test_merge_masks_returns_the_masks_and_kinds_of_torch() -> None:
    ours, theirs = build_pair(Case("MultiheadAttention", (4, 2)))
    x, padding, two, three = (np.ones(shape, np.float32) for shape in ((3, 5, 4), (3, 5), (5, 5), (6, 5, 5)))
    for masks in ((None, None), (None, padding), (two, None), (two, padding), (three, padding)):
        given = [None if mask is None else torch.tensor(mask) for mask in masks]
        expected, kind = theirs.merge_masks(*given, torch.tensor(x))
        merged, found = ours.merge_masks(*masks, x)
        assert found == kind
        np.testing.assert_array_equal(0 if merged is None else merged, 0 if expected is None else expected.numpy())


def test_modules_of_old_files_get_the_attributes_that_came_later() -> None:
    attention, layer = nn.MultiheadAttention(4, 2), nn.TransformerDecoderLayer(4, 2, 4)
    del attention.__dict__["_qkv_same_embed_dim"], layer.__dict__["activation"]
    assert pickle.loads(pickle.dumps(attention))._qkv_same_embed_dim
    assert pickle.loads(pickle.dumps(layer)).activation is F.relu


def test_transformer_runs_with_an_encoder_and_a_decoder_of_ones_own() -> None:
    class Encoder(nn.Linear):
        def forward(self, input: Any, **options: Any) -> Any:
            return super().forward(input)

    class Decoder(nn.Bilinear):
        def forward(self, input1: Any, input2: Any, **options: Any) -> Any:
            return super().forward(input1, input2)

    net = nn.Transformer(4, 2, custom_encoder=Encoder(4, 4), custom_decoder=Decoder(4, 4, 4))
    assert isinstance(net.encoder, Encoder) and net(jnp.ones((5, 2, 4)), jnp.ones((5, 2, 4))).shape == (5, 2, 4)


def test_float64_stays_and_arrays_of_numpy_are_projected_together() -> None:
    net, x = nn.MultiheadAttention(4, 2), RNG.standard_normal((5, 2, 4)).astype(np.float32)
    np.testing.assert_allclose(net(x, x, x)[0], net(x, x.copy(), x.copy())[0], 1e-5, 1e-6)
    with jax.enable_x64(True):
        given = (jnp.asarray(array, jnp.float64) for array in (Q, K, V))
        result = F.scaled_dot_product_attention(*given, scale=np.float64(0.5))
        with pytest.raises(RuntimeError, match="Expected attn_mask dtype to be bool or float or to match query"):
            F.scaled_dot_product_attention(Q, K, V, np.zeros((5, 6)))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.tensor(a).double() for a in (Q, K, V)), scale=0.5
    )
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected.numpy(), 1e-12)
