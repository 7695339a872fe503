"""Rows of the distance family."""

import math

import numpy as np

from tests.table import Call, Case, fixed, ints, z

# equal vectors, equal magnitudes and zeros, which is where norms have no gradient
ROWS = fixed([[0, 0, 0], [1, 1, -1], [1, 0, 0], [0, 0, 0], [2, -3, 1], [1, 1, -1]], np.float32)
OTHERS = fixed([[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 2, 2], [2, -3, 0], [0, 2, 0]], np.float32)
NORMS = (0.5, 1, 1.5, 2, 3, math.inf)

LAYERS = [
    Case("PairwiseDistance", inputs=((4, 3), (4, 3))),
    Case("PairwiseDistance", (1,), dict(eps=0.1, keepdim=True), ((4, 3), (3,))),
    Case("PairwiseDistance", (math.inf,), {}, ((3,), (3,))),
    Case("CosineSimilarity", inputs=((4, 3), (4, 3))),
    Case("CosineSimilarity", (0, 1.5), {}, ((3,), (3,))),
    Case("CosineSimilarity", (-1,), {}, ((2, 1, 3), (4, 3))),
]

CALLS = [
    *[Call("pairwise_distance", dict(x1=ROWS, x2=OTHERS), dict(p=p, eps=0.0)) for p in (*NORMS, -1, -math.inf)],
    Call("pairwise_distance", dict(x1=(2, 3), x2=(4, 1, 3)), dict(keepdim=True)),
    Call("pairwise_distance", dict(x1=(2, 3), x2=(2, 3)), dict(p=0), trained=()),
    Call("pairwise_distance", dict(x1=(), x2=())),
    Call("pairwise_distance", dict(x1=(0, 3), x2=(3,))),
    Call("pairwise_distance", dict(x1=(2, 0), x2=(2, 0))),
    Call("pairwise_distance", dict(x1=ints(5, 3), x2=ints(5, 3))),
    Call("pairwise_distance", dict(x1=(4, 3), x2=ints(5, 4, 3))),
    Call("cosine_similarity", dict(x1=(4, 3), x2=(4, 3))),
    Call("cosine_similarity", dict(x1=(4, 3, 2), x2=(1, 3, 1)), dict(eps=0.5)),
    Call("cosine_similarity", dict(x1=ROWS, x2=OTHERS), dict(eps=1.2)),
    Call("cosine_similarity", dict(x1=(3,), x2=(4, 3)), dict(dim=-1)),
    Call("cosine_similarity", dict(x1=(4, 3), x2=ints(5, 4, 3, low=1))),
    Call("cosine_similarity", dict(x1=(), x2=()), dict(dim=0)),
    Call("cosine_similarity", dict(x1=(0, 3), x2=(0, 3))),
    Call("cosine_similarity", dict(x1=(2, 0), x2=(2, 0))),
    *[Call("pdist", dict(input=ROWS), dict(p=p)) for p in (0, *NORMS)],
    Call("pdist", dict(input=(5, 3))),
    *[Call("pdist", dict(input=shape), trained=()) for shape in ((1, 3), (0, 3), (3, 0))],
    *[Call("normalize", dict(input=ROWS), dict(p=p, eps=0.25)) for p in (0, *NORMS, -1, -math.inf)],
    Call("normalize", dict(input=(2, 3, 4))),
    Call("normalize", dict(input=(2, 3, 4)), dict(p=1, dim=(0, -1), eps=10.0)),
    Call("normalize", dict(input=(3,)), dict(dim=0)),
    Call("normalize", dict(input=()), dict(dim=0)),
    Call("normalize", dict(input=(2, 3)), dict(dim=None)),
    Call("normalize", dict(input=(2, 0))),
]  # fmt: skip

REFUSED_LAYERS = [
    ("CosineSimilarity", (), {}, ((3,), (3,)), "Dimension out of range"),
    ("PairwiseDistance", (), {}, ((2, 3), (2, 4)), r"The size of tensor a \(3\) must match the size of tensor b \(4\)"),
]

REFUSED_CALLS = [
    ("cosine_similarity", (z(2, 3), z(2, 4)), {}, "must match the size of tensor b (4) at non-singleton dimension 1"),
    ("cosine_similarity", (z(2, 3), z(2, 3), 5), {}, "Dimension out of range (expected to be in range of [-2, 1], but"),
    ("cosine_similarity", (z(3, dtype="int32"), z(3, dtype="bool"), 0), {},
     "expected common dtype to be floating point, yet common dtype is"),
    ("pairwise_distance", (z(2, 3), z(2, 4)), {}, "must match the size of tensor b (4) at non-singleton dimension 1"),
    ("pairwise_distance", (z(3, dtype="bool"), z(3)), {}, "Subtraction, the `-` operator, with a bool tensor is not"),
    ("pairwise_distance", (z(2, 0), z(2, 0), math.inf), {}, "this dimension is empty and the operation does not have"),
    ("pdist", (z(3),), {}, "pdist only supports 2D tensors, got: 1D"),
    ("pdist", (z(3, 2), -1), {}, "pdist only supports non-negative p values"),
    ("pdist", (z(3, 2, dtype="int32"),), {}, "pdist only supports floating-point dtypes"),
    ("normalize", (z(2, 3, dtype="int32"),), {}, "Expected a floating point or complex tensor as input. Got"),
    ("normalize", (z(3),), {}, "Dimension out of range (expected to be in range of [-1, 0], but got 1)"),
    ("normalize", (z(2, 0), math.inf), {}, "this dimension is empty and the operation does not have an identity"),
]  # fmt: skip
