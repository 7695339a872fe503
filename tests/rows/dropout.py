"""Rows of the dropout family."""

from tests.table import Call, Case, z

CHANNELS = {"Dropout1d": (2, 3, 4), "Dropout2d": (2, 3, 2, 2), "Dropout3d": (2, 3, 2, 2, 2)}
INPUTS = CHANNELS | {"Dropout": (4, 5), "AlphaDropout": (4, 5), "FeatureAlphaDropout": (2, 3, 4)}
FUNCTIONS = ("dropout", "dropout1d", "alpha_dropout", "feature_alpha_dropout")

LAYERS = [
    *[Case(name, (), {}, (shape,), ("eval",)) for name, shape in INPUTS.items()],
    *[Case(name, (0.0,), dict(inplace=False), (shape,)) for name, shape in INPUTS.items()],
    *[Case(name, (1.0,), {}, (shape,)) for name, shape in INPUTS.items()],
    Case("Dropout1d", (1.0,), {}, ((3, 4),)),
    Case("Dropout3d", (1.0,), {}, ((3, 2, 2, 2),)),
]

CALLS = [
    *[Call(name, dict(input=(3, 4)), dict(p=0.5, training=False)) for name in FUNCTIONS],
    *[Call(name, dict(input=(3, 4)), dict(p=0.0, training=True)) for name in FUNCTIONS],
    *[Call(name, dict(input=(3, 4)), dict(p=1.0, training=True)) for name in FUNCTIONS],
    *[Call(name, dict(input=(0, 4)), dict(training=True)) for name in FUNCTIONS],
    Call("dropout2d", dict(input=(2, 3, 2, 2)), dict(p=1.0)),
    Call("dropout3d", dict(input=(3, 2, 2, 2)), dict(p=1.0)),
]  # fmt: skip

REFUSED_LAYERS = [
    (name, (1.5,), {}, None, "dropout probability has to be between 0 and 1, but got 1.5") for name in INPUTS
] + [("Dropout1d", (), {}, (3,), "dropout1d: Expected 2D or 3D input, but received a 1D input")]

REFUSED_CALLS = [
    *[
        (name, (z(3, 2), -0.5), {}, "dropout probability has to be between 0 and 1, but got -0.5")
        for name in (*FUNCTIONS, "dropout2d", "dropout3d")
    ],
    *[
        (name, (z(3, 2, dtype="int32"), 0.5, True), {}, "result type Float can't be cast to the desired output type")
        for name in FUNCTIONS
    ],
    ("dropout1d", (z(2, 3, 4, 5),), {}, "dropout1d: Expected 2D or 3D input, but received a 4D input"),
    ("feature_alpha_dropout", (z(3), 0.5, True), {}, "Feature dropout requires at least 2 dimensions in the input"),
]  # fmt: skip
