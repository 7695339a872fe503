"""Example arguments as shapes, with names in the place of sizes that are to stay open."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmodules._tracing import Tracer
from jaxmodules.transforms._call import is_stateful


class Dim:
    """Name a size that stays open, and say how large it can be; the counterpart of :class:`torch.export.Dim`.

    Code that depends on the size, such as ``if x.shape[0] > 1``, can be exported where the bounds decide.

    Args:
        name: the name; sizes of one name are equal.
        min: the smallest size, at least one.
        max: the largest size, ``None`` for any.

    Examples:
        >>> import jaxmodules as jm, jax.numpy as jnp
        >>> shapes = ({0: jm.export.Dim("batch", min=2)},)
        >>> jm.export(lambda x: x[1:] if x.shape[0] > 1 else x, jnp.ones(4), dynamic_shapes=shapes)
        ExportedProgram(<lambda>: (float32[batch]) -> float32[batch - 1] for cpu)
    """

    def __init__(self, name: str, *, min: int = 1, max: int | None = None) -> None:
        if min < 1 or (max is not None and max < min):
            raise ValueError(f"expected 1 <= min <= max for the size {name!r}, got min={min} and max={max}")
        self.__name__ = name
        self.min = min
        self.max = max

    def __repr__(self) -> str:
        return f"Dim({self.__name__!r}, min={self.min}, max={self.max})"


def is_array(value: Any) -> bool:
    """Tell whether an argument is an input of the program: an array, or the shape of one."""
    return isinstance(value, jax.ShapeDtypeStruct) or (hasattr(value, "__array__") and not is_stateful(value))


def with_dynamic_shapes(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with shapes in the place of arrays, and symbols where ``dynamic_shapes`` names a size.

    Raises:
        TypeError: if an array has no values outside a trace, or the arguments do not fit the function.
        ValueError: if ``dynamic_shapes`` does not fit the arguments.
    """
    symbols = _Symbols((args, kwargs), dynamic_shapes)
    names = argument_names(function, args)
    by_name = dynamic_shapes if isinstance(dynamic_shapes, Mapping) else _by_position(dynamic_shapes, names)
    if unknown := sorted(str(name) for name in by_name.keys() - {*names, *kwargs}):
        raise ValueError(
            f"dynamic_shapes names {', '.join(unknown)}, expected names of the arguments given:"
            f" {', '.join((*names, *kwargs))}"
        )
    filled = tuple(symbols.put(arg, by_name.get(name), name) for name, arg in zip(names, args, strict=True))
    return filled, {name: symbols.put(arg, by_name.get(name), name) for name, arg in kwargs.items()}


def argument_names(function: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    """Return the names of positional arguments; those that ``*args`` takes are numbered."""
    try:
        parameters = list(inspect.signature(getattr(function, "forward", function)).parameters.values())
    except ValueError:  # built in
        return [f"args_{i}" for i in range(len(args))]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    if len(args) > len(names) and rest is None:
        raise TypeError(f"expected at most {len(names)} positional arguments ({', '.join(names)}), got {len(args)}")
    return [*names[: len(args)], *(f"{rest}_{i}" for i in range(len(args) - len(names)))]


def _by_position(dynamic_shapes: Any, names: Sequence[str]) -> dict[str, Any]:
    if dynamic_shapes is None:
        return {}
    if not isinstance(dynamic_shapes, list | tuple) or len(dynamic_shapes) != len(names):
        raise ValueError(
            f"dynamic_shapes is {dynamic_shapes!r}, expected a tuple with an entry for each of the {len(names)}"
            " positional arguments (None for one of fixed shape), or a dict by the names of arguments"
        )
    return dict(zip(names, dynamic_shapes, strict=True))


class _Symbols:
    """Makes symbols for named sizes, all in one scope."""

    def __init__(self, examples: Any, dynamic_shapes: Any) -> None:
        sizes = [size for leaf in jax.tree.leaves(examples) if is_array(leaf) for size in leaf.shape]
        scopes = [size.scope for size in sizes if not isinstance(size, int)]
        bounds = dict.fromkeys(bound for dim in _objects(dynamic_shapes) for bound in _bounds(dim))
        self._scope = scopes[0] if scopes else jax.export.SymbolicScope(tuple(bounds))

    def put(self, value: Any, dims: Any, where: str) -> Any:
        """Return an argument with shapes for its arrays, ``dims`` naming sizes of them."""
        if is_array(value):
            return self._array(value, dims, where)
        if dims is None:
            parts, treedef = jax.tree_util.tree_flatten_with_path(value, is_leaf=is_stateful)
            leaves = [self._array(v, None, where + jax.tree_util.keystr(p)) if is_array(v) else v for p, v in parts]
            return jax.tree.unflatten(treedef, leaves)
        if isinstance(value, Mapping) and isinstance(dims, Mapping) and dims.keys() <= value.keys():
            inner = {key: self.put(item, dims.get(key), f"{where}[{key!r}]") for key, item in value.items()}
            treedef = jax.tree.structure(value, is_leaf=lambda x: x is not value)
            return jax.tree.unflatten(treedef, [inner[key] for key in jax.tree.unflatten(treedef, list(value))])
        if isinstance(value, list | tuple) and isinstance(dims, list | tuple) and len(dims) == len(value):
            items = [self.put(v, d, f"{where}[{i}]") for i, (v, d) in enumerate(zip(value, dims, strict=True))]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        raise ValueError(
            f"dynamic_shapes gives {dims!r} for {where}, which is a {type(value).__name__}: expected the same"
            " structure as the argument has, with sizes for its arrays"
        )

    def _array(self, value: Any, dims: Any, where: str) -> jax.ShapeDtypeStruct:
        if isinstance(value, Tracer):
            raise TypeError(f"{where} is a traced value of shape {value.shape}: export outside jit, grad and vmap")
        if not isinstance(value, jax.Array | jax.ShapeDtypeStruct):
            array = np.asarray(value)
            value = jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))
        shape = list(value.shape)
        for axis, dim in self._by_axis(dims, shape, where):
            shape[axis] = self._size(dim, shape[axis], f"axis {axis} of {where}")
        return jax.ShapeDtypeStruct(tuple(shape), value.dtype)

    def _by_axis(self, dims: Any, shape: list[Any], where: str) -> Iterator[tuple[int, Any]]:
        rank = len(shape)
        if isinstance(dims, str):
            shape[:] = jax.export.symbolic_shape(dims, scope=self._scope, like=tuple(shape))
            return
        if dims is None:
            return
        if isinstance(dims, Mapping):
            for axis, dim in dims.items():
                if not isinstance(axis, int) or not -rank <= axis < rank:
                    raise ValueError(f"dynamic_shapes names axis {axis!r} of {where}, which has {rank}: {tuple(shape)}")
                yield axis % rank, dim
            return
        if not isinstance(dims, list | tuple) or len(dims) != rank:
            raise ValueError(
                f"dynamic_shapes gives {dims!r} for {where} of shape {tuple(shape)}, expected {{axis: name}},"
                f" {rank} sizes, a string such as {', '.join(['batch', *map(str, shape[1:])][:rank])!r}, or None"
            )
        yield from enumerate(dims)

    def _size(self, dim: Any, size: Any, where: str) -> Any:
        name = dim if isinstance(dim, str) else getattr(dim, "__name__", None)
        if name is not None:
            return jax.export.symbolic_shape(name, scope=self._scope)[0]
        if dim is None or "STATIC" in str(dim):
            return size
        if dim is size or (isinstance(dim, int) and dim == size):
            return size
        raise ValueError(
            f"dynamic_shapes gives {dim!r} for {where}, expected a name ({size} is fixed if it is None): sizes that"
            " are always equal have the same name, and which are equal is not found out"
        )


def _objects(dynamic_shapes: Any) -> Iterator[Any]:
    """Yield the sizes that are neither strings nor numbers: such as :class:`Dim` makes, or PyTorch's."""
    if isinstance(dynamic_shapes, Mapping):
        dynamic_shapes = list(dynamic_shapes.values())
    if isinstance(dynamic_shapes, list | tuple):
        for part in dynamic_shapes:
            yield from _objects(part)
    elif hasattr(dynamic_shapes, "__name__"):
        yield dynamic_shapes


def _bounds(dim: Any) -> Iterator[str]:
    """Yield what the limits of a size are for JAX, for which all are at least one."""
    least, most = getattr(dim, "min", None), getattr(dim, "max", None)
    if type(least) is int and least > 1:
        yield f"{dim.__name__} >= {least}"
    if type(most) is int:
        yield f"{dim.__name__} <= {most}"
