"""``jit``: compile a function of modules, optimizers and arrays; the state is threaded through and written back.

A call between changes costs what it must: one comparison of epochs, one look at each argument, a read of the slots,
the dispatch of one ``jax.jit`` program over flat arrays, and a write of the slots that the program changed. A
:class:`_Plan` holds what that needs for one set of objects; programs are shared by all objects of equal structure.
"""

import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_flatten, tree_flatten_with_path

from jaxmodules._device import check_data
from jaxmodules._tracing import GradsTouched, LeakError, StructureMoves, Tracer, epoch, is_tracing, swapped
from jaxmodules._tracked import buffer_writes, set_item
from jaxmodules.nn._writable import copy_array
from jaxmodules.nn.modules.module import Module
from jaxmodules.random import KeyCell, current_generator
from jaxmodules.state import held
from jaxmodules.transforms._call import Call, Changes, Static, commit, is_stateful
from jaxmodules.transforms._program import Program, Varies, running
from jaxmodules.transforms.explain import Log

_leaf_types: set[type] = {bool, int, float, complex}  # array types join when they are first seen
adoptions = [0]  # how often cells have moved into an arena
_NEVER = object()


_SIGNALS = (GradsTouched, StructureMoves, Varies)


class _Plan:
    """All that a call on one set of objects needs: where the slots are, which program, what to write back."""

    def __init__(self, call: Call, specs: Sequence[Any], names: tuple[str, ...], uses_grads: bool) -> None:
        self.itself = weakref.ref(self)
        self.call = call
        self.specs = specs  # one for each argument: None for an array, else what it has to be
        self.names = names
        self.arity = len(specs) - len(names)
        self.watches = call.watches
        self.roles = tuple(call.root_ids.index(id(value)) for _, value in call.captured)
        own = current_generator()  # as an argument it moves by its own cell, in a program of its own
        self.draws_from_root = next((i for i, root in enumerate(call.roots) if root is own), None)
        call.captured, call.watches = [], []
        self.structure = call.structure()
        self.epoch = self.structure.epoch
        self.uses_grads = uses_grads
        self.boxes = self.structure.parameters if uses_grads else []
        self.mask = self.gradient_mask()
        self.gradient_count = sum(self.mask)
        self.program: Program
        self.arena: list[Any] = [None]  # key and cells, once they have moved there
        self.first_buffer = 1 + len(self.structure.cells)
        self.buffers_read = -1
        self.adoptions = -1
        self.written: Changes | None = None
        self.write_cells: list[Any] = []
        self.write_items: list[Any] = []
        self.runs: list[tuple[slice, slice]] = []

    def match(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
        """Return the arrays among the arguments if this plan still fits them, else ``None``."""
        if self.epoch != epoch.count or len(args) != self.arity or len(kwargs) != len(self.names):
            return None
        if kwargs:
            args = (*args, *[kwargs.get(name, _NEVER) for name in self.names])
        leaves: list[Any] = []
        for arg, spec in zip(args, self.specs):  # noqa: B905 (equal lengths, and this is the hot path)
            if spec is None:
                if type(arg) not in _leaf_types and not isinstance(arg, Tracer):
                    return None
                leaves.append(arg)
            elif type(spec) is weakref.ref:
                if spec() is not arg:
                    return None
            elif type(spec) is Static:
                if type(arg) is not type(spec.value) or arg != spec.value:
                    return None
            elif spec is _NEVER:
                return None
            else:
                flat, treedef = tree_flatten(arg)
                if treedef != spec:
                    return None
                leaves += flat
        for still_holds in self.watches:
            if not still_holds():
                return None
        if (self.structure.volatile or self.uses_grads) and not self.fits():
            return None
        return leaves

    def fits(self) -> bool:
        """Tell whether what can change without moving the epoch has not."""
        return (not self.structure.volatile or self.structure.unchanged()) and (
            not self.uses_grads or self.gradient_mask() == self.mask
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """What the program depends on."""
        call = self.call
        holes = tuple(None if hole is None else call.root_ids.index(id(hole())) for hole in call.holes)
        return self.structure.key, call.treedef, holes, self.roles, self.draws_from_root, self.uses_grads, self.mask

    def gradient_mask(self) -> tuple[bool, ...]:
        """Tell which parameters have a ``.grad`` now."""
        return tuple([box._grad is not None for box in self.boxes])

    def spread(self, gradients: Sequence[Any]) -> list[Any]:
        """Return one gradient or ``None`` for each parameter."""
        arrays = iter(gradients)
        return [next(arrays) if there else None for there in self.mask]

    def run(self, flat: Sequence[Any]) -> tuple[Any, Changes]:
        """Run the function on the arrays that a program is traced with."""
        slots = 1 + len(self.structure)
        grads_end = slots + self.gradient_count
        gradients = self.spread(flat[slots:grads_end]) if self.uses_grads else None
        return self.call.run(
            self.structure, flat[1:slots], flat[grads_end:], key=flat[0], lifts=True, gradients=gradients
        )

    def read(self) -> list[Any]:
        """Return the key, the slots and the gradients as they are."""
        cell = current_generator()._key
        key = cell._store[cell._index]
        if type(key) is np.ndarray:
            with jax.ensure_compile_time_eval():  # the generator outlives a trace around this call
                key = cell._value = jax.numpy.asarray(key)
        structure, arena = self.structure, self.arena
        if arena[0] is not None and not swapped and not self.uses_grads:
            arena[0] = key
            if self.buffers_read == buffer_writes[0]:
                return arena
        with held(structure):
            self.buffers_read = buffer_writes[0]
            flat = [key, *structure.read()]
            flat += [box._grad for box in self.boxes if box._grad is not None]
        if arena[0] is not None and not swapped and not self.uses_grads:
            arena[self.first_buffer :] = flat[self.first_buffer :]
        return flat

    def adopt(self) -> None:
        """Move the cells into one list of this plan's, and copies of the buffers behind them."""
        adoptions[0] += 1
        self.arena = arena = [None, *self.structure.read()]
        self.buffers_read = buffer_writes[0]
        for index, cell in enumerate(self.structure.cells, 1):
            old, place = cell._store, cell._index
            old[0] = None  # no whole arena any more
            cell._store, cell._index = arena, index
            old[place] = None
        arena[0] = True

    def __del__(self) -> None:
        arena = self.__dict__.get("arena", [None])  # an unfinished plan has none
        for cell in self.structure.cells if len(arena) > 1 else ():
            if cell._store is arena:
                cell._store, cell._index = [None, arena[cell._index]], 1

    def written_arguments(self, changes: Changes) -> tuple[int, ...]:
        """Return the positions, among the program's arguments, of what it writes."""
        order = [i for i, there in enumerate(self.mask) if there]
        first = 1 + len(self.structure)
        overwritten = [first + order.index(i) for i, _ in changes.gradients if self.mask[i]]
        cells = self.structure.cells
        written = [1 + i for i in changes.slots if i >= len(cells) or type(cells[i]) is not KeyCell]
        return (*written, *overwritten)

    def write_back(self, changes: Changes, values: Sequence[Any]) -> None:
        """Put what the program changed back into the objects; what an interrupt cuts short is done again as a whole."""
        if changes is not self.written:
            self._prepare_writing(changes)
        arena = self.arena
        if changes.touches_more or swapped or is_tracing():
            with held(self.structure):
                commit(self.structure, Changes(changes.static, values))
            return
        if arena[0] is not None:
            for there, here in self.runs:
                arena[there] = values[here]
        if self.write_items or arena[0] is None:
            self._write_separately(values)

    def _write_separately(self, values: Sequence[Any]) -> None:
        """Write the buffers, and cells that another plan's arena or none holds."""
        with held(self.structure):
            for (buffers, name), value in zip(self.write_items, values[len(self.write_cells) :]):  # noqa: B905 (hot)
                set_item(buffers, name, value)
            is_current = self.buffers_read == buffer_writes[0]
            buffer_writes[0] += 1
            self.buffers_read = buffer_writes[0] if is_current else -1
            if self.arena[0] is None and self.write_cells:
                for cell, value in zip(self.write_cells, values, strict=False):
                    cell._value = value
                if self.adoptions == adoptions[0] and not swapped:  # the second time in a row
                    self.adopt()
                self.adoptions = adoptions[0]

    def _prepare_writing(self, changes: Changes) -> None:
        split = len(self.structure.cells)
        slots = changes.slots
        self.write_cells = [self.structure.cells[i] for i in slots if i < split]
        self.write_items = [self.structure.items[i - split] for i in slots if i >= split]
        self.runs = []
        start = 0
        for end in range(1, len(slots) + 1):  # neighbours are written as one slice
            if end == len(slots) or slots[end] != slots[end - 1] + 1:
                first = 1 + slots[start]
                self.runs.append((slice(first, first + end - start), slice(start, end)))
                start = end
        self.written = changes


class _Jitted:
    """The compiled form of a function; what :func:`jit` returns."""

    def __init__(
        self, function: Callable[..., Any], nums: tuple[int, ...], names: tuple[str, ...], donate: bool, options: Any
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.__wrapped__ = function
        self._settings = (nums, names, donate, options)
        self._static_nums, self._static_names = _static_arguments(function, nums, names)
        self._plans: dict[Any, _Plan] = {}
        self._programs: dict[Any, Program] = {}
        self._log = Log()
        self._uses_grads = False
        self._varies = False
        self._last: _Plan | None = None
        self._methods: dict[int, _Jitted] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        plan = self._last
        leaves = None if plan is None else plan.match(args, kwargs)
        if plan is None or leaves is None:
            plan, leaves = self._prepare(args, kwargs)
        state = plan.read()
        program = plan.program
        running.plan = plan.itself
        values: Any = None
        try:
            try:
                out, values = (program.jitted or program.build(state + leaves, plan))(*state, *leaves)
            except jax.errors.JaxRuntimeError as error:
                if "donate" not in str(error):
                    raise
                out, values = program.jitted(*_unshared([*state, *leaves], program.donated))
            except TypeError:
                check_data(plan.structure.names, plan.structure.read())
                raise
            changes: Any = program.changes
            if values or changes.gradients:
                plan.write_back(changes, values)
        except _SIGNALS as signal:
            self._adapt(signal)
            return self(*args, **kwargs)
        except BaseException as error:
            if values is not None and not isinstance(error, LeakError):  # an interrupt, when there is a new state
                changes = program.changes
                plan.write_back(changes, values)
            raise
        return plan.call.restore(out, plan.structure) if changes.has_refs else out

    def __reduce__(self) -> Any:
        name = getattr(self, "__qualname__", "")
        if getattr(sys.modules.get(self.__module__), name, None) is self:
            return name  # a function of a file is pickled by its name
        return _Jitted, (self.__wrapped__, *self._settings)

    def _jm_around(self, function: Any) -> "_Jitted":
        """Return another function compiled in the same way."""
        return _Jitted(function, *self._settings)

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[_Plan, list[Any]]:
        """Find the plan for a call, or make one."""
        args, kwargs = self._wrap_static(args, kwargs)
        call = Call(self.__wrapped__, args, kwargs)
        key = (call.treedef, call.root_ids, tuple(hole is not None and id(hole()) for hole in call.holes))
        plan = self._plans.get(key)
        if self._varies:
            key = (*key, *map(_aval, call.leaves))
            plan = None
        if plan is None or plan.uses_grads != self._uses_grads or plan.epoch != epoch.count or not plan.fits():
            _check_leaves(args, kwargs)
            names = tuple(sorted(kwargs))
            specs = [_spec(arg) for arg in (*args, *(kwargs[name] for name in names))]
            plan = _Plan(call, specs, names, self._uses_grads)
            _, _, donate, options = self._settings
            program_key = (plan.key, *map(_aval, [*plan.read(), *call.leaves])) if self._varies else plan.key
            if program_key not in self._programs:
                name = getattr(self.__wrapped__, "__name__", type(self.__wrapped__).__name__)
                self._programs[program_key] = Program(name, donate, options, self._log, plan.structure.after_call)
            plan.program = self._programs[program_key]
            forget = functools.partial(_forget, weakref.ref(self), key)
            call.root_refs = [weakref.ref(root, forget) for root in call.roots]
            leaves, call.leaves = call.leaves, []  # a plan outlives the batch it was made for
            self._plans[key] = plan
        else:
            leaves = call.leaves
        self._last = None if self._varies else plan
        return plan, leaves

    def _wrap_static(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._static_nums or self._static_names:
            nums = {n % len(args) if n < 0 else n for n in self._static_nums} if args else ()
            args = tuple(_static(a) if i in nums else a for i, a in enumerate(args))
            kwargs = {k: _static(v) if k in self._static_names else v for k, v in kwargs.items()}
        return args, kwargs

    def _adapt(self, signal: BaseException) -> None:
        """Make the next try take account of what a trace has found."""
        self._last = None
        if isinstance(signal, GradsTouched):
            if self._uses_grads:  # it is an outer function that has not bound them
                raise signal
            self._uses_grads = True
        elif isinstance(signal, Varies):
            self._varies = self._log.varies = True
        elif isinstance(signal, StructureMoves):
            signal.settle()

    def _stage(self, stage: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        plan, leaves = self._prepare(args, kwargs)
        flat = [*plan.read(), *leaves]
        running.plan = plan.itself
        try:
            return getattr(plan.program.jitted or plan.program.build(flat, plan), stage)(*flat)
        except _SIGNALS as signal:
            self._adapt(signal)
            return self._stage(stage, args, kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Return the program for these arguments, lowered: ``.compile()`` it, read its text or its costs.

        Its arguments are flat: the random key, the slots of all stateful objects, then the arrays. Arrays may be
        given as ``jax.ShapeDtypeStruct``. Nothing is run and nothing written back.
        """
        return self._stage("lower", args, kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Return the traced program for these arguments, as ``jax.jit(f).trace`` does."""
        return self._stage("trace", args, kwargs)

    def clear_cache(self) -> None:
        """Forget every compiled program."""
        self._plans.clear()
        self._programs.clear()
        self._last = None

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if is_stateful(instance):
            return _Method(self, instance)
        known = self._methods.get(id(instance))
        if known is None:
            nums, names, donate, options = self._settings
            nums = tuple(n - 1 if n > 0 else n for n in nums)  # the instance is no argument any more
            known = _Jitted(_WeakMethod(self.__wrapped__, instance), nums, names, donate, options)
            self._methods[id(instance)] = known
            weakref.finalize(instance, self._methods.pop, id(instance), None)
        return known

    def __getattr__(self, name: str) -> Any:
        function = self.__dict__.get("__wrapped__")
        if isinstance(function, Module):
            return getattr(function, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<jm.jit of {self.__wrapped__!r}>"


class _Method:
    """A compiled function bound to a module, which is its first argument."""

    def __init__(self, jitted: _Jitted, instance: Any) -> None:
        self._jitted = jitted
        self.__self__ = instance
        self.__wrapped__ = jitted.__wrapped__.__get__(instance)
        self._log = jitted._log

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(self.__self__, *args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Return the lowered program for these arguments."""
        return self._jitted.lower(self.__self__, *args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Return the traced program for these arguments."""
        return self._jitted.trace(self.__self__, *args, **kwargs)


class _WeakMethod:
    """A method of a plain object that does not keep the object alive."""

    def __init__(self, function: Callable[..., Any], instance: Any) -> None:
        self.__wrapped__ = function
        self.__name__ = getattr(function, "__name__", "method")
        self._instance = weakref.ref(instance)

    @property
    def __self__(self) -> Any:
        return self._instance()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(self._instance(), *args, **kwargs)


def _forget(owner: "weakref.ref[_Jitted]", key: Any, _: Any) -> None:
    """Drop the plan of a dead object, and with it the last hold on its arrays."""
    jitted = owner()
    if jitted is not None:
        plan = jitted._plans.pop(key, None)
        if jitted._last is plan:
            jitted._last = None


def _spec(arg: Any) -> Any:
    """Return what an argument has to be for a plan to fit again: ``None`` stands for an array."""
    if is_stateful(arg):
        return weakref.ref(arg)
    if isinstance(arg, Static):
        return arg
    leaves, treedef = tree_flatten(arg, is_leaf=is_stateful)
    if any(map(is_stateful, leaves)):
        return _NEVER
    _leaf_types.update(type(leaf) for leaf in leaves if isinstance(leaf, jax.Array | np.ndarray | np.generic))
    return None if leaves and leaves[0] is arg else treedef


def _aval(array: Any) -> tuple[Any, ...]:
    return jax.numpy.shape(array), getattr(array, "dtype", type(array)), getattr(array, "weak_type", False)


def _check_leaves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float, complex, jax.ShapeDtypeStruct)
    for path, leaf in tree_flatten_with_path((args, kwargs), is_leaf=is_stateful)[0]:
        if not isinstance(leaf, kinds) and not is_stateful(leaf) and not hasattr(leaf, "__jax_array__"):
            where = jax.tree_util.keystr(path[1:])
            raise TypeError(
                f"argument {where} of a jm.jit function must be an array, a module, an optimizer or a pytree of them,"
                f" got {leaf!r} of type {type(leaf).__name__}: name it in static_argnums or static_argnames"
            )


def _static(value: Any) -> Static:
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(f"static arguments of a jm.jit function must be hashable: {error}") from None
    return Static(value)


def _unshared(flat: Sequence[Any], donated: tuple[int, ...]) -> list[Any]:
    """Copy donated arrays that are passed more than once: memory can be given away only once."""
    seen = {_memory(array) for i, array in enumerate(flat) if i not in donated}
    unshared = list(flat)
    for i in donated:
        if _memory(flat[i]) in seen:
            unshared[i] = copy_array(flat[i])
        seen.add(_memory(flat[i]))
    return unshared


def _memory(array: Any) -> Any:
    return array.addressable_shards[0].data.unsafe_buffer_pointer() if isinstance(array, jax.Array) else id(array)


def _static_arguments(
    function: Callable[..., Any], nums: tuple[int, ...], names: tuple[str, ...]
) -> tuple[tuple[int, ...], frozenset[str]]:
    """Complete static positions by name and static names by position, as ``jax.jit`` does."""
    if not nums and not names:
        return (), frozenset()
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return nums, frozenset(names)
    known = {p.name for p in parameters}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in names:
        if name not in known and not takes_any:
            raise ValueError(f"static_argnames names {name!r}, but the arguments are {', '.join(sorted(known))}")
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = tuple(positional.index(name) for name in names if name in positional)
    by_num = tuple(positional[n] for n in nums if -len(positional) <= n < len(positional))
    return (*nums, *by_name), frozenset((*names, *by_num))


def jit(
    fn: Callable[..., Any] | None = None,
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    donate: bool = False,
    **options: Any,
) -> Any:
    """Compile a function, or a module, whose arguments and closure may hold modules, optimizers and generators.

    Their parameters, buffers, optimizer state and random keys are arguments of the compiled program, never
    constants; what the function writes to them is written back to the objects. Static attributes, flags
    (``training``, ``requires_grad``) and hooks are what the program is compiled for: a change of any of them gives
    another program, and going back gives the first one again.

    Args:
        fn: a function or Module; without it, ``jit`` returns a decorator.
        static_argnums: positions of hashable arguments to compile for.
        static_argnames: names of hashable arguments to compile for.
        donate: reuse the memory of the arrays that the function overwrites, and of no others. Whoever else holds
            such an array (an earlier ``state_dict()``) finds it deleted.
        options: further keyword arguments of :func:`jax.jit`, such as ``compiler_options``.

    Returns:
        A callable with :func:`jax.jit`'s ``lower``, ``trace`` and ``clear_cache``.

    Raises:
        TypeError: on a call with an argument that is neither array, state, pytree of them, nor static.
        ValueError: on a static argument that can't be hashed.
        RuntimeError: in the trace, at the line that would leak a traced value or read state that the function's
            arguments, closure and globals do not show.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> net = jm.nn.Linear(3, 2)
        >>> jm.jit(net)(jnp.ones((4, 3))).shape
        (4, 2)
    """
    if fn is None:
        return functools.partial(
            jit, static_argnums=static_argnums, static_argnames=static_argnames, donate=donate, **options
        )
    if not callable(fn):
        raise TypeError(f"expected a function or a Module to compile, got {fn!r}")
    nums = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    names = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
    return _Jitted(fn, nums, names, donate, options)


Module._jm_compiler = staticmethod(jit)
