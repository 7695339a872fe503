"""Rows of the linear family."""

import numpy as np

from tests.table import Call, Case, fixed, z

LAYERS = [
    Case("Identity", (54,), dict(unused=True)),
    Case("Linear", (3, 5)),
    Case("Linear", (3, 5), dict(bias=False), ((2, 4, 3),)),
    Case("Linear", (3, 5), inputs=((3,),)),
    Case("Bilinear", (3, 4, 5), inputs=((2, 3), (2, 4))),
    Case("Bilinear", (3, 4, 5), dict(bias=False), ((2, 6, 3), (2, 6, 4))),
]

CALLS = [
    Call("linear", dict(input=(3, 4), weight=(5, 4), bias=(5,))),
    Call("linear", dict(input=(2, 3, 4), weight=(5, 4))),
    Call("linear", dict(input=(4,), weight=(5, 4), bias=(5,))),
    Call("linear", dict(input=(3, 4), weight=(4,))),
    Call("linear", dict(input=(3, 4), weight=(5, 4), bias=(1,))),
    Call("linear", dict(input=(0, 4), weight=(5, 4), bias=(5,))),
    Call("linear", dict(input=(2, 3, 4), weight=(4,), bias=())),
    Call("linear", dict(input=(4,), weight=(5, 4), bias=())),
    Call("bilinear", dict(input1=(3,), input2=(4,), weight=(5, 3, 4), bias=(5,))),
    Call("bilinear", dict(input1=(0, 3), input2=(0, 4), weight=(5, 3, 4))),
    Call("bilinear", dict(input1=(2, 3), input2=(2, 4), weight=(5, 3, 4), bias=(5,))),
    Call("bilinear", dict(input1=(2, 6, 3), input2=(2, 6, 4), weight=(5, 3, 4))),
    # torch's kernel asks for rows of 16 bytes
    Call("grouped_mm", dict(mat_a=(6, 4), mat_b=(3, 4, 8), offs=fixed([2, 2, 6], np.int32))),
    Call("grouped_mm", dict(mat_a=(2, 3, 4), mat_b=(4, 8), offs=fixed([3, 8], np.int32))),
    Call("grouped_mm", dict(mat_a=(5, 8), mat_b=(8, 4), offs=fixed([2, 8], np.int32))),
    Call("grouped_mm", dict(mat_a=(2, 3, 4), mat_b=(2, 4, 8)), dict(out_dtype=None)),
]  # fmt: skip

REFUSED_LAYERS = [
    ("Linear", (-1, 3), {}, None, "Trying to create tensor with negative dimension -1"),
    ("Linear", (3, 4), {}, (2, 5), r"cannot be multiplied \(2x5 and 3x4\)"),
    ("Bilinear", (0, 2, 3), {}, None, r"in1_features must be > 0, but got \(in1_features=0\)"),
]

REFUSED_CALLS = [
    ("linear", (z(2, 3, dtype="bool"), z(5, 3, dtype="bool")), {}, '"addmm_impl_cpu_" not implemented for'),
    ("linear", (z(3, 4), z(5, 3)), {}, "shapes cannot be multiplied (3x4 and 3x5)"),
    ("linear", (z(3, 3), z(5, 3), z(4)), {}, "The expanded size of the tensor (5) must match the existing size (4)"),
    ("linear", (z(3, 3, dtype="int32"), z(5, 3)), {}, ("to have", "expected m1 and m2 to have the same")),
    ("linear", (z(), z(5, 3)), {}, "need to be at least 1D, but they are 0D and 2D"),
    ("linear", (z(2, 3), z(4, 5, 3)), {}, "with <= 2 dimensions, but"),
    ("linear", (z(2, 3), z(3), z(2)), {}, "a matrix, got"),
    ("bilinear", (z(2, 3), z(3, 4), z(5, 3, 4)), {}, "batch dimensions do not match at dim 0: got 2 and 3"),
    ("bilinear", (z(2, 2), z(2, 4), z(5, 3, 4)), {}, "input1 size does not match weight size: got 2 but expected 3"),
    ("bilinear", (z(2, 3), z(2, 5), z(5, 3, 4)), {}, "input2 size does not match weight size: got 5 but expected 4"),
    ("bilinear", (z(2, 3), z(4), z(5, 3, 4)), {}, "input dimensions do not match: got 2 and 1"),
    ("bilinear", (z(2, 3), z(2, 4), z(5, 3, 4), z(4)), {}, "bias size does not match weight size: got 4 but expected"),
    ("bilinear", (z(2, 3, dtype="int32"), z(2, 4), z(5, 3, 4)), {}, "All tensors must have the same dtype, got"),
    *[
        ("grouped_mm", operands, options, message)
        for operands, options, message in (
            ((z(4, 4), z(2, 4, 4)), {}, "Have to provide offsets if there is a 2d matrix, or no offset if both"),
            ((z(4), z(2, 4, 4)), {}, "mat_a has to be 2 or 3d"),
            ((z(2, 4, 4), z(2, 5, 4)), {}, "contraction dimension of mat_a and mat_b must match"),
            ((z(2, 4, 4), z(3, 4, 4)), {}, "batched dimension has to match"),
            ((z(4, 4), z(2, 4, 4)), dict(offs=z(2)), "Offsets have to be int32"),
            ((z(4, 4), z(2, 4, 4)), dict(offs=z(1, 2, dtype="int32")), "offs has to be 1D"),
            ((z(4, 4), z(2, 4, 4)), dict(offs=z(3, dtype="int32")), "matrix batch sizes have to match"),
            ((z(2, 4, 4), z(2, 4, 4)), dict(bias=z(4)), "Bias not supported yet"),
            ((z(2, 4, 4, dtype="int32"), z(2, 4, 4)), {}, "to be Float32, BFloat16 or Float16 matrix, got"),
            ((z(2, 4, 8, dtype="float16"), z(2, 8, 8)), {}, ("to have", "expected m1 and m2 to have the same")),
        )
    ],
    ("linear", (z(2, 3), z(5, 3), z(5, dtype="int32")), {}, "self and mat2 must have the same dtype, but got"),
    ("bilinear", (z(), z(), z(5, 3, 4)), {}, "Dimension specified as -1 but tensor has no dimensions"),
    ("bilinear", (z(2, 3), z(2, 4), z(5, 3, 4), z(5, dtype="int32")), {}, "All tensors must have the same dtype, got"),
    ("bilinear", (z(2, 3), z(2, 4), z(5, 3, 4), z(5, 1)), {}, ("must match the size", "must match the existing")),
]
