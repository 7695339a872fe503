"""Rows of the padding family."""

from tests.table import Call, z

CALLS = [
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(1, 2, 0, 1), value=1.5)),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(-1, 2))),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(3, 2), mode="reflect")),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(5, -1, 1, 2), mode="replicate")),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(4, 2), mode="circular")),
]  # fmt: skip

REFUSED_CALLS = [
    ("pad", (z(3, 4), (1,)), {}, "Padding length must be divisible by 2"),
    ("pad", (z(3, 4), (1, 1) * 3), {}, "Padding length should be less than or equal to two times the input dimension"),
    ("pad", (z(3, 4), (1, 1), "foo"), {}, "Unrecognised padding mode foo"),
    ("pad", (z(3, 4), (1, 1), "reflect", 1.0), {}, 'Padding mode "reflect" doesn\'t take in value argument'),
    ("pad", (z(3, 4), (4, 1), "reflect"), {}, "Padding size should be less than the corresponding input dimension"),
    ("pad", (z(3, 4), (5, 1), "circular"), {}, "Padding value causes wrapping around more than once"),
    ("pad", (z(4), (1, 1), "reflect"), {}, "Padding size 2 is not supported for 1D input tensor"),
    ("pad", (z(3, 4), (-3, -3)), {}, ("narrow(): length must be non-negative", "crops more than there is")),
]
