"""Convolutions on the CPU, as sums of shifted arrays, as matrix products, or as smaller convolutions.

Every algorithm takes two arrays and the sizes, and returns what its name begins with: the output, the gradient by the
input, or the gradient by the weight.
"""

import itertools
import math
from collections.abc import Iterator
from functools import partial, reduce

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._typing import Array, Shape
from jaxmodules.nn.functional._convolution import OPERANDS, Case, Wanted, compute, mirrored
from jaxmodules.nn.functional._cpu.kernel import kernel

_BLOCK = 2**20  # elements
_SUMS = 9  # in one loop: more leave the registers


def output_by_shifts(input: Array, weight: Array, case: Case) -> Array:
    """Add up shifted inputs, each times one element of the kernels: one loop that reads and writes memory once."""

    def add_up(input: Array, weight: Array) -> Array:
        kernels, terms = _for_channels(weight, case), []
        for place, part in _shifted(input, case):
            part = part.reshape(case.batch, case.groups, case.inputs, *case.out)
            for channel in range(case.inputs):
                terms.append(part[:, :, channel, None] * kernels[(*[slice(None)] * 3, channel, ..., *place)])
        return reduce(jnp.add, terms).reshape(case.shapes["output"])

    return kernel(add_up, input, weight)


def output_by_columns(input: Array, weight: Array, case: Case) -> Array:
    """Multiply the kernels by the matrix of all windows."""
    kernels = weight.reshape(case.groups, case.outputs, -1)

    def multiply(part: Array) -> Array:
        columns = _columns(part, case)  # (N, G, I * K, P)
        if case.groups == 1 and kernels.size > columns[0].size:
            return lax.dot_general(kernels[0], columns[:, 0], (((1,), (1,)), ((), ()))).swapaxes(0, 1)
        return lax.dot_general(_for_each(kernels, part), columns, (((3,), (2,)), ((0, 1), (0, 1))))

    return lax.map(multiply, *_blocks(case, input)).reshape(case.shapes["output"])


def output_by_planes(input: Array, weight: Array, case: Case) -> Array:
    """Convolve volumes as planes, with the planes under the kernel's first axis as so many channels."""
    planes, flat = _planes(input, case)
    output = compute("output", planes, weight.reshape(flat.shapes["weight"]), flat)
    return jnp.moveaxis(output.reshape(case.batch, case.out[0], -1, *flat.out), 1, 2)


def input_by_output(output: Array, weight: Array, case: Case) -> Array:
    """Convolve with the mirrored kernels, as at stride 1 the gradient is."""
    return compute("output", output, mirrored(weight, case.groups), mirrored_case(case))


def mirrored_case(case: Case) -> Case:
    """Return the convolution that the gradient by the input is at stride 1."""
    before = tuple(low for low, _ in case.outer)
    return case._replace(before=before, inputs=case.outputs, outputs=case.inputs, sizes=case.out, out=case.sizes)


def input_by_shifts(output: Array, weight: Array, case: Case) -> Array:
    """Add up shifted outputs, each times one element of the kernels, for every phase of the stride."""
    counts = _counts(case)

    def add_up(output: Array, weight: Array) -> Array:
        kernels, parts = _for_channels(weight, case), {}
        for phase, terms in _scattered(output, case):
            total = jnp.zeros((case.batch, case.groups, case.inputs, *counts), output.dtype)
            for place, part in terms:
                part = part.reshape(case.batch, case.groups, case.outputs, *counts)
                for channel in range(case.outputs):
                    total = total + part[:, :, channel, None] * kernels[(*[slice(None)] * 2, channel, ..., *place)]
            parts[phase] = total.reshape(case.batch, -1, *counts)
        return _interleaved(parts, case)

    return kernel(add_up, output, weight)


def input_by_columns(output: Array, weight: Array, case: Case) -> Array:
    """Multiply the transposed kernels by the output, and add what falls onto the same element."""
    kernels = weight.reshape(case.groups, case.outputs, -1)  # (G, O, I * K)

    def multiply(part: Array) -> Array:
        part = part.reshape(part.shape[0], case.groups, case.outputs, -1)
        if case.groups == 1 and kernels.size > part[0].size:
            columns = lax.dot_general(kernels[0], part[:, 0], (((0,), (1,)), ((), ()))).swapaxes(0, 1)
        else:
            columns = lax.dot_general(_for_each(kernels, part), part, (((2,), (2,)), ((0, 1), (0, 1))))
        return _folded(columns.reshape(part.shape[0], -1, *case.kernel, *case.out), case)

    return lax.map(multiply, *_blocks(case, output)).reshape(case.shapes["input"])


def weight_by_shifts(input: Array, output: Array, case: Case) -> Array:
    """Sum products of shifted inputs and the output, for several elements of the kernels in one loop."""

    def add_up(input: Array, output: Array) -> Array:
        output = output.reshape(case.batch, case.groups, case.outputs, 1, *case.out)
        parts = (part.reshape(case.batch, case.groups, 1, case.inputs, *case.out) for _, part in _shifted(input, case))
        terms = [part * output for part in parts]
        sums = []
        for start in range(0, len(terms), _SUMS):
            some = tuple(terms[start : start + _SUMS])
            zeros, axes = (np.zeros((), output.dtype),) * len(some), range(4, output.ndim)
            sums += lax.reduce(some, zeros, lambda x, y: tuple(map(lax.add, x, y)), axes)
        # one sum over the pixels of each sample, then one over samples: shorter sums, which also round less
        return jnp.stack([part.sum(0) for part in sums], -1).reshape(case.shapes["weight"])

    return kernel(add_up, input, output)


def weight_by_columns(input: Array, output: Array, case: Case) -> Array:
    """Multiply the output by the transposed matrix of all windows."""

    def multiply(input: Array, output: Array) -> Array:
        columns = _columns(input, case)  # (N, G, I * K, P)
        output = output.reshape(*columns.shape[:2], case.outputs, -1)
        if case.outputs * columns.shape[2] > 4 * (case.outputs + columns.shape[2]) * columns.shape[3]:
            return lax.dot_general(output, columns, (((0, 3), (0, 3)), ((1,), (1,))))
        return lax.dot_general(output, columns, (((3,), (3,)), ((0, 1), (0, 1)))).sum(0)

    total = jnp.zeros((case.groups, case.outputs, case.inputs * math.prod(case.kernel)), input.dtype)
    blocks = _blocks(case, input, output)
    total, _ = lax.scan(lambda total, parts: (total + multiply(*parts), None), total, blocks)
    return total.reshape(case.shapes["weight"])


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


def output_by_groups(input: Array, weight: Array, case: Case) -> Array:
    """Convolve each group by itself."""
    return _by_groups("output", input, weight, case)


def input_by_groups(output: Array, weight: Array, case: Case) -> Array:
    """Take the gradient of each group by itself."""
    return _by_groups("input", output, weight, case)


def weight_by_groups(input: Array, output: Array, case: Case) -> Array:
    """Take the gradient of each group by itself."""
    return _by_groups("weight", input, output, case)


def _by_groups(wanted: Wanted, left: Array, right: Array, case: Case) -> Array:
    names, alone = zip((left, right), OPERANDS[wanted], strict=True), case._replace(groups=1)
    parts = [jnp.split(x, case.groups, int(name != "weight")) for x, name in names]
    return jnp.concatenate([compute(wanted, a, b, alone) for a, b in zip(*parts, strict=True)], int(wanted != "weight"))


def _for_channels(weight: Array, case: Case) -> Array:
    """Lay kernels out to meet channels, with the kernel's axes last: ``(1, G, O, I, *1, *kernel)``."""
    rank = len(case.kernel)
    return weight.reshape(1, case.groups, case.outputs, case.inputs, *(1,) * rank, *case.kernel)


def _for_each(kernels: Array, samples: Array) -> Array:
    """Copy kernels for every sample: one product for each, whose result needs no transposition."""
    return jnp.broadcast_to(kernels, (samples.shape[0], *kernels.shape))


def _blocks(case: Case, *samples: Array) -> list[Array]:
    """Split the batch into blocks whose columns stay in the cache, ``(N, *) -> (B, N / B, *)``, for a loop over them.

    XLA makes no loop of a single block. What is larger than 32 MB also comes from the operating system anew at every
    call, page by page.
    """
    each, size = case.groups * case.inputs * math.prod(case.kernel) * math.prod(case.out), 1
    if not any(_slides(case, axis) for axis in range(len(case.kernel))):
        return [x[None] for x in samples]
    if isinstance(case.batch, int):
        most = min(max(1, _BLOCK // each), case.batch)
        size = next(size for size in range(most, 0, -1) if case.batch % size == 0)
    return [x.reshape(-1, size, *x.shape[1:]) for x in samples]


def _shifted(input: Array, case: Case) -> Iterator[tuple[Shape, Array]]:
    """Yield, for every place in the kernel, the elements that all windows have there, ``(N, C, *out)``."""
    padded = _padded(input, [(max(low, 0), max(high, 0)) for low, high in case.padding])
    for place in np.ndindex(case.kernel):
        starts = [d * k + max(-low, 0) for d, k, low in zip(case.dilation, place, case.before, strict=True)]
        yield place, _cut(padded, starts, case.out, case.stride)


def _columns(input: Array, case: Case) -> Array:
    """Return the windows as columns, ``(N, C, *sizes) -> (N, G, C / G * K, P)``, unfolding one axis after the other."""
    columns = _padded(input, [(max(low, 0), max(high, 0)) for low, high in case.padding])
    for axis in range(len(case.kernel)):
        if _slides(case, axis):
            columns = kernel(partial(_unfold, case=case, axis=axis), columns)
        else:
            columns = jnp.expand_dims(columns, 2 + axis)
    return columns.reshape(input.shape[0], case.groups, case.inputs * math.prod(case.kernel), -1)


def _slides(case: Case, axis: int) -> bool:
    """Tell whether the windows along an axis are more than its elements one by one."""
    return case.kernel[axis] > 1 or case.stride[axis] > 1 or any(case.padding[axis])


def _unfold(columns: Array, case: Case, axis: int) -> Array:
    """Unfold the next axis: ``(N, C, *kernel before axis, *out before axis, *sizes)``, with one more of each."""
    s, d, reach, first = case.stride[axis], case.dilation[axis], case.reach[axis], max(-case.before[axis], 0)
    starts = [first + d * place for place in range(case.kernel[axis])]
    return jnp.stack([lax.slice_in_dim(columns, start, start + reach, s, 2 + 2 * axis) for start in starts], 2 + axis)


def _folded(columns: Array, case: Case) -> Array:
    """Add up what falls onto the same element, axis by axis: ``(N, C, *kernel, *out) -> (N, C, *sizes)``."""
    if case.stride == case.kernel and max(case.stride) > 1:
        # side by side, windows leave nothing to add, and each axis would move everything once more
        return kernel(partial(_fold, case=case), columns)
    for axis in reversed(range(len(case.kernel))):
        alone = _along(axis, case)
        columns = columns.reshape(columns.shape[0], -1, *alone.kernel, *alone.out)
        if _slides(case, axis):
            columns = kernel(partial(_fold, case=alone), columns)
    return columns.reshape(columns.shape[0], -1, *case.sizes)


def _fold(columns: Array, case: Case) -> Array:
    """Fold all axes at once."""
    parts = {}
    for phase, terms in _scattered(columns, case):
        cuts = [cut[(slice(None), slice(None), *place)] for place, cut in terms]
        parts[phase] = reduce(jnp.add, cuts, jnp.zeros((*columns.shape[:2], *_counts(case)), columns.dtype))
    return _interleaved(parts, case)


def _along(axis: int, case: Case) -> Case:
    """Return the convolution along one axis, with the axes before it unfolded still and those after it folded."""

    def alone(values: Shape, other: int) -> Shape:
        return tuple(value if i == axis else other for i, value in enumerate(values))

    return case._replace(
        stride=alone(case.stride, 1), before=alone(case.before, 0), dilation=alone(case.dilation, 1),
        kernel=alone(case.kernel, 1),
        sizes=(*case.out[:axis], *case.sizes[axis:]), out=(*case.out[: axis + 1], *case.sizes[axis + 1 :]),
    )  # fmt: skip


def _counts(case: Case) -> Shape:
    """Return how many elements each phase of the stride has along each axis of the input."""
    return tuple(-(-size // s) for size, s in zip(case.sizes, case.stride, strict=True))


def _met(case: Case) -> list[list[list[tuple[int, int]]]]:
    """List per axis and phase of the stride the places in the kernel that meet it, and the first output of each."""
    axes = []
    for size, stride, dilation, before in zip(case.kernel, case.stride, case.dilation, case.before, strict=True):
        found = [[(k, divmod(r + before - dilation * k, stride)) for k in range(size)] for r in range(stride)]
        axes.append([[(k, start) for k, (start, rest) in hits if rest == 0] for hits in found])
    return axes


def _scattered(output: Array, case: Case) -> Iterator[tuple[Shape, list[tuple[Shape, Array]]]]:
    """Yield for every phase of the stride the places in the kernel that meet it, and the outputs that each brings."""
    met, counts = _met(case), _counts(case)
    firsts = [[start for hits in axis for _, start in hits] for axis in met]
    pads = [
        (max(-min(starts), 0), max(max(starts) + count - out, 0))
        for starts, count, out in zip(firsts, counts, case.out, strict=True)
    ]
    padded = _padded(output, pads)
    for phase in itertools.product(*map(range, case.stride)):
        terms = []
        for hits in itertools.product(*(axis[r] for axis, r in zip(met, phase, strict=True))):
            starts = [start + before for (_, start), (before, _) in zip(hits, pads, strict=True)]
            terms.append((tuple(place for place, _ in hits), _cut(padded, starts, counts, (1,) * len(counts))))
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
    result = join(())
    result = result.reshape(*result.shape[:2], *whole)
    return _cut(result, [0] * rank, case.sizes, (1,) * rank)


def _padded(x: Array, pads: list[tuple[int, int]]) -> Array:
    """Pad the trailing axes, in memory: fused into what reads it, the padding would be tested for at every element."""
    if not any(map(any, pads)):
        return x
    lead = [(0, 0, 0)] * (x.ndim - len(pads))
    return kernel(lambda x: lax.pad(x, np.zeros((), x.dtype), lead + [(*pair, 0) for pair in pads]), x)


def _cut(x: Array, starts: list[int], counts: Shape, strides: Shape) -> Array:
    lead = x.ndim - len(counts)
    ends = [start + s * (count - 1) + 1 for start, s, count in zip(starts, strides, counts, strict=True)]
    return lax.slice(x, (0,) * lead + tuple(starts), (*x.shape[:lead], *ends), (1,) * lead + tuple(strides))
