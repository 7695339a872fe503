"""Rows of the vision family: resampling along axes, sampling at positions."""

import numpy as np

from tests.table import Call, Case, Recipe, fixed, z


def positions(*shape: int) -> Recipe:
    """Draw positions for a grid, some of them outside, some on the kinks."""

    def make(rng: np.random.Generator) -> np.ndarray:
        grid = rng.uniform(-2.2, 2.2, shape)
        return np.where(rng.random(shape) < 0.2, np.round(grid * 2) / 2, grid).astype(np.float32)

    return make


def levels(*shape: int) -> Recipe:
    """Draw the bytes of an image."""
    return lambda rng: rng.integers(0, 256, shape).astype(np.uint8)


SIGNAL, IMAGE, VOLUME = (2, 3, 7), (2, 3, 5, 6), (1, 2, 3, 4, 3)

LAYERS = [
    Case("Upsample", (), dict(scale_factor=2), (IMAGE,)),
    Case("Upsample", ((4, 9),), dict(mode="bilinear"), (IMAGE,)),
    Case("Upsample", (9,), dict(mode="linear", align_corners=True), (SIGNAL,)),
    Case("Upsample", (), dict(scale_factor=(1.7, 0.6), mode="bicubic", recompute_scale_factor=True), (IMAGE,)),
    Case("Upsample", (), dict(scale_factor=1.5, mode="trilinear"), (VOLUME,)),
    Case("UpsamplingNearest2d", (), dict(scale_factor=3), (IMAGE,)),
    Case("UpsamplingNearest2d", ((7, 3),), {}, (IMAGE,)),
    Case("UpsamplingBilinear2d", (), dict(scale_factor=(2.0, 1.5)), (IMAGE,)),
]

CALLS = [
    Call("interpolate", dict(input=SIGNAL), dict(size=11)),
    Call("interpolate", dict(input=SIGNAL), dict(scale_factor=2.3)),
    Call("interpolate", dict(input=IMAGE), dict(scale_factor=(2, 3), mode="nearest")),
    Call("interpolate", dict(input=IMAGE), dict(size=(3, 13), mode="nearest")),
    Call("interpolate", dict(input=VOLUME), dict(scale_factor=1.6, mode="nearest")),
    Call("interpolate", dict(input=levels(2, 3, 5, 6)), dict(size=(4, 7))),
    Call("interpolate", dict(input=SIGNAL), dict(size=10, mode="nearest-exact")),
    Call("interpolate", dict(input=IMAGE), dict(scale_factor=(0.7, 1.9), mode="nearest-exact")),
    Call("interpolate", dict(input=VOLUME), dict(size=[2, 9, 3], mode="nearest-exact")),
    Call("interpolate", dict(input=SIGNAL), dict(scale_factor=1.9, mode="linear")),
    Call("interpolate", dict(input=SIGNAL), dict(size=3, mode="linear", align_corners=True)),
    Call("interpolate", dict(input=IMAGE), dict(size=(8, 3), mode="bilinear")),
    Call("interpolate", dict(input=IMAGE), dict(size=(1, 6), mode="bilinear", align_corners=True)),
    Call("interpolate", dict(input=IMAGE), dict(scale_factor=[1.7, 2.3], mode="bilinear", align_corners=False)),
    Call("interpolate", dict(input=IMAGE), dict(scale_factor=1.7, mode="bilinear", recompute_scale_factor=True)),
    Call("interpolate", dict(input=levels(2, 3, 5, 6)), dict(size=(9, 4), mode="bilinear")),
    Call("interpolate", dict(input=(0, 3, 5, 6)), dict(size=(9, 4), mode="bilinear")),
    Call("interpolate", dict(input=IMAGE), dict(size=(8, 3), mode="bicubic")),
    Call("interpolate", dict(input=IMAGE), dict(scale_factor=1.3, mode="bicubic", align_corners=True)),
    Call("interpolate", dict(input=levels(2, 3, 5, 6)), dict(size=(9, 4), mode="bicubic")),
    Call("interpolate", dict(input=VOLUME), dict(size=(5, 2, 3), mode="trilinear")),
    Call("interpolate", dict(input=VOLUME), dict(scale_factor=1.8, mode="trilinear", align_corners=True)),
    Call("interpolate", dict(input=IMAGE), dict(size=(3, 2), mode="bilinear", antialias=True)),
    Call("interpolate", dict(input=(1, 1, 9, 40)), dict(size=(5, 2), mode="bicubic", antialias=True)),
    Call("interpolate", dict(input=IMAGE), dict(scale_factor=0.6, mode="bicubic", antialias=True, align_corners=True)),
    Call("interpolate", dict(input=IMAGE), dict(size=(3, 9), mode="lanczos", antialias=True)),
    Call("interpolate", dict(input=levels(1, 3, 8, 9)), dict(size=(3, 14), mode="bicubic", antialias=True)),
    Call("interpolate", dict(input=levels(1, 5, 8, 9)), dict(size=(8, 4), mode="lanczos", antialias=True)),
    Call("interpolate", dict(input=IMAGE), dict(size=(3, 4), mode="area")),
    Call("interpolate", dict(input=IMAGE), dict(scale_factor=1.7, mode="area")),
    *(
        Call("grid_sample", dict(input=IMAGE, grid=positions(2, 3, 4, 2)),
             dict(mode=mode, padding_mode=padding, align_corners=align), 1e-4)
        for mode in ("bilinear", "nearest", "bicubic")
        for padding, align in (("zeros", False), ("zeros", True), ("border", False), ("reflection", False),
                               ("reflection", True))
    ),
    *(
        Call("grid_sample", dict(input=VOLUME, grid=positions(1, 2, 3, 2, 3)),
             dict(mode=mode, padding_mode=padding, align_corners=align), 1e-4)
        for mode, padding, align in (("bilinear", "zeros", False), ("bilinear", "reflection", True),
                                     ("nearest", "border", True))
    ),
    Call("grid_sample", dict(input=(1, 1, 1, 1), grid=positions(1, 2, 2, 2)),
         dict(padding_mode="reflection", align_corners=True)),
    Call("grid_sample", dict(input=(0, 3, 4, 4), grid=positions(0, 2, 2, 2)), dict(align_corners=False)),
    Call("grid_sample", dict(input=(1, 1, 4, 4), grid=fixed([[[[np.nan, 0.1], [np.inf, 0.2], [1e30, 0]]]], np.float32)),
         dict(padding_mode="border", align_corners=False), trained=()),  # torch's backward reads out of bounds
    Call("affine_grid", dict(theta=(2, 2, 3)), dict(size=(2, 1, 3, 4), align_corners=False)),
    Call("affine_grid", dict(theta=(2, 2, 3)), dict(size=[2, 1, 3, 4], align_corners=True)),
    Call("affine_grid", dict(theta=(2, 3, 4)), dict(size=(2, 1, 3, 1, 2), align_corners=False)),
    Call("affine_grid", dict(theta=(1, 3, 4)), dict(size=(1, 1, 3, 4, 2), align_corners=True)),
]  # fmt: skip

REFUSED_LAYERS = [
    ("Upsample", (), {}, (1, 2, 3), "either size or scale_factor should be defined"),
    ("Upsample", (), dict(scale_factor=2, mode="bilinear"), (1, 2, 3), "Got 3D input, but bilinear mode needs 4D"),
    ("UpsamplingNearest2d", (4, 2.0), {}, (1, 2, 3, 3), "only one of size or scale_factor should be defined"),
    ("UpsamplingBilinear2d", (0,), {}, (1, 2, 3, 3), "Input and output sizes should be greater than 0"),
]

REFUSED_CALLS = [
    ("interpolate", (z(1, 1, 4, 4),), {}, "either size or scale_factor should be defined"),
    ("interpolate", (z(1, 1, 4, 4), 3, 2.0), {}, "only one of size or scale_factor should be defined"),
    ("interpolate", (z(1, 1, 4, 4), 3), dict(align_corners=False), "align_corners option can only be set with the"),
    ("interpolate", (z(1, 1, 4, 4), (3,)), {}, "Input and output must have the same number of spatial dimensions"),
    ("interpolate", (z(1, 1, 4, 4), None, (3.0,)), {}, "Input and scale_factor must have the same number of spatial"),
    ("interpolate", (z(1, 1, 4, 4), (3.0, 2.0)), {}, "expected size to be one of int or Tuple[int] or Tuple[int, int]"),
    ("interpolate", (z(1, 1, 4, 4), 3.5), {}, ("invalid combination of arguments", "expected size to be one of int")),
    ("interpolate", (z(1, 1, 4), None, "a"), {}, ("invalid combination of arguments", "scale_factor must be a number")),
    ("interpolate", (z(1, 1, 4, 4), 3), dict(recompute_scale_factor=True), "is not meaningful with an explicit size"),
    ("interpolate", (z(1, 1, 4), 3), dict(mode="bilinear"), "Got 3D input, but bilinear mode needs 4D input"),
    ("interpolate", (z(1, 1, 4), 3), dict(mode="bicubic"), "Only 3D, 4D and 5D input Tensors supported (got 3D)"),
    ("interpolate", (z(4, 4), 3), {}, "Input Error: Only 3D, 4D and 5D input Tensors supported (got 2D) for the modes"),
    ("interpolate", (z(1, 1, 4, 4), 3), dict(mode="foo"), "area | nearest-exact (got foo)"),
    ("interpolate", (z(1, 1, 4, 4), 3), dict(antialias=True), "Anti-alias option is restricted to bilinear, bicubic"),
    ("interpolate", (z(1, 1, 4, 4), 3), dict(mode="lanczos"), "Lanczos mode requires antialias=True"),
    (
        "interpolate",
        (z(1, 1, 4, 4), 3),
        dict(mode="lanczos", antialias=True, align_corners=True),
        "Lanczos mode does not support align_corners=True",
    ),
    ("interpolate", (z(1, 1, 4), 0), {}, "should be greater than 0, but got input (W: 4) and output (W: 0)"),
    ("interpolate", (z(1, 1, 4, 5), 0), {}, "but got input (H: 4, W: 5) output (H: 0, W: 0)"),
    ("interpolate", (z(1, 0, 4, 5), 3), {}, "Non-empty 4D data tensor expected but got a tensor with sizes [1, 0, 4"),
    ("interpolate", (z(1, 1, 4, 4, dtype="int32"), 3), {}, "not implemented for"),
    ("interpolate", (z(1, 1, 4, 4),), dict(scale_factor=1e20), "cannot be converted to type int64_t without overflow"),
    ("interpolate", (z(1, 1, 4),), dict(scale_factor=float("nan")), "cannot be converted to type int64_t without over"),
    ("interpolate", (z(1, 1, 4, dtype="uint8"), 3), dict(mode="linear"), "not implemented for"),
    ("grid_sample", (z(1, 1, 4, 4), z(1, 2, 2, 2)), dict(mode="foo"), "expected mode to be 'bilinear', 'nearest' or"),
    ("grid_sample", (z(1, 1, 4, 4), z(1, 2, 2, 2)), dict(padding_mode="foo"), "expected padding_mode to be 'zeros'"),
    (
        "grid_sample",
        (z(1, 1, 4), z(1, 2, 1)),
        dict(align_corners=True),
        "and grid with same number of dimensions",
    ),
    ("grid_sample", (z(1, 1, 4, 4), z(1, 2, 2, 3)), dict(align_corners=True), "grid to have size 2 in last dimension"),
    ("grid_sample", (z(1, 1, 4, 4), z(2, 2, 2, 2)), dict(align_corners=True), "grid and input to have same batch size"),
    ("grid_sample", (z(1, 1, 0, 4), z(1, 2, 2, 2)), dict(align_corners=True), "to have non-empty spatial dimensions"),
    (
        "grid_sample",
        (z(1, 1, 2, 2, 2), z(1, 1, 1, 1, 3), "bicubic"),
        dict(align_corners=True),
        "bicubic interpolation only supports 4D input",
    ),
    ("grid_sample", (z(1, 1, 4, 4), z(1, 2, 2, 2, dtype="bfloat16")), dict(align_corners=True), "expected scalar type"),
    (
        "grid_sample",
        (z(1, 1, 4, 4, dtype="int32"), z(1, 2, 2, 2, dtype="int32")),
        dict(align_corners=True),
        "not implemented for",
    ),
    ("affine_grid", (z(1, 2, 3, dtype="int32"), (1, 1, 2, 2), True), {}, "theta to have floating point type"),
    ("affine_grid", (z(1, 3, 3), (1, 1, 2, 2), True), {}, "Expected a batch of 2D affine matrices of shape Nx2x3"),
    ("affine_grid", (z(1, 3, 3), (1, 1, 2, 2, 2), True), {}, "Expected a batch of 3D affine matrices of shape Nx3x4"),
    ("affine_grid", (z(1, 2, 3), (1, 2, 2), True), {}, "affine_grid only supports 4D and 5D sizes"),
    ("affine_grid", (z(1, 2, 3), (1, 0, 2, 2), True), {}, "Expected non-zero, positive output size. Got (1, 0, 2, 2)"),
    ("affine_grid", (z(1, 2, 3), (2, 1, 2, 2), True), {}, "Expected size for first"),
]
