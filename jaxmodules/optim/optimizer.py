"""The base of all optimizers: PyTorch's surface over optax's arithmetic.

An optimizer is state like a module: ``jm.jit`` threads its arrays through and writes them back. Parameters that have
taken the same steps form a *cohort* and share one optax state (one step count, one pytree of moments). A parameter
that sits a step out, frozen or without a gradient, leaves its cohort with a copy of the count, so that every
parameter's history is PyTorch's although the count is kept once.
"""

import functools
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodules._handles import RemovableHandle, add_hook
from jaxmodules._keys import Same, Stateful
from jaxmodules._tracing import Cell, Tracer, birth, epoch, is_tracing, local
from jaxmodules._tracked import ATOMS, MISSING, HookDict
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, is_lazy
from jaxmodules.optim import _arrange, _hooks, _load, _state
from jaxmodules.optim._cohort import Cohort
from jaxmodules.optim._entries import Entries, reserve
from jaxmodules.optim._groups import ParamGroup, TellingList
from jaxmodules.optim._hooks import register_optimizer_step_post_hook as register_optimizer_step_post_hook
from jaxmodules.optim._hooks import register_optimizer_step_pre_hook as register_optimizer_step_pre_hook
from jaxmodules.optim._match import match
from jaxmodules.state import Scan

_MACHINERY = frozenset(
    {"_groups", "_cohorts", "_aligned", "_loose", "_others", "_reserved", "_stepping", "_pins", "_born", *_hooks.DICTS}
    | {"_opt_called", "_step_when_scheduled"}
)
_NOT_STRUCTURE = _MACHINERY | {"param_groups", "state", "transformation"}


class _Required:
    """Stand for a setting that has no default."""

    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()
Rule = optax.GradientTransformation


class Optimizer(Stateful):
    """Update parameters by an optax transformation, behind the surface of :class:`torch.optim.Optimizer`.

    Args:
        params: a module, parameters, ``(name, parameter)`` pairs, or a list of dicts (groups) with a ``params`` each
            and settings of their own.
        defaults: an optax transformation; or, from a subclass with a ``rule``, the settings of groups without.

    Raises:
        TypeError: if ``params`` is none of these.
        ValueError: if there are no parameters, or one is listed twice.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> import jaxmodules as jm
        >>> net = jm.nn.Linear(2, 1)
        >>> optimizer = jm.optim.Optimizer(net, optax.sgd(0.1))
        >>> loss, grads = jm.value_and_grad(lambda net: net(jnp.ones((1, 2))).sum())(net)
        >>> optimizer.step(grads)
    """

    switches: ClassVar[frozenset[str]] = frozenset()  # numbers without which, at zero, the rule does not need a term
    complements: ClassVar[frozenset[str]] = frozenset()  # numbers that the rule gets as one_minus_<name>
    fixed: ClassVar[frozenset[str]] = frozenset()  # numbers that the rule is compiled for
    older: ClassVar[Mapping[str, Any]] = {}  # what older state dicts lack, where it is no flag at its default
    counter: ClassVar[str] = "step"  # the state that counts steps: before the first there is none to show

    def __init__(self, params: Any, defaults: Any) -> None:
        self._set_up()
        self._patch_step_function()
        self.transformation = None if isinstance(defaults, Mapping) else defaults
        if self.transformation is not None and not hasattr(defaults, "update"):
            raise TypeError(f"expected an optax transformation or a dict of settings, got {defaults!r}")
        self.defaults: dict[str, Any] = dict(defaults) if isinstance(defaults, Mapping) else {}
        self.param_groups = []
        if isinstance(params, Module):
            params = params.named_parameters()
        if isinstance(params, Parameter | jax.Array | np.ndarray) or not isinstance(params, Iterable):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got"
                f" {type(params).__name__} (pass net.parameters(), or a list of parameters)"
            )
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def _set_up(self) -> None:
        """Make what the class itself keeps."""
        for name in _hooks.DICTS:
            object.__setattr__(self, name, HookDict())
        self._groups: list[Any] = TellingList()
        self._cohorts: list[Cohort] = []
        self._aligned: tuple[int, set[int]] | None = None  # for which epoch and parameters the cohorts are right
        self._loose: dict[Any, Entries] = {}
        self._others = Entries(birth(), {})
        self._reserved: list[Any] = []
        self._stepping = False
        self._opt_called = False
        self._step_when_scheduled: Any = None  # what is in place of the class's own when a scheduler is made
        self._pins = 0  # how many of the numbers of groups are structure: none, all but lr, all
        self._born = birth()

    def __setattr__(self, name: str, value: Any) -> None:
        old = self.__dict__.get(name, MISSING)
        object.__setattr__(self, name, value)
        is_same = old is value or (type(old) is type(value) and type(old) in ATOMS and old == value)
        if not is_same and name not in _NOT_STRUCTURE:
            epoch.count += 1

    @property
    def param_groups(self) -> list[Any]:
        """The groups: dicts of parameters and settings, to read, to set and to change in place."""
        groups = self._groups
        if not all(isinstance(group, ParamGroup) for group in groups):
            for i, group in enumerate(groups):
                if not isinstance(group, ParamGroup):
                    list.__setitem__(groups, i, self._group({**group, **self._missing(group)}))
        return groups

    @param_groups.setter
    def param_groups(self, groups: Iterable[Mapping[str, Any]]) -> None:
        self._groups = TellingList(groups)
        epoch.count += 1

    def _missing(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of what a group does not set."""
        for name, default in self.defaults.items():
            if default is required and name not in settings:
                raise ValueError(f"parameter group didn't specify a value of required optimization parameter {name}")
        return {k: v for k, v in self.defaults.items() if k not in settings}

    @property
    def _has_rule(self) -> bool:
        return self.transformation is not None or type(self).rule is not Optimizer.rule

    @property
    def _steps_itself(self) -> bool:
        return not self._has_rule and type(self).step is not Optimizer.step

    def rule(self, **settings: Any) -> Rule:
        """Return the optax transformation for a group's settings; subclasses override this.

        Numbers arrive as arrays, except that a switch (see ``switches``) which is off arrives as 0. A static method
        is compiled once for all optimizers of its class.
        """
        if self.transformation is None:
            raise NotImplementedError(f"{type(self).__name__} must define rule(), or be given an optax transformation")
        return self.transformation

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters.

        Args:
            param_group: ``params``, and any settings that differ from the defaults.

        Raises:
            TypeError: if it is no dict, or holds what is no Parameter.
            ValueError: if a parameter is in another group already, only some have names, or a required setting
                is missing.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        settings = dict(param_group)
        params, names = _listed(settings.pop("params"))
        names = settings.pop("param_names", None) if names is None else names
        if self.param_groups and ("param_names" in self.param_groups[0]) != (names is not None):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group"
                f" {'without' if names is None else 'with'} names to the optimizer"
            )
        present = {id(p) for group in self.param_groups for p in group["params"]}
        if any(id(p) in present for p in params):
            raise ValueError("some parameters appear in more than one parameter group")
        ordered: dict[str, Any] = {"params": params, **({} if names is None else {"param_names": names})}
        group = self._group({**ordered, **settings, **self._missing(settings)})
        if self._has_rule:
            self.rule(**group.static(), **group.arrays())  # refuses settings it does not know
        self.param_groups.append(group)

    def _group(self, settings: dict[str, Any]) -> ParamGroup:
        group = ParamGroup(settings, self.switches, self.complements, self.fixed)
        self._fix(group)
        return group

    def _fix(self, group: ParamGroup) -> None:
        """Make of a group's numbers those structure that an own ``step`` needs as Python's."""
        if self._pins > 0:
            left_out = {"params", "param_names", *group.schedules(), *(("lr",) if self._pins == 1 else ())}
            group.fix(frozenset(group) - left_out)

    def _can_pin(self) -> bool:
        return not self._has_rule and self._pins < 2

    def _pin(self) -> None:
        """Compile for more of the numbers in the groups: first for all but ``lr``, then for all."""
        self._pins += 1
        for group in self.param_groups:
            self._fix(group)

    @_hooks.with_hooks
    def step(self, closure: Any = None, grads: Any = None) -> Any:
        """Update the parameters once.

        A subclass that has no ``rule`` defines this method itself, as in PyTorch: it reads ``p.grad`` and
        ``self.state[p]`` and writes ``p.data``.

        Args:
            closure: the gradients as ``jm.value_and_grad`` returned them; ``None`` to use the parameters' ``.grad``;
                or a function that computes the loss again and returns ``(loss, grads)``, or fills ``.grad`` and
                returns the loss.
            grads: the gradients, by name.

        Returns:
            The closure's loss, or ``None``.

        Raises:
            ValueError: if a gradient matches no parameter; nothing is changed then.
            RuntimeError: if a gradient has the wrong shape; nothing is changed then.
            NotImplementedError: if the class has neither a ``rule`` nor a ``step``.
        """
        if not self._has_rule:
            self.rule()
        loss = None
        if callable(closure):
            result = closure()
            loss, grads = result if isinstance(result, tuple) and len(result) == 2 else (result, grads)
        elif closure is not None:
            grads = closure
        boxes = self._boxes()
        if grads is None:
            found = {id(box): box.grad for box in boxes if box.grad is not None}
        else:
            found = match(grads, boxes, self._names())
        self._align(found.keys())
        updates = [
            (cohort, *self._updated(cohort.group, cohort, found))
            for cohort in self._cohorts
            if not found.keys().isdisjoint(cohort.by_id)
        ]
        for cohort, values, leaves in updates:
            active = {name for box, name in zip(cohort.boxes, cohort.names, strict=True) if id(box) in found}
            for box, name in zip(cohort.boxes, cohort.names, strict=True):
                if name in active:
                    box.value = values[name]
            for (_, owner), cell, leaf in zip(cohort.leaves, cohort.cells, leaves, strict=True):
                if owner is None or owner in active:
                    cell.value = leaf
        return loss

    def _updated(self, group: ParamGroup, cohort: Cohort, found: Mapping[int, Any]) -> tuple[dict[str, Any], list[Any]]:
        """Return the new values and the new leaves of the state of a cohort; a parameter without gradient has zeros."""
        values = {name: box.value for name, box in zip(cohort.names, cohort.boxes, strict=True)}
        grads = {}
        for box, name in zip(cohort.boxes, cohort.names, strict=True):
            grad = found[id(box)] if id(box) in found else jnp.zeros_like(values[name])
            convert = self.transformation is None and grad.dtype != box.dtype  # the state is to keep its dtype
            grads[name] = grad.astype(box.dtype) if convert else grad
        if is_tracing():
            update = functools.partial(_new_values, self.rule, group.static())
        else:
            rule = self.rule if isinstance(self.rule, types.FunctionType) else weakref.WeakMethod(self.rule)
            update = _compiled(rule, _Key(group))
        values, state = update(group.arrays(), grads, cohort.state(), values)
        return values, jax.tree.leaves(state)

    def _align(self, active: Iterable[int]) -> None:
        """Give every parameter with a gradient the state that its step needs."""
        _arrange.align(self, set(active))

    def _is_aligned(self, active: set[int]) -> bool:
        return _arrange.is_aligned(self, active)

    def _arrange(self, active: set[int]) -> None:
        _arrange.arrange(self, active)

    def _loaded(self, group: ParamGroup, names: Mapping[int, str], states: Sequence[Any]) -> list[Cohort]:
        """Return the cohorts of a group whose parameters have these states, in torch's form."""
        return _arrange.loaded(self, group, names, states)

    def _fresh(self, group: ParamGroup, names: Mapping[int, str], ids: Iterable[int]) -> Cohort:
        """Return a cohort in the state before the first step."""
        return _arrange.fresh(self, group, names, ids)

    def _loosen(self, box: Parameter) -> None:
        _state.loosen(self, box)

    def _take_back_reservations(self) -> Any:
        for entries in self._loose.values():
            entries.check()
        return reserve(self._reserved) if self._reserved else None

    @contextmanager
    def _lent(self, grads: Any) -> Iterator[None]:
        """Put gradients into the parameters' ``.grad`` for a time."""
        boxes = self._boxes()
        found = match(grads, boxes, self._names())
        before = [box.grad for box in boxes]
        try:
            for box in boxes:
                box.grad = found.get(id(box))
            yield
        finally:
            for box, grad in zip(boxes, before, strict=True):
                box.grad = grad

    def _boxes(self) -> list[Parameter]:
        return [box for group in self.param_groups for box in group["params"]]

    def _keys(self, number: int) -> dict[int, str]:
        """Return the names of a group's parameters, by identity, that its optax state is a dict by."""
        group = self.param_groups[number]
        names = group.get("param_names") or ()
        if len(set(names)) != len(group["params"]):
            first = sum(len(g["params"]) for g in self.param_groups[:number])
            names = [str(first + i) for i in range(len(group["params"]))]
        return dict(zip(map(id, group["params"]), names, strict=True))

    def _names(self) -> dict[str, Parameter]:
        """Return the parameters by the names that the optimizer was given, as far as these are unique."""
        names: dict[str, Parameter] = {}
        again = set()
        for group in self.param_groups:
            for name, box in zip(group.get("param_names") or (), group["params"], strict=False):
                again |= {name} & names.keys()
                names[name] = box
        return {name: box for name, box in names.items() if name not in again}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the ``.grad`` of every parameter to ``None``, or to zeros."""
        for group in self.param_groups:
            for box in group["params"]:
                if box.grad is not None:
                    box.grad = None if set_to_none else jnp.zeros_like(box.grad)

    def _cells(self) -> list[tuple[str, Cell]]:
        """Return every cell but the parameters, with its name."""
        cells: list[tuple[str, Cell]] = []
        number = {}
        for i, group in enumerate(self.param_groups):
            number[id(group)] = i
            cells += [(f"param_groups[{i}].{name}", cell) for name, cell in group.cells()]
        for cohort in self._cohorts:
            leaves = zip(cohort.leaves, cohort.cells, strict=True)
            place = f"state[{number.get(id(cohort.group))}]"
            cells += [(f"{place}.{owner or ''}.{field}", cell) for (field, owner), cell in leaves]
        return cells + [cell for entries in (*self._loose.values(), self._others) for cell in entries.cells()]

    def _jm_scan(self, scan: Scan, path: str) -> Any:
        if not local.frames and self._has_rule:
            trainable = {id(box) for box in self._boxes() if box.requires_grad and not is_lazy(box)}
            if not self._is_aligned(trainable):
                before = epoch.count
                self._arrange(trainable)
                epoch.count = before  # an arrangement made while scanning is part of the structure being read
        boxes = [
            [scan.stateful(box, name) for box, name in zip(group["params"], self._keys(i).values(), strict=True)]
            for i, group in enumerate(self.param_groups)
        ]
        cohorts = [(tuple(scan.ordinal[id(b)] for b in c.boxes), tuple(c.names), c.treedef) for c in self._cohorts]
        loose = [
            (scan.ordinal.get(id(key), key), entries.scan(scan, f"state[{i}]"))
            for i, (key, entries) in enumerate(self._loose.items())
        ]
        for name, cell in self._cells():
            scan.stateful(cell, name)
        left_out = _NOT_STRUCTURE | {"defaults"} if self._has_rule else _NOT_STRUCTURE
        return (
            Same(self.transformation) if self.transformation is not None else None,
            tuple(map(tuple, boxes)),
            tuple(cohorts),
            (*loose, self._others.scan(scan, "state")),
            tuple(group.static_key() for group in self.param_groups),
            tuple(tuple(name for name, _ in group.cells()) for group in self.param_groups),
            scan.attributes(self, f"{path}." if path else "", left_out),
            _hooks.scanned(self, scan, path),
        )

    @property
    def state(self) -> _state.State:
        """What the optimizer keeps for each parameter, by torch's names: to read, to set and to change in place."""
        return _state.State(self)

    @state.setter
    def state(self, state: Mapping[Any, Any]) -> None:
        values = dict(state)
        _state.clear(self)
        self.state.update(values)

    def _is_before_first_step(self, state: Mapping[str, Any], is_new: bool) -> bool:
        count = state.get(self.counter, 1)
        return self.transformation is None and (is_new or (not isinstance(count, Tracer) and int(count) == 0))

    def _export(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return one parameter's state in torch's form."""
        return {k: jnp.asarray(v, jnp.float32) if k == "step" else v for k, v in state.items()}

    def _import(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return one parameter's state as read from torch's form."""
        return state

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Register ``hook(optimizer, args, kwargs)`` to run before every step; it may return new ``(args, kwargs)``.

        In a compiled function hooks run when it is traced; adding or removing one has it traced again.
        """
        return add_hook(self.__dict__["_optimizer_step_pre_hooks"], hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Register ``hook(optimizer, args, kwargs)`` to run after every step."""
        return add_hook(self.__dict__["_optimizer_step_post_hooks"], hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Register ``hook(optimizer)`` to run before :meth:`state_dict`, before the other hooks if ``prepend``."""
        return add_hook(self.__dict__["_optimizer_state_dict_pre_hooks"], hook, prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Register ``hook(optimizer, state_dict)`` to run after :meth:`state_dict`; it may return another dict."""
        return add_hook(self.__dict__["_optimizer_state_dict_post_hooks"], hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Register ``hook(optimizer, state_dict)`` to run before :meth:`load_state_dict`; it may return another dict.

        The dict is a shallow copy of the one given.
        """
        return add_hook(self.__dict__["_optimizer_load_state_dict_pre_hooks"], hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Register ``hook(optimizer)`` to run after :meth:`load_state_dict`."""
        return add_hook(self.__dict__["_optimizer_load_state_dict_post_hooks"], hook, prepend)

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"state": ..., "param_groups": ...}`` in PyTorch's shape: parameters by number, arrays by name."""
        own = self.__dict__
        for hook in list(own["_optimizer_state_dict_pre_hooks"].values()):
            hook(self)
        state_dict = _load.pack(self)
        for hook in list(own["_optimizer_state_dict_post_hooks"].values()):
            result = hook(self, state_dict)
            state_dict = state_dict if result is None else result
        return state_dict

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict`, or the torch optimizer of the same class, returned; all of it or nothing.

        Raises:
            ValueError: if groups, parameters or the names of state do not fit.
            RuntimeError: if an array has the wrong shape.
        """
        own = self.__dict__
        given: Any = dict(state_dict)
        for hook in list(own["_optimizer_load_state_dict_pre_hooks"].values()):
            result = hook(self, given)
            given = given if result is None else result
        _load.unpack(self, given)
        for hook in list(own["_optimizer_load_state_dict_post_hooks"].values()):
            hook(self)

    @property
    def _overrides_setstate(self) -> bool:
        return type(self).__setstate__ is not Optimizer.__setstate__

    def __getstate__(self) -> dict[str, Any]:
        left_out = _MACHINERY | {"step", *(("transformation",) if self.transformation is None else ())}
        own = {name: value for name, value in self.__dict__.items() if name not in left_out}
        return {**own, "state": dict(_state.read_all(self)), "param_groups": list(self.param_groups)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        own = dict(state)
        if "_cohorts" not in self.__dict__:
            self._set_up()
            own.setdefault("transformation", None)
        values = own.pop("state", None)
        for name, value in own.items():
            setattr(self, name, value)
        self._patch_step_function()
        if not self._has_rule:
            self.defaults.setdefault("differentiable", False)
        if values is not None:
            self.state = values

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Return a ``step`` method with the hooks of steps around it."""
        return _hooks.with_hooks(func)

    def _patch_step_function(self) -> None:
        cls = type(self)
        if not getattr(cls.step, "hooked", False):
            cls.step = self.profile_hook_step(cls.step)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for i, group in enumerate(self.param_groups):
            lines = "".join(f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params")
            text += f"\nParameter Group {i}\n{lines}"
        return f"{text})"


def _listed(params: Any) -> tuple[list[Parameter], list[str] | None]:
    """Return parameters as a list, and their names if they came with any."""
    if isinstance(params, Module):
        params = params.named_parameters()
    if isinstance(params, Parameter):
        params = [params]
    if isinstance(params, set):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets"
            " will change between runs. Please use a list instead."
        )
    items = list(params)
    named = [isinstance(item, tuple) for item in items]
    if any(named) and not all(named):
        raise ValueError("all optimizer params should be with/without names. Some param names are missing")
    boxes = [item[1] if isinstance(item, tuple) else item for item in items]
    for box in boxes:
        if not isinstance(box, Parameter):
            raise TypeError(
                f"optimizer can only optimize Tensors, but one of the params is {type(box).__name__}"
                " (expected nn.Parameter, which keeps its array in a box)"
            )
    if len({id(box) for box in boxes}) < len(boxes):
        warnings.warn(
            "optimizer contains a parameter group with duplicate parameters (each takes one step; PyTorch takes one for"
            " every mention); in future, this will cause an error",
            stacklevel=4,
        )
        items = list({id(box): item for box, item in zip(boxes, items, strict=True)}.values())
        boxes = list({id(box): box for box in boxes}.values())
    return boxes, [item[0] for item in items] if all(named) and items else None


def _new_values(
    rule: Callable[..., Rule], static: dict[str, Any], arrays: dict[str, Any], grads: Any, state: Any, values: Any
) -> tuple[Any, Any]:
    if static.get("maximize"):
        grads = jax.tree.map(jnp.negative, grads)
    updates, state = rule(**static, **arrays).update(grads, state, values)
    return optax.apply_updates(values, updates), state


class _Key:
    """The static settings of a group as the key of a cache."""

    def __init__(self, group: ParamGroup) -> None:
        self.settings = group.static()
        self._frozen = group.static_key()

    def __hash__(self) -> int:
        return hash(self._frozen)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._frozen == other._frozen


@functools.lru_cache(maxsize=256)
def _compiled(rule: Callable[..., Any] | weakref.WeakMethod[Any], static: _Key) -> Callable[..., Any]:
    """Return the update for eager steps: one compiled program for each kind of group."""

    def update(*args: Any) -> tuple[Any, Any]:
        found: Any = rule() if isinstance(rule, weakref.WeakMethod) else rule
        return _new_values(found, static.settings, *args)

    return jax.jit(update)
