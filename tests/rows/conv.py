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
    ("Conv2d", (3, 4, 3), {}, (1, 2, 5, 5), "to have 3 channels, but got 2 channels instead"),
]

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
]
