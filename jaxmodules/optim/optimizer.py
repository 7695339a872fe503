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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodules._keys import Same, Stateful
from jaxmodules._tracing import Cell, StructureMoves, Tracer, epoch, is_tracing, local
from jaxmodules.nn._writable import copy_array, to_array
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, is_lazy
from jaxmodules.optim._cohort import Cohort
from jaxmodules.optim._groups import ParamGroup
from jaxmodules.optim._match import match
from jaxmodules.state import Scan

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
    counter: ClassVar[str] = "step"  # the state that counts steps: before the first there is none to show

    def __init__(self, params: Any, defaults: Any) -> None:
        self.transformation = None if isinstance(defaults, Mapping) else defaults
        if self.transformation is not None and not hasattr(defaults, "update"):
            raise TypeError(f"expected an optax transformation or a dict of settings, got {defaults!r}")
        self.defaults: dict[str, Any] = dict(defaults) if isinstance(defaults, Mapping) else {}
        self.param_groups: list[ParamGroup] = []
        self._opt_called = False
        self._step_when_scheduled: Any = None  # what is in place of the class's own when a scheduler is made
        self._cohorts: list[list[Cohort]] = []
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
            ValueError: if a parameter is in another group already, or only some have names.
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
        group = self._group({**ordered, **settings, **{k: v for k, v in self.defaults.items() if k not in settings}})
        self.rule(**group.static(), **group.arrays())  # refuses settings it does not know
        self.param_groups.append(group)
        self._cohorts.append([])
        epoch.count += 1

    def _group(self, settings: dict[str, Any]) -> ParamGroup:
        return ParamGroup(settings, self.switches, self.complements, self.fixed)

    def step(self, grads: Any = None) -> Any:
        """Update the parameters once.

        Args:
            grads: what ``jm.value_and_grad`` returned; ``None`` to use the parameters' ``.grad``; or a closure that
                computes the loss again and returns ``(loss, grads)``, or fills ``.grad`` and returns the loss.

        Returns:
            The closure's loss, or ``None``.

        Raises:
            ValueError: if a gradient matches no parameter; nothing is changed then.
            RuntimeError: if a gradient has the wrong shape; nothing is changed then.
        """
        self._opt_called = True  # what schedulers look for
        loss = None
        if callable(grads):
            result = grads()
            loss, grads = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        boxes = self._boxes()
        if grads is None:
            found = {id(box): box.grad for box in boxes if box.grad is not None}
        else:
            found = match(grads, boxes, self._names())
        self._align(found.keys())
        updates = [
            (cohort, *self._updated(group, cohort, found))
            for group, cohorts in zip(self.param_groups, self._cohorts, strict=True)
            for cohort in cohorts
            if not found.keys().isdisjoint(cohort.ids)
        ]
        for group in self.param_groups:
            for schedule in group.schedules().values():
                schedule.advance()
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
        active = set(active)
        if self._is_aligned(active):
            return
        if any(id(cell) in frame.owned for frame in local.frames for _, cell in self._cells()):
            raise StructureMoves(functools.partial(self._arrange, active))
        self._arrange(active)

    def _is_aligned(self, active: set[int]) -> bool:
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            static = group.static_key()
            if any(cohort.static != static or self._is_mixed(cohort, active) for cohort in cohorts):
                return False
            covered = {number for cohort in cohorts for number in cohort.ids}
            if any(id(box) in active and id(box) not in covered for box in group["params"]):
                return False
        return True

    def _is_mixed(self, cohort: Cohort, active: set[int]) -> bool:
        return self.transformation is None and len(active & cohort.ids) not in (0, len(cohort.boxes))

    def _arrange(self, active: set[int]) -> None:
        """Make cohorts that step as a whole, for the present settings.

        The state of a given optax transformation is never divided: it may couple its parameters (a global norm) or
        count the steps of all of them (a schedule). There a parameter without gradient is one whose gradient is zero,
        except that neither it nor its own state moves.
        """
        for number, group in enumerate(self.param_groups):
            static, names = group.static_key(), self._keys(number)
            parts: list[Cohort] = []
            for cohort in self._cohorts[number]:
                parts += cohort.part(active) if self._is_mixed(cohort, active) else [cohort]
            covered = {i for cohort in parts for i in cohort.ids}
            new = {id(box) for box in group["params"] if id(box) in active} - covered
            if new and self.transformation is not None and parts:
                parts = [self._fresh(group, names, covered | new).take(parts[0].arrays())]
            elif new:
                parts.append(self._fresh(group, names, new))
            self._cohorts[number] = [
                cohort if cohort.static == static else self._fresh(group, names, cohort.ids).take(cohort.arrays())
                for cohort in parts
            ]
        epoch.count += 1

    def _fresh(self, group: ParamGroup, names: Mapping[int, str], ids: set[int]) -> Cohort:
        """Return a cohort in the state before the first step."""
        boxes = [box for box in group["params"] if id(box) in ids]
        own = [names[id(box)] for box in boxes]
        if self.transformation is not None:
            state = self.transformation.init({n: copy_array(b.value) for n, b in zip(own, boxes, strict=True)})
        else:
            values = {n: jax.ShapeDtypeStruct(b.shape, b.dtype) for n, b in zip(own, boxes, strict=True)}
            static = group.static()
            shapes = jax.eval_shape(lambda arrays, v: self.rule(**static, **arrays).init(v), group.arrays(), values)
            with jax.ensure_compile_time_eval():
                state = jax.tree.map(lambda leaf: jnp.array(np.zeros(leaf.shape, leaf.dtype)), shapes)
        return Cohort(boxes, own, state, group.static_key())

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
        cells: list[tuple[str, Cell]] = []
        for number, (group, cohorts) in enumerate(zip(self.param_groups, self._cohorts, strict=True)):
            cells += [(f"param_groups[{number}].{name}", cell) for name, cell in group.cells()]
            for cohort in cohorts:
                leaves = zip(cohort.leaves, cohort.cells, strict=True)
                cells += [(f"state[{number}].{owner or ''}.{field}", cell) for (field, owner), cell in leaves]
        return cells

    def _jm_scan(self, scan: Scan, path: str) -> Any:
        if not local.frames:
            trainable = {id(box) for box in self._boxes() if box.requires_grad and not is_lazy(box)}
            if not self._is_aligned(trainable):
                before = epoch.count
                self._arrange(trainable)
                epoch.count = before  # an arrangement made while scanning is part of the structure being read
        boxes = [
            [scan.stateful(box, name) for box, name in zip(group["params"], self._keys(i).values(), strict=True)]
            for i, group in enumerate(self.param_groups)
        ]
        cohorts = [
            [(tuple(scan.ordinal[id(b)] for b in c.boxes), tuple(c.names), c.treedef) for c in cohorts]
            for cohorts in self._cohorts
        ]
        for name, cell in self._cells():
            scan.stateful(cell, name)
        return (
            Same(self.transformation) if self.transformation is not None else None,
            tuple(map(tuple, boxes)),
            tuple(map(tuple, cohorts)),
            tuple(group.static_key() for group in self.param_groups),
            tuple(tuple(name for name, _ in group.cells()) for group in self.param_groups),
        )

    @property
    def state(self) -> dict[Parameter, dict[str, Any]]:
        """The state of every parameter that has any, under torch's names; a copy, which is not written to."""
        state: dict[Parameter, dict[str, Any]] = {}
        for cohort in (cohort for cohorts in self._cohorts for cohort in cohorts):
            for box, own in zip(cohort.boxes, cohort.of_each(), strict=True):
                if own and not self._is_before_first_step(own):
                    state[box] = self._export(own)
        return state

    def _is_before_first_step(self, state: Mapping[str, Any]) -> bool:
        count = state.get(self.counter, 1)
        return self.transformation is None and not isinstance(count, Tracer) and int(count) == 0

    def _export(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return one parameter's state in torch's form."""
        return {k: jnp.asarray(v, jnp.float32) if k == "step" else v for k, v in state.items()}

    def _import(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return one parameter's state as read from torch's form."""
        return state

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"state": ..., "param_groups": ...}`` in PyTorch's shape: parameters by number, arrays by name."""
        number = {id(box): i for i, box in enumerate(self._boxes())}
        state = {number[id(box)]: own for box, own in self.state.items()}
        groups = [{**group.saved(), "params": [number[id(p)] for p in group["params"]]} for group in self.param_groups]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict`, or the torch optimizer of the same class, returned; all of it or nothing.

        Raises:
            ValueError: if groups, parameters or the names of state do not fit.
            RuntimeError: if an array has the wrong shape.
        """
        groups, state = state_dict["param_groups"], state_dict["state"]
        if len(groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(new["params"]) != len(own["params"]) for new, own in zip(groups, self.param_groups, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        cohorts = []
        for i, (new, own) in enumerate(zip(groups, self.param_groups, strict=True)):
            group = self._group({**own.copy(), **own.loaded(new), "params": own["params"]})
            cohorts.append(self._loaded(group, self._keys(i), [state.get(n) for n in new["params"]]))
        for new, own in zip(groups, self.param_groups, strict=True):
            own.update(own.loaded(new))
        self._cohorts = cohorts
        epoch.count += 1

    def _loaded(self, group: ParamGroup, names: Mapping[int, str], states: Sequence[Any]) -> list[Cohort]:
        """Return the cohorts of a group: one for each history among the loaded states."""
        owns = [{k: v for k, v in (state or {}).items() if v is not None} for state in states]
        given = {id(box): self._import(own) for box, own in zip(group["params"], owns, strict=True) if own}
        shared = [field for field, owner in self._fresh(group, names, set(list(given)[:1])).leaves if owner is None]
        histories: dict[Any, dict[int, dict[str, Any]]] = {}
        for number, own in given.items():
            history = tuple(float(to_array(own[field])) for field in shared if field in own)
            histories.setdefault(history, {})[number] = own
        cohorts = []
        for members in histories.values():
            cohort = self._fresh(group, names, set(members))
            sources = {names[i]: own for i, own in members.items()}
            arrays = {}
            for (field, owner), cell in zip(cohort.leaves, cohort.cells, strict=True):
                name = owner or cohort.names[0]
                arrays[field, owner] = _fitted(sources[name], field, name, cell.value)
            used = {field for field, _ in arrays}
            for name, own in sources.items():
                arrays |= {(k, name): copy_array(to_array(v)) for k, v in own.items() if k not in used}
            cohorts.append(cohort.take(arrays))
        return cohorts

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for i, group in enumerate(self.param_groups):
            lines = "".join(f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params")
            text += f"\nParameter Group {i}\n{lines}"
        return f"{text})"


def _fitted(source: Mapping[str, Any], field: str, name: str, like: Any) -> Any:
    """Return a loaded array in the dtype of the state it replaces."""
    if field not in source:
        raise ValueError(
            f"loaded state dict has no {field!r} for parameter {name}, only {', '.join(map(repr, source))}:"
            " is it that of another optimizer?"
        )
    array = to_array(source[field])
    if array.shape != like.shape:
        raise RuntimeError(
            f"{field} of parameter {name} has shape {array.shape} in the loaded state dict, expected {like.shape}"
        )
    return copy_array(array.astype(like.dtype) if array.dtype != like.dtype else array)


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
