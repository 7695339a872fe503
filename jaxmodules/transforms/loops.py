"""``scan``, ``while_loop`` and ``fori_loop`` over functions of modules: state goes through the loop as its carry."""

from collections.abc import Callable
from typing import Any

import jax

from jaxmodules._tracing import is_tracing
from jaxmodules.transforms._blocks import Blocks, Columns, is_scanned, slice_of
from jaxmodules.transforms._call import Changes, Ref
from jaxmodules.transforms._eager import compiled
from jaxmodules.transforms._stage import Stage, settled, unboxed


@settled
def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """Run ``carry, y = f(carry, x)`` over the first axis of ``xs``; :func:`jax.lax.scan` for functions of modules.

    Compiled once for all iterations. What ``f`` writes to modules that it shows in its closure, or that are part of
    ``init``, is threaded through the loop and written back at its end: buffers, random keys, optimizer state and
    ``.grad`` are those that the Python loop would leave, and Dropout draws what it draws there.

    ``xs`` may hold modules to run over: a stacked module (one more axis, the first, in each parameter and buffer), or
    a ModuleList, Sequential or list of blocks of equal structure, which are stacked for the loop and get back what
    was written to each. (A Sequential whose children differ is taken for one stacked module.) In the body the first
    block stands for one after the other, with their arrays in it. A parameter or module that all blocks share is
    shared there as well.

    Args:
        f: takes the carry and one element of ``xs``; returns the new carry, of the same types, and an output.
        init: the first carry: arrays, and modules that ``f`` hands on as they are.
        xs: arrays and modules to run over, or ``None``.
        length: the number of iterations, where ``xs`` does not tell.
        reverse: run from the last element to the first.
        unroll: how many iterations of the loop are compiled into one.

    Returns:
        The last carry, and the outputs stacked.

    Raises:
        TypeError: if a carry has another structure, shape or dtype than the one before, or a buffer another shape.
        ValueError: if the lengths disagree, or the blocks do in more than the values of their arrays.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))
        >>> x, norms = scan(lambda x, layer: (layer(x), jnp.linalg.norm(x)), jnp.ones(3), layers)
        >>> x.shape, norms.shape
        ((3,), (4,))
    """
    if not is_tracing():
        settings = "scan", length, reverse, unroll
        return compiled([f], settings, lambda f: lambda c, xs: scan(f, c, xs, length, reverse, unroll))(init, xs)
    parts, treedef = jax.tree.flatten(unboxed(xs), is_leaf=is_scanned)
    blocks = [Blocks(part) for part in parts if is_scanned(part)]
    arrays = [part for part in parts if not is_scanned(part)]
    bodies, shapes = iter(blocks), map(slice_of, arrays)
    x = jax.tree.unflatten(treedef, [next(bodies).body if is_scanned(part) else next(shapes) for part in parts])
    stage = Stage([f], (unboxed(init), x), [member for group in blocks for member in group.members])
    columns = Columns(blocks, stage)
    count = len(stage.leaves) - len(arrays)
    traced = stage.trace_body(0, count, _carry_of, columns.slots)
    _check_output(traced.out[1])
    columns.note(traced.changes)
    form = stage.form(traced.changes, without=columns.slots)

    def body(loop: tuple[Changes, Any], given: tuple[list[Any], list[Any]]) -> tuple[Any, Any]:
        state = stage.state.after(loop[0])
        (carry, y), after = traced(columns.put(state, given[0]), [*jax.tree.leaves(loop[1]), *given[1]])
        return (stage.pick(form, after), carry), (y, columns.written(after))

    start = stage.pick(form, stage.state), stage.exported(unboxed(init), count)
    given = columns.joined(), arrays
    (changes, carry), (ys, written) = jax.lax.scan(body, start, given, columns.length(length), reverse, unroll)
    return stage.finish((carry, ys), columns.spread(changes, written))


def _carry_of(out: Any) -> Any:
    if not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(f"scan body output must be a pair, got {jax.tree.map(lambda a: a.dtype, out)}")
    return out[0]


def _check_output(y: Any) -> None:
    if any(isinstance(leaf, Ref) for leaf in jax.tree.leaves(y, is_leaf=lambda leaf: isinstance(leaf, Ref))):
        raise TypeError("scan can't stack modules: return arrays as the output of an iteration")


@settled
def while_loop(cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any) -> Any:
    """Run ``val = body_fun(val)`` while ``cond_fun(val)``; :func:`jax.lax.while_loop` for functions of modules.

    What either function writes to modules, draws, or steps with an optimizer is threaded through the loop and written
    back, as from the Python loop. Like JAX's it has no reverse-mode gradient: use :func:`scan` or a
    :func:`fori_loop` with fixed bounds for that.

    Args:
        cond_fun: takes the value and returns a boolean scalar.
        body_fun: takes the value and returns the next, of the same types.
        init_val: the first value: arrays, and modules that ``body_fun`` hands on as they are.

    Raises:
        TypeError: if a value has another structure, shape or dtype than the one before, or ``cond_fun`` returns no
            boolean scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> halve = nn.Linear(1, 1, bias=False)
        >>> halve.weight.data.fill_(0.5).shape
        (1, 1)
        >>> while_loop(lambda x: x[0] > 1, halve, jnp.array([12.0])).tolist()
        [0.75]
    """
    if not is_tracing():
        return compiled([cond_fun, body_fun], "while", lambda *f: lambda val: while_loop(*f, val))(init_val)
    stage = Stage([cond_fun, body_fun], (unboxed(init_val),))
    count = len(stage.leaves)
    body = stage.trace_body(1, count, lambda out: out)
    test = stage.trace(0)
    form = stage.form(test.changes, body.changes)
    start = stage.pick(form, stage.state), stage.exported(unboxed(init_val), count)

    def tested(loop: tuple[Changes, Any]) -> tuple[Any, tuple[Changes, Any]]:
        go, after = test(stage.state.after(loop[0]), jax.tree.leaves(loop[1]))
        return go, (stage.pick(form, after), loop[1])

    def step(loop: tuple[Changes, Any]) -> tuple[Changes, Any]:
        val, after = body(stage.state.after(loop[0]), jax.tree.leaves(loop[1]))
        return stage.pick(form, after), val

    if test.changes.values:  # the state that the condition leaves has to come out of the loop: ask at its end
        _, (changes, val) = jax.lax.while_loop(lambda loop: loop[0], lambda loop: tested(step(loop[1])), tested(start))
    else:
        changes, val = jax.lax.while_loop(lambda loop: tested(loop)[0], step, start)
    return stage.finish(val, changes)


@settled
def fori_loop(
    lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init_val: Any, *, unroll: int | bool | None = None
) -> Any:
    """Run ``val = body_fun(i, val)`` for ``i`` from ``lower`` up to ``upper``; :func:`jax.lax.fori_loop` with state.

    As in :func:`scan`, what ``body_fun`` writes to modules is threaded through the loop and written back. With Python
    numbers as bounds it has gradients.

    Args:
        lower: the first index.
        upper: the index after the last.
        body_fun: takes the index and the value, and returns the next value, of the same types.
        init_val: the first value: arrays, and modules that ``body_fun`` hands on as they are.
        unroll: how many iterations are compiled into one; only with Python numbers as bounds.

    Raises:
        TypeError: if a value has another structure, shape or dtype than the one before.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> fori_loop(0, 3, lambda i, x: nn.functional.relu(x - i), jnp.array([5.0, 2.0])).tolist()
        [2.0, 0.0]
    """
    if not is_tracing():
        if unroll is None:  # with the bounds as arguments it is compiled once for all of them
            return compiled([body_fun], "for", lambda f: lambda *args: fori_loop(*args[:2], f, args[2]))(
                lower, upper, init_val
            )
        settings = "for", repr((lower, upper, unroll))
        return compiled([body_fun], settings, lambda f: lambda val: fori_loop(lower, upper, f, val, unroll=unroll))(
            init_val
        )
    lower, upper = unboxed(lower), unboxed(upper)
    index = jax.ShapeDtypeStruct((), jax.dtypes.result_type(lower, upper))
    stage = Stage([body_fun], (index, unboxed(init_val)))
    count = len(stage.leaves)
    body = stage.trace_body(0, count, lambda out: (index, out))
    form = stage.form(body.changes)

    def step(i: Any, loop: tuple[Changes, Any]) -> tuple[Changes, Any]:
        val, after = body(stage.state.after(loop[0]), [i, *jax.tree.leaves(loop[1])])
        return stage.pick(form, after), val

    start = stage.pick(form, stage.state), stage.exported((index, unboxed(init_val)), count)[1]
    changes, val = jax.lax.fori_loop(lower, upper, step, start, unroll=unroll)
    return stage.finish(val, changes)
