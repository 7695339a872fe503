"""Rows of the padding family."""

from tests.table import Call, Case, z

SIGNALS, IMAGES, VOLUMES = (2, 3, 4), (2, 2, 3, 4), (1, 2, 3, 2, 4)

LAYERS = [
    *[
        Case(f"{kind}Pad{rank}d", (padding,), {}, (shape,))
        for kind in ("Circular", "Reflection", "Replication", "Zero")
        for rank, padding, shape in (
            (1, 2, SIGNALS),
            (1, (3, -1), SIGNALS[1:]),
            (2, (1, 2, 0, 1), IMAGES),
            (2, [1, 1, 1, 0], IMAGES[1:]),
            (3, 1, VOLUMES),
            (3, (1, 2, 0, 1, -1, 1), VOLUMES[1:]),
        )
    ],
    Case("ConstantPad1d", ((1, 2), 3.5), {}, (SIGNALS,)),
    Case("ConstantPad1d", (1, -1), {}, ((4,),)),
    Case("ConstantPad2d", (2, 0.5), {}, (IMAGES,)),
    Case("ConstantPad3d", ((1, 2, 0, 1, -1, -2), 2), {}, (VOLUMES,)),
]

CALLS = [
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(1, 2, 0, 1), value=1.5)),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(-1, 2))),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=())),
    Call("pad", dict(input=(2, 0, 4)), dict(pad=[1, 1] * 3, value=-1)),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(3, 2), mode="reflect")),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(-1, 3), mode="reflect", value=0)),
    Call("pad", dict(input=(3, 4)), dict(pad=(-5, 3), mode="reflect")),
    Call("pad", dict(input=(0, 2, 3, 4)), dict(pad=(1, 1, 1, 1), mode="reflect")),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(5, -1, 1, 2), mode="replicate")),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(-6, 5), mode="replicate")),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(4, 2), mode="circular")),
    Call("pad", dict(input=(2, 3, 4)), dict(pad=(-1, 3, 2, -1), mode="circular")),
    Call("pad", dict(input=(0, 2, 2, 3)), dict(pad=(1, 1, 1, 1), mode="circular")),
]  # fmt: skip

REFUSED_LAYERS = [
    ("ReflectionPad1d", (1,), {}, (4,), "Padding size 2 is not supported for 1D input tensor."),
    ("ReflectionPad2d", (3,), {}, (2, 3, 4), r"but got: padding \(3, 3\) at dimension 1 of input \[2, 3, 4\]"),
    ("ReplicationPad3d", (1,), {}, (2, 3, 4), "Padding size 6 is not supported for 3D input tensor."),
    ("CircularPad1d", (1,), {}, (4,), r"expected 2D or 3D input \(got 1D input\)"),
    ("CircularPad2d", (1,), {}, (3, 4), r"expected 3D or 4D input \(got 2D input\)"),
    ("CircularPad3d", (1,), {}, (2, 3, 4), r"expected 4D or 5D input \(got 3D input\)"),
    ("ConstantPad2d", (1, 0.5), {}, (3,), "got padding length 4 and input of dimension 1"),
    ("ZeroPad1d", ((1, 2, 3),), {}, (3, 4), "Padding length must be divisible by 2"),
    ("ZeroPad1d", (1.5,), {}, (3, 4), r"pad\(\): argument 'pad' \(position 2\) must be tuple of ints, but"),
]

REFUSED_CALLS = [
    ("pad", (z(3, 4), (1,)), {}, "Padding length must be divisible by 2"),
    ("pad", (z(3, 4), (1, 1) * 3), {}, "Padding length should be less than or equal to two times the input dimension"),
    ("pad", (z(3, 4), (1, 1), "foo"), {}, "Unrecognised padding mode foo"),
    ("pad", (z(3, 4), (1,), "foo", 1.0), {}, "Unrecognised padding mode foo"),
    ("pad", (z(3, 4), (1, 1), "reflect", 1.0), {}, 'Padding mode "reflect" doesn\'t take in value argument'),
    ("pad", (z(3, 4), (4, 1), "reflect"), {}, "Argument #4: Padding size should be less than the corresponding input"),
    ("pad", (z(1, 3, 4, 4), (1, 1, 4, 1), "reflect"), {}, "Argument #6: Padding size should be less than the"),
    ("pad", (z(3, 4), (5, 1), "circular"), {}, "Padding value causes wrapping around more than once"),
    ("pad", (z(3, 4), (-3, -2), "circular"), {}, "Negative padding value is resulting in an empty dimension"),
    ("pad", (z(1, 4), (-3, 2), "circular"), {}, ("single memory location", "wrapping around more than once")),
    ("pad", (z(4), (1, 1), "reflect"), {}, "Padding size 2 is not supported for 1D input tensor"),
    ("pad", (z(3, 4), (), "replicate"), {}, "Padding size 0 is not supported for 2D input tensor"),
    ("pad", (z(2, 0, 4), (1, 1), "reflect"), {}, "Expected 2D or 3D (batch mode) tensor with possibly 0 batch size"),
    ("pad", (z(3, 4), (-2, -2), "reflect"), {}, "input (W: 4) is too small. Calculated output W: 0"),
    ("pad", (z(3, 4, 4), (-2,) * 4, "reflect"), {}, "input (H: 4, W: 4) is too small. Calculated output H: 0 W: 0"),
    ("pad", (z(3, 4, dtype="bool"), (1, 1), "replicate"), {}, "\"replication_pad1d\" not implemented for 'Bool'"),
    ("pad", (z(3, 4), (-3, -3)), {}, ("narrow(): length must be non-negative", "crops more than there is")),
    ("pad", (z(3, 4), (-5, 5)), {}, ("narrow(): length must be non-negative", "crops more than there is")),
    ("pad", (z(3, 4), 1), {}, "pad(): argument 'pad' (position 2) must be tuple of ints"),
]
