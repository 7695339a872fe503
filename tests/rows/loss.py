"""Rows of the loss family."""

from typing import Any

import numpy as np

from tests.table import Call, Case, array, fixed, full, ints, positive, shares, signs, steps, unit, z

LABELS = ints(5, 4)
TRIPLE = dict(anchor=(4, 3), positive=(4, 3), negative=(4, 3))
BOTH_WEIGHTS = dict(input=(3, 4), target=unit(3, 4), weight=positive(3, 1), pos_weight=positive(4))
EXTREMES = dict(input=fixed([0, 1, 0, 1, 0.5], np.float32), target=fixed([0, 0, 1, 1, 0], np.float32))
REPEATS = fixed([[1, 1, 1], [1, 2, 2]])
CTC = dict(log_probs=(7, 2, 4), targets=ints(4, 2, 3, low=1), input_lengths=fixed([7, 6]), target_lengths=fixed([3, 1]))


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
    Case("L1Loss", (), {}, ((3, 4), (3, 4))),
    Case("L1Loss", (), dict(reduction="none"), ((3, 4), (3, 4))),
    Case("SmoothL1Loss", (), dict(beta=0.5, reduction="sum"), ((3, 4), (3, 4))),
    Case("SmoothL1Loss", (), dict(beta=0.0), ((3, 4), (3, 4))),
    Case("HuberLoss", ("none", 0.5), {}, ((3, 4), (3, 4))),
    Case("KLDivLoss", (), {}, ((3, 4), shares(3, 4))),
    Case("KLDivLoss", (), dict(reduction="batchmean", log_target=True), ((3, 4), (3, 4))),
    Case("PoissonNLLLoss", (), dict(full=True), ((3, 4), positive(3, 4))),
    Case("PoissonNLLLoss", (False,), dict(eps=0.1, reduction="sum"), (positive(3, 4), positive(3, 4))),
    Case("GaussianNLLLoss", (), {}, ((3, 4), (3, 4), positive(3, 4))),
    Case("GaussianNLLLoss", (), dict(full=True, eps=1.0, reduction="none"), ((3, 4), (3, 4), positive(3, 1))),
    Case("BCELoss", (), {}, (unit(3, 4), unit(3, 4))),
    Case("BCELoss", (array(1, 2, 3, 4),), dict(reduction="none"), (unit(3, 4), unit(3, 4))),
    Case("BCEWithLogitsLoss", (), {}, ((3, 4), unit(3, 4))),
    Case(
        "BCEWithLogitsLoss",
        (array(1, 2, 3, 4),),
        dict(pos_weight=array(4, 3, 2, 1), reduction="sum"),
        ((3, 4), unit(3, 4)),
    ),
    Case("HingeEmbeddingLoss", (0.5,), {}, (positive(3, 4), signs(3, 4)), untrained=(1,)),
    Case("MarginRankingLoss", (0.5,), dict(reduction="none"), ((5,), (5,), signs(5)), untrained=(2,)),
    Case("SoftMarginLoss", (), dict(reduction="sum"), ((3, 4), signs(3, 4)), untrained=(1,)),
    Case("MultiMarginLoss", (), {}, ((4, 5), LABELS)),
    Case("MultiMarginLoss", (2, 0.5, array(1, 2, 3, 4, 5)), dict(reduction="none"), ((4, 5), LABELS)),
    Case("MultiLabelMarginLoss", (), {}, ((2, 4), fixed([[3, 0, -1, 1], [-1, 0, 1, 2]]))),
    Case("MultiLabelSoftMarginLoss", (), {}, ((3, 4), unit(3, 4))),
    Case("MultiLabelSoftMarginLoss", (array(1, 2, 3, 4),), dict(reduction="none"), ((3, 4), unit(3, 4))),
    Case("CosineEmbeddingLoss", (0.1,), {}, ((6, 4), (6, 4), signs(6)), untrained=(2,)),
    Case("TripletMarginLoss", (), {}, ((3, 4), (3, 4), (3, 4))),
    Case("TripletMarginLoss", (2.0, 3.0), dict(swap=True, reduction="none"), ((3, 4), (3, 4), (3, 4))),
    Case("TripletMarginWithDistanceLoss", (), dict(swap=True), ((3, 4), (3, 4), (3, 4))),
    Case("CTCLoss", (), {}, ((7, 2, 4), ints(4, 2, 3, low=1), fixed([7, 6]), fixed([3, 1]))),
    Case("CTCLoss", (3, "none", True), {}, ((4, 2, 4), ints(3, 2, 3), fixed([4, 2]), fixed([2, 3]))),
    Case("CTCLoss", (), dict(reduction="sum"), ((7, 4), fixed([1, 1, 2]), fixed(7), fixed(3)), maps=False),
    Case("LinearCrossEntropyLoss", (3, 5), {}, ((4, 3), LABELS)),
    Case("LinearCrossEntropyLoss", (3, 5), dict(reduction="sum", ignore_index=1), ((4, 3), LABELS)),
    Case(
        "LinearCrossEntropyLoss",
        (3, 5),
        dict(out_features=(2, 3), bias=True, label_smoothing=0.1, reduction="none"),
        ((4, 3), ints(5, 4, 2, 3)),
    ),
    Case("AdaptiveLogSoftmaxWithLoss", (8, 12, [3, 7]), dict(div_value=2.0), ((6, 8), fixed([0, 2, 3, 6, 7, 11]))),
    Case("AdaptiveLogSoftmaxWithLoss", (8, 12, [3]), dict(head_bias=True), ((8,), ints(12))),
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
    loss("cross_entropy", dict(input=(0, 5), target=(0, 5))),
    loss("cross_entropy", dict(input=(4, 0), target=(4, 0)), dict(label_smoothing=0.1)),
    loss("cross_entropy", dict(input=(4, 0), target=(4, 0)), dict(reduction="sum")),
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
    *[
        Call(name, arrays, dict(options, reduction=r), trained=trained)
        for r in ("none", "mean", "sum")
        for name, arrays, options, trained in (
            ("l1_loss", dict(input=(3, 4), target=(3, 4)), {}, None),
            ("l1_loss", dict(input=steps(3, 4), target=steps(3, 4), weight=positive(3, 4)), {}, None),
            ("smooth_l1_loss", dict(input=(3, 4), target=(3, 4)), dict(beta=0.5), None),
            ("smooth_l1_loss", dict(input=steps(3, 4), target=steps(3, 4)), {}, None),
            ("huber_loss", dict(input=(3, 4), target=(3, 4)), dict(delta=0.5), None),
            ("huber_loss", dict(input=(3, 4), target=(3, 4), weight=positive(3, 4)), {}, None),
            ("kl_div", dict(input=(3, 4), target=shares(3, 4)), {}, None),
            ("kl_div", dict(input=(3, 4), target=(3, 4)), dict(log_target=True), None),
            ("poisson_nll_loss", dict(input=(3, 4), target=positive(3, 4)), dict(full=True), None),
            ("poisson_nll_loss", dict(input=positive(3, 4), target=positive(4)), dict(log_input=False), None),
            ("gaussian_nll_loss", dict(input=(3, 4), target=(3, 4), var=positive(3)), dict(eps=1.0), None),
            ("binary_cross_entropy", dict(input=unit(3, 4), target=unit(3, 4)), {}, None),
            ("binary_cross_entropy", dict(input=unit(3, 4), target=unit(3, 4), weight=positive(4)), {}, ("input",)),
            ("binary_cross_entropy_with_logits", dict(input=(3, 4), target=unit(3, 4)), {}, None),
            ("binary_cross_entropy_with_logits", BOTH_WEIGHTS, {}, ("input", "target")),
            ("hinge_embedding_loss", dict(input=steps(3, 4), target=signs(3, 4)), {}, ("input",)),
            ("margin_ranking_loss", dict(input1=steps(6), input2=steps(6), target=signs(6)), dict(margin=1.0), None),
            ("soft_margin_loss", dict(input=(3, 4), target=signs(3, 4)), {}, ("input",)),
            ("multi_margin_loss", dict(input=steps(4, 5), target=LABELS), {}, None),
            ("multi_margin_loss", dict(input=(4, 5), target=LABELS, weight=positive(5)), dict(p=2), ("input",)),
            ("multilabel_margin_loss", dict(input=steps(2, 4), target=fixed([[3, 0, -1, 1], [2, 2, 1, 0]])), {}, None),
            ("multilabel_soft_margin_loss", dict(input=(3, 4), target=unit(3, 4), weight=positive(4)), {}, None),
            ("cosine_embedding_loss", dict(input1=(6, 4), input2=(6, 4), target=signs(6)), {}, ("input1", "input2")),
            ("triplet_margin_loss", TRIPLE, {}, None),
            ("triplet_margin_with_distance_loss", TRIPLE, dict(swap=True), None),
            ("ctc_loss", CTC, {}, None),
            ("ctc_loss", CTC | dict(targets=ints(4, 4, low=1)), {}, None),
            ("linear_cross_entropy", dict(input=(4, 3), linear_weight=(5, 3), target=LABELS), {}, None),
        )
    ],
    loss("binary_cross_entropy", EXTREMES),
    loss("kl_div", dict(input=(3, 4), target=full(0, 3, 4, dtype=np.float32)), dict(reduction="batchmean")),
    *[Call("triplet_margin_loss", TRIPLE, dict(p=p, swap=True)) for p in (0.5, 1, 3, -1, float("inf"))],
    loss("multi_margin_loss", dict(input=(5,), target=ints(5)), dict(reduction="none")),
    loss("multilabel_margin_loss", dict(input=(4,), target=fixed([1, -1, 0, 0]))),
    Call("cosine_embedding_loss", dict(input1=(4,), input2=(4,), target=fixed(-1.0, np.float32)), trained=("input1",)),
    Call("ctc_loss", CTC | dict(targets=REPEATS, input_lengths=fixed([4, 0])), dict(zero_infinity=True)),
    Call("ctc_loss", CTC | dict(targets=REPEATS, input_lengths=fixed([4, 6]))),
    Call("ctc_loss", CTC | dict(targets=fixed([], np.int64), target_lengths=fixed([0, 0])), dict(blank=3)),
    loss("linear_cross_entropy", dict(input=(4, 3), linear_weight=(5, 3), target=LABELS, weight=positive(5))),
    Call("linear_cross_entropy", dict(input=(3,), linear_weight=(5, 3), target=ints(5), linear_bias=(5,))),
    loss("linear_cross_entropy", dict(input=(4, 3), linear_weight=(5, 2, 3), target=shares(4, 5, 2))),
]  # fmt: skip

REFUSED_LAYERS = [
    ("MSELoss", (), dict(reduction="foo"), ((2, 3), (2, 3)), "foo is not a valid value for reduction"),
    ("HuberLoss", (), dict(delta="1"), None, "delta must be a float or int"),
    ("MultiMarginLoss", (3,), {}, None, "only p == 1 and p == 2 supported"),
    ("TripletMarginLoss", (0.0,), {}, None, "TripletMarginLoss: expected margin to be greater than 0, got 0.0 instead"),
    ("TripletMarginWithDistanceLoss", (), dict(margin=-1), None, "expected margin to be greater than 0, got -1"),
    (
        "LinearCrossEntropyLoss",
        (3, 5),
        dict(label_smoothing=2),
        None,
        r"to be in range \[0, 1\], got 2",
    ),
    ("AdaptiveLogSoftmaxWithLoss", (4, 8, []), {}, None, "cutoffs should be a sequence of length larger than 0"),
    ("AdaptiveLogSoftmaxWithLoss", (4, 8, [5, 3]), {}, None, "cutoffs should be a sequence of unique, positive"),
    ("AdaptiveLogSoftmaxWithLoss", (4, 8, [8]), {}, None, "cutoffs should be a sequence of unique, positive"),
    (
        "AdaptiveLogSoftmaxWithLoss",
        (8, 12, [3]),
        {},
        ((2, 8), ints(4, 3)),
        "Input and target should have the same",
    ),
    ("AdaptiveLogSoftmaxWithLoss", (8, 12, [3]), {}, ((2, 8), full(12, 2)), r"Target values should be in \[0, 11\]"),
    ("AdaptiveLogSoftmaxWithLoss", (8, 12, [3]), {}, ((8,), ints(4, 8)), "1D target tensor expects 2D input tensors"),
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
    ("l1_loss", (z(2, dtype="int64"), z(2, dtype="int64")), {}, "mean(): could not infer output dtype"),
    ("smooth_l1_loss", (z(2), z(2)), dict(beta=-1.0), "smooth_l1_loss does not support negative values for beta."),
    ("huber_loss", (z(2), z(2)), dict(delta=0.0), "huber_loss does not support non-positive values for delta."),
    ("huber_loss", (z(2), z(2)), dict(weight=z(3)), "Weights and input must have the same size"),
    ("kl_div", (z(2), z(2, dtype="int64")), dict(reduction="sum"), "kl_div: Integral inputs not supported."),
    ("kl_div", (z(2, 3), z(2, 4)), dict(reduction="sum"), "tensor a (4) must match the size of tensor b (3)"),
    ("poisson_nll_loss", (z(2), z(2)), dict(reduction="foo"), "foo is not a valid value for reduction"),
    ("gaussian_nll_loss", (z(2, 3), z(2, 3), z(3)), {}, "var is of incorrect size"),
    ("gaussian_nll_loss", (z(2, 3), z(2, 3), -1.0), {}, "var has negative entry/entries"),
    ("gaussian_nll_loss", (z(2), z(2), z(2)), dict(reduction="foo"), "foo is not valid"),
    ("binary_cross_entropy", (z(2), z(3)), {}, ("Using a target size (torch.Size([3]))", "Using a target size ([3])")),
    ("binary_cross_entropy", (z(2), z(2, dtype="int64")), {}, ("Found dtype Long", "Found dtype int")),
    ("binary_cross_entropy", (z(3), z(3), z(2, 3)), {}, "output with shape [3] doesn't match the broadcast"),
    ("binary_cross_entropy_with_logits", (z(2), z(3)), {}, ("Target size (torch.Size([3]))", "Target size ([3])")),
    ("binary_cross_entropy_with_logits", (z(2), z(2, dtype="int64")), {}, "can't be cast to the desired output type"),
    ("hinge_embedding_loss", (z(2), z(3)), {}, "The size of tensor a (3) must match the size of tensor b (2)"),
    ("margin_ranking_loss", (z(2), z(2), z(1, 2)), {}, "All input tensors should have same dimension but got sizes"),
    ("soft_margin_loss", (z(2, 3), z(2, 4)), {}, "The size of tensor a (3) must match the size of tensor b (4)"),
    ("multi_margin_loss", (z(2, 3), z(3, dtype="int64")), {}, "Expected target size [2], but got [3]."),
    ("multi_margin_loss", (z(2, 3), z(2)), {}, "expected scalar type Long but found"),
    ("multi_margin_loss", (z(2, 3), z(2, dtype="int64")), dict(p=3), "only p == 1 and p == 2 supported"),
    ("multi_margin_loss", (z(2, 3), z(2, dtype="int64"), 1, 1.0, z(4)), {}, "inconsistent weight size, expected 3"),
    ("multilabel_margin_loss", (z(2, 3), z(3, dtype="int64")), {}, "inconsistent target size: [3] for input"),
    ("multilabel_margin_loss", (z(2, 3, 4), z(2, 3, 4, dtype="int64")), {}, "Expected non-empty vector or matrix"),
    ("multilabel_soft_margin_loss", (z(2), z(2)), dict(reduction="foo"), "foo is not valid"),
    ("cosine_embedding_loss", (z(2, 3), z(2, 3), z(2, 1)), {}, "0D or 1D target tensor expected, multi-target"),
    ("cosine_embedding_loss", (z(3), z(3), z(1)), {}, "1D target tensor expects 2D input tensors, but found"),
    ("triplet_margin_loss", (z(2), z(2), z(2)), dict(margin=0), "margin must be greater than 0, got 0"),
    ("triplet_margin_loss", (z(2), z(2), z(1, 2)), {}, "the same number of dimensions, but got: anchor 1D"),
    ("triplet_margin_with_distance_loss", (z(2), z(2), z(2)), dict(reduction="foo"), "foo is not a valid"),
    ("ctc_loss", (z(5, 2, 4), z(2, 3, dtype="int64"), (6, 5), (3, 2)), {}, "Expected input_lengths to have value at"),
    ("ctc_loss", (z(5, 2, 4), z(2, 3, dtype="int64"), (5, 5), (-1, 2)), {}, "Expected target_lengths to have value at"),
    ("ctc_loss", (z(5, 2, 4), z(2, 3, dtype="int64"), (5,), (3, 2)), {}, "input_lengths must be of size batch_size"),
    ("ctc_loss", (z(5, 2, 4), z(2, 3, dtype="int64"), (5, 5), (3, 2)), dict(blank=4), "blank must be in label"),
    ("ctc_loss", (z(5, 2, 4), z(4, dtype="int64"), (5, 5), (3, 2)), {}, "Expected tensor to have size 5"),
    ("ctc_loss", (z(5, 2, 4), z(3, 3, dtype="int64"), (5, 5), (3, 2)), {}, "to have size 2 at dimension 0, but got"),
    ("ctc_loss", (z(5, 2, 4), z(2, 2, dtype="int64"), (5, 5), (3, 2)), {}, "to have size at least 3 at dimension 1"),
    ("ctc_loss", (z(0, 2, 4), z(2, 3, dtype="int64"), (0, 0), (3, 2)), {}, "log_probs tensor must not be empty"),
    ("linear_cross_entropy", (z(2, 3), z(3), z(2, dtype="int64")), {}, "expected linear_weight with dimensionality"),
    ("linear_cross_entropy", (z(2, 3), z(5, 4), z(2, dtype="int64")), {}, "expected equal input and"),
    ("linear_cross_entropy", (z(2, 3), z(5, 3), z(2, 5)), dict(ignore_index=1), "ignore_index cannot be"),
    ("linear_cross_entropy", (z(3), z(5, 2, 3), z(5, 2)), {}, "K-dimensional loss defined by"),
]  # fmt: skip
