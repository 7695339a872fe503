"""Rows of the sparse family."""

from tests.table import Call, Case, ints, z

LAYERS = [
    Case("Embedding", (5, 3), {}, (ints(5, 2, 4),)),
    Case("Embedding", (5, 3), dict(padding_idx=-2), (ints(5, 2, 4),)),
    Case("Embedding", (5, 3), dict(scale_grad_by_freq=True), (ints(5, 2, 4),)),
    Case("Embedding", (5, 3), dict(max_norm=1.0, norm_type=1.0), (ints(5, 6),)),
]

CALLS = [
    Call("embedding", dict(input=ints(5, 2, 6), weight=(5, 3))),
    Call("embedding", dict(input=ints(5, 2, 6), weight=(5, 3)), dict(padding_idx=2)),
    Call("embedding", dict(input=ints(5, 2, 6), weight=(5, 3)), dict(padding_idx=-1, scale_grad_by_freq=True)),
    Call("embedding", dict(input=ints(5), weight=(5, 3))),
    Call("embedding", dict(input=ints(5, 4), weight=(5, 3)), dict(max_norm=1.0)),
    Call("embedding", dict(input=ints(5, 4), weight=(5, 3)), dict(max_norm=0.5, norm_type=1.0, sparse=False)),
]  # fmt: skip

REFUSED_LAYERS = [
    ("Embedding", (3, 4), dict(padding_idx=3), None, "Padding_idx must be within num_embeddings"),
    ("Embedding", (3, 4), dict(padding_idx=-4), None, "Padding_idx must be within num_embeddings"),
]

REFUSED_CALLS = [
    ("embedding", (z(2), z(4, 3)), {}, "Expected tensor for argument #1 'indices' to have one of the following"),
    ("embedding", (z(1, dtype="int32"), z(4)), {}, "'weight' must be 2-D"),
    ("embedding", (z(1, dtype="int32"), z(4, 3)), dict(padding_idx=4), "Padding_idx must be within num_embeddings"),
]
