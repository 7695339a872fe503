"""How the arrays of a layer stand in another library: under which names, cut and turned how.

A :class:`Dialect` has a rule for each class of layer whose arrays differ. The rule lists :class:`Entry` objects: one
array of theirs each, made of parts of ours. Both directions follow from the entries, and so do the names and shapes to
expect. What no rule mentions passes as it is.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmodules._device import is_meta
from jaxmodules.export._arrays import Path, check, host, put, slots, to_numpy
from jaxmodules.nn.modules._state_dict import IncompatibleKeys
from jaxmodules.nn.modules.container import Sequential
from jaxmodules.nn.modules.module import Module

Rename = Mapping[str, str] | Callable[[str], str | None] | None


class Move(NamedTuple):
    """A way to reorder or reshape an array, and the way back."""

    out: Callable[[Any], Any]
    back: Callable[[Any], Any]


SAME = Move(lambda a: a, lambda a: a)
TRANSPOSE = Move(lambda w: w.T, lambda w: w.T)
SCALAR = Move(lambda a: a.reshape(()), lambda a: a.reshape(1))


class Part(NamedTuple):
    """One of ``count`` equal blocks along the first axis of arrays that theirs holds the sum of.

    With no ``names``, theirs has ``blank`` where we have nothing. Blocks of ``zero`` have no place there: they have to
    be zero.
    """

    names: tuple[str, ...]
    index: int = 0
    count: int = 1
    zero: tuple[str, ...] = ()
    blank: np.ndarray | None = None

    def cut(self, array: Any) -> Any:
        """Return the block of an array of ours."""
        if self.count == 1:
            return array
        size = array.shape[0] // self.count
        return array[self.index * size : (self.index + 1) * size]


class Entry(NamedTuple):
    """One array of theirs: where it is, and the parts of ours that lie in it one after the other."""

    path: Path
    parts: tuple[Part, ...]
    move: Move = SAME


def entry(path: str, name: str, move: Move = SAME) -> Entry:
    """Return the entry of an array that corresponds to one of ours."""
    return Entry(tuple(path.split(".")), (Part((name,)),), move)


Rule = Callable[[Any], Iterable[Entry]]  # raises NotImplementedError for a layer that the other library can't express


class Dialect(NamedTuple):
    """How another library names and lays out what modules hold."""

    library: str
    rules: Mapping[type[Module], Rule]
    step: Callable[[Module, Path, str], Path]  # from a module's path to that of a child or array, by attribute name

    def rule(self, module: Module) -> Rule | None:
        """Return the rule for a module: that of the nearest of its classes."""
        return next((self.rules[kind] for kind in type(module).__mro__ if kind in self.rules), None)


def into_layers(module: Module, path: Path, name: str) -> Path:
    """Take the step to a child where a Sequential keeps its children in a list ``layers``."""
    return (*path, "layers", name) if isinstance(module, Sequential) and name.isdecimal() else (*path, name)


class Place(NamedTuple):
    """An entry with the full names of what it is made of, and what part it plays."""

    entry: Entry
    owner: str  # the layer it belongs to, in words
    is_buffer: bool
    is_stated: bool  # by a rule, not passed as it is
    content: tuple[Any, ...]  # what of ours it holds
    is_repeated: bool  # an earlier place holds the same

    def out(self, read: Callable[[str], Any]) -> Any:
        """Return the array of theirs, from ours."""
        blocks = []
        for part in self.entry.parts:
            for name in part.zero:
                if np.any(block := part.cut(read(name))):
                    rows = f"[{part.index * len(block)}:{(part.index + 1) * len(block)}]"
                    raise NotImplementedError(
                        f"cannot express {self.owner}: there is no counterpart for {name}{rows}, which is not"
                        " zero: set it to zero, or make the layer with bias=False"
                    )
            found = [part.cut(read(name)) for name in part.names]
            blocks.append(sum(found[1:], found[0]) if found else part.blank)
        return self.entry.move.out(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))

    def back(self, array: Any, read: Callable[[str], Any], write: Callable[[Part, str, Any], None]) -> None:
        """Hand the blocks of an array of theirs to ``write``.

        A sum that ours already have is left as it is; of any other, the first gets all.
        """
        array = self.entry.move.back(array)
        blocks = [array] if len(self.entry.parts) == 1 else np.split(array, len(self.entry.parts))
        for part, block in zip(self.entry.parts, blocks, strict=True):
            if part.blank is not None and np.any(block):
                theirs = ".".join(self.entry.path)
                raise NotImplementedError(f"{self.owner} has no bias, and {theirs} is not zero: make it with bias=True")
            held = [part.cut(read(name)) for name in part.names] if len(part.names) > 1 else []
            if not held or not np.array_equal(sum(held[1:], held[0]), block):
                for i, name in enumerate(part.names):
                    write(part, name, np.zeros_like(block) if i else block)
            for name in part.zero:
                write(part, name, np.zeros_like(block))


class Layout:
    """The places of everything in a module, in another library's tree."""

    def __init__(self, net: Module, dialect: Dialect, rename: Rename = None, buffers: bool = True) -> None:
        self.net = net
        self.slots = slots(net)
        self.places: dict[Path, Place] = {}
        self._dialect = dialect
        self._buffers = buffers
        self._claimed: set[str] = set()
        self._seen: set[Any] = set()
        self._renamed: set[str] = set()
        if not (rename is None or isinstance(rename, Mapping) or callable(rename)):
            raise TypeError(f"rename must be a dict of names or a function of one, got {type(rename).__name__}")
        self._rename = rename.get if isinstance(rename, Mapping) else rename or (lambda name: None)
        self._visit(net, "", ())
        if isinstance(rename, Mapping) and (unused := sorted(rename.keys() - self._renamed)):
            raise ValueError(f"rename has names that {type(net).__name__} has no module or own parameter for: {unused}")

    def _visit(self, module: Module, prefix: str, path: Path) -> None:
        owner = _spell(prefix, module)
        try:
            entries = list((self._dialect.rule(module) or _no_entries)(module))
        except NotImplementedError as error:
            raise NotImplementedError(f"cannot express {owner} in {self._dialect.library}: {error}") from None
        claimed = [self._claim(module, item, prefix, path) for item in entries]
        self._claimed.update(*claimed)
        for registry in (module._parameters, module._buffers):
            for name, value in registry.items():
                full = prefix + name
                if value is not None and full in self.slots and full not in self._claimed:
                    self._add(Entry(self._step(module, path, name, full), (Part((full,)),)), owner, False)
        for name, child in module._modules.items():
            if child is not None:
                self._visit(child, f"{prefix}{name}.", self._step(module, path, name, prefix + name))

    def _step(self, module: Module, path: Path, name: str, full: str) -> Path:
        renamed = self._rename(full)
        if renamed is None:
            return self._dialect.step(module, path, name)
        self._renamed.add(full)
        return tuple(renamed.split(".")) if renamed else ()

    def _claim(self, module: Module, item: Entry, prefix: str, path: Path) -> set[str]:
        """Add an entry of a rule, unless the layer was made without what it is about; return what it takes."""
        names = {name for part in item.parts for name in (*part.names, *part.zero)}
        if any(_is_none(module, name) or prefix + name in self._claimed for name in names):
            return set()
        if lacking := sorted(prefix + name for name in names if prefix + name not in self.slots):
            raise NotImplementedError(
                f"cannot express {', '.join(lacking)} in {self._dialect.library}: it is no parameter but computed (by"
                " weight_norm, spectral_norm or another parametrization), or missing: remove the parametrization first"
            )
        parts = tuple(
            part._replace(names=tuple(prefix + n for n in part.names), zero=tuple(prefix + n for n in part.zero))
            for part in item.parts
        )
        self._add(Entry((*path, *item.path), parts, item.move), _spell(prefix, module), True)
        return {prefix + name for name in names}

    def _add(self, item: Entry, owner: str, is_stated: bool) -> None:
        found = [self.slots[name] for part in item.parts for name in (*part.names, *part.zero)]
        is_buffer = any(slot.is_buffer for slot in found)
        if is_buffer and not is_stated and not self._buffers:
            return
        parts = [part for part in item.parts if part.names]
        content = tuple((tuple(self.slots[name].identity for name in p.names), p.index, p.count) for p in parts)
        content = content or item.path  # a blank is like no other
        if item.path in self.places:
            taken = self.places[item.path].owner
            raise ValueError(f"{taken} and {owner} both have {'.'.join(item.path)!r}: rename one of them")
        self.places[item.path] = Place(item, owner, is_buffer, is_stated, content, content in self._seen)
        self._seen.add(content)

    def out(self, remove_duplicate: bool = True) -> dict[Path, np.ndarray]:
        """Return every array of theirs by path."""
        read = functools.cache(lambda name: host(name, self.slots[name].value))
        return {
            path: place.out(read) for path, place in self.places.items() if not (remove_duplicate and place.is_repeated)
        }

    def back(self, given: Mapping[Path, Any], what: str, strict: bool) -> IncompatibleKeys:
        """Put arrays of theirs into the module, all or none.

        Raises:
            RuntimeError: if they do not fit.
        """
        found = {self.places[path].content for path in given if path in self.places}
        missing = [
            ".".join(path)
            for path, place in self.places.items()
            if self.is_required(path) and place.content not in found
        ]
        named = {".".join(path): leaf for path, leaf in given.items()}
        report = check(what, type(self.net).__name__, named, self.shapes(), missing, strict)
        targets: dict[str, np.ndarray] = {}

        @functools.cache
        def read(name: str) -> np.ndarray:
            value = self.slots[name].value
            return np.zeros(value.shape, value.dtype) if is_meta(value) else host(name, value)

        def write(part: Part, name: str, block: np.ndarray) -> None:
            if part.count == 1:
                targets[name] = block
                return
            if name not in targets:
                targets[name] = np.array(read(name))
            part.cut(targets[name])[...] = block

        for path, leaf in given.items():
            if path in self.places:
                self.places[path].back(to_numpy(leaf), read, write)
        put(self.net, targets, self.slots)
        return report

    def is_required(self, path: Path) -> bool:
        """Tell whether an array of ours has to be in their tree: not a second name, nor a buffer that no rule knows."""
        place = self.places[path]
        return not place.is_repeated and (place.is_stated or not place.is_buffer)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of theirs by dotted path."""
        read = functools.cache(lambda name: np.broadcast_to(np.zeros((), bool), self.slots[name].value.shape))
        return {".".join(path): place.out(read).shape for path, place in self.places.items()}


def _no_entries(module: Module) -> list[Entry]:
    return []


def _spell(prefix: str, module: Module) -> str:
    """Return what a layer is called in messages."""
    return f"layer {prefix[:-1]!r} ({type(module).__name__})" if prefix else f"the {type(module).__name__}"


def _is_none(module: Module, name: str) -> bool:
    """Tell whether a layer was made without the array of a dotted name below it."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    return owner._parameters.get(last, owner._buffers.get(last, ...)) is None
