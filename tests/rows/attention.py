"""Rows of the attention family."""

import numpy as np

from tests.table import Call, Case, fixed, full, z

SDPA, MHA = "scaled_dot_product_attention", "multi_head_attention_forward"
BOTH = ("train", "eval")
SELF = ((5, 2, 8),)
CAUSAL = fixed(np.triu(np.ones((5, 5), bool), 1))
HEADS = dict(query=(2, 4, 3, 8), key=(2, 4, 5, 8), value=(2, 4, 5, 6))
GROUPS = dict(query=(2, 4, 3, 8), key=(2, 2, 5, 8), value=(2, 2, 5, 8))
SEEN = np.array([[True, False, True, True, False], [False] * 5, [False, False, True, False, True]])
BIAS = np.where(SEEN, 0.5, -np.inf).astype(np.float32)
FIRST = dict(query=(5, 2, 4), key=(6, 2, 4), value=(6, 2, 4))
WEIGHTS = dict(in_proj_weight=(12, 4), in_proj_bias=(12,), out_proj_weight=(4, 4), out_proj_bias=(4,))
SETTINGS = dict(embed_dim_to_check=4, num_heads=2, bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0)
ODD = dict(query=(5, 2, 4), key=(6, 2, 3), value=(6, 2, 7))
ODD_WEIGHTS = dict(q_proj_weight=(4, 4), k_proj_weight=(4, 3), v_proj_weight=(4, 7), out_proj_weight=(4, 4))


def padding(rng: np.random.Generator) -> np.ndarray:
    mask = rng.random((2, 6)) < 0.4
    mask[:, 0] = False
    return mask


LAYERS = [
    Case("MultiheadAttention", (8, 2), {}, (*SELF, *SELF, *SELF), BOTH),
    Case("MultiheadAttention", (4, 1), dict(bias=False, batch_first=True), ((2, 5, 4), (2, 6, 4), (2, 6, 4)),
         options=dict(key_padding_mask=padding, average_attn_weights=False)),
    Case("MultiheadAttention", (4, 2), dict(add_bias_kv=True, add_zero_attn=True), ((5, 2, 4), (6, 2, 4), (6, 2, 4)),
         options=dict(key_padding_mask=padding)),
    Case("MultiheadAttention", (4, 2), dict(kdim=3, vdim=5), ((5, 4), (6, 3), (6, 5)),
         options=dict(need_weights=False)),
    Case("MultiheadAttention", (8, 4), dict(batch_first=True), ((2, 5, 8), (2, 5, 8), (2, 5, 8)), BOTH,
         options=dict(attn_mask=CAUSAL, is_causal=True, need_weights=False)),
]  # fmt: skip

CALLS = [
    Call(SDPA, HEADS),
    Call(SDPA, dict(query=(3, 8), key=(5, 8), value=(5, 6)), dict(is_causal=True)),
    Call(SDPA, dict(query=(7, 2), key=(1, 3, 2), value=(4, 3, 2)), dict(is_causal=True)),
    Call(SDPA, HEADS | dict(attn_mask=(3, 5)), dict(scale=-0.3)),
    Call(SDPA, HEADS | dict(attn_mask=(2, 1, 1, 5)), dict(dropout_p=1.0)),
    Call(SDPA, HEADS | dict(attn_mask=fixed(SEEN))),
    Call(SDPA, HEADS | dict(attn_mask=fixed(BIAS)), trained=("query", "key", "value")),
    Call(SDPA, GROUPS | dict(attn_mask=fixed(SEEN)), dict(enable_gqa=True)),
    Call(SDPA, GROUPS | dict(value=(2, 1, 5, 7)), dict(enable_gqa=True)),
    Call(SDPA, dict(query=(3, 4), key=(0, 4), value=(0, 2))),
    Call(SDPA, dict(query=(2, 3), key=(1, 3), value=(1, 5), attn_mask=fixed([[True], [False]]))),
    Call(MHA, FIRST | WEIGHTS, SETTINGS),
    Call(MHA, FIRST | WEIGHTS | dict(bias_k=(1, 1, 4), bias_v=(1, 1, 4), attn_mask=(4, 5, 6)),
         {name: value for name, value in SETTINGS.items() if name[:4] != "bias"} | dict(add_zero_attn=True)),
    Call(MHA, FIRST | WEIGHTS | dict(key_padding_mask=padding),
         SETTINGS | dict(training=False, dropout_p=0.5, average_attn_weights=False)),
    Call(MHA, FIRST | WEIGHTS | dict(key_padding_mask=(2, 6), attn_mask=(5, 6)),
         SETTINGS | dict(need_weights=False, is_causal=True)),
    Call(MHA, FIRST | WEIGHTS | dict(static_k=(4, 3, 2), static_v=(4, 3, 2)), SETTINGS),
    Call(MHA, ODD | ODD_WEIGHTS,
         SETTINGS | dict(use_separate_proj_weight=True, in_proj_weight=None, in_proj_bias=None, out_proj_bias=None)),
    Call(MHA, dict(query=(5, 4), key=(5, 4), value=(5, 4), attn_mask=(2, 5, 5)) | WEIGHTS,
         SETTINGS),
    Call("gelu", dict(input=(3, 4))),
    Call("gelu", dict(input=(3, 4)), dict(approximate="tanh")),
]  # fmt: skip

REFUSED_LAYERS = [
    ("MultiheadAttention", (0, 2), {}, None, "embed_dim and num_heads must be greater than 0, got embed_dim=0"),
    ("MultiheadAttention", (5, 2), {}, None, "embed_dim must be divisible by num_heads"),
    ("MultiheadAttention", (4, 2), {}, ((5, 2, 3),) * 3, "was expecting embedding dimension of 4, but got 3"),
    ("MultiheadAttention", (4, 2), {}, ((5, 2, 4), (6, 2, 4), (5, 2, 4)), "key shape .* does not match value shape"),
    ("MultiheadAttention", (4, 2), dict(kdim=3), ((5, 2, 4), (6, 2, 3), (5, 2, 4)), "key's sequence and batch dims"),
    ("MultiheadAttention", (4, 2), dict(kdim=3), ((5, 2, 4),) * 3, r"expecting key weights shape of \(4, 4\)"),
    ("MultiheadAttention", (4, 2), {}, ((5, 2, 4), (6, 3, 4), (6, 3, 4)), "is invalid for input of size 72"),
    ("MultiheadAttention", (4, 2), {}, ((4,),) * 3, "query should be unbatched 2D or batched 3D tensor but received"),
    ("MultiheadAttention", (4, 2), {}, ((5, 2, 4), (5, 4), (5, 4)), "expected `key` and `value` to be 3-D but found"),
    ("MultiheadAttention", (4, 2), {}, ((5, 4), (5, 2, 4), (5, 4)), "For unbatched .2-D. `query`, expected `key`"),
    ("MultiheadAttention", (4, 2), {}, (*((5, 2, 4),) * 3, (5,)), "expected `key_padding_mask` to be `None` or 2-D"),
    ("MultiheadAttention", (4, 2), {}, (*((5, 4),) * 3, (5, 2)), "expected `key_padding_mask` to be `None` or 1-D"),
    ("MultiheadAttention", (4, 2), {}, (*((5, 2, 4),) * 3, full(1, 2, 5)), "only bool and floating types of key"),
    ("MultiheadAttention", (4, 2), {}, (*((5, 2, 4),) * 3, (3, 5)), r"key_padded_mask.shape\[0\] to be 2, but got 3"),
    ("MultiheadAttention", (4, 2), {}, (*((5, 2, 4),) * 3, (2, 6)), r"key_padded_mask.shape\[1\] to be 5, but got 6"),
]  # fmt: skip

_QKV = (z(5, 2, 4),) * 3
_PLAIN = (4, 2, z(12, 4), None, None, None, False, 0.0, z(4, 4), None)

REFUSED_CALLS = [
    (SDPA, (z(3), z(2, 3), z(2, 3)), {}, "to all be  at least 2 dimensional, but got query.dim: 1"),
    (SDPA, (z(2, 3), z(2, 3, dtype="float16"), z(2, 3)), {}, "value to have the same dtype"),
    (SDPA, (z(2, 3, dtype="int32"),) * 3, {},
     ("to have the same dtype, but got: float != int", "expected scalar type Float but found Int")),
    (SDPA, (z(2, 3, dtype="complex64"),) * 3, {}, "not implemented for"),
    (SDPA, (*(z(2, 3),) * 3, z(2, 2, dtype="int32")), {}, "Expected attn_mask dtype to be bool"),
    (SDPA, (*(z(2, 3),) * 3, z(2, 2)), dict(is_causal=True), "Explicit attn_mask should not be"),
    (SDPA, (*(z(2, 3),) * 3, z(3, 2)), {}, "The size of tensor a (2) must match the size of"),
    (SDPA, (*(z(2, 3),) * 3, z(4, 2, 2)), {}, "output with shape [2, 2] doesn't match the broad"),
    (SDPA, (*(z(2, 3),) * 3, None, 1.5), {}, "dropout probability has to be between 0 and 1"),
    (SDPA, (z(2, 3), z(5, 4), z(5, 4)), {}, "shapes cannot be multiplied (2x3 and 4x5)"),
    (SDPA, (z(2, 3), z(5, 3), z(4, 3)), {}, "shapes cannot be multiplied (2x5 and 4x3)"),
    (SDPA, (z(2, 2, 3), z(3, 5, 3), z(3, 5, 3)), {}, "tensor a (2) must match the size of tensor"),
    (SDPA, (z(2, 3),) * 3, dict(enable_gqa=True), "Dimension out of range (expected to be in ran"),
    (SDPA, (z(6, 2, 3), z(4, 2, 3), z(4, 2, 3)), dict(enable_gqa=True),
     "Number of heads in key and value must divide the number of heads in"),
    (MHA, (*_QKV, *_PLAIN), dict(is_causal=True), "Need attn_mask if specifying the is_causal hint"),
    (MHA, (*_QKV, *_PLAIN), dict(attn_mask=z(5)), "`attn_mask` to be `None`, 2-D or 3-D but found 1-D"),
    (MHA, (*_QKV, *_PLAIN), dict(attn_mask=z(5, 6)), "should be (5, 5)"),
    (MHA, (*_QKV, *_PLAIN), dict(attn_mask=z(2, 5, 5)), "should be (4, 5, 5)"),
    (MHA, (*(z(5, 4),) * 3, *_PLAIN), dict(attn_mask=z(4, 5, 5)), "shape to be (2, 5, 5) but got"),
    (MHA, (*_QKV, *_PLAIN), dict(attn_mask=z(5, 5, dtype="int32")), "types of attn_mask are supported"),
    (MHA, (*_QKV, 4, 3, *_PLAIN[2:]), {}, "embed_dim 4 not divisible by num_heads 3"),
    (MHA, (*_QKV, 4, 2, None, *_PLAIN[3:]), {}, "is False but in_proj_weight is None"),
    (MHA, (*_QKV, *_PLAIN), dict(use_separate_proj_weight=True), "is True but q_proj_weight is None"),
    (MHA, (*_QKV, *_PLAIN[:4], z(1, 1, 4), *_PLAIN[5:]), {}, "bias_k is set but bias_v is None"),
    (MHA, (*_QKV, *_PLAIN[:5], z(1, 1, 4), *_PLAIN[6:]), {}, "bias_v is set but bias_k is None"),
    (MHA, (*_QKV, *_PLAIN[:4], z(1, 1, 4), z(1, 1, 4), *_PLAIN[6:]),
     dict(static_k=z(4, 3, 2)), "bias cannot be added to static key."),
    (MHA, (*_QKV, *_PLAIN), dict(static_k=z(3, 3, 2)), "static_k.size(0) of 4, but got 3"),
    (MHA, (*_QKV, *_PLAIN), dict(static_v=z(4, 3, 3)), "static_v.size(2) of 2, but got 3"),
    ("gelu", (z(3),), dict(approximate="sigmoid"), "approximate argument must be either none or tanh"),
    ("gelu", (z(3, dtype="int32"),), {}, "not implemented for"),
]  # fmt: skip
