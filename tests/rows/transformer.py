"""Rows of the transformer family."""

import numpy as np

from tests.rows.attention import BOTH, CAUSAL, padding
from tests.table import Case, Function, fixed, full

SMALL = dict(dim_feedforward=12, dropout=0.0)
PAIR = ((5, 2, 8), (6, 2, 8))
FIRST = ((2, 5, 8), (2, 6, 8))
ENCODER = Case("TransformerEncoderLayer", (8, 2), SMALL | dict(batch_first=True))
DECODER = Case("TransformerDecoderLayer", (8, 2), SMALL)
MEMORY = dict(memory_mask=(lambda rng: rng.standard_normal((5, 6)).astype(np.float32)))

LAYERS = [
    Case("TransformerEncoderLayer", (8, 2), SMALL, ((5, 2, 8),), BOTH),
    Case("TransformerEncoderLayer", (8, 2, 12), dict(norm_first=True, bias=False, activation="gelu"), ((5, 2, 8),),
         ("eval",), options=dict(src_mask=CAUSAL, is_causal=True)),
    Case("TransformerEncoderLayer", (8, 2), SMALL | dict(batch_first=True, activation=Function("tanh")), ((2, 6, 8),),
         options=dict(src_key_padding_mask=padding)),
    Case("TransformerEncoderLayer", (8, 1), SMALL | dict(activation=Case("ReLU"), layer_norm_eps=0.1), ((5, 8),)),
    Case("TransformerDecoderLayer", (8, 2), SMALL, PAIR, BOTH),
    Case("TransformerDecoderLayer", (8, 4), SMALL | dict(norm_first=True, batch_first=True), FIRST,
         options=dict(tgt_mask=CAUSAL, tgt_is_causal=True, memory_key_padding_mask=padding)),
    Case("TransformerDecoderLayer", (8, 4), SMALL | dict(bias=False), PAIR, options=MEMORY),
    Case("TransformerEncoder", (ENCODER, 2), dict(norm=Case("LayerNorm", (8,))), ((2, 6, 8),),
         options=dict(src_key_padding_mask=padding)),
    Case("TransformerEncoder", (ENCODER, 1), dict(enable_nested_tensor=False, mask_check=False), ((5, 8),),
         options=dict(mask=CAUSAL)),
    Case("TransformerDecoder", (DECODER, 2), {}, PAIR, options=dict(tgt_mask=CAUSAL)),
    Case("TransformerDecoder", (DECODER, 1), dict(norm=Case("LayerNorm", (8,))), PAIR,
         options=dict(tgt_mask=fixed(np.zeros((5, 5), np.float32)))),
    Case("Transformer", (8, 2, 1, 1), SMALL, ((6, 2, 8), (5, 2, 8)), BOTH, options=dict(tgt_mask=CAUSAL)),
    Case("Transformer", (8, 2, 2, 1), SMALL | dict(batch_first=True, norm_first=True, activation="gelu"),
         ((2, 6, 8), (2, 5, 8)), options=dict(src_key_padding_mask=padding, memory_key_padding_mask=padding)),
]  # fmt: skip

REFUSED_LAYERS = [
    ("TransformerEncoderLayer", (8, 2), dict(activation="tanh"), None, "activation should be relu/gelu, not tanh"),
    ("TransformerEncoderLayer", (8, 3), {}, None, "embed_dim must be divisible by num_heads"),
    ("TransformerEncoderLayer", (8, 2), SMALL, ((5, 2, 8), full(0, 5, 5)), "only bool and floating types of src_mask"),
    ("Transformer", (8, 2, 1, 1), {}, ((6, 2, 8), (5, 3, 8)), "the batch number of src and tgt must be equal"),
    ("Transformer", (8, 2, 1, 1), dict(batch_first=True), ((1, 2, 8), (2, 2, 8)), "the batch number of src and tgt"),
    ("Transformer", (8, 2, 1, 1), {}, ((6, 2, 8), (5, 2, 7)), "the feature number of src and tgt must be equal"),
]  # fmt: skip
