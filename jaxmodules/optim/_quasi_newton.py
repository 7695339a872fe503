"""L-BFGS as a machine over flat vectors that is told the loss and its gradient, and says where to look next.

The two-loop recursion of Nocedal (1980) over the last pairs of steps and changes of the gradient, with the rules that
minFunc (Schmidt, 2005) and PyTorch go by. The function is evaluated outside, so that one text serves a Python loop and
a compiled one: :func:`begin` takes the loss and the gradients at the parameters, :func:`advance` those at the values
that came out last, for as long as ``machine.is_running``. The pairs lie in arrays of fixed size, where the newest
overwrites the oldest.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodules.optim import _wolfe
from jaxmodules.optim._wolfe import Place, Search, pick

Settings = Mapping[str, Any]


class Layout(NamedTuple):
    """How some parameters make up one real vector: one after the other, complex numbers as pairs."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @property
    def size(self) -> int:
        """The length of the vector."""
        return sum(math.prod(s) * (1 + self._is_complex(t)) for s, t in zip(self.shapes, self.dtypes, strict=True))

    @property
    def dtype(self) -> Any:
        """The dtype of the vector."""
        return jnp.finfo(jnp.result_type(*self.dtypes)).dtype

    def flat(self, arrays: Sequence[Any]) -> jax.Array:
        """Return arrays as one vector; ``None`` is zeros."""
        parts = []
        for array, shape, dtype in zip(arrays, self.shapes, self.dtypes, strict=True):
            part = jnp.zeros(shape, dtype) if array is None else jnp.asarray(array, dtype)
            pair = jnp.stack([part.real, part.imag], -1) if self._is_complex(dtype) else part
            parts.append(pair.reshape(-1).astype(self.dtype))
        return jnp.concatenate(parts)

    def split(self, vector: jax.Array) -> list[jax.Array]:
        """Return the arrays that make up a vector."""
        arrays, offset = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = math.prod(shape) * (1 + self._is_complex(dtype))
            part = vector[offset : offset + size]
            pair = part.reshape(-1, 2) if self._is_complex(dtype) else None
            array = part if pair is None else jax.lax.complex(pair[:, 0], pair[:, 1])
            arrays.append(array.reshape(shape).astype(dtype))
            offset += size
        return arrays

    def rounded(self, vector: jax.Array) -> jax.Array:
        """Return a vector as the parameters can hold it."""
        return self.flat(self.split(vector))

    @staticmethod
    def _is_complex(dtype: Any) -> bool:
        return jnp.issubdtype(dtype, jnp.complexfloating)


class Memory(NamedTuple):
    """What is kept from step to step, by PyTorch's names, and the number of pairs ever ``stored``."""

    func_evals: Any
    n_iter: Any
    d: Any
    t: Any
    old_dirs: Any  # (history_size, n): changes of the gradient
    old_stps: Any  # (history_size, n)
    ro: Any
    H_diag: Any
    prev_flat_grad: Any
    prev_loss: Any
    al: Any  # (history_size,), from the oldest pair on
    stored: Any


class Machine(NamedTuple):
    """Where one optimization step is."""

    x: Any  # where the line search started, or without one the last place to evaluate
    base: Place
    search: Search | None
    iterations: Any
    evaluations: Any
    is_running: Any


def empty(size: int, dtype: Any, history_size: int) -> Memory:
    """Return the memory before the first step."""
    none, number, vector = jnp.int32(0), jnp.zeros((), dtype), jnp.zeros(size, dtype)
    loss = jnp.zeros((), jnp.result_type(float))
    pairs, each = jnp.zeros((history_size, size), dtype), jnp.zeros(history_size, dtype)
    return Memory(none, none, vector, number, pairs, pairs, each, number, vector, loss, each, none)


def begin(
    layout: Layout, searches: bool, memory: Memory, settings: Settings, values: Any, loss: Any, gradients: Any
) -> tuple[Memory, Machine, list[jax.Array]]:
    """Start a step after the first evaluation; return the memory, the machine and the values to evaluate next."""
    machine = _started(layout, searches, settings, values, loss, gradients)
    memory = jax.tree.map(jnp.copy, memory._replace(func_evals=memory.func_evals + 1))  # advance() overwrites it
    return _iterated(layout, memory, machine, settings, machine.is_running)


def advance(
    layout: Layout, memory: Memory, machine: Machine, settings: Settings, loss: Any, gradients: Any
) -> tuple[Memory, Machine, list[jax.Array]]:
    """Go on after an evaluation; return the memory, the machine and the values to evaluate next, or to end with."""
    last = memory.d, memory.t, memory.prev_loss
    machine, t, spent, goes = _evaluated(layout, last, machine, settings, loss, gradients)
    return _iterated(layout, memory._replace(t=t, func_evals=memory.func_evals + spent), machine, settings, goes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _started(layout: Layout, searches: bool, settings: Settings, values: Any, loss: Any, gradients: Any) -> Machine:
    x, gradient = layout.flat(values), layout.flat(gradients)
    zero = jnp.zeros((), x.dtype)
    base = Place(zero, loss.astype(jnp.result_type(float)), gradient, zero)
    is_running = ~(_largest(gradient) <= settings["tolerance_grad"]) & (settings["max_iter"] > 0)
    search = _wolfe.start(base, zero) if searches else None
    return Machine(x, base, search, jnp.int32(0), jnp.int32(1), is_running)


@functools.partial(jax.jit, static_argnums=0)
def _evaluated(
    layout: Layout, last: tuple[Any, Any, Any], machine: Machine, settings: Settings, loss: Any, gradients: Any
) -> tuple[Machine, Any, Any, Any]:
    """Go on with the line search; return the machine, the step, the evaluations it took, and whether to iterate."""
    (d, t, prev_loss), base, gradient = last, machine.base, layout.flat(gradients)
    loss, tolerance = loss.astype(base.loss.dtype), settings["tolerance_change"]
    if machine.search is None:
        x, new, spent, is_over = machine.x, Place(t, loss, gradient, base.slope), jnp.int32(1), jnp.asarray(True)
    else:
        place = Place(machine.search.step, loss, gradient, _dot(gradient, d))
        limit = settings["max_eval"] - machine.evaluations
        search, is_over = _wolfe.advance(machine.search, base, place, limit, tolerance, _largest(d))
        machine = machine._replace(search=search)
        new, spent = search.low, search.evaluations
        x = layout.rounded(machine.x + new.step * d)
    evaluations = machine.evaluations + spent
    is_last = (
        (machine.iterations == settings["max_iter"])
        | (evaluations >= settings["max_eval"])
        | (_largest(new.gradient) <= settings["tolerance_grad"])
        | (_largest(d * new.step) <= tolerance)
        | (abs(new.loss - prev_loss) < tolerance)
    )
    after = machine._replace(x=x, base=new._replace(step=base.step), evaluations=evaluations, is_running=~is_last)
    t, spent = pick(is_over, (new.step, spent), (t, jnp.zeros_like(spent)))
    return pick(is_over, after, machine), t, spent, is_over & ~is_last


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _iterated(
    layout: Layout, memory: Memory, machine: Machine, settings: Settings, goes: Any
) -> tuple[Memory, Machine, list[jax.Array]]:
    """Begin another iteration if ``goes``: choose a direction and the first step along it."""
    is_first, base = memory.n_iter == 0, machine.base
    gradient = base.gradient
    memory = _remembered(memory, gradient, goes & ~is_first)
    d, al = jax.lax.cond(goes & ~is_first, _direction, lambda memory, g: (-g, memory.al), memory, gradient)
    lr = settings["lr"].astype(d.dtype)
    t = jnp.where(is_first, jnp.minimum(1.0, 1.0 / abs(gradient).sum()) * lr, lr)
    slope = _dot(gradient, d)
    fresh = memory._replace(
        n_iter=memory.n_iter + 1,
        d=d,
        t=t,
        H_diag=jnp.where(is_first, 1.0, memory.H_diag),
        prev_flat_grad=gradient,
        prev_loss=base.loss,
        al=al,
    )
    kept = {"old_dirs": memory.old_dirs, "old_stps": memory.old_stps}  # long, and written already
    light = dict.fromkeys(kept)
    memory = pick(goes, fresh._replace(**light), memory._replace(**light))._replace(**kept)
    iterations = machine.iterations + goes
    moves = goes & ~(slope > -settings["tolerance_change"])
    base = pick(goes, base._replace(slope=slope), base)
    if machine.search is None:
        x = jnp.where(moves, layout.rounded(machine.x + t * d), machine.x)
        is_running = jnp.where(goes, moves & (iterations != settings["max_iter"]), machine.is_running)
        return memory, machine._replace(x=x, base=base, iterations=iterations, is_running=is_running), layout.split(x)
    search = pick(moves, _wolfe.start(base, t), machine.search)
    is_running = jnp.where(goes, moves, machine.is_running)
    point = jnp.where(is_running, machine.x + search.step * memory.d, machine.x)
    machine = machine._replace(base=base, search=search, iterations=iterations, is_running=is_running)
    return memory, machine, layout.split(point)


def _remembered(memory: Memory, gradient: Any, goes: Any) -> Memory:
    """Store the last step and the change of the gradient over it, if that curves upwards."""
    y, s = gradient - memory.prev_flat_grad, memory.d * memory.t
    ys = _dot(y, s)
    keeps = goes & (ys > 1e-10)
    row = memory.stored % len(memory.ro)

    def put(rows: jax.Array, new: jax.Array) -> jax.Array:
        return rows.at[row].set(jnp.where(keeps, new, rows[row]))

    return memory._replace(
        old_dirs=put(memory.old_dirs, y),
        old_stps=put(memory.old_stps, s),
        ro=put(memory.ro, 1.0 / ys),
        H_diag=jnp.where(keeps, ys / _dot(y, y), memory.H_diag),
        stored=memory.stored + keeps,
    )


def _direction(memory: Memory, gradient: Any) -> tuple[jax.Array, jax.Array]:
    """Return the inverse Hessian that the pairs tell of, times the negative gradient; and the weights on the way."""
    size = len(memory.ro)
    count = jnp.minimum(memory.stored, size)

    def pair(i: Any) -> tuple[Any, Any, Any]:
        row = (memory.stored - count + i) % size
        return memory.old_dirs[row], memory.old_stps[row], memory.ro[row]

    def back(k: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        q, al = carry
        i = count - 1 - k
        y, s, ro = pair(i)
        weight = _dot(s, q) * ro
        return q - weight * y, al.at[i].set(weight)

    def forth(i: Any, r: Any) -> Any:
        y, s, ro = pair(i)
        return r + (al[i] - _dot(y, r) * ro) * s

    q, al = jax.lax.fori_loop(0, count, back, (-gradient, memory.al))
    return jax.lax.fori_loop(0, count, forth, q * memory.H_diag), al


def _dot(a: Any, b: Any) -> jax.Array:
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)


def _largest(vector: Any) -> jax.Array:
    return abs(vector).max()
