"""Rows of the sparse family."""

import numpy as np

from tests.table import Call, Case, fixed, ints, steps, z

BAGS = fixed([0, 2, 2, 5])  # one of them empty
# torch divides the gradient of a row in a bag by how often another row is there, unless all are there equally often
TWICE = fixed([1, 4, 0, 1, 0, 4])
MODES = ("sum", "mean", "max")

LAYERS = [
    Case("Embedding", (5, 3), {}, (ints(5, 2, 4),)),
    Case("Embedding", (5, 3), dict(padding_idx=-2), (ints(5, 2, 4),)),
    Case("Embedding", (5, 3), dict(scale_grad_by_freq=True), (ints(5, 2, 4),)),
    Case("Embedding", (5, 3), dict(max_norm=1.0, norm_type=1.0), (ints(5, 6),)),
    Case("EmbeddingBag", (5, 3), {}, (ints(5, 2, 4),)),
    *[Case("EmbeddingBag", (5, 3), dict(mode=mode, padding_idx=-2), (ints(5, 7), BAGS)) for mode in MODES],
    *[Case("EmbeddingBag", (5, 3), dict(mode=mode, padding_idx=1), (ints(5, 3, 4),)) for mode in MODES],
    Case("EmbeddingBag", (5, 3), dict(scale_grad_by_freq=True), (TWICE, BAGS)),
    Case("EmbeddingBag", (5, 3), dict(max_norm=1.0, norm_type=1.0, mode="max"), (ints(5, 7), BAGS)),
    Case("EmbeddingBag", (5, 3), dict(mode="sum"), (ints(5, 7), BAGS, (7,))),
    Case("EmbeddingBag", (5, 3), dict(mode="sum", padding_idx=0), (ints(5, 2, 4),),
         options=dict(per_sample_weights=lambda rng: rng.standard_normal((2, 4)).astype(np.float32))),
]  # fmt: skip

CALLS = [
    Call("embedding", dict(input=ints(5, 2, 6), weight=(5, 3))),
    Call("embedding", dict(input=ints(5, 2, 6), weight=(5, 3)), dict(padding_idx=2)),
    Call("embedding", dict(input=ints(5, 2, 6), weight=(5, 3)), dict(padding_idx=-1, scale_grad_by_freq=True)),
    Call("embedding", dict(input=ints(5), weight=(5, 3))),
    Call("embedding", dict(input=ints(5, 4), weight=(5, 3)), dict(max_norm=1.0)),
    Call("embedding", dict(input=ints(5, 4), weight=(5, 3)), dict(max_norm=0.5, norm_type=1.0, sparse=False)),
    *[Call("embedding_bag", dict(input=ints(5, 7), weight=(5, 3), offsets=BAGS), dict(mode=mode)) for mode in MODES],
    *[Call("embedding_bag", dict(input=ints(5, 2, 4), weight=(5, 3)), dict(mode=mode)) for mode in MODES],
    *[
        Call("embedding_bag", dict(input=ints(5, 7), weight=(5, 3), offsets=BAGS), dict(mode=mode, padding_idx=-1))
        for mode in MODES
    ],
    *[Call("embedding_bag", dict(input=ints(5, 3, 4), weight=(5, 3)), dict(mode=m, padding_idx=0)) for m in MODES],
    *[
        Call("embedding_bag", dict(input=ints(5, 5), weight=(5, 3), offsets=BAGS),
             dict(mode=mode, include_last_offset=True))
        for mode in MODES
    ],
    *[
        Call("embedding_bag", dict(input=TWICE, weight=(5, 3), offsets=BAGS),
             dict(mode=mode, scale_grad_by_freq=True))
        for mode in MODES[:2]
    ],
    # equal rows, of which the first has the gradient
    Call("embedding_bag", dict(input=ints(5, 7), weight=steps(5, 3), offsets=BAGS), dict(mode="max")),
    Call("embedding_bag", dict(input=ints(5, 2, 4), weight=steps(5, 3)), dict(mode="max")),
    Call("embedding_bag", dict(input=ints(5, 7), weight=(5, 3), offsets=BAGS), dict(max_norm=0.5, norm_type=1)),
    Call("embedding_bag", dict(input=ints(5, 7), weight=(5, 3), offsets=BAGS, per_sample_weights=(7,)),
         dict(mode="sum", padding_idx=1)),
    Call("embedding_bag", dict(input=TWICE, weight=(5, 3), offsets=BAGS, per_sample_weights=(6,)),
         dict(mode="sum", scale_grad_by_freq=True)),
    Call("embedding_bag", dict(input=ints(5, 4), weight=(5, 3), offsets=fixed([], np.int64)), trained=()),
    *[Call("embedding_bag", dict(input=ints(5, 0), weight=(5, 3), offsets=fixed([0, 0])), dict(mode=m)) for m in MODES],
    Call("embedding_bag", dict(input=ints(5, 0, 2), weight=(5, 3))),
    Call("one_hot", dict(input=ints(4, 2, 3)), dict(num_classes=4)),
    Call("one_hot", dict(input=ints(4)), dict(num_classes=6)),
    Call("one_hot", dict(input=ints(4, 0)), dict(num_classes=3)),
]  # fmt: skip

REFUSED_LAYERS = [
    ("Embedding", (3, 4), dict(padding_idx=3), None, "Padding_idx must be within num_embeddings"),
    ("Embedding", (3, 4), dict(padding_idx=-4), None, "Padding_idx must be within num_embeddings"),
    ("EmbeddingBag", (3, 4), dict(padding_idx=3), None, "padding_idx must be within num_embeddings"),
    ("EmbeddingBag", (3, 4), dict(mode="foo"), (ints(3, 2, 2),), "mode has to be one of sum, mean or max"),
]

REFUSED_CALLS = [
    ("embedding", (z(2), z(4, 3)), {}, "Expected tensor for argument #1 'indices' to have one of the following"),
    ("embedding", (z(1, dtype="int32"), z(4)), {}, "'weight' must be 2-D"),
    ("embedding", (z(1, dtype="int32"), z(4, 3)), dict(padding_idx=4), "Padding_idx must be within num_embeddings"),
    *[
        ("embedding_bag", (z(4, dtype="int64"), z(5, 3), z(1, dtype="int64")), options, message)
        for options, message in (
            (dict(mode="foo"), "mode has to be one of sum, mean or max"),
            (dict(mode="max", scale_grad_by_freq=True), "max mode does not support scaling the gradient by the freq"),
            (dict(mode="max", sparse=True), "max mode does not support sparse weights"),
            (dict(per_sample_weights=z(4)), "per_sample_weights is only supported for mode='sum' (got mode='mean')"),
            (dict(per_sample_weights=z(3), mode="sum"), "then it must have the same shape as the input ("),
            (dict(per_sample_weights=z(4, dtype="float16"), mode="sum"), "to have the same type as tensor for"),
            (dict(padding_idx=5), "padding_idx must be within the number of embeddings, -5 through 4, but got 5"),
        )
    ],
    *[
        ("embedding_bag", arguments, options, message)
        for arguments, options, message in (
            ((z(4, dtype="int64"), z(5, 3)), {}, "offsets has to be a 1D Tensor but got None"),
            ((z(4, dtype="int64"), z(5, 3), z(1, 1, dtype="int64")), {}, "offsets has to be a 1D Tensor"),
            ((z(4, 2, dtype="int64"), z(5, 3), z(1, dtype="int64")), {}, "if input is 2D, then offsets has to be None"),
            ((z(2, 0, dtype="int64"), z(5, 3)), {}, "step must be nonzero"),
            ((z(2, 2, 2, dtype="int64"), z(5, 3)), {}, "input has to be 1D or 2D Tensor, but got Tensor"),
            ((z(4, dtype="int64"), z(5), z(1, dtype="int64")), {}, "weight has to be a 2D Tensor, but got Tensor of"),
            ((z(4), z(5, 3), z(1, dtype="int64")), {}, "Expected tensor for argument #1 'indices' to have one of the"),
            ((z(4, dtype="int64"), z(5, 3), z(1)), {}, "Expected tensor for argument #1 'indices' to have one of the"),
            ((z(4, dtype="int64"), z(5, 3, dtype="int32"), z(1, dtype="int64")), {},
             "Expected tensor for argument #1 'weight' to have one of the following scalar types"),
            ((z(4, dtype="int64"), z(5, 3), z(0, dtype="int64")), dict(include_last_offset=True),
             "include_last_offset: number of offset should be at least 1"),
        )
    ],
    ("one_hot", (z(3),), {}, "one_hot is only applicable to index tensor of type LongTensor"),
    ("one_hot", (z(3, dtype="int64"), 0), {}, "Class values must be smaller than num_classes."),
    ("one_hot", (z(0, dtype="int64"),), {}, "Can not infer total number of classes from empty tensor."),
]  # fmt: skip
