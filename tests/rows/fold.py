"""Rows of the fold family."""

from tests.table import Call, Case, z

LAYERS = [
    Case("Unfold", (2,), {}, ((2, 3, 4, 5),)),
    Case("Unfold", ((2, 3), 2), dict(padding=(1, 2), stride=[2, 1]), ((2, 3, 5, 6),)),
    Case("Unfold", (3,), dict(stride=3), ((2, 7, 9),)),
    Case("Fold", ((4, 5), 2), {}, ((2, 12, 12),)),
    Case("Fold", ([5, 6], (2, 3), 2, (1, 2), (2, 1)), {}, ((2, 6, 18),)),
    Case("Fold", (6, 3), dict(stride=3), ((9, 4),)),
]

CALLS = [
    Call("unfold", dict(input=(2, 3, 4, 5)), dict(kernel_size=(3, 2))),
    Call("unfold", dict(input=(3, 4, 5)), dict(kernel_size=2, dilation=(2, 3), padding=1, stride=(1, 2))),
    Call("unfold", dict(input=(0, 3, 4, 5)), dict(kernel_size=1)),
    Call("fold", dict(input=(2, 12, 12)), dict(output_size=(4, 5), kernel_size=2)),
    Call("fold", dict(input=(4, 9)), dict(output_size=(4, 7), kernel_size=2, dilation=3, padding=1, stride=(1, 2))),
    Call("fold", dict(input=(2, 4, 4)), dict(output_size=(5, 6), kernel_size=2, stride=3)),
    Call("fold", dict(input=(0, 12, 12)), dict(output_size=(4, 5), kernel_size=2)),
]  # fmt: skip

COLUMNS = z(2, 12, 36)

REFUSED_LAYERS = [
    ("Unfold", ((2, 3, 4),), {}, (3, 4, 5), "It is expected kernel_size equals to 2, but got size 3"),
    ("Fold", ((7, 8), 2), {}, (12, 36), r"calculated number of sliding blocks 6 \* 7 = 42, but got input.size\(2\)=36"),
]

REFUSED_CALLS = [
    ("unfold", (z(4, 5), 2), {}, "Dimension out of range"),
    ("unfold", (z(2, 0, 4, 5), 2), {}, "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other"),
    ("unfold", (z(1, 2, 3, 4, 5), 2), {}, "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other"),
    ("unfold", (z(3, 4, 5), 0), {}, "kernel size should be greater than zero, but got kernel_height: 0 kernel_width:"),
    ("unfold", (z(3, 4, 5), 2, 0), {}, "dilation should be greater than zero, but got dilation_height: 0"),
    ("unfold", (z(3, 4, 5), 2, 1, -1), {}, "padding should be non-negative, but got pad_height: -1 pad_width: -1"),
    ("unfold", (z(3, 4, 5), 2), dict(stride=(1, 0)), "stride should be greater than zero, but got stride_height: 1"),
    ("unfold", (z(3, 5, 5), 8), {}, "calculated shape of the array of sliding blocks as (-2, -2), but its components"),
    ("unfold", (z(3, 4, 5), 2.0), {}, ("must be tuple of ints", "kernel_size must be an int or a tuple of 2 ints")),
    ("unfold", (z(3, 4, 5), 2, (1,)), {}, "It is expected dilation equals to 2, but got size 1"),
    ("unfold", (z(3, 4, 5, dtype="int32"), 2), {}, '"im2col_out_cpu" not implemented for'),
    ("fold", (z(2, 12, 0), 7, 2), {}, "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size"),
    ("fold", (z(11, 36), 7, 2), {}, "to be divisible by the product of kernel_size, but got input.size(1)=11 and"),
    ("fold", (COLUMNS, (7, 8), 2), {}, "to match the calculated number of sliding blocks 6 * 7 = 42, but got"),
    ("fold", (COLUMNS, (7, 8, 9), 2), {}, "It is expected output_size equals to 2, but got size 3"),
    ("fold", (COLUMNS, 7, 2, 0), {}, "dilation should be greater than zero, but got dilation_height: 0"),
    ("fold", (COLUMNS, (-5, -5), 2), {}, "sliding blocks as (-6, -6), which is too small (non-positive)"),
    ("fold", (z(12, 36, dtype="int32"), 7, 2), {}, '"col2im_out_cpu" not implemented for'),
]
