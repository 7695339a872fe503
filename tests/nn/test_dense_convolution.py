"""Matrix-product algorithms of convolutions: each equals XLA's primitive on every kind of window."""

import jax
import numpy as np
import pytest
from jax import lax

from jaxmodules.nn.functional._cpu import dense

LAYOUTS = {1: ("NCW", "OIW", "NCW"), 2: ("NCHW", "OIHW", "NCHW"), 3: ("NCDHW", "OIDHW", "NCDHW")}


def _case(
    shape: tuple[int, ...],
    outputs: int,
    kernel: tuple[int, ...],
    stride: int = 1,
    padding: int | tuple[tuple[int, int], ...] = 0,
    dilation: int = 1,
) -> dense.Case:
    batch, inputs, *sizes = shape
    rank = len(kernel)
    pairs = ((padding, padding),) * rank if isinstance(padding, int) else padding
    spans = [dilation * (k - 1) + 1 for k in kernel]
    out = [(size + sum(pair) - span) // stride + 1 for size, pair, span in zip(sizes, pairs, spans, strict=True)]
    steps = ((stride,) * rank, pairs, (dilation,) * rank)
    return dense.Case(batch, inputs, outputs, tuple(sizes), kernel, *steps, tuple(out))


def _convolve(input, weight, case):
    layout = LAYOUTS[len(case.kernel)]
    # padded apart: XLA's convolution on the CPU reads out of bounds where its own padding is negative
    padded = lax.pad(input, np.float32(0), [(0, 0, 0), (0, 0, 0), *((low, high, 0) for low, high in case.padding)])
    return lax.conv_general_dilated(
        padded, weight, case.stride, "VALID", rhs_dilation=case.dilation, dimension_numbers=layout
    )


CASES = {
    "1x1": _case((2, 3, 4, 5), 6, (1, 1)),
    "1x1 strided": _case((2, 3, 5, 5), 6, (1, 1), stride=2, padding=1),
    "3x3": _case((2, 3, 6, 6), 4, (3, 3), padding=1),
    "3x3 odd": _case((3, 3, 7, 5), 4, (3, 3), padding=1),
    "3x2 valid": _case((2, 3, 6, 6), 4, (3, 2)),
    "3x3 strided": _case((2, 3, 8, 9), 4, (3, 3), stride=2, padding=1),
    "2x2 strided by 3": _case((2, 3, 8, 9), 4, (2, 2), stride=3),
    "3x3 dilated": _case((2, 3, 8, 9), 4, (3, 3), padding=2, dilation=2),
    "3x3 strided and dilated": _case((2, 3, 9, 9), 4, (3, 3), stride=2, padding=2, dilation=3),
    "uneven padding": _case((2, 3, 6, 6), 4, (3, 3), padding=((0, 2), (2, 1))),
    "negative padding": _case((2, 3, 8, 8), 4, (3, 3), padding=((-1, 1), (0, -2))),
    "rows in blocks": _case((2, 3, 37, 64), 4, (3, 3), padding=1),
    "samples in blocks": _case((12, 3, 18, 18), 4, (3, 3), padding=1),
    "signal": _case((2, 3, 11), 4, (3,), padding=1),
    "volume": _case((2, 3, 4, 5, 4), 4, (3, 3, 3), padding=1),
}


def _operands(case):
    rng = np.random.default_rng(0)
    shapes = {"input": (case.batch, case.inputs, *case.sizes), "weight": (case.outputs, case.inputs, *case.kernel)}
    shapes["cotangent"] = (case.batch, case.outputs, *case.out)
    return [rng.standard_normal(shape, np.float32) for shape in shapes.values()]


def _assert_close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-5 * np.abs(desired).max())


@pytest.mark.parametrize("name", CASES)
def test_weight_gradient_by_columns(name):
    case = CASES[name]
    input, weight, cotangent = _operands(case)
    expected = jax.linear_transpose(lambda w: _convolve(input, w, case), weight)(cotangent)[0]
    _assert_close(jax.jit(lambda x, y: dense.weight_by_columns(x, y, case))(input, cotangent), expected)


@pytest.mark.parametrize("name", ["1x1", "1x1 strided"])
def test_weight_gradient_by_samples(name):
    case = CASES[name]
    input, weight, cotangent = _operands(case)
    expected = jax.linear_transpose(lambda w: _convolve(input, w, case), weight)(cotangent)[0]
    _assert_close(jax.jit(lambda x, y: dense.weight_by_samples(x, y, case))(input, cotangent), expected)
