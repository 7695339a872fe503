"""Rows of the flatten family."""

from tests.table import Case

LAYERS = [
    Case("Flatten", (), {}, ((2, 3, 4),)),
    Case("Flatten", (0, 1), {}, ((2, 3, 4),)),
    Case("Flatten", (-1,), {}, ((2, 3, 4),)),
    Case("Flatten", (0, 1), {}, ((0, 4),)),
    Case("Unflatten", (1, (2, -1)), {}, ((3, 4),)),
    Case("Unflatten", (1, (2, -1)), {}, ((3, 0),)),
    Case("Unflatten", (-2, [3, 1]), {}, ((3, 4),)),
]

REFUSED_LAYERS = [
    ("Flatten", (), {}, (3,), r"Dimension out of range \(expected to be in range of \[-1, 0\], but got 1\)"),
    ("Flatten", (2, 1), {}, (3, 4, 5), "start_dim cannot come after end_dim"),
    ("Flatten", ("a",), {}, (3, 4), r"flatten\(\): argument 'start_dim' \(position 1\) must be int, not str"),
    ("Unflatten", ("a", (2, 2)), {}, (3, 4), r"unflatten\(\): argument 'dim' \(position 1\) must be int, not str"),
    ("Unflatten", ("a", (("b", 2), ("c", 2))), {}, None, "tuple of ints, but found element of type tuple at pos 0"),
    ("Unflatten", (2, (2, 2)), {}, (3, 4), r"Dimension out of range \(expected to be in range of \[-2, 1\], but got 2"),
    ("Unflatten", (1, (-2, -2)), {}, (3, 4), "unflatten got an unexpected error"),
    ("Unflatten", (1, 4), {}, None, "unflattened_size must be a tuple of ints, but found type int"),
    ("Unflatten", (1, (2.0, 2)), {}, None, "must be tuple of ints, but found element of type float at pos 0"),
    ("Unflatten", (1, (2, 3)), {}, (3, 4), r"Provided sizes \[2, 3\] don't multiply up to the size of dim 1 \(4\)"),
    ("Unflatten", (1, (3, -1)), {}, (3, 4), r"Provided sizes \[3, -1\] don't multiply up to the size of dim 1 \(4\)"),
    ("Unflatten", (1, (-1, -1)), {}, (3, 4), "only one dimension can be inferred"),
    ("Unflatten", (1, ()), {}, (3, 4), "sizes must be non-empty"),
]
