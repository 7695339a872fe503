"""``explain``: why a compiled function was traced, by argument, module path and attribute.

A trace is remembered as facts: what is known of the structure it was made for, each with a kind and a path. Facts are
keys, as programs are found by, so they keep nothing alive; they cost one more walk over the objects for each new
structure, and nothing in a cached call. What differs between two traces is worked out when somebody asks.
"""

import inspect
import types
import weakref
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodules._autocast import get_autocast_dtype, is_autocast_enabled
from jaxmodules._keys import Same
from jaxmodules._tracing import Cell
from jaxmodules._tracked import Attributes, HookDict, global_hooks
from jaxmodules.nn.modules.module import Module
from jaxmodules.state import HOOKS, Scan
from jaxmodules.transforms._call import Call, Static

Facts = dict[tuple[str, str], Any]  # by kind and path
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_debug_nans",
    "jax_check_tracer_leaks",
)
_OF_ARRAYS = ("shape", "dtype", "weak type", "sharding")
_NAMED_KINDS = ("shape", "weak type", "sharding", "order")
_NOTHING = ("nothing",)
_LONGEST = 30  # lines of one explanation
_WIDEST = 80


@dataclass(frozen=True)
class Difference:
    """One thing in which a trace differs from the earlier trace that is most like it.

    Attributes:
        kind: ``attribute``, ``class``, ``hook``, ``tying``, ``order``, ``buffer``, ``argument``, ``static argument``,
            ``shape``, ``dtype``, ``weak type``, ``sharding``, ``grad`` or ``setting``.
        path: the attribute by module path, or ``argument <name>``.
        before: what it was, as text.
        after: what it is, as text.
    """

    kind: str
    path: str
    before: str
    after: str

    def __str__(self) -> str:
        kind = f"{self.kind} " if self.kind in _NAMED_KINDS else ""
        return f"{self.path}: {kind}{self.before} -> {self.after}"


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why a compiled function was last traced; prints as a sentence.

    Attributes:
        name: the function.
        traces: how often it has been traced.
        differences: what made the last trace necessary; empty for the first one.
        compared_with: the number of the earlier trace that is most like the last one, counted from 1.
    """

    name: str
    traces: int
    differences: tuple[Difference, ...] = ()
    compared_with: int | None = None

    def __repr__(self) -> str:
        if self.traces == 0:
            return f"{self.name} has never been traced: it was not called"
        if self.traces == 1:
            return f"{self.name} was traced once, for its first call"
        text = f"{self.name} was traced {self.traces} times; the last"
        if self.compared_with != self.traces - 1:
            text += f" (most like trace {self.compared_with})"
        if not self.differences:
            return (
                f"{text} although nothing differs from before: its programs were dropped (clear_cache,"
                " jax.clear_caches), or a setting of JAX changed"
            )
        lines = _lines(self.differences)
        return f"{text} because {lines[0]}" if len(lines) == 1 else "\n  ".join([f"{text} because", *lines])


class _Layout(NamedTuple):
    """The facts of one structure, and the names of the arrays that come with it."""

    facts: Facts
    slots: list[str]
    parameters: list[str]
    leaves: list[str]


class _Trace:
    """What one trace was made for."""

    def __init__(self, layout: _Layout, gradients: Sequence[str], avals: Sequence[Any], varies: bool) -> None:
        self._layout = layout
        self._gradients = gradients
        self._avals = avals
        self._settings = {name: getattr(jax.config, name) for name in _SETTINGS}
        self._settings["jm.autocast"] = get_autocast_dtype().name if is_autocast_enabled() else "off"
        self._settings["what it writes depends on shapes"] = varies

    def facts(self) -> Facts:
        """Return all that is known of the trace."""
        facts = dict(self._layout.facts)
        facts.update({("grad", name): "an array" for name in self._gradients})
        facts.update({("setting", name): value for name, value in self._settings.items()})
        names = [*self._layout.slots, *self._gradients, *self._layout.leaves]
        for name, aval in zip(names, self._avals, strict=False):
            mesh = getattr(aval.sharding, "mesh", None)
            sharding = None if mesh is None or mesh.empty else str(aval.sharding.spec)
            values = aval.shape, str(aval.dtype), aval.weak_type, sharding
            facts.update({(kind, name): value for kind, value in zip(_OF_ARRAYS, values, strict=True)})
        return facts


class Log:
    """The traces of one compiled function."""

    def __init__(self) -> None:
        self.varies = False  # whether what is written depends on shapes, and each combination has a program
        self.traces: list[_Trace] = []
        self._layouts: dict[Hashable, _Layout] = {}

    def trace(self, plan: Any, flat: Sequence[Any]) -> _Trace:
        """Return what a trace that begins is made for: the structure of a plan, and arrays."""
        layout = self._layouts.get(plan.key)
        if layout is None:
            layout = self._layouts[plan.key] = _Survey(plan.call).layout()
        gradients = [f"{name}.grad" for name in compress(layout.parameters, plan.mask)]
        return _Trace(layout, gradients, [jax.typeof(array) for array in flat[1:]], self.varies)

    def explain(self, name: str) -> Explanation:
        """Compare the last trace with the earlier one that is most like it."""
        if len(self.traces) < 2:
            return Explanation(name, len(self.traces))
        *earlier, last = [trace.facts() for trace in self.traces]
        distances = [len(last.items() ^ facts.items()) for facts in earlier]
        nearest = min(range(len(earlier)), key=lambda i: (distances[i], -i))
        return Explanation(name, len(self.traces), tuple(_differences(earlier[nearest], last)), nearest + 1)


class _Survey(Scan):
    """A scan that notes what it finds, and where, as facts."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.facts: Facts = {}
        self.box_names: dict[int, str] = {}
        self._paths: list[str] = []
        self.leaf_names: list[str] = []
        self._root = ""
        arguments = _arguments(call)
        names = _root_names(call, arguments)
        named = list(zip(call.roots, names, strict=True))
        for root, name in named:
            if isinstance(root, Module):
                for inner, box in root.named_parameters():
                    self.box_names.setdefault(id(box), f"{name}.{inner}")
        for root, name in named:
            self._root = name
            self.stateful(root, name)
        rest: Any = self.run([])
        names_of_all = (_hook_names(hooks) for hooks, _ in global_hooks)
        self.facts["hook", "global hooks"] = rest[-1], sum(names_of_all, ())
        for name, value in arguments:
            if isinstance(value, Static):
                self.facts["static argument", f"argument {name}"] = self.freeze(value.value, name)
                continue
            hole = call.holes[value]
            what = "an array" if hole is None else names[call.root_ids.index(id(hole()))]
            if what != name:
                self.facts["argument", f"argument {name}"] = what
            if hole is None:
                self.leaf_names.append(f"argument {name}")
        self.facts["argument", "arguments"] = str(call.treedef)

    def layout(self) -> _Layout:
        """Return what was found, without the objects."""
        parameters = [n for cell, n in zip(self.cells, self.cell_names, strict=True) if hasattr(cell, "_requires_grad")]
        return _Layout(self.facts, [*self.cell_names, *self.item_names], parameters, self.leaf_names)

    def stateful(self, value: Any, path: str) -> Hashable:
        """Visit a box or a stateful object, and note its class, or what it is the same as."""
        known = self.ordinal.get(id(value))
        if not path.startswith(self._root):  # an optimizer's
            path = self.box_names.get(id(value), f"{self._root}.{path}")
        if known is not None:
            if path != self._paths[known]:
                self.facts["tying", path] = self._paths[known]
            return "at", self._paths[known]
        path = self.box_names.setdefault(id(value), path) if isinstance(value, Cell) else path
        self._paths.append(path)
        self.facts["class", path] = type(value)
        super().stateful(value, path)
        groups = () if isinstance(value, Module | Cell) else getattr(value, "param_groups", ())
        for i, group in enumerate(groups):
            self.facts["attribute", f"{path}.param_groups[{i}]"] = group.static_key()
        return "at", path

    def module(self, module: Any, own: Attributes, path: str) -> Hashable:
        """Visit the dicts of a module, and note their order."""
        self.facts["order", path] = tuple(tuple(own[name]) for name in ("_parameters", "_buffers", "_modules"))
        return super().module(module, own, path)

    def _item(self, buffers: Any, name: str, path: str, array: Any) -> Hashable:
        self.facts["buffer", path] = "an array"
        return super()._item(buffers, name, path, array)

    def attributes(self, holder: Any, prefix: str, left_out: frozenset[str]) -> Any:
        """Return the key of an object's attributes, and note each."""
        parts: Any = super().attributes(holder, prefix, left_out)
        for name, key in parts:
            path = f"{prefix}.{name.removeprefix('_')}" if isinstance(holder, Cell) else prefix + name
            self.facts["attribute", path] = key
        return parts

    def _static(self, module: Any, prefix: str) -> Hashable:
        parts: Any = super()._static(module, prefix)
        _, not_persistent, hooks = parts
        if not_persistent:
            self.facts["attribute", f"{prefix}_non_persistent_buffers_set"] = (frozenset, not_persistent)
        for name, key in zip(HOOKS, hooks, strict=False):
            if key:
                self.facts["hook", prefix + name] = key, _hook_names(module.__dict__[name])
        return parts

    def _on_gradients(self, box: Any, path: str) -> Hashable:
        key = super()._on_gradients(box, path)
        self.facts["hook", f"{self.box_names[id(box)]}.register_hook"] = (
            key,
            sum(map(_hook_names, box._observed_hooks()), ()),
        )
        return key


def _hook_names(hooks: HookDict) -> tuple[str, ...]:
    return tuple(getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks.values())


def _arguments(call: Call) -> list[tuple[str, Any]]:
    """Return a name for each leaf of a call's arguments, with its number, and for each static argument, with it."""
    tree = jax.tree_util.tree_unflatten(call.treedef, range(call.treedef.num_leaves))
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, Static))
    positional, rest = _parameter_names(call.function)
    found = []
    for (which, first, *inner), leaf in leaves:
        if which.idx == 1:
            name = str(first.key)
        else:
            name = positional[first.idx] if first.idx < len(positional) else f"{rest}[{first.idx - len(positional)}]"
        found.append((name + jax.tree_util.keystr(tuple(inner)), leaf))
    return found


def _parameter_names(function: Any) -> tuple[list[str], str]:
    """Return the names of the positional parameters of a function, and what more of them are called."""
    owner = getattr(function, "__self__", function)
    if isinstance(owner, Module) and (owner is function or function.__name__ == "_call_impl"):
        function = owner.forward
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [], "args"
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)], rest


def _root_names(call: Call, arguments: Sequence[tuple[str, Any]]) -> list[str]:
    """Return a name for each stateful object of a call: of its argument, or of the variable that it is captured by."""
    names: dict[int, str] = {}
    for name, leaf in arguments:
        if not isinstance(leaf, Static) and (hole := call.holes[leaf]) is not None:
            names.setdefault(id(hole()), name)
    for name, value in _variables(call.function):
        names.setdefault(id(value), name)
    roots = call.roots
    taken = [*names.values()]
    for root in roots:
        if id(root) not in names:
            name = type(root).__name__.lower()
            count = taken.count(name)
            taken.append(name)
            names[id(root)] = f"{name}#{count + 1}" if count else name
    return [names[id(root)] for root in roots]


def _variables(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a function sees by name: its module, closure and globals."""
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, Module):
        yield "net", function
    if isinstance(owner := getattr(function, "__self__", None), Module):
        yield "net", owner
    function = inspect.unwrap(getattr(function, "__func__", function))
    if isinstance(function, types.FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not filled yet
                continue
        codes = [function.__code__]
        for code in codes:
            codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
            yield from ((name, function.__globals__[name]) for name in code.co_names if name in function.__globals__)


def _differences(before: Facts, after: Facts) -> Iterator[Difference]:
    """Yield what differs between two traces; what follows from a replaced object is left out."""
    changed = [f for f in {**before, **after} if before.get(f, _NOTHING) != after.get(f, _NOTHING)]
    moved = {path for kind, path in changed if kind in ("class", "tying", "buffer")}
    tied = {path for kind, path in changed if kind == "tying"}
    found = False
    for fact in changed:
        kind, path = fact
        old, new = before.get(fact, _NOTHING), after.get(fact, _NOTHING)
        is_partial = kind in _OF_ARRAYS and (old is _NOTHING or new is _NOTHING)
        if (
            is_partial
            or kind == "order"
            or path == "arguments"
            or (kind == "class" and path in tied)
            or _is_inside(path, moved)
        ):
            continue
        found = True
        if kind == "attribute" or kind == "static argument":
            yield from _inner(kind, path, old, new)
        elif kind == "tying":
            alone = [facts.get(("class", path), _NOTHING) for facts in (before, after)]
            texts = [
                _show(one) if one is not _NOTHING else _text(kind, t) for one, t in zip(alone, (old, new), strict=True)
            ]
            yield Difference(kind, path, *texts)
        else:
            yield _difference(kind, path, old, new)
    if not found and ("argument", "arguments") in changed:
        found = True
        yield _difference("argument", "arguments", before["argument", "arguments"], after["argument", "arguments"])
    for kind, path in changed:
        old, new = before.get((kind, path), _NOTHING), after.get((kind, path), _NOTHING)
        if kind == "order" and old is not _NOTHING and new is not _NOTHING:
            if not found or [sorted(names) for names in old] == [sorted(names) for names in new]:
                yield _difference(kind, path, sum(old, ()), sum(new, ()))


def _is_inside(path: str, moved: set[str]) -> bool:
    return any(path[: len(outer)] == outer and path[len(outer) : len(outer) + 1] in (".", "[") for outer in moved)


def _inner(kind: str, path: str, old: Any, new: Any) -> Iterator[Difference]:
    """Yield where two settings differ: in the items of a container or the attributes of a record, if they are alike."""
    olds, news = _entries(old), _entries(new)
    if olds is None or news is None or old[0] is not new[0]:
        yield _difference(kind, path, old, new)
        return
    steps = [s for s in {**olds, **news} if olds.get(s, _NOTHING) != news.get(s, _NOTHING)]
    for step in steps:
        yield from _inner(kind, path + step, olds.get(step, _NOTHING), news.get(step, _NOTHING))
    if not steps:
        yield _difference(kind, path, old, new)


def _entries(key: Any) -> dict[str, Any] | None:
    """Return the parts of a container's or record's key by what has to be written behind its name to get there."""
    match key:
        case (type() as kind, (tuple() as items)) if issubclass(kind, dict):
            return {f"[{_show(name)}]": value for name, value in items}
        case (type() as kind, (tuple() as items)) if issubclass(kind, list | tuple | deque):
            return {f"[{i}]": value for i, value in enumerate(items)}
        case (type() as kind, (type() as inner, tuple() as items)) if issubclass(inner, dict) and kind is not inner:
            return {f".{name[1]}": value for name, value in items}
    return None


def _difference(kind: str, path: str, old: Any, new: Any) -> Difference:
    texts = [_text(kind, value) for value in (old, new)]
    if texts[0] == texts[1]:
        texts[1] = f"another {texts[1]}"
    return Difference(kind, path, *texts)


def _text(kind: str, value: Any) -> str:
    if value is _NOTHING:
        return "None" if kind == "grad" else "nothing"
    if kind == "tying":
        return f"the same as {value}"
    if kind == "hook":
        return f"[{', '.join(value[1])}]"
    if kind in ("attribute", "static argument", "class"):
        return _show(value)
    if kind == "order":
        return f"({', '.join(value)})"
    return value if isinstance(value, str) else repr(value)


def _show(key: Any) -> str:
    """Write the key of a value as the value is written, in short."""
    text = _written(key)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _written(key: Any) -> str:
    if isinstance(key, type):
        return key.__qualname__
    if isinstance(key, Same):
        value = key.ref()
        return getattr(value, "__qualname__", None) or f"{type(value).__name__} object"
    if not isinstance(key, tuple) or len(key) < 2:
        return repr(key)
    kind, value, *rest = key
    if kind == "at":
        return str(value)
    if kind is float:
        return repr(float.fromhex(value))
    if kind is complex:
        return repr(complex(float.fromhex(value), float.fromhex(rest[0])))
    if kind in (types.FunctionType, types.MethodType, partial, weakref.ref):
        return _written(value)
    if issubclass(kind, np.ndarray):
        return f"{np.dtype(value).name} array of shape {rest[0]}"
    if issubclass(kind, np.generic):
        return repr(np.frombuffer(value, kind)[0])
    if issubclass(kind, set | frozenset):
        return f"{{{', '.join(sorted(map(_written, value)))}}}"
    if issubclass(kind, dict):
        return f"{{{', '.join(f'{_written(name)}: {_written(item)}' for name, item in value)}}}"
    if issubclass(kind, list | tuple | deque):
        items = ", ".join(map(_written, value))
        return f"({items})" if issubclass(kind, tuple) else f"[{items}]"
    if (entries := _entries(key)) is not None:
        return f"{kind.__name__}({', '.join(f'{step[1:]}={_written(item)}' for step, item in entries.items())})"
    return repr(value)


def _lines(differences: Sequence[Difference]) -> list[str]:
    """Write each difference in a line, and one that many modules have in common in one line for all."""
    groups: dict[Hashable, list[Difference]] = {}
    for one in differences:
        groups.setdefault((one.kind, one.path.rpartition(".")[2], one.before, one.after), []).append(one)
    lines = []
    for group in groups.values():
        first = min(group, key=lambda one: len(one.path))
        outer = first.path.rpartition(".")[0]
        if len(group) > 1 and all(one.path.startswith(f"{outer}.") for one in group):
            lines.append(f"{first} (and {len(group) - 1} below it)")
        elif len(group) > 2:
            lines.append(f"{first} (and {len(group) - 1} others)")
        else:
            lines += map(str, group)
    more = len(lines) - _LONGEST
    return lines if more <= 0 else [*lines[:_LONGEST], f"and {more} more"]


def explain(fn: Any) -> Explanation:
    """Tell why a compiled function was last traced.

    The last trace is compared with the earlier one that is most like it, so that what is named is what made a new
    program necessary. Calls that find their program are not traced and change nothing here.

    Args:
        fn: what :func:`jit` returned: a function, a compiled module, a method; or a module after ``net.compile()``.

    Returns:
        An explanation that prints as text, with the number of ``traces`` and the list of ``differences``.

    Raises:
        TypeError: if ``fn`` is not compiled.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> net = jm.nn.Dropout(0.5)
        >>> step = jm.jit(lambda net, x: net(x))
        >>> _ = step(net, jnp.ones(3)), step(net.eval(), jnp.ones(3))
        >>> jm.explain(step)
        <lambda> was traced 2 times; the last because net.training: True -> False
    """
    compiled = fn._compiled_call_impl if isinstance(fn, Module) else fn
    log = getattr(compiled, "__dict__", {}).get("_log")
    if compiled is None or not isinstance(log, Log):
        raise TypeError(f"expected what jm.jit returned, or a module after net.compile(), got {fn!r}")
    wrapped = compiled.__wrapped__
    owner = getattr(wrapped, "__self__", wrapped)
    named = getattr(wrapped, "__name__", type(wrapped).__name__)
    if isinstance(owner, Module):
        is_call = owner is wrapped or named == "_call_impl"
        named = type(owner).__name__ + ("" if is_call else f".{named}")
    return log.explain(named)
