"""Rows of the activation family."""

import numpy as np

from tests.table import Call, Case, full, ints, steps, z

LAYERS = [
    Case("ReLU"),
    Case("Sigmoid"),
    Case("Tanh"),
    Case("LeakyReLU"),
    Case("LeakyReLU", (0.3,)),
    Case("PReLU"),
    Case("PReLU", (3,), dict(init=0.1), ((2, 3, 4),)),
    Case("Softmax", (), dict(dim=1)),
    Case("LogSoftmax", (-1,), {}, ((2, 3, 4),)),
]

CALLS = [
    Call("relu", dict(input=steps(3, 4)), dict(inplace=False)),
    Call("relu", dict(input=ints(5, 3, 4, low=-5))),
    Call("sigmoid", dict(input=(3, 4))),
    Call("sigmoid", dict(input=ints(5, 3))),
    Call("tanh", dict(input=(3, 4))),
    Call("leaky_relu", dict(input=(3, 4))),
    Call("leaky_relu", dict(input=full(0.0, 3, dtype=np.float32)), dict(negative_slope=0.3)),
    Call("prelu", dict(input=(2, 3, 4), weight=(3,))),
    Call("prelu", dict(input=(2, 3), weight=(1,))),
    Call("prelu", dict(input=(3,), weight=())),
    Call("softmax", dict(input=(2, 3, 4)), dict(dim=1)),
    Call("softmax", dict(input=(2, 3)), dict(dim=-1, dtype="float32")),
    Call("softmax", dict(input=ints(5, 2, 3)), dict(dim=-1, dtype="float32")),
    Call("log_softmax", dict(input=(2, 3, 4)), dict(dim=-2)),
    Call("log_softmax", dict(input=()), dict(dim=0)),
    Call("log_softmax", dict(input=(2, 0)), dict(dim=1)),
]  # fmt: skip

REFUSED_LAYERS = [
    ("PReLU", (3,), {}, (2, 4, 4), "Found parameter numbers = 3 and channel size = 4"),
]

REFUSED_CALLS = [
    ("relu", (z(3, dtype="bool"),), {}, "Boolean inputs not supported for relu"),
    ("leaky_relu", (z(3, dtype="int32"),), {}, "not implemented for"),
    ("prelu", (z(2, 3), z(2)), {}, "Found parameter numbers = 2 and channel size = 3."),
    ("prelu", (z(3), z(1, 1)), {}, "Expected `weight` to be a scalar or 1D tensor, but got: ndim = 2"),
    ("prelu", (z(3, dtype="int32"), z(1)), {}, "Type promoting not supported"),
    ("prelu", (z(), z(3)), {}, "Not allow zero-dim input tensor"),
    ("softmax", (z(2, 3), 2), {}, "Dimension out of range (expected to be in range of [-2, 1], but got 2)"),
    ("log_softmax", (z(2, 3, dtype="int32"), 1), {}, "not implemented for"),
]
