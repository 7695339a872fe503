"""Rows of the layers and functions that rearrange channels and pixels."""

from tests.table import Call, Case, z

LAYERS = [
    Case("PixelShuffle", (2,), {}, ((2, 8, 3, 4),)),
    Case("PixelShuffle", (3,), {}, ((2, 1, 9, 1, 2),)),
    Case("PixelUnshuffle", (2,), {}, ((2, 3, 4, 6),)),
    Case("PixelUnshuffle", (3,), {}, ((2, 3, 6),)),
    Case("ChannelShuffle", (2,), {}, ((2, 6, 3),)),
    Case("ChannelShuffle", (3,), {}, ((1, 6, 2, 3, 2),)),
]

CALLS = [
    Call("pixel_shuffle", dict(input=(2, 8, 3, 4)), dict(upscale_factor=2)),
    Call("pixel_shuffle", dict(input=(4, 0, 3)), dict(upscale_factor=2), trained=()),
    Call("pixel_unshuffle", dict(input=(2, 2, 4, 6)), dict(downscale_factor=2)),
    Call("pixel_unshuffle", dict(input=(0, 2, 4, 6)), dict(downscale_factor=2), trained=()),
    Call("channel_shuffle", dict(input=(2, 6, 3, 4)), dict(groups=3)),
    Call("channel_shuffle", dict(input=(2, 0, 3)), dict(groups=3), trained=()),
    Call("native_channel_shuffle", dict(input=(2, 6, 3, 4)), dict(groups=2), trained=()),
]  # fmt: skip

REFUSED_LAYERS = [
    ("PixelShuffle", (2,), {}, (7, 3, 3), r"but input.size\(-3\)=7 is not divisible by 4"),
    ("PixelUnshuffle", (2,), {}, (4, 3, 4), r"expects height .* but input.size\(-2\)=3 is not divisible by 2"),
    ("ChannelShuffle", (3,), {}, (2, 4, 3), "Number of channels must be divisible by groups. Got 4 channels and 3"),
]

REFUSED_CALLS = [
    ("pixel_shuffle", (z(8, 3), 2), {}, "expects input to have at least 3 dimensions, but got input with 2"),
    ("pixel_shuffle", (z(8, 3, 3), 0), {}, "pixel_shuffle expects a positive upscale_factor, but got 0"),
    ("pixel_shuffle", (z(8, 3, 3), 2.0), {}, "argument 'upscale_factor' (position 2) must be int, not float"),
    ("pixel_shuffle", (z(8, 3, 3), True), {}, "argument 'upscale_factor' (position 2) must be int, not bool"),
    ("pixel_unshuffle", (z(4, 4), 2), {}, "expects input to have at least 3 dimensions, but got input with 2"),
    ("pixel_unshuffle", (z(8, 4, 4), -2), {}, "pixel_unshuffle expects a positive downscale_factor, but got -2"),
    ("pixel_unshuffle", (z(8, 4, 3), 2), {}, "expects width to be divisible by downscale_factor, but input.size(-1)=3"),
    ("channel_shuffle", (z(2, 4), 2), {}, "channel_shuffle expects input with > 2 dims, but got input with sizes [2"),
    ("channel_shuffle", (z(2, 4, 3), 0), {}, "Number of groups to divide channels in must be positive. Value of"),
    ("channel_shuffle", (z(2, 4, 3), 2.0), {}, "argument 'groups' (position 2) must be int, not float"),
]
