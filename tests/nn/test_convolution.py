"""Every algorithm that may stand for a convolution, beside ``lax.conv_general_dilated``; what JAX does to either."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmodules.nn import functional as F
from jaxmodules.nn.functional import _convolution
from jaxmodules.nn.functional._convolution import Case, by_primitive, compute
from jaxmodules.nn.functional._cpu import convolution, dense, rules

FACES = ("output", "input", "weight")


def case(
    sizes: Any, kernel: Any, inputs: int = 2, outputs: int = 3, batch: int = 2, extra: int = 0, **given: Any
) -> Case:
    """Return a convolution; ``extra`` zeros lie after each axis."""
    rank = len(sizes)
    stride, before, dilation = (
        (value,) * rank if isinstance(value, int) else value
        for value in (given.get("stride", 1), given.get("before", 0), given.get("dilation", 1))
    )
    axes = zip(sizes, kernel, stride, before, dilation, strict=True)
    out = tuple((size + 2 * low + extra - d * (k - 1) - 1) // s + 1 for size, k, s, low, d in axes)
    return Case(stride, before, dilation, given.get("groups", 1), batch, inputs, outputs, sizes, kernel, out)


CASES = {
    "1d": case((7,), (3,), before=1),
    "1d, dilated": case((9,), (2,), dilation=4, before=2),
    "1d, strided and dilated": case((12,), (3,), stride=4, dilation=2, before=3),
    "1x1": case((3, 4), (1, 1)),
    "1x1, strided": case((5, 4), (1, 1), stride=2),
    "3x3": case((5, 6), (3, 3), before=1),
    "3x3, more zeros after": case((5, 6), (3, 3), extra=1),
    "3x3, strided": case((6, 7), (3, 3), stride=2, before=1),
    "3x3, padded widely": case((2, 3), (2, 2), before=3),
    "2x2, step 3": case((8, 7), (2, 2), stride=3),
    "2x3, all differs": case((8, 9), (2, 3), stride=(2, 3), before=(1, 2), dilation=(3, 2)),
    "patches": case((6, 8), (2, 2), stride=2),
    "depthwise": case((5, 5), (3, 3), 1, 1, groups=4, before=1),
    "depthwise, two each": case((6, 5), (3, 3), 1, 2, groups=3, stride=2, before=1),
    "groups": case((5, 4), (3, 2), 2, 3, groups=2, before=(1, 0)),
    "padded on one end, cropped on the other": case((8, 8), (3, 3), 3, 4, before=(-1, 0), extra=1),
    "rows in blocks": case((37, 64), (3, 3), before=1),
    "samples in blocks": case((18, 18), (3, 3), batch=12, before=1),
    "few pixels": case((1, 2), (3, 3), 6, 8, before=1),
    "3d": case((3, 4, 5), (2, 3, 3), before=1),
    "3d, strided, groups": case((5, 4, 5), (3, 2, 2), 2, 2, groups=2, stride=2, before=1),
}
ALGORITHMS = [
    (face, function)
    for face in FACES
    for module in (convolution, dense)
    for name, function in vars(module).items()
    if name.startswith(f"{face}_by_")
]


def applies(function: Callable[..., Any], case: Case) -> bool:
    """Tell whether an algorithm is meant for such a case."""
    rank = len(case.kernel)
    if function.__module__ == dense.__name__ and case.groups > 1:
        return False
    if function is dense.output_by_winograd:
        return case.kernel == (3, 3) and max(case.stride) == max(case.dilation) == 1
    meant = {
        "output_by_planes": rank == 3, "weight_by_planes": rank == 3, "output_by_wide_rows": rank == 2,
        "input_by_output": max(case.stride) == 1,
    }  # fmt: skip
    return meant.get(function.__name__, True)


def operands(case: Case, face: str, seed: int = 0) -> list[jax.Array]:
    """Draw the two arrays from which what is wanted follows."""
    rng = np.random.default_rng(seed)
    shapes = case.shapes
    return [jnp.array(rng.standard_normal(shapes[n]), jnp.float32) for n in ("input", "weight", "output") if n != face]


def ordered(face: str, arrays: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Put the output before the weight."""
    return (arrays[1], arrays[0]) if face == "input" else (arrays[0], arrays[1])


def assert_close(ours: Any, expected: Any, tolerance: float = 1e-5) -> None:
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        scale = np.abs(np.asarray(other, np.float32)).max(initial=1e-30)
        np.testing.assert_allclose(np.float32(one) / scale, np.float32(other) / scale, 0, tolerance)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("face, algorithm", ALGORITHMS, ids=lambda value: getattr(value, "__name__", None))
def test_algorithm_equals_the_primitive(face: Any, algorithm: Callable[..., Any], case: Case) -> None:
    if not applies(algorithm, case):
        pytest.skip("meant for others")
    arrays = ordered(face, operands(case, face))
    ours, expected = jax.jit(lambda a, b: (algorithm(a, b, case), by_primitive(face, a, b, case)))(*arrays)
    assert_close(ours, expected)


def open_batch(case: Case) -> Case:
    return case._replace(batch=jax.export.symbolic_shape("batch")[0])


@pytest.mark.parametrize("name", ["1d, strided and dilated", "3x3", "groups"])
@pytest.mark.parametrize("face, algorithm", ALGORITHMS, ids=lambda value: getattr(value, "__name__", None))
def test_algorithm_takes_an_open_batch(face: Any, algorithm: Callable[..., Any], name: str) -> None:
    if not applies(algorithm, CASES[name]):
        pytest.skip("meant for others")
    opened, arrays = open_batch(CASES[name]), ordered(face, operands(CASES[name], face))
    shapes = [opened.shapes[n] for n in _convolution.OPERANDS[face]]
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = jax.export.export(jax.jit(lambda a, b: algorithm(a, b, opened)))(*specs)
    assert_close(program.call(*arrays), by_primitive(face, *arrays, CASES[name]))


CHOSEN = {
    "depthwise": case((5, 5), (3, 3), 1, 1, groups=4, before=1),
    "strided": case((6, 7), (3, 3), 4, 3, stride=2, before=1),
    "1x1": case((3, 4), (1, 1)),
    "groups": case((5, 4), (3, 2), 2, 3, groups=2, before=(1, 0)),
    "3d": case((3, 4, 5), (2, 3, 3), before=1),
}


def sides(face: Any, case: Case) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return what is wanted as a function of two arrays: ours, and the primitive."""
    return (lambda a, b: compute(face, a, b, case)), (lambda a, b: by_primitive(face, a, b, case))


def second_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return both modes of both orders of differentiation in one function."""

    def run(a: jax.Array, b: jax.Array, da: jax.Array, db: jax.Array) -> Any:
        def scalar(a: jax.Array, b: jax.Array) -> jax.Array:
            return (function(a, b) ** 3).sum()

        gradient = jax.grad(scalar, (0, 1))
        return gradient(a, b), jax.jvp(function, (a, b), (da, db)), jax.jvp(gradient, (a, b), (da, db))

    return run


@pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN)
@pytest.mark.parametrize("face", FACES)
def test_derivatives_of_both_orders_and_modes(face: str, case: Case) -> None:
    arrays = [*ordered(face, operands(case, face)), *ordered(face, operands(case, face, 1))]
    ours, expected = (jax.jit(second_order(side))(*arrays) for side in sides(face, case))
    assert_close(ours, expected, 2e-5)


@pytest.mark.parametrize("axes", [(0, None), (None, 1), (0, 1)], ids=str)
@pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN)
@pytest.mark.parametrize("face", FACES)
def test_vmap(face: str, case: Case, axes: Any) -> None:
    arrays = ordered(face, operands(case, face))
    mapped = [
        x if axis is None else jnp.stack([x, 2 * x[::-1], -x], axis) for x, axis in zip(arrays, axes, strict=True)
    ]
    ours, expected = sides(face, case)
    singles = [
        expected(*(x if axis is None else x.take(i, axis) for x, axis in zip(mapped, axes, strict=True)))
        for i in range(3)
    ]
    assert_close(jax.jit(jax.vmap(ours, axes))(*mapped), jnp.stack(singles))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN)
def test_short_floats_are_summed_in_long_ones(case: Case, dtype: Any) -> None:
    x, w = (array.astype(dtype) for array in operands(case, "output"))
    ours, plain = sides("output", case)
    expected = plain(x.astype(jnp.float32), w.astype(jnp.float32)).astype(dtype)
    assert_close(jax.jit(ours)(x, w), expected, 0.01)


def test_without_arrays_to_compile_for_nothing_is_lost() -> None:
    x, w = jnp.ones((0, 4, 5, 5)), jnp.ones((4, 1, 3, 3))
    value, grads = jax.value_and_grad(lambda x, w: F.conv2d(x, w, groups=4).sum(), (0, 1))(x, w)
    assert (value, grads[0].shape, float(grads[1].sum())) == (0, x.shape, 0)


def test_export_keeps_the_primitive_for_other_machines() -> None:
    (batch,) = jax.export.symbolic_shape("b")
    shapes = jax.ShapeDtypeStruct((batch, 4, 6, 6), jnp.float32), jax.ShapeDtypeStruct((4, 1, 3, 3), jnp.float32)

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return (F.conv2d(x, w, padding=1, groups=4) ** 2).sum()

    program = jax.export.export(jax.jit(jax.grad(loss, (0, 1))), platforms=("cpu", "cuda"))(*shapes)
    assert program.mlir_module().count("= stablehlo.convolution(") == 3
    x, w = operands(case((6, 6), (3, 3), 1, 1, groups=4, before=1), "output")
    assert_close(program.call(x, w), jax.grad(loss, (0, 1))(x, w))


def test_open_sizes_of_images_take_the_primitive() -> None:
    shape = jax.export.symbolic_shape("b, 4, h, w", constraints=["h >= 3", "w >= 3"])
    w = jnp.ones((4, 1, 3, 3))
    program = jax.export.export(jax.jit(lambda x: F.conv2d(x, w, groups=4)))(jax.ShapeDtypeStruct(shape, jnp.float32))
    assert_close(program.call(jnp.ones((2, 4, 5, 7))), jnp.full((2, 4, 3, 5), 9.0))


def test_rules_name_their_measures() -> None:
    tables = [*rules.CONVOLUTION.values(), rules.MAX_POOLING, rules.SUM_POOLING, rules.NORMALISATION]
    for rule in itertools.chain(*tables):
        assert rule.reason and rule.measured, rule


def test_on_a_mesh_of_explicit_axes() -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    x, w = operands(CHOSEN["1x1"], "output")
    with jax.set_mesh(mesh):
        spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
        output = jax.jit(F.conv2d)(spread, w)
    assert jax.typeof(output).sharding.spec[0] == "data"
    assert_close(np.asarray(output), lax.conv_general_dilated(x, w, (1, 1), "VALID"))
