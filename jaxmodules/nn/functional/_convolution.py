r"""The convolution as one primitive with three faces.

An input :math:`x`, a weight :math:`w` and an output :math:`y` make one number, :math:`\langle y, x \star w \rangle`,
which is linear in each of them. A convolution is its derivative by :math:`y`, the gradient by the input its derivative
by :math:`x` (and a transposed convolution), the gradient by the weight its derivative by :math:`w`; and whichever of
the three is transposed, the result is another of them. One primitive that is told which operand is ``wanted``, given
the two others, is therefore closed under differentiation of any order and in both modes, and each of its faces can be
computed in its own way (``_cpu/rules.py``). Everywhere else it is ``lax.conv_general_dilated``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType

from jaxmodules._batching import in_front
from jaxmodules._shapes import is_floating, known
from jaxmodules._typing import Array, Pairs, Shape

Wanted = Literal["output", "input", "weight"]

OPERANDS: dict[Wanted, tuple[Wanted, Wanted]] = {
    "output": ("input", "weight"),
    "input": ("output", "weight"),
    "weight": ("input", "output"),
}


class Window(NamedTuple):
    """How a kernel slides over an input; the zeros after each axis are as many as the sizes need."""

    stride: Shape
    before: Shape  # zeros before each axis
    dilation: Shape
    groups: int


class Case(NamedTuple):
    """All sizes of a convolution."""

    stride: Shape
    before: Shape
    dilation: Shape
    groups: int
    batch: int
    inputs: int  # channels of a group
    outputs: int  # channels of a group
    sizes: Shape  # of the input's spatial axes
    kernel: Shape
    out: Shape

    @property
    def window(self) -> Window:
        """Return how the kernel slides."""
        return Window(*self[:4])

    @property
    def span(self) -> Shape:
        """Return the distance between the first and the last element of the kernel, per axis."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def reach(self) -> Shape:
        """Return how many elements of the input the first elements of all windows span, per axis."""
        return tuple(s * (n - 1) + 1 for n, s in zip(self.out, self.stride, strict=True))

    @property
    def padding(self) -> Pairs:
        """Return how far the windows reach beyond the input, per axis and end; negative where they leave some."""
        axes = zip(self.before, self.span, self.reach, self.sizes, strict=True)
        return tuple((low, span + reach - size - low) for low, span, reach, size in axes)

    @property
    def outer(self) -> Pairs:
        """Return the padding of the output with which mirrored kernels at stride 1 give the input's size."""
        axes = zip(self.before, self.span, self.reach, self.sizes, strict=True)
        return tuple((span - low, size + low - reach) for low, span, reach, size in axes)

    @property
    def shapes(self) -> dict[Wanted, Shape]:
        """Return the shapes of the three arrays."""
        return {
            "input": (self.batch, self.groups * self.inputs, *self.sizes),
            "weight": (self.groups * self.outputs, self.inputs, *self.kernel),
            "output": (self.batch, self.groups * self.outputs, *self.out),
        }


convolution_p = Primitive("convolution")


def convolve(input: Array, weight: Array, window: Window, out: Shape) -> Array:
    """Compute ``(N, C, *sizes), (O, C / groups, *kernel) -> (N, O, *out)``."""
    return _bind("output", input, weight, window, out)


def input_gradient(output: Array, weight: Array, window: Window, sizes: Shape) -> Array:
    """Compute ``(N, O, *out), (O, C / groups, *kernel) -> (N, C, *sizes)``."""
    return _bind("input", output, weight, window, sizes)


def compute(wanted: Wanted, left: Array, right: Array, case: Case) -> Array:
    """Compute what is ``wanted`` of a case from the two other arrays."""
    return _bind(wanted, left, right, case.window, case.shapes[wanted][2:])


def case_of(wanted: Wanted, left: Shape, right: Shape, window: Window, extent: Shape) -> Case:
    """Return all sizes, given the shapes of two arrays and the ``extent`` of the axes of the third."""
    extents = dict(zip(OPERANDS[wanted], (left[2:], right[2:]), strict=True)) | {wanted: extent}
    if wanted == "weight":
        inputs, outputs = left[1] // window.groups, right[1] // window.groups
    else:
        inputs, outputs = right[1], right[0] // window.groups
    return Case(*window, left[0], inputs, outputs, extents["input"], extents["weight"], extents["output"])


def by_primitive(wanted: Wanted, left: Array, right: Array, case: Case, precision: Any = None) -> Array:
    """Compute what is ``wanted`` by ``lax.conv_general_dilated``."""
    axes = "DHW"[3 - len(case.kernel) :]
    forward, swapped = (f"NC{axes}", f"OI{axes}", f"NC{axes}"), (f"CN{axes}", f"IO{axes}", f"CN{axes}")
    call, one = partial(lax.conv_general_dilated, precision=precision), (1,) * len(axes)
    if wanted == "input":
        left, pads = _crop(left, case.outer, one)
        kernels = mirrored(right, case.groups)
        return call(left, kernels, one, pads, case.stride, case.dilation, forward, feature_group_count=case.groups)
    if wanted == "output":
        left, pads = _crop(left, case.padding, case.stride)
        return call(left, right, case.stride, pads, None, case.dilation, forward, feature_group_count=case.groups)
    left, pads = _crop(left, case.padding, case.dilation)
    return call(left, right, case.dilation, pads, None, case.stride, swapped, batch_group_count=case.groups)


def _crop(x: Array, pads: Pairs, steps: Shape) -> tuple[Array, Pairs]:
    """Cut off what negative padding takes away, unless steps so long leave it out by themselves.

    XLA's convolution on the CPU reads out of bounds where one end is padded and the other one cropped.
    """
    steps_over = [known([high]) != [] and -step < high < 0 for (_, high), step in zip(pads, steps, strict=True)]
    ends = [(low, 0 if over else high) for (low, high), over in zip(pads, steps_over, strict=True)]
    cuts = [tuple(min(end, 0) if known([end]) else 0 for end in pair) for pair in ends]
    if any(map(any, cuts)):
        x = lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0)] * 2 + [(low, high, 0) for low, high in cuts])
    return x, tuple((low - cut[0], high - cut[1]) for (low, high), cut in zip(ends, cuts, strict=True))


def mirrored(weight: Array, groups: int) -> Array:
    """Reverse the kernels and swap their channels, ``(O, C / G, *kernel) -> (C, O / G, *kernel)``."""
    outputs, inputs, *kernel = weight.shape
    weight = lax.rev(weight, tuple(range(2, weight.ndim)))
    if groups == 1:
        return weight.swapaxes(0, 1)  # which XLA makes one with its own transposition
    swapped = weight.reshape(groups, outputs // groups, inputs, *kernel).swapaxes(1, 2)
    return swapped.reshape(groups * inputs, outputs // groups, *kernel)


def register(choose: Callable[[Wanted, Case], Callable[..., Array] | None]) -> None:
    """Let the CPU take the algorithm that ``choose`` returns for what is wanted of a case, if it does."""

    def lower(left: Array, right: Array, *, wanted: Wanted, window: Window, extent: Shape, precision: Any) -> Array:
        case = case_of(wanted, left.shape, right.shape, window, extent)
        sizes = [case.inputs, case.outputs, *case.sizes, *case.kernel, *case.out]
        usual = min(known([case.batch, *sizes]), default=0) > 0 and len(known(sizes)) == len(sizes)
        # an open batch is as large as a usual one
        typical = case if known([case.batch]) else case._replace(batch=32)
        algorithm = choose(wanted, typical) if usual and is_floating(left.dtype) else None
        if algorithm is None:
            return by_primitive(wanted, left, right, case, precision)
        wide = jnp.promote_types(left.dtype, jnp.float32)
        with jax.default_matmul_precision(precision):
            return algorithm(left.astype(wide), right.astype(wide), case).astype(left.dtype)

    mlir.register_lowering(convolution_p, mlir.lower_fun(lower, multiple_results=False), platform="cpu")


def _lower(left: Array, right: Array, *, wanted: Wanted, window: Window, extent: Shape, precision: Any) -> Array:
    return by_primitive(wanted, left, right, case_of(wanted, left.shape, right.shape, window, extent), precision)


def _bind(wanted: Wanted, left: Array, right: Array, window: Window, extent: Shape) -> Array:
    precision = jax.default_matmul_precision.value
    if any(_is_spread(operand) for operand in (left, right)):
        case = case_of(wanted, left.shape, right.shape, window, extent)
        return by_primitive(wanted, left, right, case, precision)
    return convolution_p.bind(left, right, wanted=wanted, window=window, extent=extent, precision=precision)


def _is_spread(operand: Array) -> bool:
    """Tell whether the type of an array says how it lies on a mesh, for which JAX's primitive has the rules."""
    return any(kind != AxisType.Auto for kind in jax.typeof(operand).sharding.mesh.axis_types)


def _shape(left: Any, right: Any, *, wanted: Wanted, window: Window, extent: Shape, precision: Any) -> ShapedArray:
    case = case_of(wanted, left.shape, right.shape, window, extent)
    return ShapedArray(case.shapes[wanted], left.dtype)


def _transpose(operand: int) -> Callable[..., Array]:
    """Return the rule for the first or the second operand: that operand becomes what is wanted."""

    def rule(
        cotangent: Array, left: Any, right: Any, *, wanted: Wanted, window: Window, extent: Shape, **_: Any
    ) -> Any:
        case = case_of(wanted, left.aval.shape, right.aval.shape, window, extent)
        given = dict(zip(OPERANDS[wanted], (left, right), strict=True)) | {wanted: cotangent}
        target = OPERANDS[wanted][operand]
        first, second = OPERANDS[target]
        return compute(target, given[first], given[second], case)

    return rule


def _batch(
    operands: Any, axes: Any, *, wanted: Wanted, window: Window, extent: Shape, precision: Any
) -> tuple[Array, int]:
    """Put a mapped axis into the batch, or where there are as many weights into the groups."""
    names = OPERANDS[wanted]
    mapped = {name for name, axis in zip(names, axes, strict=True) if axis is not None}
    size, front = in_front(operands, axes)
    if "weight" not in mapped | {wanted}:
        weight = names.index("weight")
        left, right = (x[0] if i == weight else x.reshape(-1, *x.shape[2:]) for i, x in enumerate(front))
        result = _bind(wanted, left, right, window, extent)
        return result.reshape(size, -1, *result.shape[1:]), 0
    left, right = (_into_channels(x, name == "weight") for x, name in zip(front, names, strict=True))
    result = _bind(wanted, left, right, window._replace(groups=window.groups * size), extent)
    if wanted == "weight":
        return result.reshape(size, -1, *result.shape[1:]), 0
    return result.reshape(len(result), size, -1, *result.shape[2:]), 1


def _into_channels(x: Array, is_weight: bool) -> Array:
    if is_weight:  # (B, O, I, *kernel) -> (B * O, I, *kernel)
        return x.reshape(-1, *x.shape[2:])
    return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])  # (B, N, C, *) -> (N, B * C, *)


convolution_p.def_impl(jax.jit(convolution_p.bind, static_argnames=("wanted", "window", "extent", "precision")))
convolution_p.def_abstract_eval(_shape)
ad.defbilinear(convolution_p, _transpose(0), _transpose(1))
batching.primitive_batchers[convolution_p] = _batch
mlir.register_lowering(convolution_p, mlir.lower_fun(_lower, multiple_results=False))
