"""Rows of the pooling family."""

from tests.table import Call, Case, ints, steps, z

IMAGES = (2, 4, 7, 8)

LAYERS = [
    Case("MaxPool2d", (2,), inputs=(IMAGES,)),
    Case("MaxPool2d", (3,), dict(stride=2, padding=1, ceil_mode=True), (IMAGES,)),
    Case("MaxPool2d", ((3, 2),), dict(stride=1, dilation=2), (IMAGES,)),
    Case("MaxPool2d", (2,), dict(return_indices=True), (IMAGES[1:],)),
    Case("AvgPool2d", (2,), inputs=(IMAGES,)),
    Case("AvgPool2d", (3,), dict(stride=2, padding=1, ceil_mode=True), (IMAGES,)),
    Case("AvgPool2d", ((3, 2),), dict(padding=1, count_include_pad=False), (IMAGES[1:],)),
    Case("AvgPool2d", (2,), dict(divisor_override=3), (IMAGES,)),
    Case("AdaptiveAvgPool2d", (1,), inputs=(IMAGES,)),
    Case("AdaptiveAvgPool2d", ((5, None),), inputs=(IMAGES,)),
    Case("AdaptiveAvgPool2d", ((3, 4),), inputs=(IMAGES[1:],)),
]

CALLS = [
    Call("max_pool2d", dict(input=IMAGES), dict(kernel_size=2)),
    Call("max_pool2d", dict(input=steps(2, 3, 7, 8)), dict(kernel_size=3, stride=2, padding=1)),
    Call("max_pool2d", dict(input=steps(3, 7, 8)), dict(kernel_size=(3, 2), stride=(1, 2), ceil_mode=True)),
    Call("max_pool2d", dict(input=steps(2, 3, 7, 8)), dict(kernel_size=2, dilation=(2, 3), stride=1)),
    Call("max_pool2d", dict(input=steps(2, 3, 7, 8)), dict(kernel_size=3, padding=1, return_indices=True)),
    Call("max_pool2d", dict(input=(3, 7, 8)), dict(kernel_size=2, stride=3, ceil_mode=True, return_indices=True)),
    Call("max_pool2d", dict(input=steps(2, 3, 7, 8)), dict(kernel_size=(6, 7), stride=1)),
    Call("max_pool2d", dict(input=ints(9, 2, 3, 7, 8)), dict(kernel_size=2, stride=())),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=2)),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=3, stride=2, padding=1)),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=3, stride=2, padding=1, count_include_pad=False)),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=(3, 2), stride=3, padding=1, ceil_mode=True)),
    Call("avg_pool2d", dict(input=(3, 7, 8)), dict(kernel_size=2, stride=3, ceil_mode=True, count_include_pad=False)),
    Call("avg_pool2d", dict(input=IMAGES), dict(kernel_size=2, divisor_override=3)),
    Call("avg_pool2d", dict(input=ints(9, 2, 3, 7, 8, low=-9)), dict(kernel_size=2)),
    Call("adaptive_avg_pool2d", dict(input=IMAGES), dict(output_size=1)),
    Call("adaptive_avg_pool2d", dict(input=IMAGES), dict(output_size=(3, 5))),
    Call("adaptive_avg_pool2d", dict(input=(3, 7, 8)), dict(output_size=(None, 4))),
    Call("adaptive_avg_pool2d", dict(input=IMAGES), dict(output_size=(9, 16))),
]  # fmt: skip

REFUSED_CALLS = [
    ("max_pool2d", (z(3, 5), 2), {}, "non-empty 3D or 4D (batch mode) tensor expected for input"),
    ("max_pool2d", (z(2, 3, 5, 5), 2), dict(padding=2), "pad should be at most half of effective kernel size"),
    ("max_pool2d", (z(2, 3, 5, 5), 3), dict(padding=2, dilation=2), "pad should be smaller than or equal to half"),
    ("max_pool2d", (z(2, 3, 5, 5), 2), dict(padding=-1), "pad must be non-negative, but got pad: -1"),
    ("max_pool2d", (z(2, 3, 5, 5), 2), dict(stride=0), "stride should not be zero"),
    ("max_pool2d", (z(2, 3, 5, 5), 2), dict(dilation=0), "dilation should be greater than zero, but got dilation"),
    ("max_pool2d", (z(2, 3, 5, 5), 6), {}, "Calculated output size: (3x0x0). Output size is too small"),
    ("max_pool2d", (z(2, 0, 5, 5), 2), {}, "tensor with optional 0 dim batch size for input"),
    ("max_pool2d", (z(2, 3, 5, 5), (2, 2, 2)), {}, ("must either be a single int", "to be a single integer value or")),
    ("max_pool2d", (z(2, 3, 5, 5, dtype="bool"), 2), {}, "not implemented for"),
    ("avg_pool2d", (z(3, 5), 2), {}, "Dimension out of range"),
    ("avg_pool2d", (z(2, 3, 5, 5), 2), dict(divisor_override=0), "divisor must be not zero"),
    ("adaptive_avg_pool2d", (z(3, 5), 2), {}, "Expected 3D or 4D tensor, but got [3, 5]"),
    ("adaptive_avg_pool2d", (z(2, 3, 5, 5), (2, 2, 2)), {}, "output_size must be 2"),
    ("adaptive_avg_pool2d", (z(2, 3, 5, 5), (-1, 2)), {}, "elements of output_size must be greater than or equal to 0"),
    ("adaptive_avg_pool2d", (z(2, 3, 0, 5), 2), {}, "Expected input to have non-zero size for non-batch dimensions"),
    ("adaptive_avg_pool2d", (z(2, 3, 5, 5, dtype="int32"), 2), {}, "not implemented for"),
    ("adaptive_avg_pool2d", (z(2, 3, 5, 5), None), {}, ("has no len()", "output_size must be an int or 2 values")),
]
