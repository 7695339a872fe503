"""Rows of the normalization family."""

from tests.table import Call, Case, positive, z

BOTH = ("train", "eval")
IMAGES = (2, 4, 7, 8)

LAYERS = [
    Case("BatchNorm1d", (3,), inputs=((4, 3),), modes=BOTH),
    Case("BatchNorm1d", (3,), dict(eps=0.1, momentum=0.3, bias=False), ((4, 3, 5),), BOTH),
    Case("BatchNorm1d", (3,), dict(momentum=None), ((4, 3),), BOTH),
    Case("BatchNorm2d", (4,), inputs=(IMAGES,), modes=BOTH),
    Case("BatchNorm2d", (4,), dict(affine=False), (IMAGES,), BOTH),
    Case("BatchNorm2d", (4,), dict(track_running_stats=False), (IMAGES,), BOTH),
    Case("LayerNorm", (4,), {}, ((2, 3, 4),)),
    Case("LayerNorm", ([3, 4],), dict(eps=0.1, bias=False), ((2, 3, 4),)),
    Case("LayerNorm", (4,), dict(elementwise_affine=False), ((3, 4),)),
]

CALLS = [
    Call("batch_norm", dict(input=(4, 3), running_mean=(3,), running_var=positive(3), weight=(3,), bias=(3,))),
    Call("batch_norm", dict(input=(2, 3, 7, 8), running_mean=(3,), running_var=positive(3)), dict(eps=0.1)),
    Call("batch_norm", dict(input=(2, 3, 7, 8), weight=(3,), bias=(3,)),
         dict(running_mean=None, running_var=None, training=True)),
    Call("batch_norm", dict(input=(4, 3, 5), weight=(3,)), dict(running_mean=None, running_var=None, training=True)),
    Call("layer_norm", dict(input=(2, 3, 4), weight=(4,), bias=(4,)), dict(normalized_shape=(4,))),
    Call("layer_norm", dict(input=(2, 3, 4), weight=(3, 4)), dict(normalized_shape=[3, 4], eps=0.1)),
    Call("layer_norm", dict(input=(2, 3)), dict(normalized_shape=(3,))),
]  # fmt: skip

REFUSED_LAYERS = [
    ("BatchNorm1d", (3,), {}, (3,), r"expected 2D or 3D input \(got 1D input\)"),
    ("BatchNorm2d", (3,), {}, (2, 3, 4), r"expected 4D input \(got 3D input\)"),
    ("BatchNorm1d", (3,), {}, (2, 4), "running_mean should contain 4 elements not 3"),
    ("BatchNorm1d", (3,), {}, (1, 3), "Expected more than 1 value per channel when training"),
    ("LayerNorm", ((2, 3),), {}, (4, 3), r"Given normalized_shape=\[2, 3\], expected input with shape \[\*, 2, 3\]"),
]

REFUSED_CALLS = [
    ("batch_norm", (z(2, 3), None, None), {}, "running_mean must be defined in evaluation mode"),
    ("batch_norm", (z(2, 3), z(3), None), dict(training=True), "must either both be None or neither be None"),
    ("batch_norm", (z(2, 3), z(4), z(4)), {}, "running_mean should contain 3 elements not 4"),
    ("batch_norm", (z(2, 3), z(3), z(3), z(3), z(4)), {}, "bias should contain 3 elements not 4"),
    ("batch_norm", (z(3), z(3), z(3)), {}, "running_mean should contain 0 elements not 3"),
    ("batch_norm", (z(1, 3, 1), None, None), dict(training=True), "Expected more than 1 value per channel"),
    ("batch_norm", (z(2, 3), z(3), z(3)), dict(training=True, eps=0.0), "eps must be positive during training"),
    ("batch_norm", (z(2, 3), z(3), z(3)), dict(eps=-1.0), "eps must be non-negative, but got -1.0"),
    ("batch_norm", (z(2, 3, dtype="int32"), z(3), z(3)), {}, "not implemented for"),
    ("layer_norm", (z(2, 3), 3), {}, "argument 'normalized_shape'"),
    ("layer_norm", (z(2, 3), ()), {}, "Expected normalized_shape to be at least 1-dimensional"),
    ("layer_norm", (z(2, 3), (4,)), {}, "Given normalized_shape=[4], expected input with shape [*, 4]"),
    ("layer_norm", (z(2, 3), (3,), z(2)), {}, "Expected weight to be of same shape as normalized_shape"),
    ("layer_norm", (z(2, 3, dtype="int32"), (3,)), {}, "not implemented for"),
]
