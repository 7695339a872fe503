"""Products with Jacobians, Jacobians and Hessians with respect to modules, parameters and pytrees."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmodules.transforms._call import Call
from jaxmodules.transforms._point import Point, Problem, Target, form, is_point


def jvp(fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False) -> Any:
    """Compute ``fn`` and how its value moves when its arguments move along ``tangents`` (forward mode).

    The tangent of a module is a dict of arrays by name, one for each trainable parameter, as :func:`jm.grad` gives
    them; of a :class:`~jaxmodules.nn.Parameter` an array; of a pytree a pytree. ``None`` in place of any of them, or
    of one array, stands for zeros: nothing is computed for it. What ``fn`` writes to buffers and random state is
    written back.

    Args:
        fn: the function.
        primals: its positional arguments, in a tuple or list.
        tangents: one tangent for each.
        has_aux: whether ``fn`` returns ``(value, aux)``.

    Returns:
        ``(value, tangent)``, or ``(value, tangent, aux)``.

    Raises:
        TypeError: if the tangents have not the structure or the dtypes of the primals.
        ValueError: if a tangent has not the shape of its primal.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Linear(2, 1)
        >>> x, direction = jnp.array([3.0, 4.0]), {"weight": jnp.ones((1, 2)), "bias": None}
        >>> jvp(lambda net, x: net(x), (net, x), (direction, None))[1].tolist()
        [7.0]
    """
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise TypeError(
            "primal and tangent arguments to jm.jvp must be tuples or lists; found"
            f" {type(primals).__name__} and {type(tangents).__name__}"
        )
    problem = _problem(fn, primals, has_aux)
    directions = _taken(problem.targets, tangents, jax.tree.map(_tangent_type, problem.point))
    moving = Point(
        {i: problem.point.slots[i] for i in directions.slots}, {i: problem.point.leaves[i] for i in directions.leaves}
    )
    value, tangent, rest = jax.jvp(problem.pure, (moving,), (directions,), has_aux=True)
    out, aux = problem.finish(value, rest)
    return (out, tangent, aux) if has_aux else (out, tangent)


def linearize(fn: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """Compute ``fn``, and return with its value the linear function that :func:`jvp` is of the tangents.

    Evaluating that at many tangents costs the nonlinear part of ``fn`` only once.

    Args:
        fn: the function.
        primals: its positional arguments.
        has_aux: whether ``fn`` returns ``(value, aux)``.

    Returns:
        ``(value, pushforward)``, or ``(value, pushforward, aux)``; ``pushforward`` takes one tangent for each argument.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> value, pushforward = linearize(lambda net, x: net(x), nn.Linear(2, 1), jnp.array([3.0, 4.0]))
        >>> pushforward({"weight": jnp.ones((1, 2)), "bias": None}, None).tolist()
        [7.0]
    """
    problem = _problem(fn, primals, has_aux)
    value, pushforward, rest = jax.linearize(problem.pure, problem.point, has_aux=True)
    out, aux = problem.finish(value, rest)
    types = jax.tree.map(_tangent_type, problem.point)
    push = jax.tree_util.Partial(functools.partial(_push_forward, problem.targets, types), pushforward)
    return (out, push, aux) if has_aux else (out, push)


def vjp(fn: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """Compute ``fn``, and return with its value the function from cotangents of that to those of its arguments.

    The cotangent of a module is a dict of its trainable parameters' cotangents in ``named_parameters()`` order; of a
    :class:`~jaxmodules.nn.Parameter` an array; of a pytree a pytree. What ``fn`` writes to buffers and random state
    is written back.

    Args:
        fn: the function.
        primals: its positional arguments.
        has_aux: whether ``fn`` returns ``(value, aux)``.

    Returns:
        ``(value, pullback)``, or ``(value, pullback, aux)``. ``pullback`` takes what has the structure of ``value``, as
        often as one likes, and returns a tuple with one cotangent for each argument.

    Raises:
        TypeError: if an argument can't be differentiated.
        ValueError: from ``pullback``, if the cotangent has not the structure or the shapes of ``value``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> value, pullback = vjp(lambda net: net(jnp.array([3.0, 4.0])), nn.Linear(2, 1))
        >>> pullback(jnp.ones(1))[0]["weight"].tolist()
        [[3.0, 4.0]]
    """
    problem = _problem(fn, primals, has_aux)
    value, pullback, rest = jax.vjp(problem.pure, problem.point, has_aux=True)
    out, aux = problem.finish(value, rest)
    pull = jax.tree_util.Partial(functools.partial(_pull_back, problem.targets), pullback)
    return (out, pull, aux) if has_aux else (out, pull)


def jacrev(
    fn: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
    **options: Any,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``fn`` row by row (reverse mode).

    In place of each array of the value stands its derivative: for a module a dict of arrays of shape
    ``value.shape + parameter.shape``, by the names of the trainable parameters; for an array one such array. ``fn`` is
    evaluated once, and what it writes to buffers and random state is written back as after one call.

    Args:
        fn: the function.
        argnums: which arguments to differentiate; a sequence gives a tuple of Jacobians.
        has_aux: whether ``fn`` returns ``(value, aux)``; the new function then returns ``(jacobian, aux)``.
        chunk_size: how many rows are computed together, by default all of them; fewer take less memory.
        options: further keyword arguments of :func:`jax.jacrev`.

    Raises:
        TypeError: on a call, if an argument can't be differentiated or the value is not real.
        ValueError: if ``chunk_size`` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Linear(3, 2)
        >>> jacrev(lambda net, x: net(x))(net, jnp.ones(3))["weight"].shape
        (2, 2, 3)
        >>> jacrev(net)(jnp.ones(3)).shape
        (2, 3)
    """
    if chunk_size is None:
        return _jacobian(fn, functools.partial(jax.jacrev, **options), argnums, has_aux)
    if chunk_size <= 0:
        raise ValueError(f"jacrev: `chunk_size` should be greater than 0, got {chunk_size}")
    if options:
        raise TypeError(f"jacrev takes no {', '.join(options)} together with chunk_size")
    return _jacobian(fn, functools.partial(_in_chunks, chunk_size), argnums, has_aux)


def jacfwd(
    fn: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``fn`` column by column (forward mode).

    What it returns, and what becomes of state, is as for :func:`jacrev`; it is the cheaper one where the value is
    larger than what is differentiated by.

    Args:
        fn: the function.
        argnums: which arguments to differentiate; a sequence gives a tuple of Jacobians.
        has_aux: whether ``fn`` returns ``(value, aux)``; the new function then returns ``(jacobian, aux)``.
        options: further keyword arguments of :func:`jax.jacfwd`.

    Raises:
        TypeError: on a call, if an argument can't be differentiated or is not real.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> jacfwd(lambda net, x: net(x))(nn.Linear(3, 2), jnp.ones(3))["bias"].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return _jacobian(fn, functools.partial(jax.jacfwd, **options), argnums, has_aux)


def hessian(
    fn: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
) -> Callable[..., Any]:
    """Return a function that computes the second derivatives of ``fn`` (forward over reverse mode).

    The Hessian with respect to a module is a dict of dicts of arrays of shape
    ``value.shape + parameter.shape + other_parameter.shape``. State is treated as by :func:`jacrev`.

    Args:
        fn: the function.
        argnums: which arguments to differentiate; a sequence gives a tuple of tuples.
        has_aux: whether ``fn`` returns ``(value, aux)``; the new function then returns ``(hessian, aux)``.
        options: further keyword arguments of :func:`jax.hessian`.

    Raises:
        TypeError: on a call, if an argument can't be differentiated or is not real.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> second = hessian(lambda net, x: (net(x) ** 2).sum())(nn.Linear(3, 2), jnp.ones(3))
        >>> second["weight"]["bias"].shape
        (2, 3, 2)
    """
    return _jacobian(fn, functools.partial(jax.hessian, **options), argnums, has_aux)


def _problem(fn: Callable[..., Any], primals: Sequence[Any], has_aux: bool) -> Problem:
    return Problem(Call(fn, tuple(primals), {}), primals, range(len(primals)), has_aux)


def _tangent_type(primal: Any) -> jax.ShapeDtypeStruct:
    dtype = jnp.result_type(primal)
    return jax.ShapeDtypeStruct(jnp.shape(primal), dtype if jnp.issubdtype(dtype, jnp.inexact) else jax.dtypes.float0)


def _zeros(kind: jax.ShapeDtypeStruct) -> Any:
    return (np if kind.dtype == jax.dtypes.float0 else jnp).zeros(kind.shape, kind.dtype)


def _taken(targets: Sequence[Target], tangents: Sequence[Any], types: Point) -> Point:
    """Return the tangents of a call as a point."""
    if len(tangents) != len(targets):
        raise TypeError(f"expected one tangent for each of the {len(targets)} arguments, got {len(tangents)}")
    directions = Point({}, {})
    for target, tangent in zip(targets, tangents, strict=True):
        target.take(tangent, types, directions)
    return directions


def _push_forward(targets: Sequence[Target], types: Point, pushforward: Any, *tangents: Any) -> Any:
    given = _taken(targets, tangents, types)
    zeros = jax.tree.map(_zeros, types)
    return pushforward(Point({**zeros.slots, **given.slots}, {**zeros.leaves, **given.leaves}))


def _pull_back(targets: Sequence[Target], pullback: Any, cotangent: Any) -> tuple[Any, ...]:
    (gradient,) = pullback(cotangent)
    return form(targets, gradient)


def _in_chunks(size: int, pure: Callable[..., Any], has_aux: Literal[True]) -> Callable[[Point], tuple[Any, Any]]:
    """Return what ``jax.jacrev`` does, for ``size`` rows at a time; ``pure`` has auxiliary output."""

    def run(point: Point) -> tuple[Any, Any]:
        value, pullback, rest = jax.vjp(pure, point, has_aux=has_aux)
        leaves, treedef = jax.tree.flatten(value)
        if any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            raise TypeError("jacrev with chunk_size requires real-valued outputs, use jm.vjp for others")
        flat, unravel = ravel_pytree(value)
        basis = jnp.eye(flat.size, dtype=flat.dtype)
        rows = jax.lax.map(lambda row: pullback(unravel(row))[0], basis, batch_size=size)
        ends = np.cumsum([leaf.size for leaf in leaves])
        spans = [(end - leaf.size, end, leaf.shape) for end, leaf in zip(ends, leaves, strict=True)]
        parts = [jax.tree.map(lambda r, a=a, b=b, s=s: r[a:b].reshape(s + r.shape[1:]), rows) for a, b, s in spans]
        return jax.tree.unflatten(treedef, parts), rest

    return run


def _jacobian(
    fn: Callable[..., Any], transform: Callable[..., Any], argnums: int | Sequence[int], has_aux: bool
) -> Callable[..., Any]:
    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        problem = Problem(Call(fn, args, kwargs), args, argnums, has_aux, is_mapped=True)
        jacobian, rest = transform(problem.pure, has_aux=True)(problem.point)
        _, aux = problem.finish(None, rest)

        def formed(value: Any) -> Any:
            if not is_point(value):
                return value
            inner = Point(*({i: formed(v) for i, v in part.items()} for part in (value.slots, value.leaves)))
            return problem.form(inner)

        jacobian = jax.tree.map(formed, jacobian, is_leaf=is_point)
        return (jacobian, aux) if has_aux else jacobian

    return wrapped
