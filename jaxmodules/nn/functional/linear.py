"""Affine and bilinear maps."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodules._autocast import cast
from jaxmodules._shapes import accumulation_dtype, as_array, as_array_or_none, check_floating, scalar_type
from jaxmodules._typing import Array, ArrayLike, DType


def linear(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    r"""Apply an affine map to the last axis.

    .. math:: y = x A^T + b

    Args:
        input: any number of leading axes, then ``in_features``.
        weight: ``(out_features, in_features)`` or ``(in_features,)``.
        bias: anything that broadcasts to the result, commonly ``(out_features,)``.

    Shape:
        ``(*, in_features) -> (*, out_features)``; without the last axis for a one-dimensional ``weight``.

    Raises:
        RuntimeError: if shapes or dtypes do not fit together.
        NotImplementedError: if the arrays are boolean.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.linear(jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.ones(4)).shape
        (2, 4)
    """
    input, weight, bias = as_array(input), as_array(weight), as_array_or_none(bias)
    input, weight, bias = cast("linear", input, weight, bias)
    _check_linear(input, weight, bias)
    if input.dtype == bool:
        check_floating(input, "addmm_impl_cpu_")
    return _linear(input, weight, bias)


def bilinear(input1: ArrayLike, input2: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    r"""Apply a bilinear map to the last axes of two arrays.

    .. math:: y_k = x_1^T A_k x_2 + b_k

    Args:
        input1: leading axes, then ``in1_features``.
        input2: the same leading axes, then ``in2_features``.
        weight: ``(out_features, in1_features, in2_features)``.
        bias: ``(out_features,)``.

    Shape:
        ``(*, in1_features), (*, in2_features) -> (*, out_features)``

    Raises:
        RuntimeError: if shapes or dtypes do not fit together.
        IndexError: if an array has no axes.
        NotImplementedError: if the arrays are boolean.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.bilinear(jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((5, 3, 4))).shape
        (2, 5)
    """
    input1, input2, weight, bias = as_array(input1), as_array(input2), as_array(weight), as_array_or_none(bias)
    input1, input2, weight, bias = cast("bilinear", input1, input2, weight, bias)
    _check_bilinear(input1, input2, weight, bias)
    if input1.dtype == bool:
        check_floating(input1, "bmm")
    return _bilinear(input1, input2, weight, bias)


def grouped_mm(
    mat_a: ArrayLike,
    mat_b: ArrayLike,
    *,
    offs: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    out_dtype: DType | None = None,
) -> Array:
    """Multiply groups of matrices, as the experts of a mixture do.

    A matrix among the operands is cut along one axis into groups that may differ in size, those of a stack are its
    matrices. Unlike PyTorch's kernel, this one takes sizes and layouts of any alignment.

    Args:
        mat_a: the left operand: a stack, or a matrix that is cut along its rows, or along its columns if ``mat_b``
            is a matrix as well.
        mat_b: the right operand: a stack, or a matrix that is cut along its columns, or along its rows if ``mat_a``
            is a matrix as well.
        offs: where each group ends, ``int32``; what lies after the last gives zeros. For two stacks ``None``.
        bias: not supported, as in PyTorch.
        out_dtype: the type of the operands, or ``None``.

    Shape:
        ``(M, K), (G, K, N) -> (M, N)``; ``(G, M, K), (K, N) -> (M, N)``; ``(M, K), (K, N) -> (G, M, N)``;
        ``(G, M, K), (G, K, N) -> (G, M, N)``

    Raises:
        RuntimeError: if shapes, types and ``offs`` do not fit together, or there is a ``bias``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules.nn import functional as F
        >>> F.grouped_mm(jnp.ones((3, 2)), jnp.array([[[1.0], [1.0]], [[2.0], [2.0]]]), offs=jnp.array([1, 3])).tolist()
        [[2.0], [4.0], [4.0]]
    """
    mat_a, mat_b, offs = as_array(mat_a), as_array(mat_b), as_array_or_none(offs)
    _check_grouped(mat_a, mat_b, offs)
    if bias is not None:
        raise RuntimeError("Bias not supported yet")
    if out_dtype is not None and jax.dtypes.canonicalize_dtype(out_dtype) != mat_a.dtype:
        raise RuntimeError(f"Grouped gemm output dtype must match `mat_a` dtype, got {out_dtype} and {mat_a.dtype}")
    return _grouped_mm(mat_a, mat_b, offs)


@partial(jax.jit, inline=True)
def _linear(input: Array, weight: Array, bias: Array | None) -> Array:
    output = lax.dot_general(input, weight, (((input.ndim - 1,), (weight.ndim - 1,)), ((), ())))
    return output if bias is None else output + jnp.broadcast_to(bias, output.shape)


@partial(jax.jit, inline=True)
def _bilinear(input1: Array, input2: Array, weight: Array, bias: Array | None) -> Array:
    output = jnp.einsum("...i,oij,...j->...o", input1, weight, input2)
    return output if bias is None else output + jnp.broadcast_to(bias, output.shape)


@partial(jax.jit, inline=True)
def _grouped_mm(mat_a: Array, mat_b: Array, offs: Array | None) -> Array:
    dtype = accumulation_dtype(mat_a.dtype)
    if offs is None:
        return lax.dot_general(mat_a, mat_b, (((2,), (1,)), ((0,), (0,))), preferred_element_type=dtype).astype(
            mat_a.dtype
        )
    if mat_a.ndim == mat_b.ndim:
        places = jnp.arange(len(mat_b), dtype=offs.dtype)
        starts = jnp.concatenate([jnp.zeros(1, offs.dtype), offs[:-1]])
        members = (places[None] >= starts[:, None]) & (places[None] < offs[:, None])  # (G, K)
        groups = jnp.where(members[:, None], mat_a[None], 0)  # (G, M, K)
        return jnp.matmul(groups, mat_b, preferred_element_type=dtype).astype(mat_a.dtype)
    sizes = jnp.diff(offs, prepend=jnp.zeros(1, offs.dtype))
    if mat_a.ndim == 2:
        return lax.ragged_dot(mat_a, mat_b, sizes, preferred_element_type=dtype).astype(mat_a.dtype)
    return lax.ragged_dot(mat_b.T, mat_a.mT, sizes, preferred_element_type=dtype).astype(mat_a.dtype).T


def _check_linear(input: Array, weight: Array, bias: Array | None) -> None:
    if input.ndim == 0 or weight.ndim == 0:
        raise RuntimeError(
            f"both arguments to linear need to be at least 1D, but they are {input.ndim}D and {weight.ndim}D"
        )
    if weight.ndim > 2:
        raise RuntimeError(f"linear() expects a weight with <= 2 dimensions, but it is {weight.ndim}D")
    if weight.ndim == 1 and bias is not None and (bias.ndim > 0 or input.ndim == 2):
        raise RuntimeError(f"linear() with a bias expects weight to be a matrix, got a {weight.ndim}-D array")
    if bias is None and input.dtype != weight.dtype:
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {input.dtype} != {weight.dtype}")
    for name, array in () if bias is None else (("self", bias), ("mat1", input)):
        if array.dtype != weight.dtype:
            types = f"{scalar_type(array.dtype)} and {scalar_type(weight.dtype)}"
            raise RuntimeError(f"{name} and mat2 must have the same dtype, but got {types}")
    if input.shape[-1] != weight.shape[-1]:
        rows = input.size // max(input.shape[-1], 1)
        other = "x".join(map(str, reversed(weight.shape)))
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({rows}x{input.shape[-1]} and {other}):"
            f" expected an input with {weight.shape[-1]} features in its last axis, got shape {list(input.shape)}"
        )
    if bias is not None and bias.ndim > 0:
        _check_bias(bias, (*input.shape[:-1], weight.shape[0]), "linear")


def _check_bias(bias: Array, target: tuple[int, ...], function: str) -> None:
    for axis, (size, wanted) in enumerate(zip(reversed(bias.shape), reversed(target), strict=False)):
        if size not in (1, wanted):
            raise RuntimeError(
                f"The expanded size of the tensor ({wanted}) must match the existing size ({size}) at non-singleton"
                f" dimension {len(target) - 1 - axis}.  Target sizes: {list(target)}.  Tensor sizes: {list(bias.shape)}"
            )
    if bias.ndim > len(target):
        raise RuntimeError(f"{function}(): expected a bias that broadcasts to {list(target)}, got {list(bias.shape)}")


def _check_bilinear(input1: Array, input2: Array, weight: Array, bias: Array | None) -> None:
    named = {"input1": input1, "input2": input2, "weight": weight} | ({} if bias is None else {"bias": bias})
    if len({array.dtype for array in named.values()}) > 1:
        raise RuntimeError(
            "All tensors must have the same dtype, got"
            f" {', '.join(f'{name}: {array.dtype}' for name, array in named.items())}"
        )
    for name, array in named.items():
        if array.ndim == 0:
            raise IndexError(f"Dimension specified as -1 but tensor has no dimensions: {name} of bilinear()")
    if input1.ndim != input2.ndim:
        raise RuntimeError(f"bilinear(): input dimensions do not match: got {input1.ndim} and {input2.ndim}")
    if weight.ndim != 3:
        raise RuntimeError(f"bilinear(): expected a 3-dimensional weight, got weight of size {list(weight.shape)}")
    for axis, (size1, size2) in enumerate(zip(input1.shape[:-1], input2.shape[:-1], strict=True)):
        if size1 != size2:
            raise RuntimeError(
                f"bilinear(): input batch dimensions do not match at dim {axis}: got {size1} and {size2}"
            )
    for name, size, wanted in (
        ("input1", input1.shape[-1], weight.shape[1]),
        ("input2", input2.shape[-1], weight.shape[2]),
        ("bias", weight.shape[0] if bias is None else bias.shape[0], weight.shape[0]),
    ):
        if size != wanted:
            raise RuntimeError(f"bilinear(): {name} size does not match weight size: got {size} but expected {wanted}")
    if bias is not None:
        _check_bias(bias, (*input1.shape[:-1], weight.shape[0]), "bilinear")


def _check_grouped(mat_a: Array, mat_b: Array, offs: Array | None) -> None:
    for name, matrix in (("mat_a", mat_a), ("mat_b", mat_b)):
        if matrix.ndim not in (2, 3):
            raise RuntimeError(f"{name} has to be 2 or 3d, got shape {list(matrix.shape)}")
        if matrix.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
            raise RuntimeError(f"Expected {name} to be Float32, BFloat16 or Float16 matrix, got {matrix.dtype}")
    shapes = f"got {list(mat_a.shape)} and {list(mat_b.shape)}"
    if mat_a.shape[-1] != mat_b.shape[-2]:
        raise RuntimeError(f"contraction dimension of mat_a and mat_b must match, {shapes}")
    if mat_a.dtype != mat_b.dtype:
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {mat_a.dtype} != {mat_b.dtype}")
    if (offs is None) != (mat_a.ndim == mat_b.ndim == 3):
        raise RuntimeError(
            f"Have to provide offsets if there is a 2d matrix, or no offset if both matrices are 3d, {shapes}"
        )
    if offs is None:
        if len(mat_a) != len(mat_b):
            raise RuntimeError(f"batched dimension has to match, {shapes}")
        return
    if offs.ndim != 1:
        raise RuntimeError(f"offs has to be 1D, got shape {list(offs.shape)}")
    if offs.dtype != jnp.int32:
        raise RuntimeError(f"Offsets have to be int32, got {offs.dtype}")
    groups = len(mat_a) if mat_a.ndim == 3 else len(mat_b) if mat_b.ndim == 3 else len(offs)
    if len(offs) != groups:
        raise RuntimeError(f"matrix batch sizes have to match: {len(offs)} offsets, and {shapes}")
