"""The state core: where the arrays of stateful objects are, and what their structure is.

A :class:`Structure` lists the *slots* of some objects (modules, optimizers, generators), each once: boxes
(``Cell._value``) and entries of ``_buffers``. Beside them it has a *key*: everything else that decides what a
traced function does (classes, names, static attributes, flags, hooks, tying), compared by value. Two calls with
equal keys run the same program; so a compiled call need only read the slots, run, and write back what changed.

Finding a structure walks the objects; knowing that it still holds is one comparison, because every change to an
observed object moves ``epoch`` (see :class:`TrackedDict` and ``Module.__setattr__``). Attributes that change in
place without telling (lists, dicts, sets, NumPy arrays, plain records) are compared by content instead.

:func:`run_bound` is the one way tracers get into slots: it swaps them in on the very objects, and out again whatever
happens, under one lock. An interrupt (``KeyboardInterrupt``, an exception from a signal handler) may come between any
two lines: what puts things right can be done twice, and is, where the first time may have been cut short.
"""

import inspect
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from jaxmodules._keys import Freezer
from jaxmodules._tracing import (
    Captured,
    Cell,
    Frame,
    StructureMoves,
    UnboundStateError,
    cache_owner,
    epoch,
    frame_numbers,
    local,
    lock,
    must_not_read,
    nothing,
    swapped,
    unbound_message,
)
from jaxmodules._tracked import (
    Attributes,
    BoxAttributes,
    BufferDict,
    HookDict,
    buffer_writes,
    get_item,
    global_hooks,
    set_item,
)
from jaxmodules.nn.parameter import GRADIENT_HOOKS, Parameter, UninitializedBuffer, UninitializedParameter
from jaxmodules.random import Generator, current_generator

NOT_STRUCTURE = frozenset(
    "_parameters _buffers _modules _backward_pre_hooks _backward_hooks _is_full_backward_hook _forward_hooks"
    " _forward_hooks_with_kwargs _forward_hooks_always_called _forward_pre_hooks _forward_pre_hooks_with_kwargs"
    " _state_dict_hooks _state_dict_pre_hooks _load_state_dict_pre_hooks _load_state_dict_post_hooks"
    " _non_persistent_buffers_set _compiled_call_impl".split()
)
_REGISTRIES = tuple(sorted(NOT_STRUCTURE - {"_is_full_backward_hook", "_compiled_call_impl"}))
_STATE_DICT_HOOKS = tuple(name for name in _REGISTRIES if "state_dict" in name)
_CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
HOOKS = (*_CALL_HOOKS, *_STATE_DICT_HOOKS)


_slots_of: weakref.WeakKeyDictionary[type, tuple[str, ...]] = weakref.WeakKeyDictionary()


def _slots(cls: type) -> tuple[str, ...]:
    """Return the attributes that a user's class keeps outside the ``__dict__``."""
    known = _slots_of.get(cls)
    if known is None:
        users = [base for base in cls.__mro__ if not base.__module__.startswith("jaxmodules.")]
        names = (name for base in users for name, kind in vars(base).items() if inspect.ismemberdescriptor(kind))
        known = _slots_of[cls] = tuple(names)
    return known


class Scan(Freezer):
    """One walk over stateful objects that collects their slots and their key."""

    def __init__(self) -> None:
        super().__init__()
        self.ordinal: dict[int, int] = {}  # id -> order of first visit
        self.lazy = False  # whether some state has no array yet
        self.hooked = False  # whether functions of the user's run around calls
        self.after_call: dict[Any, None] = {}  # what hooks want to be run after a compiled call
        self.cells: list[Cell] = []
        self.items: list[tuple[BufferDict, str]] = []
        self.cell_names: list[str] = []
        self.item_names: list[str] = []
        self.volatile: list[tuple[weakref.ref[Any], str, Hashable]] = []
        self._watched: set[int] = set()
        self._later: list[tuple[Any, str]] = []

    def run(self, roots: Sequence[Any]) -> Hashable:
        """Visit ``roots`` and return their joint key."""
        parts: list[Hashable] = [self.stateful(root, "") for root in roots]
        for module, path in self._later:  # static attributes and hooks last: modules get their names from the tree
            parts.append((self._on_gradients if isinstance(module, Cell) else self._static)(module, path))
        parts.append(tuple(self.hooks(hooks, "", *flags) for hooks, flags in global_hooks))
        return tuple(parts)

    def stateful(self, value: Any, path: str) -> Hashable:
        """Visit a box or a stateful object."""
        number = self.ordinal.setdefault(id(value), len(self.ordinal))
        if number != len(self.ordinal) - 1:
            return "again", number
        if isinstance(value, UninitializedParameter):
            self.lazy = True
            return type(value)
        if isinstance(value, Cell):
            self.cells.append(value)
            self.cell_names.append(path)
            if isinstance(value, Parameter) and any(value._observed_hooks()):
                self._later.append((value, path))
            return type(value), self._box(value, path) if hasattr(value, "__dict__") else ()
        if isinstance(value, Generator):
            return type(value), self.stateful(value._key, path)
        return type(value), value._jm_scan(self, path)

    def _box(self, box: Any, path: str) -> Hashable:
        own = BoxAttributes.of(box)
        own.observed = True
        return self.attributes(box, path, BoxAttributes.quiet)

    def module(self, module: Any, own: Attributes, path: str) -> Hashable:
        """Visit the dicts of a module, in the order of its named parameters, buffers and children."""
        prefix = f"{path}." if path else ""
        if not own.observed:
            own.observed = True
            for name in _REGISTRIES:  # one that is put there later is told by the dict it is put in
                own[name].observed = True
        parameters, buffers, children = own["_parameters"], own["_buffers"], own["_modules"]
        boxes = [(k, None if p is None else self.stateful(p, prefix + k)) for k, p in parameters.items()]
        arrays = [(k, array is None or self._item(buffers, k, prefix + k, array)) for k, array in buffers.items()]
        self._later.append((module, prefix))
        return (
            tuple(boxes),
            tuple(arrays),
            tuple((k, None if m is None else self.stateful(m, f"{prefix}{k}")) for k, m in children.items()),
        )

    def _item(self, buffers: BufferDict, name: str, path: str, array: Any) -> Hashable:
        if isinstance(array, UninitializedBuffer):
            self.lazy = True
            return type(array)
        self.items.append((buffers, name))
        self.item_names.append(path)
        return False

    def _static(self, module: Any, prefix: str) -> Hashable:
        own: dict[str, Any] = module.__dict__
        hooks: Hashable = ()
        if any([own[name] for name in HOOKS]):
            outer, self.mutable = self.mutable, False
            post = self.hooks(
                own["_forward_hooks"], prefix, own["_forward_hooks_with_kwargs"], own["_forward_hooks_always_called"]
            )
            pre = self.hooks(own["_forward_pre_hooks"], prefix, own["_forward_pre_hooks_with_kwargs"])
            back = self.hooks(own["_backward_hooks"], prefix)
            back = (own["_is_full_backward_hook"], back) if back else ()
            back_pre = self.hooks(own["_backward_pre_hooks"], prefix)
            if self.mutable:
                kept = [(name, Freezer().freeze(own[name], "")) for name in _CALL_HOOKS]
                self.volatile += [(weakref.ref(module), name, was) for name, was in kept]
            hooks = post, pre, back, back_pre, *(self.hooks(own[name], prefix) for name in _STATE_DICT_HOOKS)
            self.mutable = outer
        names = own["_non_persistent_buffers_set"]
        return self.attributes(module, prefix, NOT_STRUCTURE), frozenset(names) if names else None, hooks

    def _on_gradients(self, box: Any, path: str) -> Hashable:
        outer, self.mutable = self.mutable, False
        key = tuple(self.hooks(hooks, path) for hooks in box._observed_hooks())
        if self.mutable:
            kept = [(name, Freezer().freeze(vars(box).get(name), "")) for name in GRADIENT_HOOKS]
            self.volatile += [(weakref.ref(box), name, was) for name, was in kept]
        self.mutable = outer
        return key

    def hooks(self, hooks: HookDict, prefix: str, *flags: Mapping[int, Any]) -> Hashable:
        """Return the key of the hooks in a dict, which from now on tells of changes."""
        hooks.observed = True
        self.hooked |= not all(getattr(hook, "compared_by_content", False) for hook in hooks.values())
        self.after_call |= {hook._jm_after_call: None for hook in hooks.values() if hasattr(hook, "_jm_after_call")}
        return tuple((self.freeze(hook, prefix), *(i in flag for flag in flags)) for i, hook in hooks.items())

    def attributes(self, holder: Any, prefix: str, left_out: frozenset[str]) -> Hashable:
        """Return the key of an object's attributes but some."""
        own: dict[str, Any] = holder.__dict__
        if slots := _slots(type(holder)):
            own = {**own, **{name: getattr(holder, name) for name in slots if hasattr(holder, name)}}
        parts = []
        for name in sorted(own.keys() - left_out):
            outer, self.mutable = self.mutable, False
            parts.append((name, self.freeze(own[name], prefix + name)))
            is_mutable, self.mutable = self.mutable, outer
            if is_mutable and id(own[name]) not in self._watched:  # a settings object is often shared by all layers
                self._watched.add(id(own[name]))
                self.volatile.append((weakref.ref(holder), name, Freezer().freeze(own[name], "")))
        return tuple(parts)


class Key:
    """A structure key with its hash computed once."""

    __slots__ = ("_hash", "parts")

    def __init__(self, parts: Hashable) -> None:
        self.parts = parts
        self._hash = hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Key) and self._hash == other._hash and self.parts == other.parts)


class Slots:
    """Places that hold arrays: boxes first, then buffers."""

    def __init__(self, cells: list[Cell], items: list[tuple[BufferDict, str]], names: list[str]) -> None:
        self.cells = cells
        self.items = items
        self.names = names
        self.places: list[Hashable] = [*map(id, cells), *((id(buffers), name) for buffers, name in items)]
        self.owned = dict(zip(self.places, names, strict=True))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def parameters(self) -> list[Any]:
        """The boxes that can have a ``.grad``."""
        return [c for c in self.cells if hasattr(c, "_requires_grad")]

    def subset(self, indices: Sequence[int]) -> "Slots":
        """Return some of the slots; ``indices`` are in order."""
        split = len(self.cells)
        cells = [self.cells[i] for i in indices if i < split]
        items = [self.items[i - split] for i in indices if i >= split]
        return Slots(cells, items, [self.names[i] for i in indices])

    def read(self) -> list[Any]:
        """Return what the slots hold."""
        if swapped or local.frames:
            self.check_reading()
        with held(self):
            return [c._store[c._index] for c in self.cells] + [get_item(d, k) for d, k in self.items]

    def check_reading(self) -> None:
        """Raise if reading a slot now would bake its array into a compiled program."""
        for cell in self.cells:
            cell._check_read()
        for (buffers, name), path in zip(self.items, self.names[len(self.cells) :], strict=True):
            if must_not_read((id(buffers), name), buffers._born):
                raise UnboundStateError(unbound_message(f"buffer '{path}'"))

    def write_items(self, values: Sequence[Any]) -> None:
        """Put arrays into the buffers, unchecked."""
        buffer_writes[0] += 1
        for (buffers, name), value in zip(self.items, values, strict=True):
            set_item(buffers, name, value)

    def assign(self, indices: Sequence[int], values: Sequence[Any]) -> None:
        """Put ``values`` into some slots the way a user would: a leak is refused before anything is written."""
        split = len(self.cells)
        for i, value in zip(indices, values, strict=True):
            if i < split:
                self.cells[i]._check_write(value)
            else:
                buffers, name = self.items[i - split]
                buffers._check(name, value)
        buffer_writes[0] += 1
        for i, value in zip(indices, values, strict=True):
            if i < split:
                self.cells[i]._value = value
            else:
                set_item(*self.items[i - split], value)


class Structure(Slots):
    """The slots and the key of some stateful objects, as they were at one epoch."""

    def __init__(self, roots: Sequence[Any]) -> None:
        self.epoch = epoch.count
        scan = Scan()
        self.key = Key(scan.run(roots))
        self.lazy = scan.lazy
        self.hooked = scan.hooked
        self.after_call = tuple(scan.after_call)
        self.volatile = scan.volatile
        self.template: Any = None  # what a pytree is rebuilt from
        self.layout: Any = None  # which slot each name stands for
        super().__init__(scan.cells, scan.items, scan.cell_names + scan.item_names)

    def fresh(self) -> bool:
        """Tell whether the objects still have this structure."""
        return self.epoch == epoch.count and (not self.volatile or self.unchanged())

    def unchanged(self) -> bool:
        """Tell whether the attributes that can change in place have the content they had."""
        freeze = Freezer().freeze
        holders = ((ref(), name, was) for ref, name, was in self.volatile)
        return all(h is not None and freeze(vars(h).get(name), "") == was for h, name, was in holders)


def whole(root: Any) -> Structure:
    """Return the structure of one object all of whose arrays are there.

    Raises:
        RuntimeError: if a lazy module in it has not found its shapes.
    """
    structure = structure_of(root)
    if structure.lazy:
        raise RuntimeError(
            f"{type(root).__name__} has uninitialized parameters, which have no arrays yet: call the module once, or"
            " jm.eval_shape(net, batch), first"
        )
    return structure


def _known(root: Any) -> Structure | None:
    try:
        return object.__getattribute__(root, "_jm_structure")
    except AttributeError:
        return None


def structure_of(root: Any) -> Structure:
    """Return the structure of one object, walking it only when something changed."""
    known = _known(root)
    if known is None or not known.fresh():
        known = Structure([root])
        object.__setattr__(root, "_jm_structure", known)
    return known


def held(slots: Slots) -> Any:
    """Return the lock, or nothing to hold where another thread has it for a trace of other objects."""
    return nothing if swapped and not _is_swapped(slots) else lock


def _is_swapped(slots: Slots) -> bool:
    return any(not frame.owned.keys().isdisjoint(slots.owned) for frame in tuple(swapped))


def _run_in(frame: Frame, slots: Slots, values: Sequence[Any], body: Callable[[], Any]) -> Any:
    """Return ``body()``, run with ``values`` in the slots; afterwards these hold what they held before."""
    boxes = slots.parameters
    stores = [(cell._store, cell._index) for cell in slots.cells]
    arrays = [get_item(buffers, name) for buffers, name in slots.items]
    gradients = [box._grad for box in boxes]
    depth = len(local.frames)

    def restore() -> None:
        for cell, (store, index) in zip(slots.cells, stores, strict=True):
            cell._store, cell._index = store, index
        slots.write_items(arrays)
        for undo in frame.adopted:
            undo()
        for box, gradient in zip(boxes, gradients, strict=True):
            box._grad = gradient
        del local.frames[depth:]
        swapped.remove(frame)

    try:
        try:
            swapped.append(frame)
            for cell, value in zip(slots.cells, values, strict=False):
                cell._store, cell._index = [None, value], 1
            slots.write_items(values[len(stores) :])
            local.frames.append(frame)
            return body()
        finally:
            restore()
    finally:
        if frame in swapped:  # an interrupt has cut the first try short
            restore()


def _frame(slots: Slots, lifts: bool, grads: bool | None, private: bool) -> Frame:
    owned = {**slots.owned, **{("grad", id(box)): "" for box in slots.parameters}} if grads else slots.owned
    return Frame(owned, lifts, grads, private)


def run_bound(
    slots: Slots,
    values: Sequence[Any],
    body: Callable[[], Any],
    *,
    lifts: bool = False,
    grads: bool | None = None,
) -> Any:
    """Return ``body()``, run with ``values`` in the slots.

    If the body has JAX stage a function that reads the slots (``jax.checkpoint(self.layer)``, a branch of a ``cond``),
    it is run a second time from the same random state, with staging caches of its own.
    """
    generator = current_generator()
    host, key = generator.host.get_state(), generator._key._value
    frame = _frame(slots, lifts, grads, private=False)
    try:
        with lock:
            return _run_in(frame, slots, values, body)
    except Captured as signal:
        if signal.frame is not frame:
            raise
    except StructureMoves:
        if lifts or grads or any(outer.lifts or outer.grads for outer in local.frames):
            raise
        raise RuntimeError(
            "an optimizer has to rearrange its state for these gradients, which it can't do inside this transform:"
            " call step() outside it, or put jm.jit around the whole"
        ) from None
    generator.host.set_state(host)
    generator._key._value = key
    with lock, cache_owner(next(frame_numbers)):
        return _run_in(_frame(slots, lifts, grads, private=True), slots, values, body)
