"""Rows of the activation family."""

import numpy as np

from tests.table import Call, Case, fixed, full, ints, steps, z

# zero, the usual kinks and what lies beyond them
KINKS = fixed([[-100.0, -7.0, -3.0, -1.0, -0.5, -0.0], [0.0, 0.5, 1.0, 3.0, 6.0, 100.0]], np.float32)
INPLACE = ("ReLU", "ReLU6", "Hardsigmoid", "Hardswish", "SiLU", "Mish", "SELU")

LAYERS = [
    *[Case(name) for name in ("Sigmoid", "Tanh", "LogSigmoid", "Softsign", "Tanhshrink")],
    *[Case(name, inputs=(KINKS,)) for name in INPLACE],
    Case("Threshold", (0.1, 20)),
    Case("Threshold", (-0.5, -3.0), {}, (KINKS,)),
    Case("RReLU", modes=("eval",)),
    Case("RReLU", (0.1, 0.9), {}, (KINKS,), ("eval",)),
    Case("Hardtanh", inputs=(KINKS,)),
    Case("Hardtanh", (-0.5, 0.25), {}, ((3, 4),)),
    Case("ELU"),
    Case("ELU", (2.0,), {}, (KINKS,)),
    Case("CELU", (0.5,)),
    Case("CELU", (2.0,), {}, (KINKS,)),
    Case("GLU", (), {}, ((2, 6),)),
    Case("GLU", (1,), {}, ((2, 4, 3),)),
    Case("GELU", inputs=(KINKS,)),
    Case("GELU", ("tanh",), {}, (KINKS,)),
    Case("Hardshrink", inputs=(KINKS,)),
    Case("Hardshrink", (1,)),
    Case("Softshrink", inputs=(KINKS,)),
    Case("Softshrink", (0.25,)),
    Case("LeakyReLU"),
    Case("LeakyReLU", (0.3,)),
    Case("Softplus", inputs=(KINKS,)),
    Case("Softplus", (2, 1.5), {}, ((3, 4),)),
    Case("PReLU"),
    Case("PReLU", (3,), dict(init=0.1), ((2, 3, 4),)),
    Case("Softmax", (), dict(dim=1)),
    Case("Softmin", (0,), {}, ((2, 3, 4),)),
    Case("LogSoftmax", (-1,), {}, ((2, 3, 4),)),
    Case("Softmax2d", inputs=((2, 3, 2, 2),)),
    Case("Softmax2d", inputs=((3, 2, 2),)),
]

CALLS = [
    *[
        Call(name, dict(input=KINKS))
        for name in (
            "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid",
            "mish", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh",
            "tanhshrink",
        )
    ],
    *[Call(name, dict(input=ints(5, 3, 4, low=-5))) for name in ("relu", "relu6", "hardtanh")],
    *[Call(name, dict(input=ints(5, 3))) for name in ("sigmoid", "tanh", "softsign", "tanhshrink")],
    *[Call(name, dict(input=(0, 2))) for name in ("elu", "glu", "gelu", "softplus")],
    *[Call(name, dict(input=())) for name in ("selu", "softplus", "mish", "hardswish")],
    Call("threshold", dict(input=KINKS), dict(threshold=0.5, value=-2.0)),
    Call("threshold", dict(input=ints(5, 3, 4)), dict(threshold=1.5, value=7.9, inplace=False)),
    Call("relu", dict(input=steps(3, 4)), dict(inplace=False)),
    Call("hardtanh", dict(input=KINKS), dict(min_val=-3, max_val=6)),
    Call("hardtanh", dict(input=full(1.0, 3, dtype=np.float32)), dict(min_val=1.0, max_val=1.0)),
    Call("hardtanh", dict(input=ints(5, 3, 4)), dict(min_val=1.5, max_val=3.7)),
    Call("leaky_relu", dict(input=full(0.0, 3, dtype=np.float32)), dict(negative_slope=0.3)),
    Call("leaky_relu", dict(input=KINKS), dict(negative_slope=-0.5)),
    Call("prelu", dict(input=(2, 3, 4), weight=(3,))),
    Call("prelu", dict(input=(2, 3), weight=(1,))),
    Call("prelu", dict(input=(3,), weight=())),
    Call("elu", dict(input=KINKS), dict(alpha=-0.5)),
    Call("elu", dict(input=KINKS), dict(alpha=2)),
    Call("celu", dict(input=KINKS), dict(alpha=2.0)),
    Call("celu", dict(input=(3, 4)), dict(alpha=-2.0)),
    Call("gelu", dict(input=KINKS), dict(approximate="tanh")),
    Call("glu", dict(input=(4, 3)), dict(dim=0)),
    Call("glu", dict(input=(2, 3, 4)), dict(dim=-1)),
    Call("hardshrink", dict(input=KINKS), dict(lambd=0.0)),
    Call("hardshrink", dict(input=KINKS), dict(lambd=-1.0)),
    Call("softshrink", dict(input=KINKS), dict(lambd=0.0)),
    Call("softshrink", dict(input=KINKS), dict(lambd=3)),
    Call("softplus", dict(input=KINKS), dict(beta=2.0, threshold=6.0)),
    Call("softplus", dict(input=(3, 4)), dict(beta=-1.5)),
    Call("softmax", dict(input=(2, 3, 4)), dict(dim=1)),
    Call("softmax", dict(input=(2, 3)), dict(dim=-1, dtype="float32")),
    Call("softmax", dict(input=ints(5, 2, 3)), dict(dim=-1, dtype="float32")),
    Call("softmin", dict(input=(2, 3, 4)), dict(dim=1)),
    Call("softmin", dict(input=ints(5, 2, 3)), dict(dim=-1, dtype="float32")),
    Call("log_softmax", dict(input=(2, 3, 4)), dict(dim=-2)),
    Call("log_softmax", dict(input=()), dict(dim=0)),
    Call("log_softmax", dict(input=(2, 0)), dict(dim=1)),
]  # fmt: skip

REFUSED_LAYERS = [
    ("PReLU", (3,), {}, (2, 4, 4), "Found parameter numbers = 3 and channel size = 4"),
    ("Hardtanh", (1.0, 1.0), {}, None, r"max_val \(1.0\) must be greater than min_val \(1.0\)"),
    ("Softmax2d", (), {}, (2, 3), "Softmax2d: expected input to be 3D or 4D, got 2D instead"),
    ("GLU", (), {}, (2, 3), "Halving dimension must be even, but dimension 1 is size 3"),
    ("GELU", ("erf",), {}, (2, 3), "approximate argument must be either none or tanh"),
]

REFUSED_CALLS = [
    ("relu", (z(3, dtype="bool"),), {}, "Boolean inputs not supported for relu"),
    ("relu", (z(3, dtype="complex64"),), {}, "clamp is not supported for complex types"),
    ("hardtanh", (z(3, dtype="bool"),), {}, "Bool inputs not supported for hardtanh"),
    ("hardtanh", (z(3, dtype="uint8"),), {}, "cannot do hardtanh on an unsigned type with negative limits"),
    ("hardtanh", (z(3), 2, 1), {}, "min_val cannot be greater than max_val"),
    ("threshold", (z(3, dtype="bool"), 0, 0), {}, "not implemented for"),
    *[
        (name, (z(4, dtype="int32"),), {}, "not implemented for")
        for name in (
            "celu", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "leaky_relu", "logsigmoid", "mish",
            "rrelu", "selu", "silu", "softplus", "softshrink",
        )
    ],
    ("softsign", (z(3, dtype="bool"),), {}, "not implemented for"),
    ("tanhshrink", (z(3, dtype="bool"),), {}, "Subtraction, the `-` operator, with a bool tensor is not supported"),
    ("rrelu", (z(3), 0.5, 0.1), {}, "Lower bound should be less than or equal to the upper bound"),
    ("rrelu", (z(3), 0.5, float("inf")), {}, "rrelu: upper bound must be finite, got inf"),
    ("celu", (z(3), 0.0), {}, "ZeroDivisionError: alpha cannot be 0 for CELU"),
    ("glu", (z(),), {}, "glu does not support scalars because halving size must be even"),
    ("glu", (z(2), 1), {}, "Dimension out of range (expected to be in range of [-1, 0], but got 1)"),
    ("gelu", (z(2),), dict(approximate="erf"), "approximate argument must be either none or tanh"),
    ("softshrink", (z(2), -0.5), {}, "lambda must be in range [0, 3.40282e+38] for input dtype"),
    ("prelu", (z(2, 3), z(2)), {}, "Found parameter numbers = 2 and channel size = 3."),
    ("prelu", (z(3), z(1, 1)), {}, "Expected `weight` to be a scalar or 1D tensor, but got: ndim = 2"),
    ("prelu", (z(3, dtype="int32"), z(1)), {}, "Type promoting not supported"),
    ("prelu", (z(3, dtype="int32"), z(1, dtype="int32")), {}, "not implemented for"),
    ("prelu", (z(), z(3)), {}, "Not allow zero-dim input tensor"),
    ("softmax", (z(2, 3), 2), {}, "Dimension out of range (expected to be in range of [-2, 1], but got 2)"),
    ("softmin", (z(2, dtype="bool"), 0), {}, "Negation, the `-` operator, on a bool tensor is not supported"),
    ("softmin", (z(2, dtype="int32"), 0), {}, "not implemented for"),
    ("log_softmax", (z(2, 3, dtype="int32"), 1), {}, "not implemented for"),
    ("gumbel_softmax", (z(2, dtype="int32"),), {}, "Exponential distribution is a continuous probability distribution"),
    ("gumbel_softmax", (z(2, 3),), dict(dim=2), "Dimension out of range (expected to be in range of [-2, 1], but got"),
    ("gumbel_softmax", (z(2, 0),), dict(hard=True), "Expected reduction dim 1 to have non-zero size"),
]  # fmt: skip
