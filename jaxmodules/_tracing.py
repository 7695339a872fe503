"""What jaxmodules asks JAX about tracing, and the boxes that state lives in.

State is held in places: a :class:`Cell` (a Parameter, a generator's key, an optimizer's leaf) or an entry
of a module's ``_buffers``. Outside a transform every place holds a concrete array. A transform *binds*
places: for the time of one trace it puts tracers into them and pushes a :class:`Frame` that says so, and
takes the tracers out again whatever happens. Two rules follow, and both are enforced here, at the moment
of the read or write, because later there is nobody left to name the place:

* a write may not leave a tracer in a place that outlives the trace (the tracer would leak);
* a read under ``jm.jit`` may not see a place that was not bound (its array would become a constant).

A place created during a trace is born into it and dies with it, so both rules leave it alone.
This file and nothing else touches JAX's private tracing state.
"""

import itertools
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
from jax._src import core as _core
from jax._src import util as _util
from jax.core import ShapedArray
from jax.core import Tracer as Tracer
from jax.extend.core import Primitive
from jax.interpreters import mlir


def current_trace() -> Any:
    """Return the trace that this thread's operations go to."""
    return _core.trace_ctx.trace


def is_tracing() -> bool:
    """Tell whether this thread is inside any JAX transformation."""
    return _core.trace_ctx.trace is not _core.eval_trace


def outside() -> Any:
    """Return a context in which nothing is traced: what is computed there is concrete."""
    return _core.eval_context()


def is_staged() -> bool:
    """Tell whether what this thread computes goes into a program that JAX keeps."""
    return any(type(trace).__name__ == "DynamicJaxprTrace" for trace in ancestry(current_trace()))


def bound_axis_names() -> tuple[str, ...]:
    """Return the names of the axes that are mapped over here, outermost first."""
    return tuple(name for name in _core.get_axis_env().axis_sizes if isinstance(name, str))


def is_mapped(value: Any) -> bool:
    """Tell whether ``value`` differs between the elements of the innermost vmap."""
    return type(value).__name__ == "BatchTracer" and value.batch_dim is not None


def birth() -> "weakref.ref[Any] | None":
    """Return a reference to the trace an object made now belongs to; ``None`` when made eagerly."""
    trace = _core.trace_ctx.trace
    return None if trace is _core.eval_trace else weakref.ref(trace)


def ancestry(trace: Any) -> Iterator[Any]:
    """Yield ``trace`` and the traces around it, innermost first."""
    while trace is not None:
        yield trace
        trace = getattr(trace, "parent_trace", None)


def is_staging() -> bool:
    """Tell whether what is computed here is written down as a program, to be compiled or only looked at."""
    return any(type(trace).__name__ == "DynamicJaxprTrace" for trace in ancestry(current_trace()))


def _refuse(*_: Any, message: str) -> Any:
    raise RuntimeError(message)


_unbound_key = Primitive("unbound_key")
_unbound_key.def_impl(_refuse)
_unbound_key.def_abstract_eval(lambda message: ShapedArray((2,), np.dtype(np.uint32)))
mlir.register_lowering(_unbound_key, _refuse)


def unbound_key(message: str) -> Any:
    """Return a raw key that stands in a traced program for one that is missing: compiling it is a RuntimeError."""
    return _unbound_key.bind(message=message)


def keep_weakly(cls: type) -> None:
    """Make JAX's caches hold parameters of primitives that are of this very class by weak references."""
    _util.weakref_cache_key_types.add(cls)


class Epoch:
    """Count structural changes of observed objects; equal counts mean that cached structure is still true."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


epoch = Epoch()


class GradsTouched(BaseException):
    """A function being compiled uses ``.grad``, which has to be bound for that: trace it again."""


class Captured(BaseException):
    """A function staged by JAX inside a frame reads one of the frame's slots.

    JAX keeps what it has staged by the function's identity, and would find there, in a later trace, the tracers of this
    one. Or a block that was about to share its trace has put traced values where others find them. The frame has to be
    run again with caches of its own, in which nothing is shared.
    """

    def __init__(self, frame: "Frame") -> None:
        super().__init__()
        self.frame = frame


class StructureMoves(BaseException):
    """A function being compiled needs another structure of its state: make it outside the trace, and trace again."""

    def __init__(self, change: Callable[[], None]) -> None:
        super().__init__()
        self.change = change

    def settle(self) -> None:
        """Make the change, or pass the signal on: only where no trace is left can the objects be changed."""
        if local.frames:
            raise self
        self.change()


class Frame:
    """The places that one running trace has bound, by identity, with their names.

    ``lifts`` is true for ``jm.jit``: what it has not bound may not be read, for it would be baked in.
    ``grads`` tells whether the parameters' ``.grad`` are bound as well; ``None`` where they never are.
    ``private`` tells that JAX's caches are the frame's own (see :class:`Captured`).
    ``families`` are the blocks called so far, by class (see ``transforms._share``).
    """

    __slots__ = ("adopted", "families", "grads", "lifts", "owned", "private", "trace")

    def __init__(self, owned: Mapping[Hashable, str], lifts: bool, grads: bool | None, private: bool) -> None:
        self.adopted: list[Callable[[], None]] = []
        self.families: dict[type, Any] = {}
        self.private = private
        self.owned = owned
        self.lifts = lifts
        self.grads = grads
        self.trace = current_trace()

    def adopt(self, places: Mapping[Hashable, str], restore: Callable[[], None]) -> None:
        """Bind places that did not exist when the trace began; ``restore`` is called at its end."""
        self.owned = {**self.owned, **places}
        self.adopted.append(restore)

    def touch_grads(self) -> None:
        """Take note that a ``.grad`` of a bound parameter is being read or written."""
        if self.grads is False:
            raise GradsTouched


class _Local(threading.local):
    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.path: list[str] = []


local = _Local()
lock = threading.RLock()  # held while places are bound
swapped: list[Frame] = []  # of the thread that holds the lock
nothing = nullcontext()


class LeakError(RuntimeError):
    """A traced value was about to be stored where it would outlive its trace."""


class UnboundStateError(RuntimeError):
    """A compiled function read state that it was not given."""


def owner(place: Hashable) -> Frame | None:
    """Return the innermost frame of this thread that has bound the place with this ``id``."""
    for frame in reversed(local.frames):
        if place in frame.owned:
            return frame
    return None


def is_foreign(place: Hashable) -> bool:
    """Tell whether another thread has bound a place, which holds what is its own until it is done."""
    return owner(place) is None and any(place in frame.owned for frame in tuple(swapped))


def leaks(value: Any, place: Hashable, born: "weakref.ref[Any] | None") -> bool:
    """Tell whether storing ``value`` at ``place`` would let a tracer outlive its trace."""
    if not isinstance(value, Tracer):
        return False
    frame = owner(place)
    home = frame.trace if frame is not None else born() if born is not None else None
    return all(value._trace is not trace for trace in ancestry(home))


def must_not_read(place: Hashable, born: "weakref.ref[Any] | None") -> bool:
    """Tell whether reading ``place`` now would bake its array into a compiled program.

    Raises:
        Captured: if the place is bound, but the reader is staged by JAX and would be kept with what it read.
    """
    frame = owner(place)
    if frame is None:
        return born is None and any(f.lifts for f in local.frames)
    _refuse_staging(frame)
    return False


def check_call() -> None:
    """Raise if a module is called in a function that JAX would keep for a later trace, in which it may differ."""
    _refuse_staging(local.frames[-1])


def _refuse_staging(frame: Frame) -> None:
    if frame.private:
        return
    for trace in ancestry(current_trace()):
        if trace is frame.trace:
            return
        if type(trace).__name__ == "DynamicJaxprTrace":
            raise Captured(frame)


# Part of the key of JAX's caches: a frame that sets it finds nothing that was staged outside it.
cache_owner = jax.make_user_context(default_value=0)
frame_numbers = itertools.count(1)


def leak_message(what: str) -> str:
    """Say that a write of a traced value to ``what`` was refused, and what to do instead."""
    return (
        f"a traced value was about to be stored in {what}, which outlives the trace"
        " (expected a concrete array): return the value from the function instead, or give the module to the"
        " transform (jm.jit, jm.value_and_grad, jm.functionalize) as an argument so that its state is threaded"
        " through and written back"
    )


def unbound_message(what: str) -> str:
    """Say that a compiled function read ``what`` without having been given it, and what to do instead."""
    return (
        f"{what} was read inside a jm.jit function that was not given it, so its array would become a constant"
        " of the compiled program: pass the module as an argument, or name it in the function's closure or globals"
    )


class Cell:
    """A box around one array of state.

    The array lies in a list, at first one of the cell's own. A compiled function that writes many cells call after
    call moves them into one list, its *arena*: reading it is passing it on, writing it is one slice. The first entry
    of such a list is ``None`` unless it is the whole arena of a live plan (see ``transforms.jit``).
    """

    __slots__ = ("__weakref__", "_born", "_index", "_store")

    def __init__(self, value: Any) -> None:
        self._store: list[Any] = [None, value]
        self._index = 1
        self._born = birth()

    @property
    def _value(self) -> Any:
        if swapped and is_foreign(id(self)):
            with lock:
                return self._store[self._index]
        return self._store[self._index]

    @_value.setter
    def _value(self, new: Any) -> None:
        self._store[self._index] = new

    @property
    def value(self) -> Any:
        """The array; gradients flow through it."""
        if swapped or local.frames:
            self._check_read()
            return self._value
        return self._store[self._index]

    @value.setter
    def value(self, new: Any) -> None:
        if not isinstance(new, jax.Array):
            new = self._as_array(new)
        self._check_write(new)
        with lock if swapped and is_foreign(id(self)) else nothing:
            self._store[self._index] = new

    def _as_array(self, new: Any) -> Any:
        return new

    def _check_read(self) -> None:
        if must_not_read(id(self), self._born):
            raise UnboundStateError(unbound_message(f"the {self._what()}"))

    def _check_write(self, new: Any) -> None:
        if isinstance(new, Tracer) and leaks(new, id(self), self._born):
            raise LeakError(leak_message(f"the {self._what()}"))

    def __reduce__(self) -> Any:
        return type(self), (self._value,)

    def _what(self) -> str:
        frame = owner(id(self))
        name = f" '{frame.owned[id(self)]}'" if frame is not None else ""
        inside = f" used in '{'.'.join(local.path)}'" if local.path and not name else ""
        shape = tuple(getattr(self._value, "shape", ()))
        return f"{type(self).__name__.lower()}{name} of shape {shape}{inside}"
