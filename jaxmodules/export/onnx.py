"""Programs in the Open Neural Network Exchange format, for runtimes other than JAX."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core.primitives import copy_p

from jaxmodules._files import whole
from jaxmodules._tracing import Tracer
from jaxmodules.export._dynamic_shapes import is_array
from jaxmodules.export._function import Function, constants, plain, trace, unlike
from jaxmodules.export._lowering import apply, equations, run
from jaxmodules.transforms._call import is_stateful
from jaxmodules.transforms._stage import unboxed

_LIMIT = 2**31 - 1
_NO_KEY = np.zeros(2, np.uint32)
_TOLERANCE = {2: 2e-2, 4: 1e-4, 8: 1e-7}  # by the bytes of a number


def to_onnx(
    mod: Callable[..., Any],
    args: Any = (),
    f: str | os.PathLike[str] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int = 23,
    dynamic_shapes: Any = None,
    verify: bool = True,
) -> Any:
    """Convert a module or a function to an ONNX model, with its weights; the counterpart of :func:`torch.onnx.export`.

    What is fixed and what is an input is as in :func:`~jaxmodules.export.program.export`. The conversion is
    jax2onnx's, which does not know all that JAX can do; so onnxruntime is asked for the same results: for the example
    arguments, and where sizes are left open for some of another size. Integers have 32 bits, as in JAX.

    Args:
        mod: a module, in eval mode, or a function of arrays and modules.
        args: example arguments: a tuple, or the only one.
        f: a file for the model, which appears whole or not at all.
        kwargs: example keyword arguments.
        input_names: names for the inputs, by default those of the arguments.
        output_names: names for the outputs, by default ``output``, or ``output_0`` and so on.
        opset_version: the version of ONNX's operators.
        dynamic_shapes: names of sizes that stay open.
        verify: whether to compare results. It takes arrays as example arguments, not shapes alone.

    Returns:
        The :class:`onnx.ModelProto`.

    Raises:
        ImportError: if jax2onnx, or onnxruntime to verify with, is missing.
        NotImplementedError: if jax2onnx has no way to express an operation; the message names it and its module.
        RuntimeError: if the results of onnxruntime are not those of ``mod``.
        TypeError: if ``mod`` is not callable, or it takes or returns what is no array.
        ValueError: if names or ``dynamic_shapes`` do not fit, or the model takes 2 GB.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise ImportError("to_onnx needs jax2onnx: pip install 'jaxmodules[onnx]'") from error
    function = trace(mod, args, kwargs, dynamic_shapes)
    function.check_pure("embedded")
    settings = {
        "opset": opset_version,
        "enable_double_precision": any(var.aval.dtype.itemsize == 8 for var in function.jaxpr.jaxpr.invars),
        "model_name": function.name,
    }
    weights = constants(function.state)

    def form(*arrays: Any) -> list[Any]:
        outputs = []
        for output in run(function.jaxpr, [_NO_KEY, *weights, *arrays]):
            has_name = any(output is other for other in (*arrays, *outputs))
            outputs.append(copy_p.bind(output) if has_name else output)
        return outputs

    with _contained():
        try:
            model = jax2onnx.to_onnx(
                form,
                jax.tree.leaves((function.args, function.kwargs)),
                input_names=function.inputs if input_names is None else input_names,
                output_names=_output_names(function) if output_names is None else output_names,
                **settings,
            )
        except Exception as error:
            _explain(error, function, lambda *call: jax2onnx.to_onnx(*call, **settings))
            raise
    _set_shapes(model, function)
    if (verify or f is not None) and model.ByteSize() > _LIMIT:
        raise ValueError(
            f"the model takes {model.ByteSize():,} bytes, more than a file of this format can hold ({_LIMIT:,}): take"
            " what to_onnx(verify=False) returns, and save it with onnx.save_model(..., save_as_external_data=True)"
        )
    if verify:
        _verify(model, mod, args if isinstance(args, tuple) else (args,), dict(kwargs or {}), function)
    if f is not None:
        with whole(f) as path, open(path, "wb") as file:
            file.write(model.SerializeToString())
    return model


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Keep a conversion from configuring logging, telling of its workings, and leaving JAX's functions replaced."""
    before = [(module, dict(vars(module))) for module in (jax.lax, jax.nn, jax.numpy)]
    root, serde, handler = logging.getLogger(), logging.getLogger("onnx_ir.serde"), logging.NullHandler()
    level = serde.level
    root.addHandler(handler)
    serde.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.removeHandler(handler)
        serde.setLevel(level)
        for module, functions in before:
            vars(module).update(functions)


def _output_names(function: Function) -> list[str]:
    count = jax.tree.structure(function.out).num_leaves
    names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    return [unlike(name, function.inputs) for name in names]


def _set_shapes(model: Any, function: Function) -> None:
    """Give the outputs the shapes that the traced function has."""
    for output, aval in zip(model.graph.output, jax.tree.leaves(function.out), strict=True):
        shape = output.type.tensor_type.shape
        del shape.dim[:]
        for size in aval.shape:
            shape.dim.add(**({"dim_value": size} if isinstance(size, int) else {"dim_param": str(size)}))


def _explain(error: Exception, function: Function, convert: Callable[..., Any]) -> None:
    """Raise an error that names the operation which fails on its own as the whole does, if there is one."""
    seen = set()
    for path, eqn in equations(function.jaxpr):
        known = (eqn.primitive.name, str(eqn.params), *(str(v.aval) for v in eqn.invars))
        if known in seen:
            continue
        seen.add(known)
        specs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
        try:
            convert(lambda *arrays, eqn=eqn: tuple(apply(eqn, arrays)), specs)
        except Exception as own:
            if str(own) == str(error):
                where = f"'{path}' of {function.name}" if path else function.name
                raise NotImplementedError(
                    f"jax2onnx cannot express {eqn.primitive.name}({', '.join(str(v.aval) for v in eqn.invars)}) in"
                    f" {where}: {error}: compute this in another way, or export the program for JAX with jm.export"
                ) from error


def _verify(model: Any, mod: Any, args: tuple[Any, ...], kwargs: dict[str, Any], function: Function) -> None:
    """Raise unless onnxruntime's results are those of the function, for the example and for another size."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("to_onnx(verify=True) needs onnxruntime: pip install 'jaxmodules[onnx]'") from error
    leaves, treedef = jax.tree.flatten((args, kwargs), is_leaf=is_stateful)
    arrays = [leaf for leaf in leaves if is_array(leaf)]
    if any(isinstance(array, jax.ShapeDtypeStruct | Tracer) for array in arrays):
        raise TypeError(
            "expected arrays to compare results for, got shapes alone: give example arrays, or verify=False"
        )
    names = [output.name for output in model.graph.output]
    session = None
    specs = jax.tree.leaves((function.args, function.kwargs))
    for sized in filter(None, (arrays, _resized(arrays, specs))):
        given = iter(sized)
        call = jax.tree.unflatten(treedef, [next(given) if is_array(leaf) else leaf for leaf in leaves])
        try:
            expected = jax.tree.leaves(plain(unboxed(mod(*call[0], **call[1]))))
        except Exception:
            if sized is arrays:
                raise
            return  # made-up arguments that the function refuses
        feed = {
            node.name: np.asarray(array, spec.dtype)
            for node, array, spec in zip(model.graph.input, sized, specs, strict=True)
        }
        try:
            session = session or onnxruntime.InferenceSession(model.SerializeToString())
            results = session.run(None, feed)
        except Exception as error:
            raise RuntimeError(
                f"onnxruntime cannot run the model that jax2onnx made (verify=False makes it all the same): {error}"
            ) from error
        for name, result, wanted in zip(names, results, expected, strict=True):
            _compare(name, np.asarray(result), np.asarray(wanted), [array.shape for array in sized])


def _resized(arrays: Sequence[Any], specs: Sequence[Any]) -> list[np.ndarray] | None:
    """Return arrays with one more of every open size, or ``None`` if there is none, or one that is computed."""
    opened = [str(size) for spec in specs for size in spec.shape if not isinstance(size, int)]
    if not opened or not all(name.isidentifier() for name in opened):
        return None
    return [
        np.resize(array, [size + (not isinstance(dim, int)) for dim, size in zip(spec.shape, array.shape, strict=True)])
        for array, spec in zip(arrays, specs, strict=True)
    ]


def _compare(name: str, result: np.ndarray, wanted: np.ndarray, shapes: Sequence[Any]) -> None:
    if result.shape != wanted.shape:
        raise RuntimeError(
            f"the model that jax2onnx made returns {name!r} of shape {result.shape} for inputs of shapes {shapes},"
            f" expected {wanted.shape}"
        )
    tolerance = _TOLERANCE.get(min(result.dtype.itemsize, wanted.dtype.itemsize), 0)
    result, wanted = result.astype(np.float64), wanted.astype(np.float64)
    if not np.allclose(result, wanted, tolerance, tolerance, equal_nan=True):
        raise RuntimeError(
            f"the model that jax2onnx made returns {name!r} that differs by up to {np.abs(result - wanted).max():.3g}"
            f" for inputs of shapes {shapes}"
        )
