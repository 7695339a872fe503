"""Rows of the conv family."""

from tests.table import Call, Case, z

IMAGES = (2, 4, 7, 8)

LAYERS = [
    Case("Conv1d", (4, 6, 3), dict(stride=2, padding=1), ((2, 4, 9),)),
    Case("Conv1d", (4, 6, 3), dict(padding="same", padding_mode="reflect", bias=False), ((2, 4, 9),)),
    Case("Conv1d", (4, 6, 2), dict(padding=(2,), padding_mode="circular", groups=2), ((4, 9),)),
    Case("Conv2d", (4, 6, 3), inputs=(IMAGES,)),
    Case("Conv2d", (4, 6, (3, 2)), dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (IMAGES,)),
    Case("Conv2d", (4, 4, 3), dict(padding="same", groups=4, bias=False), (IMAGES,)),
    Case("Conv2d", (4, 6, 3), dict(padding="valid", dilation=2), (IMAGES[1:],)),
    *[
        Case("Conv2d", (4, 6, 3), dict(padding=(1, 2), padding_mode=mode), (IMAGES,))
        for mode in ("reflect", "replicate", "circular")
    ],
    Case("Conv3d", (2, 4, (2, 3, 2)), dict(padding=(1, 0, 1)), ((1, 2, 3, 4, 5),)),
    Case("Conv3d", (2, 2, 3), dict(padding=1, padding_mode="replicate", groups=2), ((2, 3, 4, 5),)),
    Case("Conv1d", (4, 6, 4), dict(padding="same", dilation=3, padding_mode="replicate"), ((2, 4, 9),)),
    Case("Conv2d", (4, 6, 3), dict(padding="valid", padding_mode="circular"), (IMAGES,)),
    Case("ConvTranspose1d", (4, 6, 3), {}, ((2, 4, 9),)),
    Case("ConvTranspose1d", (4, 6, 3, 2, 1, 1, 2), dict(bias=False, dilation=2), ((4, 9),)),
    Case("ConvTranspose1d", (4, 2, 3), dict(stride=3), ((2, 4, 5),), options=dict(output_size=[17])),
    Case("ConvTranspose2d", (4, 3, 3), dict(stride=2, padding=1, output_padding=1), (IMAGES,)),
    Case("ConvTranspose2d", (4, 6, (3, 2), (2, 1), (1, 2)), dict(groups=2, dilation=(1, 3)), (IMAGES,)),
    Case("ConvTranspose2d", (4, 2, 3, 2, 1), {}, (IMAGES,), options=dict(output_size=(2, 2, 14, 15))),
    Case("ConvTranspose2d", (4, 4, 3), dict(groups=4, padding=2), (IMAGES[1:],)),
    Case("ConvTranspose3d", (2, 4, (2, 3, 1)), dict(stride=(1, 2, 3), padding=(1, 0, 0)), ((1, 2, 3, 2, 2),)),
    Case("ConvTranspose3d", (2, 4, 2), dict(groups=2, stride=2), ((2, 3, 2, 2),), options=dict(output_size=(6, 5, 4))),
]

CALLS = [
    Call("conv1d", dict(input=(2, 4, 9), weight=(6, 2, 3), bias=(6,)), dict(stride=2, padding=1, groups=2)),
    Call("conv1d", dict(input=(4, 9), weight=(6, 4, 4)), dict(padding="same", dilation=2)),
    Call("conv2d", dict(input=(2, 3, 7, 8), weight=(4, 3, 3, 2), bias=(4,))),
    Call("conv2d", dict(input=(3, 7, 8), weight=(4, 3, 3, 2), bias=(4,)), dict(stride=(2, 1), padding=(1, 2))),
    Call("conv2d", dict(input=(2, 3, 7, 8), weight=(6, 1, 3, 3)), dict(groups=3, dilation=(2, 1), padding="valid")),
    Call("conv2d", dict(input=(2, 3, 7, 8), weight=(4, 3, 4, 3)), dict(padding="same", stride=[1, 1])),
    Call("conv2d", dict(input=(0, 3, 7, 8), weight=(4, 3, 3, 2), bias=(4,))),
    Call("conv3d", dict(input=(1, 2, 4, 5, 4), weight=(3, 2, 2, 3, 2), bias=(3,)), dict(padding=(1, 0, 1))),
    Call("conv3d", dict(input=(2, 4, 5, 4), weight=(2, 1, 2, 2, 2)), dict(groups=2, stride=2)),
    Call("conv_transpose1d", dict(input=(2, 4, 9), weight=(4, 3, 3), bias=(6,)), dict(stride=2, padding=1, groups=2)),
    Call("conv_transpose1d", dict(input=(4, 9), weight=(4, 3, 2)), dict(stride=(3,), output_padding=2, dilation=4)),
    Call("conv_transpose2d", dict(input=(2, 4, 3, 4), weight=(4, 3, 3, 2), bias=(3,))),
    Call("conv_transpose2d", dict(input=(4, 3, 4), weight=(4, 1, 3, 2)), dict(groups=4, padding=(2, 3), stride=(1, 2))),
    Call("conv_transpose2d", dict(input=(2, 2, 3, 4), weight=(2, 3, 2, 2)), dict(dilation=3, output_padding=(2, 1))),
    Call("conv_transpose2d", dict(input=(0, 4, 3, 4), weight=(4, 3, 3, 2), bias=(3,)), dict(stride=2)),
    Call("conv_transpose3d", dict(input=(1, 2, 2, 3, 2), weight=(2, 3, 2, 1, 2), bias=(3,)), dict(stride=(1, 2, 2))),
    Call("conv_tbc", dict(input=(5, 2, 3), weight=(3, 3, 4), bias=(4,)), dict(pad=1)),
    Call("conv_tbc", dict(input=(5, 2, 3), weight=(2, 3, 4), bias=(4,)), dict(pad=-1)),
]  # fmt: skip

REFUSED_LAYERS = [
    ("Conv2d", (3, 4, 3), dict(padding="foo"), None, "Invalid padding string 'foo', should be one of"),
    ("Conv2d", (3, 4, 3), dict(padding_mode="foo"), None, "padding_mode must be one of .* but got padding_mode='foo'"),
    ("Conv2d", (3, 4, 3), dict(padding="same", stride=2), None, "padding='same' is not supported for strided conv"),
    ("Conv2d", (3, 4, 3), dict(groups=0), None, "groups must be a positive integer"),
    ("Conv2d", (3, 4, 3), dict(groups=2), None, "in_channels must be divisible by groups"),
    ("Conv2d", (4, 3, 3), dict(groups=2), None, "out_channels must be divisible by groups"),
    ("Conv2d", (3, 4, 3), dict(padding=5, padding_mode="reflect"), (3, 5, 5), "Padding size should be less than"),
    ("Conv2d", (3, 4, 3), dict(padding=6, padding_mode="circular"), (3, 5, 5), "wrapping around more than once"),
    ("ConvTranspose2d", (3, 4, 3), dict(padding_mode="reflect"), None, 'Only "zeros" padding mode is supported for'),
    ("ConvTranspose2d", (3, 4, 3), dict(groups=2), None, "in_channels must be divisible by groups"),
    ("ConvTranspose2d", (3, 4, 3), {}, (1, 2, 5, 5), "to have 3 channels, but got 2 channels instead"),
    ("ConvTranspose1d", (3, 4, 3), {}, (3,), r"Expected 2D \(unbatched\) or 3D \(batched\) input to conv_transpose1d"),
    ("Conv2d", (3, 4, 3), {}, (1, 2, 5, 5), "to have 3 channels, but got 2 channels instead"),
]

X, W = z(2, 4, 5, 5), z(4, 3, 3, 3)

REFUSED_CALLS = [
    ("conv2d", (z(3, 5), z(4, 3, 3, 3)), {}, "Expected 3D (unbatched) or 4D (batched) input to conv2d"),
    ("conv1d", (z(5), z(4, 3, 3)), {}, "Expected 2D (unbatched) or 3D (batched) input to conv1d"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 2, 3, 3)), {}, "to have 2 channels, but got 3 channels instead"),
    ("conv2d", (z(2, 3, 2, 2), z(4, 3, 3, 3)), {}, "Kernel size can't be greater than actual input size"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3), z(5)), {}, "expected bias to be 1-dimensional with 4 elements"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(stride=0), "non-positive stride is not supported"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(padding=-1), "negative padding is not supported"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(dilation=0), "non-positive dilation is not supported"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(groups=0), "non-positive groups is not supported"),
    ("conv2d", (z(2, 4, 5, 5), z(3, 2, 3, 3)), dict(groups=2), "expected weight to be divisible by 2 at dimension 0"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(stride=(1, 2, 3)), "expected stride to be a single integer"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(padding="foo"), "Invalid padding string: 'foo'"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(padding="same", stride=2), "not supported for strided conv"),
    ("conv2d", (z(2, 3, 5, 5, dtype="int32"), z(4, 3, 3, 3)), {}, ("expected scalar type", "should be the same")),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 3, 3)), dict(stride=1.5), ("invalid combination", "stride must be an int or")),
    ("conv2d", (z(2, 3, 0, 5), z(4, 3, 1, 1)), dict(padding=1), "Only zero batch or zero channel inputs are supported"),
    ("conv2d", (z(2, 3, 5, 5), z(0, 3, 3, 3)), {}, "expected weight to be at least 1 at dimension 0"),
    ("conv2d", (z(2, 3, 5, 5), z(4, 3, 0, 3)), {}, ("primitive", "expected a kernel without empty axes")),
    ("conv_transpose2d", (z(5, 5), z(4, 3, 3, 3)), {}, "Expected 3D (unbatched) or 4D (batched) input to"),
    ("conv_transpose2d", (z(2, 4, 5, 5), z(5, 3, 3, 3)), {}, "Given transposed=1, weight of size [5, 3, 3, 3]"),
    ("conv_transpose2d", (X, W, z(4)), {}, "expected bias to be 1-dimensional with 3 elements, but got bias of size"),
    ("conv_transpose2d", (X, W), dict(groups=3), "expected weight to be divisible by 3 at dimension 0"),
    ("conv_transpose2d", (X, W), dict(groups=0), "non-positive groups is not supported"),
    ("conv_transpose2d", (X, W), dict(stride=0), "non-positive stride is not supported"),
    ("conv_transpose2d", (X, W), dict(padding=-1), "negative padding is not supported"),
    ("conv_transpose2d", (X, W), dict(output_padding=-1), "negative output_padding is not supported"),
    ("conv_transpose2d", (X, W), dict(output_padding=1), "output padding must be smaller than either stride or"),
    ("conv_transpose2d", (X, W), dict(padding=4), ("could not construct", "Output size is too small")),
    ("conv_transpose2d", (X, W), dict(padding="same"), ("must be tuple of ints", "padding must be an int or a tuple")),
    ("conv_transpose2d", (X, W), dict(stride=(1, 2, 3)), "expected stride to be a single integer value"),
    ("conv_transpose2d", (z(2, 4, 0, 5), z(4, 3, 3, 3)), {}, "Only zero batch or zero channel inputs are supported"),
    ("conv_transpose1d", (z(4, 5, dtype="int32"), z(4, 3, 3, dtype="int32")), {}, 'conv_transpose2d_out_cpu" not'),
    ("conv_tbc", (z(5, 3), z(2, 3, 4), z(4)), {}, "Input must have 3 dims: time, batch, in_channel"),
    ("conv_tbc", (z(5, 2, 3), z(2, 3), z(4)), {}, "Weight tensor must have 3 dims: kernel_width, in_channels"),
    ("conv_tbc", (z(5, 2, 3), z(2, 3, 4), z(4, 1)), {}, "Bias must be 1-D"),
    ("conv_tbc", (z(5, 2, 3), z(2, 5, 4), z(4)), {}, "Input dim 2 (input channels) is not == dim 1 in the weight"),
    ("conv_tbc", (z(5, 2, 3), z(2, 3, 4), z(5)), {}, "Bias size must equal dim 2 in the weight tensor (output"),
    ("conv_tbc", (z(1, 2, 3), z(3, 3, 4), z(4)), {}, "Trying to create tensor with negative dimension"),
    ("conv_tbc", (z(5, 2, 3), z(2, 3, 4, dtype="int32"), z(4)), {}, "self and mat2 must have the same dtype, but got"),
]
