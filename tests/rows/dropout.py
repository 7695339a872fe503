"""Rows of the dropout family."""

from tests.table import Call, Case, z

LAYERS = [
    Case("Dropout", (), {}, ((4, 5),), ("eval",)),
    Case("Dropout", (0.0,), dict(inplace=False), ((4, 5),)),
    Case("Dropout", (1.0,), {}, ((4, 5),)),
]

CALLS = [
    Call("dropout", dict(input=(3, 4)), dict(p=0.5, training=False)),
    Call("dropout", dict(input=(3, 4)), dict(p=0.0)),
    Call("dropout", dict(input=(3, 4)), dict(p=1.0)),
]  # fmt: skip

REFUSED_LAYERS = [
    ("Dropout", (1.5,), {}, None, "dropout probability has to be between 0 and 1, but got 1.5"),
]

REFUSED_CALLS = [
    ("dropout", (z(3), 1.5), {}, "dropout probability has to be between 0 and 1, but got 1.5"),
    ("dropout", (z(3, dtype="int32"), 0.5), {}, "result type Float can't be cast to the desired output type"),
]
