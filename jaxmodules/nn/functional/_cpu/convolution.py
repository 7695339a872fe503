"""Convolutions on the CPU, as sums of shifted arrays, as matrix products, or as smaller convolutions.

Every algorithm takes two arrays and the sizes, and returns what its name begins with: the output, the gradient by the
input, or the gradient by the weight.
"""

import itertools
import math
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._typing import Array, Shape
from jaxmodules.nn.functional._convolution import Case, compute, mirrored


def output_by_shifts(input: Array, weight: Array, case: Case) -> Array:
    """Add up shifted inputs, each times one element of the kernels: one loop that reads and writes memory once."""
    rank = len(case.kernel)
    grouped = (case.batch, case.groups, case.inputs, *(1,) * rank)
    kernels = weight.reshape(1, case.groups, case.outputs, case.inputs, *case.kernel, *(1,) * rank)
    total = None
    for place, part in _shifted(input, case):
        part = part.reshape(*grouped[:3], *case.out)
        for channel in range(case.inputs):
            index = (slice(None), slice(None), slice(None), channel, *place)
            term = part[:, :, channel, None] * kernels[index]
            total = term if total is None else total + term
    assert total is not None
    return total.reshape(case.shapes["output"])


def output_by_columns(input: Array, weight: Array, case: Case) -> Array:
    """Multiply the kernels by the matrix of all windows."""
    columns = _columns(input, case)  # (N, G, I * K, P)
    kernels = weight.reshape(case.groups, case.outputs, -1)
    if case.groups == 1 and kernels.size > columns[0].size:
        output = lax.dot_general(kernels[0], columns[:, 0], (((1,), (1,)), ((), ()))).swapaxes(0, 1)
    else:
        # a copy for each sample makes this one product per sample, whose result needs no transposition
        kernels = jnp.broadcast_to(kernels, (case.batch, *kernels.shape))
        output = lax.dot_general(kernels, columns, (((3,), (2,)), ((0, 1), (0, 1))))
    return output.reshape(case.shapes["output"])


def output_by_planes(input: Array, weight: Array, case: Case) -> Array:
    """Convolve volumes as planes, with the planes under the kernel's first axis as so many channels."""
    planes, flat = _planes(input, case)
    output = compute("output", planes, weight.reshape(flat.shapes["weight"]), flat)
    return jnp.moveaxis(output.reshape(case.batch, case.out[0], -1, *flat.out), 1, 2)


def input_by_output(output: Array, weight: Array, case: Case) -> Array:
    """Convolve with the mirrored kernels, as at stride 1 the gradient is."""
    before = tuple(low for low, _ in case.outer)
    mirror = case._replace(before=before, inputs=case.outputs, outputs=case.inputs, sizes=case.out, out=case.sizes)
    return compute("output", output, mirrored(weight, case.groups), mirror)


def input_by_shifts(output: Array, weight: Array, case: Case) -> Array:
    """Add up shifted outputs, each times one element of the kernels, for every phase of the stride."""
    rank = len(case.kernel)
    kernels = weight.reshape(1, case.groups, case.outputs, case.inputs, *case.kernel, *(1,) * rank)
    parts, counts = {}, _counts(case)
    for phase, terms in _scattered(output, case, counts):
        total = jnp.zeros((case.batch, case.groups, case.inputs, *counts), output.dtype)
        for place, part in terms:
            part = part.reshape(case.batch, case.groups, case.outputs, *counts)
            for channel in range(case.outputs):
                total = (
                    total
                    + part[:, :, channel, None] * kernels[(slice(None), slice(None), channel, slice(None), *place)]
                )
        parts[phase] = total.reshape(case.batch, -1, *counts)
    return _interleaved(parts, case)


def input_by_columns(output: Array, weight: Array, case: Case) -> Array:
    """Multiply the transposed kernels by the output, and add what falls onto the same element."""
    kernels = weight.reshape(case.groups, case.outputs, -1)  # (G, O, I * K)
    output = output.reshape(case.batch, case.groups, case.outputs, -1)
    if case.groups == 1 and kernels.size > output[0].size:
        columns = lax.dot_general(kernels[0], output[:, 0], (((0,), (1,)), ((), ()))).swapaxes(0, 1)
    else:
        kernels = jnp.broadcast_to(kernels, (case.batch, *kernels.shape))
        columns = lax.dot_general(kernels, output, (((2,), (2,)), ((0, 1), (0, 1))))
    columns = columns.reshape(case.batch, -1, *case.kernel, *case.out)
    if math.prod(case.kernel) == math.prod(case.stride) == 1 and case.sizes == case.out:
        return columns.reshape(case.shapes["input"])
    counts, parts = _counts(case), {}
    for phase, terms in _scattered(columns, case, counts):
        total = jnp.zeros((case.batch, columns.shape[1], *counts), output.dtype)
        for place, part in terms:
            total = total + part[(slice(None), slice(None), *place)]
        parts[phase] = total
    return _interleaved(parts, case)


def input_by_phases(output: Array, weight: Array, case: Case) -> Array:
    """Convolve once at stride 1, with the kernels of all phases of the stride as so many channels."""
    spans = [_offsets(*axis) for axis in _axes(case)]
    counts = _counts(case)
    taps = [max(max(e for _, e in hits) if hits else 0 for hits in span) for span in spans]
    lows = [min(min(e for _, e in hits) if hits else 0 for hits in span) for span in spans]
    widths = [high - low + 1 for high, low in zip(taps, lows, strict=True)]
    kernels = []
    for phase in itertools.product(*map(range, case.stride)):
        part = weight
        for axis, (residue, low, width) in enumerate(zip(phase, lows, widths, strict=True), 2):
            places = np.full(width, case.kernel[axis - 2])
            for k, e in spans[axis - 2][residue]:
                places[e - low] = k
            part = jnp.take(part, places, axis=axis, mode="fill", fill_value=0)
        kernels.append(part.reshape(case.groups, case.outputs, case.inputs, *widths))
    # (G, O, s * I, *widths) -> (G * s * I, O, *widths)
    stacked = jnp.stack(kernels, 2).reshape(case.groups, case.outputs, -1, *widths).swapaxes(1, 2)
    phases = math.prod(case.stride)
    dense = Case(
        stride=(1,) * len(widths), before=tuple(-low for low in lows), dilation=(1,) * len(widths), groups=case.groups, batch=case.batch,
        inputs=case.outputs, outputs=phases * case.inputs, sizes=case.out, kernel=tuple(widths), out=counts,
    )  # fmt: skip
    result = compute("output", output, stacked.reshape(dense.shapes["weight"]), dense)
    result = result.reshape(case.batch, case.groups, phases, case.inputs, *counts)
    order = itertools.product(*map(range, case.stride))
    parts = {phase: result[:, :, n].reshape(case.batch, -1, *counts) for n, phase in enumerate(order)}
    return _interleaved(parts, case)


def weight_by_shifts(input: Array, output: Array, case: Case) -> Array:
    """Sum products of shifted inputs and the output, for all elements of the kernels in one loop."""
    rank = len(case.kernel)
    output = output.reshape(case.batch, case.groups, case.outputs, 1, *case.out)
    terms = []
    for _, part in _shifted(input, case):
        terms.append(part.reshape(case.batch, case.groups, 1, case.inputs, *case.out) * output)
    axes = tuple(range(4, 4 + rank))
    zeros = (np.zeros((), output.dtype),) * len(terms)
    # one sum over the pixels of each sample, then one over samples: shorter sums, which also round less
    sums = lax.reduce(tuple(terms), zeros, lambda x, y: tuple(map(lax.add, x, y)), axes)
    return jnp.stack([part.sum(0) for part in sums], -1).reshape(case.shapes["weight"])


def weight_by_columns(input: Array, output: Array, case: Case) -> Array:
    """Multiply the output by the transposed matrix of all windows."""
    columns = _columns(input, case)  # (N, G, I * K, P)
    output = output.reshape(case.batch, case.groups, case.outputs, -1)
    if case.outputs * columns.shape[2] > 4 * (case.outputs + columns.shape[2]) * columns.shape[3]:
        product = lax.dot_general(output, columns, (((0, 3), (0, 3)), ((1,), (1,))))
    else:
        product = lax.dot_general(output, columns, (((3,), (3,)), ((0, 1), (0, 1)))).sum(0)
    return product.reshape(case.shapes["weight"])


def weight_by_planes(input: Array, output: Array, case: Case) -> Array:
    """Take the gradient for volumes as that for planes, as :func:`output_by_planes` does."""
    planes, flat = _planes(input, case)
    output = jnp.moveaxis(output, 2, 1).reshape(flat.shapes["output"])
    return compute("weight", planes, output, flat).reshape(case.shapes["weight"])


def _planes(input: Array, case: Case) -> tuple[Array, Case]:
    """Return every plane of the output's volumes as a sample, ``(N * D, C * k, H, W)``, and its convolution."""
    (low, high), (s, *stride), (_, *before), (d, *dilation) = case.padding[0], *case[:3]
    depth, (k, *kernel) = case.out[0], case.kernel
    padded = lax.pad(input, np.zeros((), input.dtype), [(0, 0, 0)] * 2 + [(low, high, 0)] + [(0, 0, 0)] * len(kernel))
    parts = [lax.slice_in_dim(padded, d * i, d * i + s * (depth - 1) + 1, s, 2) for i in range(k)]
    planes = jnp.moveaxis(jnp.stack(parts, 2), 3, 1)  # (N, D, C, k, H, W)
    flat = Case(
        tuple(stride), tuple(before), tuple(dilation), case.groups, case.batch * depth, case.inputs * k, case.outputs,
        case.sizes[1:], tuple(kernel), case.out[1:],
    )  # fmt: skip
    return planes.reshape(flat.shapes["input"]), flat


def _shifted(input: Array, case: Case) -> Iterator[tuple[Shape, Array]]:
    """Yield, for every place in the kernel, the elements that all windows have there, ``(N, C, *out)``."""
    padded = _padded(input, [(max(low, 0), max(high, 0)) for low, high in case.padding])
    for place in np.ndindex(case.kernel):
        starts = [d * k + max(-low, 0) for d, k, low in zip(case.dilation, place, case.before, strict=True)]
        yield place, _cut(padded, starts, case.out, case.stride)


def _columns(input: Array, case: Case) -> Array:
    """Return the windows as columns, ``(N, C, *sizes) -> (N, G, C / G * K, P)``."""
    parts = [part for _, part in _shifted(input, case)]
    stacked = parts[0] if len(parts) == 1 else jnp.stack(parts, 2)
    return stacked.reshape(case.batch, case.groups, case.inputs * len(parts), -1)


def _axes(case: Case) -> Iterator[tuple[int, int, int, int]]:
    return zip(case.kernel, case.stride, case.dilation, case.before, strict=True)


def _offsets(kernel: int, stride: int, dilation: int, low: int) -> list[list[tuple[int, int]]]:
    """List, for every phase of the stride, the places in the kernel that reach it, and from which outputs."""
    reach = [
        [(k, (r + low - dilation * k) // stride) for k in range(kernel) if (r + low - dilation * k) % stride == 0]
        for r in range(stride)
    ]
    return reach


def _counts(case: Case) -> Shape:
    """Return how many elements each phase of the stride has along each axis of the input."""
    return tuple(-(-size // s) for size, s in zip(case.sizes, case.stride, strict=True))


def _scattered(output: Array, case: Case, counts: Shape) -> Iterator[tuple[Shape, list[tuple[Shape, Array]]]]:
    """Yield, for every phase of the stride, the places in the kernel that reach it, each with the outputs it is met by."""
    spans = [_offsets(*axis) for axis in _axes(case)]
    reach = [[e for hits in span for _, e in hits] for span in spans]
    pads = [
        (max(-min(es), 0), max(max(es) + count - out, 0))
        for es, count, out in zip(reach, counts, case.out, strict=True)
    ]
    padded = _padded(output, pads)
    for phase in itertools.product(*map(range, case.stride)):
        terms = []
        for hits in itertools.product(*(span[r] for span, r in zip(spans, phase, strict=True))):
            place = tuple(k for k, _ in hits)
            starts = [e + low for (_, e), (low, _) in zip(hits, pads, strict=True)]
            terms.append((place, _cut(padded, starts, counts, (1,) * len(counts))))
        yield phase, terms


def _interleaved(parts: dict[Shape, Array], case: Case) -> Array:
    """Lay the phases of the stride side by side, and cut the result to the size of the input."""
    rank = len(case.stride)

    def join(prefix: Shape) -> Array:
        axis = len(prefix)
        if axis == rank:
            return parts[prefix]
        if case.stride[axis] == 1:
            return join((*prefix, 0))
        return jnp.stack([join((*prefix, r)) for r in range(case.stride[axis])], axis + 3)

    whole = [s * count for s, count in zip(case.stride, _counts(case), strict=True)]
    result = join(()).reshape(*case.shapes["input"][:2], *whole)
    return _cut(result, [0] * rank, case.sizes, (1,) * rank)


def _padded(x: Array, pads: list[tuple[int, int]]) -> Array:
    """Pad the trailing axes, in memory: fused into what reads it, the padding would be tested for at every element."""
    if not any(map(any, pads)):
        return x
    lead = [(0, 0, 0)] * (x.ndim - len(pads))
    return lax.optimization_barrier(lax.pad(x, np.zeros((), x.dtype), lead + [(*pair, 0) for pair in pads]))


def _cut(x: Array, starts: list[int], counts: Shape, strides: Shape) -> Array:
    lead = x.ndim - len(counts)
    ends = [start + s * (count - 1) + 1 for start, s, count in zip(starts, strides, counts, strict=True)]
    return lax.slice(x, (0,) * lead + tuple(starts), (*x.shape[:lead], *ends), (1,) * lead + tuple(strides))
