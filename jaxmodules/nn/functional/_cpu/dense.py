"""Convolutions of many channels in one group, as matrix products.

XLA's matrix products use all cores at their full speed; what costs is to lay their operands out. Two things decide:

- A buffer of more than 32 MB comes fresh from the operating system at each call, page by page, which takes longer than
  to fill it twenty times. So columns (the copies of the input that each element of the kernel meets) are never made for
  the whole input, but in a loop over blocks of samples and rows that stay in the cache.
- Slices with a stride are not vectorised. So a strided convolution first splits the input into its phases, once, and
  all further slices run along whole rows.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product

import jax.numpy as jnp
from jax import lax

from jaxmodules._typing import Array
from jaxmodules.nn.functional._convolution import Case

_PIXELS = 1024  # of one block: a matrix product of full speed whose columns stay in the cache
_TILES = 256  # of one block, whose 16 products stay in the cache


def weight_by_columns(input: Array, cotangent: Array, case: Case) -> Array:
    """Differentiate a convolution by its weight: a loop over blocks of pixels, each one product with its columns.

    Shape:
        ``(N, I, *spatial), (N, O, *out) -> (O, I, *kernel)``
    """
    samples, rows = _block_sizes(case.batch, case.out[0], math.prod(case.out[1:]), _PIXELS)
    blocks = -(-case.out[0] // rows)
    out = (blocks * rows, *case.out[1:])
    phases = _phases(input, case, out)
    missing = [(0, size - given, 0) for size, given in zip(out, case.out, strict=True)]
    cotangent = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [(0, 0, 0), (0, 0, 0), *missing])

    def block(index: Array, total: Array) -> Array:
        sample, row = index // blocks * samples, index % blocks * rows
        y = _block(cotangent, sample, row, samples, rows).swapaxes(0, 1).reshape(case.outputs, -1)
        x = {at: _block(phase, sample, row, samples, phase.shape[2] - out[0] + rows) for at, phase in phases.items()}
        columns = lax.concatenate([tap.swapaxes(0, 1) for tap in _taps(x, case, (rows, *out[1:]))], 0)
        # reshaped only once they are laid out: a fused reshape would divide for the index of every element;
        # and the long operand first, as the other one is what the product packs
        columns = columns.reshape(columns.shape[0], -1)
        return total + lax.dot_general(columns, y, (((1,), (1,)), ((), ())))

    total = jnp.zeros((math.prod(case.kernel) * case.inputs, case.outputs), input.dtype)
    total = lax.fori_loop(0, case.batch // samples * blocks, block, total)
    return total.reshape(*case.kernel, case.inputs, case.outputs).transpose(-1, -2, *range(len(case.kernel)))


def output_by_wide_rows(input: Array, weight: Array, case: Case) -> Array:
    """Convolve all images as one, side by side with zeros between them.

    Shape:
        ``(N, I, H, W), (O, I, *kernel) -> (N, O, *out)``
    """
    k, s, d, size, out = (of[1] for of in (case.kernel, case.stride, case.dilation, case.sizes, case.out))
    (top, bottom), (left, _) = case.padding
    # XLA's convolution reads out of bounds where one end is padded and the other one cropped, so nothing is cropped
    crop = [min(size, 0) for size in (top, bottom, left)]
    top, bottom, left = (max(size, 0) for size in (top, bottom, left))
    span = (k - 1) * d + 1
    width = -(-max(size + crop[2] + left, (out - 1) * s + span - left, out * s) // s) * s
    pads = [(0, 0, 0), (0, 0, 0), (crop[0], crop[1], 0), (crop[2], width - size - crop[2], 0)]
    apart = lax.pad(input, jnp.zeros((), input.dtype), pads).transpose(2, 0, 3, 1)  # (H, N, width, I)
    rows = lax.conv_general_dilated(
        apart.reshape(1, apart.shape[0], -1, case.inputs),
        weight.transpose(2, 3, 1, 0),
        case.stride,
        ((top, bottom), (left, max(span - s - left, 0))),
        rhs_dilation=case.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[:, :, : case.batch * width // s]
    return rows.reshape(case.out[0], case.batch, width // s, -1)[:, :, :out].transpose(1, 3, 0, 2)


def output_by_winograd(input: Array, weight: Array, case: Case) -> Array:
    """Convolve with kernels of 3x3 by the method of Winograd: 16 products for tiles of 2x2 pixels instead of 36.

    Channels come last, so that every second row and column are slices of whole vectors.

    Shape:
        ``(N, I, H, W), (O, I, 3, 3) -> (N, O, *out)``
    """
    tall, wide = (-(-size // 2) for size in case.out)
    samples, rows = _block_sizes(case.batch, tall, wide, _TILES)
    blocks = -(-tall // rows)
    tall = blocks * rows
    axes = zip((tall, wide), case.sizes, case.padding, strict=True)
    pads = [(low, 2 * count + 2 - size - low, 0) for count, size, (low, _) in axes]
    padded = lax.pad(input, jnp.zeros((), input.dtype), [(0, 0, 0), (0, 0, 0), *pads])
    pairs = padded.transpose(0, 2, 3, 1).reshape(case.batch, tall + 1, 2, wide + 1, 2, case.inputs)
    taps = weight.transpose(2, 3, 1, 0)
    kernels = _both(_spread_kernel, [[taps[i, j] for j in range(3)] for i in range(3)])  # 4 x 4 of (I, O)

    def place(index: Array | int, part: Array, output: Array) -> Array:
        at = (index // blocks * samples, index % blocks * rows * 2, 0, 0)
        return lax.dynamic_update_slice(output, part.reshape(samples, 2 * rows, 2 * wide, case.outputs), at)

    def step(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        before, output = state
        # each part is put in place one step late: fused with that, its computation would run on one core
        output = place(jnp.maximum(index - 1, 0), before, output)
        x = lax.dynamic_slice_in_dim(pairs, index // blocks * samples, samples)
        x = lax.dynamic_slice_in_dim(x, index % blocks * rows, rows + 1, axis=1)
        patch = [
            [x[:, i // 2 : i // 2 + rows, i % 2, j // 2 : j // 2 + wide, j % 2] for j in range(4)] for i in range(4)
        ]
        products = [
            [lax.dot_general(v, u, (((3,), (0,)), ((), ()))) for v, u in zip(*pair, strict=True)]
            for pair in zip(_both(_spread_input, patch), kernels, strict=True)
        ]
        return jnp.stack([jnp.stack(line, 3) for line in _both(_gather_output, products)], 2), output

    count = case.batch // samples * blocks
    part = jnp.zeros((samples, rows, 2, wide, 2, case.outputs), input.dtype)
    output = jnp.zeros((case.batch, 2 * tall, 2 * wide, case.outputs), input.dtype)
    output = place(count - 1, *lax.fori_loop(0, count, step, (part, output)))
    return output[:, : case.out[0], : case.out[1]].transpose(0, 3, 1, 2)


def _both(transform: Callable[[list[Array]], list[Array]], matrix: list[list[Array]]) -> list[list[Array]]:
    """Apply a transformation to every column of a matrix, and then to every row."""
    columns = [transform(list(column)) for column in zip(*matrix, strict=True)]
    return [transform(list(row)) for row in zip(*columns, strict=True)]


def _spread_kernel(v: list[Array]) -> list[Array]:
    even, odd = 0.5 * (v[0] + v[2]), 0.5 * v[1]
    return [v[0], even + odd, even - odd, v[2]]


def _spread_input(v: list[Array]) -> list[Array]:
    return [v[0] - v[2], v[1] + v[2], v[2] - v[1], v[1] - v[3]]


def _gather_output(v: list[Array]) -> list[Array]:
    return [v[0] + v[1] + v[2], v[1] - v[2] - v[3]]


def _block_sizes(batch: int, rows: int, width: int, pixels: int) -> tuple[int, int]:
    """Return how many samples, and how many of their rows, make a block of at most so many pixels, or of one row."""
    count = -(-rows // max(1, pixels // width))
    whole = max(1, pixels // (width * rows)) if count == 1 and isinstance(batch, int) else 1
    return next(samples for samples in range(whole, 0, -1) if whole == 1 or batch % samples == 0), -(-rows // count)


def _phases(input: Array, case: Case, out: Sequence[int]) -> dict[tuple[int, ...], Array]:
    """Pad the input for an output of the given size, and split it into the elements that one kernel element meets."""
    axes = [*zip(case.kernel, case.stride, case.dilation, case.padding, case.sizes, out, strict=True)]
    spans = [(size - 1) * s + (k - 1) * d + 1 for k, s, d, _, _, size in axes]
    padding = [(before, span - size - before, 0) for span, (*_, (before, _), size, _) in zip(spans, axes, strict=True)]
    padded = lax.pad(input, jnp.zeros((), input.dtype), [(0, 0, 0), (0, 0, 0), *padding])
    starts = product(*[sorted({i * d % s for i in range(k)}) for k, s, d, *_ in axes])
    return {start: padded[(..., *map(slice, start, spans, case.stride))] for start in starts}


def _taps(phases: dict[tuple[int, ...], Array], case: Case, out: Sequence[int]) -> list[Array]:
    """Return what each element of the kernel meets, ``(N, I, *out)`` each, in the kernel's order."""
    taps = []
    for index in product(*map(range, case.kernel)):
        offsets = [i * d for i, d in zip(index, case.dilation, strict=True)]
        phase = phases[tuple(at % s for at, s in zip(offsets, case.stride, strict=True))]
        starts = [at // s for at, s in zip(offsets, case.stride, strict=True)]
        taps.append(phase[(..., *[slice(start, start + size) for start, size in zip(starts, out, strict=True)])])
    return taps


def _block(array: Array, sample: Array, row: Array, samples: int, rows: int) -> Array:
    return lax.dynamic_slice_in_dim(lax.dynamic_slice_in_dim(array, sample, samples), row, rows, axis=2)
