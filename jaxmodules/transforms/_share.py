"""One trace for all blocks of equal structure.

A model of 48 equal blocks need not be traced 48 times. In a compiled function, where a module with children is called
and another of equal structure has been called before with the same kinds of arguments, the call becomes one of an
inner ``jax.jit`` function of slots, random key and arguments, traced once. XLA inlines it: the program is the same.

What a call does is the same as well, or it is not shared. A block is traced on its own if it reads traced values that
are not its own (a closure, another module) or puts its own somewhere (a list of losses), if it has hooks, if it
changes a static attribute, if anything is raised. Eager calls, ``jm.grad`` without ``jm.jit`` included, never share.
"""

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
from jax.tree_util import tree_flatten, tree_unflatten

from jaxmodules._keys import ATOMS, Same
from jaxmodules._tracing import Captured, Tracer, birth, epoch, is_staged, local
from jaxmodules.nn.modules import _hooks
from jaxmodules.nn.modules.module import Module
from jaxmodules.random import Generator, bind_generator, current_generator
from jaxmodules.state import Structure, run_bound, structure_of
from jaxmodules.transforms._call import Changes, Static, commit, is_stateful, rewritten, unwrapped


class _NotShareable(Exception):
    """The output of a block is more than arrays and plain values."""


class _Family:
    """The blocks of one class that a frame has called."""

    def __init__(self, module: Any, arguments: "_Arguments") -> None:
        self.first = (weakref.ref(module), arguments.kind)
        self.seen: set[Hashable] = set()
        self.shared: dict[Hashable, Callable[..., Any] | None] = {}


class _Arguments:
    """The arguments of a call: traced values, each once, and everything else as part of the kind of the call."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.leaves, self.treedef = tree_flatten((args, kwargs), is_leaf=is_stateful)
        self.traced: list[Any] = []
        self.places: list[int | None] = []  # of each leaf among the traced values
        self.shareable = True
        places: dict[int, int] = {}
        kinds: list[Hashable] = []
        for leaf in self.leaves:
            if isinstance(leaf, Tracer):
                place = places.setdefault(id(leaf), len(self.traced))
                if place == len(self.traced):
                    self.traced.append(leaf)
                kinds.append((place, leaf.aval))
                self.places.append(place)
                continue
            self.places.append(None)
            if type(leaf) in ATOMS or type(leaf) is float:
                kinds.append((type(leaf), repr(leaf)))
            else:
                self.shareable &= not is_stateful(leaf) and hasattr(leaf, "dtype")
                kinds.append(Same(leaf))
        self.kind: Hashable = (self.treedef, tuple(kinds))

    def rebuild(self, traced: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return args and kwargs with ``traced`` in the place of the traced values."""
        pairs = zip(self.leaves, self.places, strict=True)
        return tree_unflatten(self.treedef, [leaf if place is None else traced[place] for leaf, place in pairs])


def call(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a module with children in a frame, in a trace that it shares with its equals where that changes nothing."""
    if local.frames[0].private or not is_staged() or _hooks.recorders:
        return _hooks.run(module, args, kwargs)
    arguments = _Arguments(args, kwargs)
    families = local.frames[-1].families
    family = families.get(type(module))
    if family is None:
        families[type(module)] = _Family(module, arguments)
    elif arguments.shareable:
        structure = structure_of(module)
        key = (structure.key, arguments.kind)
        _see_first(family)
        if key not in family.seen:
            family.seen.add(key)
        elif not structure.lazy and not structure.hooked:
            return _shared(module, structure, arguments, family, key, (args, kwargs))
    return _hooks.run(module, args, kwargs)


def _see_first(family: _Family) -> None:
    """Take the key of the first block, which is not worth its cost before there is a second."""
    if not family.seen:
        ref, kind = family.first
        module = ref()
        family.seen.add(None if module is None else (structure_of(module).key, kind))


def _shared(
    module: Any, structure: Structure, arguments: _Arguments, family: _Family, key: Hashable, given: Any
) -> Any:
    values = structure.read()
    flat = (_random_key(), values, arguments.traced)
    program = family.shared.get(key)
    if key not in family.shared and all(isinstance(value, Tracer) for value in values):
        program, is_pure = _trace(module, structure, arguments, flat)
        family.shared[key] = program if is_pure else None
    if program is None:
        return _hooks.run(module, *given)
    out, changes = program(*flat)
    commit(structure, changes)
    return jax.tree.map(unwrapped, out, is_leaf=lambda leaf: isinstance(leaf, Static))


def _trace(
    module: Any, structure: Structure, arguments: _Arguments, flat: Any
) -> tuple[Callable[..., Any] | None, bool]:
    """Return a compiled call of the module, if there can be one, and whether its equals can use it."""
    before = epoch.count
    traces: list[Any] = []
    program = jax.jit(_pure(module, structure, arguments, traces))
    try:
        traced = program.trace(*flat)
    except Captured as signal:
        if signal.frame in local.frames:  # it reads what is not its own
            return None, False
        raise
    except Exception:  # on its own the block raises it again, or does what it could not do here
        return None, False
    if traces[0]() is not None:  # a traced value of the block's is still alive: somebody has put it somewhere
        raise Captured(local.frames[0])
    closes_over_tracers = len(traced.jaxpr.in_avals) != len(jax.tree.leaves(flat))
    return program, epoch.count == before and not closes_over_tracers


def _random_key() -> Any:
    """Return the traced key that the block draws from; ``None`` where drawing raises, or needs no key of the trace."""
    generator = current_generator()
    key = generator._key._value
    return key if type(generator) is Generator and isinstance(key, Tracer) else None


def _pure(
    module: Any, structure: Structure, arguments: _Arguments, traces: list[Any]
) -> Callable[..., tuple[Any, Changes]]:
    """Return a call of the module as a function of random key, slots and traced arguments; it notes its traces."""

    def pure(key: Any, values: Sequence[Any], traced: Sequence[Any]) -> tuple[Any, Changes]:
        traces.append(birth())

        def body() -> tuple[Any, Changes]:
            generator = current_generator() if key is None else Generator.from_key(key)
            with bind_generator(generator):
                args, kwargs = arguments.rebuild(traced)
                leaves, treedef = tree_flatten(_hooks.run(module, args, kwargs), is_leaf=is_stateful)
                now = structure.read()
            slots = rewritten(now, values)
            drew = key is not None and generator._key._value is not key
            written = [now[i] for i in slots] + [generator._key._value] * drew
            out = tree_unflatten(treedef, [_output(leaf) for leaf in leaves])
            return out, Changes((slots, (), drew, False), written)

        return run_bound(structure, values, body, lifts=True)

    pure.__name__ = pure.__qualname__ = type(module).__name__
    return pure


def _output(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    if type(leaf) in ATOMS or type(leaf) is float:
        return Static(leaf)
    raise _NotShareable


Module._jm_call_block = staticmethod(call)
