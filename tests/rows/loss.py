"""Rows of the loss family."""

from typing import Any

from tests.table import Call, Case, array, full, ints, positive, shares, z

LABELS = ints(5, 4)


def loss(name: str, arrays: dict[str, Any], options: dict[str, Any] | None = None) -> Call:
    """Call a loss that torch differentiates by its input alone."""
    return Call(name, arrays, options or {}, trained=("input",))


LAYERS = [
    Case("CrossEntropyLoss", (), {}, ((4, 5), LABELS)),
    Case("CrossEntropyLoss", (), dict(weight=array(1, 2, 3, 4, 5), ignore_index=1), ((4, 5), LABELS)),
    Case("CrossEntropyLoss", (), dict(label_smoothing=0.1, reduction="sum"), ((2, 5, 3), ints(5, 2, 3))),
    Case("CrossEntropyLoss", (), dict(reduction="none"), ((2, 5, 3), shares(2, 5, 3)), untrained=(1,)),
    Case("CrossEntropyLoss", (), {}, ((5,), ints(5))),
    Case("NLLLoss", (), {}, ((4, 5), LABELS)),
    Case("NLLLoss", (), dict(weight=array(1, 2, 3, 4, 5), reduction="none"), ((2, 5, 3, 2), ints(5, 2, 3, 2))),
    Case("MSELoss", (), {}, ((3, 4), (3, 4))),
    Case("MSELoss", (), dict(reduction="sum"), ((3, 4), (3, 4))),
]

CALLS = [
    *[
        loss("cross_entropy", dict(input=(4, 5), target=ints(5, 4), **weights), dict(reduction=r, label_smoothing=s))
        for r in ("none", "mean", "sum")
        for weights in ({}, dict(weight=positive(5)))
        for s in (0.0, 0.2)
    ],
    *[
        loss("cross_entropy", dict(input=(4, 5), target=shares(4, 5), **weights), dict(reduction=r, label_smoothing=s))
        for r in ("none", "mean", "sum")
        for weights, s in (({}, 0.0), (dict(weight=positive(5)), 0.2))
    ],
    loss("cross_entropy", dict(input=(4, 5), target=ints(5, 4), weight=positive(5)), dict(ignore_index=1)),
    loss("cross_entropy", dict(input=(4, 5), target=ints(5, 4)), dict(ignore_index=1, label_smoothing=0.1)),
    loss("cross_entropy", dict(input=(4, 5), target=full(-100, 4))),
    loss("cross_entropy", dict(input=(4, 5), target=full(-100, 4)), dict(label_smoothing=0.1)),
    loss("cross_entropy", dict(input=(2, 5, 3), target=ints(5, 2, 3)), dict(reduction="none")),
    loss("cross_entropy", dict(input=(2, 5, 3, 2), target=ints(5, 2, 3, 2), weight=positive(5))),
    loss("cross_entropy", dict(input=(2, 5, 3, 2), target=(2, 5, 3, 2)), dict(label_smoothing=0.1)),
    loss("cross_entropy", dict(input=(5,), target=ints(5))),
    loss("cross_entropy", dict(input=(5,), target=shares(5), weight=positive(5))),
    loss("cross_entropy", dict(input=(0, 5), target=ints(5, 0))),
    loss("nll_loss", dict(input=(4, 5), target=ints(5, 4))),
    loss("nll_loss", dict(input=(4, 5), target=ints(5, 4), weight=positive(5)), dict(ignore_index=1)),
    loss("nll_loss", dict(input=(4, 5), target=full(7, 4)), dict(ignore_index=7, reduction="sum")),
    loss("nll_loss", dict(input=(2, 5, 3, 2), target=ints(5, 2, 3, 2)), dict(reduction="none")),
    loss("nll_loss", dict(input=(2, 5, 3, 2, 2), target=ints(5, 2, 3, 2, 2))),
    loss("nll_loss", dict(input=(5,), target=ints(5)), dict(reduction="none")),
    *[loss("mse_loss", dict(input=(3, 4), target=(3, 4)), dict(reduction=r)) for r in ("none", "mean", "sum")],
    *[
        loss("mse_loss", dict(input=(3, 4), target=(3, 4), weight=positive(3, 4)), dict(reduction=r))
        for r in ("none", "mean", "sum")
    ],
]  # fmt: skip

REFUSED_LAYERS = [
    ("MSELoss", (), dict(reduction="foo"), ((2, 3), (2, 3)), "foo is not a valid value for reduction"),
]

REFUSED_CALLS = [
    ("cross_entropy", (z(2, 3), z(3, dtype="int64")), {}, "Expected input batch_size (2) to match target"),
    ("cross_entropy", (z(2, 3), z(2)), {}, "expected target dtype to be Long or Byte"),
    ("cross_entropy", (z(2, 3), z(2, 4)), {}, "0D or 1D target tensor expected, multi-target not supported"),
    ("cross_entropy", (z(2, 3), z(2, 3, dtype="int64")), {}, "Expected floating point type for target with class prob"),
    ("cross_entropy", (z(2, 3), z(2, 3)), dict(ignore_index=1), "ignore_index is not supported for floating"),
    ("cross_entropy", (z(2, 3), z(2, dtype="int64"), z(4)), {}, "either for all 3 classes or no classes"),
    ("cross_entropy", (z(2, 3), z(2, dtype="int64")), dict(label_smoothing=2.0), "must be between 0.0 and 1.0. Got: 2"),
    ("cross_entropy", (z(2, 3), z(2, dtype="int64")), dict(reduction="foo"), "foo is not a valid value for reduction"),
    ("cross_entropy", (z(2, 3, dtype="int64"), z(2, dtype="int64")), {}, "not implemented for"),
    ("nll_loss", (z(), z(dtype="int64")), {}, "Expected 1 or more dimensions (got 0)"),
    ("nll_loss", (z(3), z(2, dtype="int64")), {}, "For 1D input, 1D target must have size 1, but got target size: 2"),
    ("nll_loss", (z(2, 3, 4), z(2, 5, dtype="int64")), {}, "Expected target size [2, 4], got [2, 5]"),
    ("nll_loss", (z(2, 3, 4, 5), z(2, 4, dtype="int64")), {}, "only batches of spatial targets supported (3D tensors)"),
    ("mse_loss", (z(2, 3), z(2, 3)), dict(reduction="foo"), "foo is not a valid value for reduction"),
    ("mse_loss", (z(2, 3), z(2, 3)), dict(weight=z(3)), "Weights and input must have the same size"),
    ("mse_loss", (z(2, 3, dtype="int32"), z(2, 3, dtype="int32")), {}, "not implemented for"),
]
