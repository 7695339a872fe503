"""The base of all optimizers: PyTorch's surface over optax's arithmetic.

An optimizer is state like a module: ``jm.jit`` threads its arrays through and writes them back. Parameters that have
taken the same steps form a *cohort* and share one optax state (one step count, one pytree of moments). A parameter
that sits a step out, frozen or without a gradient, leaves its cohort with a copy of the count, so that every
parameter's history is PyTorch's although the count is kept once.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodules._keys import Same, Stateful
from jaxmodules._tracing import Cell, StructureMoves, epoch, is_tracing, local
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, copy_array, to_array
from jaxmodules.optim._groups import ParamGroup
from jaxmodules.optim._match import match
from jaxmodules.state import Scan

Rule = optax.GradientTransformation


class _Cohort:
    """Parameters with one optax state: a pytree over a dict of arrays, its leaves in cells."""

    def __init__(self, boxes: Sequence[Parameter], names: Sequence[str], state: Any) -> None:
        self.boxes = list(boxes)
        self.names = list(names)
        leaves, self.treedef = jax.tree_util.tree_flatten(state)
        self.cells = [Cell(leaf) for leaf in leaves]

    def state(self) -> Any:
        """Return the optax state."""
        return jax.tree_util.tree_unflatten(self.treedef, [cell.value for cell in self.cells])

    def leaves(self) -> list[tuple[str, str | None, Cell]]:
        """Return every leaf as (field, name of the parameter it belongs to or ``None``, cell)."""
        leaves = []
        for (path, _), cell in zip(jax.tree_util.tree_flatten_with_path(self.state())[0], self.cells, strict=True):
            owners = [k.key for k in path if isinstance(k, jax.tree_util.DictKey) and k.key in self.names]
            fields = [k.name for k in path if isinstance(k, jax.tree_util.GetAttrKey)]
            numbers = [str(k.idx) for k in path if isinstance(k, jax.tree_util.SequenceKey)]
            leaves.append((fields[-1] if fields else ".".join(numbers), owners[0] if owners else None, cell))
        return leaves

    def part(self, boxes: Sequence[Parameter]) -> "_Cohort":
        """Return a cohort of some of the parameters, in the state they are in."""
        chosen = {id(box) for box in boxes}
        names = {name for box, name in zip(self.boxes, self.names, strict=True) if id(box) in chosen}
        state = self.state()

        def pick(node: Any) -> Any:
            return {k: v for k, v in node.items() if k in names} if self._is_tree(node) else copy_array(node)

        state = jax.tree.map(pick, state, is_leaf=self._is_tree)
        kept = [(b, n) for b, n in zip(self.boxes, self.names, strict=True) if id(b) in chosen]
        return _Cohort([b for b, _ in kept], [n for _, n in kept], state)

    def _is_tree(self, node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == set(self.names)


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

    switches: ClassVar[frozenset[str]] = frozenset()
    fields: ClassVar[dict[str, str]] = {}  # optax's names of state, and torch's

    def __init__(self, params: Any, defaults: Any) -> None:
        self.transformation = None if isinstance(defaults, Mapping) else defaults
        if self.transformation is not None and not hasattr(defaults, "update"):
            raise TypeError(f"expected an optax transformation or a dict of settings, got {defaults!r}")
        self.defaults: dict[str, Any] = dict(defaults) if isinstance(defaults, Mapping) else {}
        self.param_groups: list[ParamGroup] = []
        self._cohorts: list[list[_Cohort]] = []
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
        """Return the optax transformation for a group's settings; subclasses override this."""
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
        if self.param_groups and ("param_names" in self.param_groups[0]) != (names is not None):
            raise ValueError(
                "all optimizer param groups should be with/without names: the new group is"
                f" {'without' if names is None else 'with'} names"
            )
        present = {id(p) for group in self.param_groups for p in group["params"]}
        if any(id(p) in present for p in params):
            raise ValueError("some parameters appear in more than one parameter group")
        ordered: dict[str, Any] = {"params": params, **({} if names is None else {"param_names": names})}
        group = ParamGroup({**ordered, **settings, **{k: v for k, v in self.defaults.items() if k not in settings}},
                           self.switches)  # fmt: skip
        self.rule(**group.settings())  # refuses settings it does not know
        self.param_groups.append(group)
        self._cohorts.append([])
        epoch.count += 1

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
        loss = None
        if callable(grads):
            result = grads()
            loss, grads = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        boxes = [box for group in self.param_groups for box in group["params"]]
        if grads is None:
            found = {id(box): box.grad for box in boxes if box.grad is not None}
        else:
            found = match(grads, boxes, self._names())
        self._align(found.keys())
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            for cohort in cohorts:
                if id(cohort.boxes[0]) in found:
                    self._update(group, cohort, [found[id(box)] for box in cohort.boxes])
        return loss

    def _update(self, group: ParamGroup, cohort: _Cohort, grads: list[Any]) -> None:
        values = {name: box.value for name, box in zip(cohort.names, cohort.boxes, strict=True)}
        updates = dict(zip(cohort.names, grads, strict=True))
        settings = group.settings()
        static = {k: v for k, v in settings.items() if not _is_traced_setting(v)}
        arrays = {k: v for k, v in settings.items() if k not in static}
        if is_tracing():
            values, state = _new_values(self.rule, static, arrays, updates, cohort.state(), values)
        else:
            owner = self.transformation if self.transformation is not None else type(self)
            key = (owner, tuple(sorted(static.items(), key=lambda item: item[0])))
            values, state = _compiled(self.rule if self.transformation is None else None, *key)(
                arrays, updates, cohort.state(), values
            )
        for box, name in zip(cohort.boxes, cohort.names, strict=True):
            box.value = values[name]
        for cell, leaf in zip(cohort.cells, jax.tree.leaves(state), strict=True):
            cell.value = leaf

    def _align(self, active: Iterable[int]) -> None:
        """Make every cohort step as a whole: split those of which only some parameters have gradients."""
        active = set(active)
        mixed = any(
            0 < sum(id(box) in active for box in cohort.boxes) < len(cohort.boxes)
            for cohorts in self._cohorts
            for cohort in cohorts
        )
        without = {id(box) for group in self.param_groups for box in group["params"]} & active
        without -= {id(box) for cohorts in self._cohorts for cohort in cohorts for box in cohort.boxes}
        if not mixed and not without:
            return
        if any(id(cell) in frame.owned for frame in local.frames for _, cell in self._cells()):
            raise StructureMoves(functools.partial(self._partition, active))
        self._partition(active)

    def _partition(self, active: set[int]) -> None:
        for number, group in enumerate(self.param_groups):
            cohorts = self._cohorts[number]
            names = dict(zip(map(id, group["params"]), self._group_names(number), strict=True))
            parts: list[_Cohort] = []
            for cohort in cohorts:
                ins = [box for box in cohort.boxes if id(box) in active]
                outs = [box for box in cohort.boxes if id(box) not in active]
                parts += [cohort] if not ins or not outs else [cohort.part(ins), cohort.part(outs)]
            has_state = {id(box) for cohort in cohorts for box in cohort.boxes}
            new = [box for box in group["params"] if id(box) in active and id(box) not in has_state]
            if new:
                values = {names[id(box)]: jax.ShapeDtypeStruct(box.shape, box.dtype) for box in new}
                parts.append(_Cohort(new, list(values), self._zeros(group, values)))
            self._cohorts[number] = parts
        epoch.count += 1

    def _zeros(self, group: ParamGroup, values: dict[str, Any]) -> Any:
        """Return the optax state before the first step."""
        settings = {k: v if not _is_traced_setting(v) else _numbers(group[k]) for k, v in group.settings().items()}
        init = self.rule(**settings).init
        if self.transformation is not None:
            return init({name: box.value for name, box in self._named(values)})
        return jax.tree.map(lambda leaf: jnp.array(np.zeros(leaf.shape, leaf.dtype)), jax.eval_shape(init, values))

    def _named(self, names: Iterable[str]) -> list[tuple[str, Parameter]]:
        all_names = [n for i in range(len(self.param_groups)) for n in self._group_names(i)]
        boxes = [box for group in self.param_groups for box in group["params"]]
        named = dict(zip(all_names, boxes, strict=True))
        return [(name, named[name]) for name in names]

    def _group_names(self, number: int) -> list[str]:
        group = self.param_groups[number]
        first = sum(len(g["params"]) for g in self.param_groups[:number])
        return group.get("param_names") or [str(first + i) for i in range(len(group["params"]))]

    def _names(self) -> dict[str, Parameter] | None:
        if "param_names" not in self.param_groups[0]:
            return None
        return {n: p for g in self.param_groups for n, p in zip(g["param_names"], g["params"], strict=True)}

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
                cells += [(f"state[{number}].{owner or ''}.{field}", c) for field, owner, c in cohort.leaves()]
        return cells

    def _scan(self, scan: Scan, path: str) -> Any:
        if not local.frames:
            trainable = {id(box) for group in self.param_groups for box in group["params"] if box.requires_grad}
            before = epoch.count
            self._partition(trainable)
            epoch.count = before  # a partition made while scanning is part of the structure being read
        boxes = [
            [scan.stateful(box, name) for box, name in zip(group["params"], self._group_names(i), strict=True)]
            for i, group in enumerate(self.param_groups)
        ]
        cohorts = [[tuple(scan.ordinal[id(b)] for b in c.boxes) for c in cohorts] for cohorts in self._cohorts]
        for name, cell in self._cells():
            scan.stateful(cell, name)
        trees = [cohort.treedef for cohorts in self._cohorts for cohort in cohorts]
        return (
            Same(self.transformation) if self.transformation is not None else None,
            tuple(map(tuple, boxes)),
            tuple(map(tuple, cohorts)),
            tuple(group.static() for group in self.param_groups),
            tuple(tuple(name for name, _ in group.cells()) for group in self.param_groups),
            tuple(trees),
        )

    @property
    def state(self) -> dict[Parameter, dict[str, Any]]:
        """The state of every parameter that has any, under torch's names."""
        state: dict[Parameter, dict[str, Any]] = {}
        for cohorts in self._cohorts:
            for cohort in cohorts:
                shared = {}
                own: dict[str, dict[str, Any]] = {name: {} for name in cohort.names}
                for field, owner, cell in cohort.leaves():
                    (shared if owner is None else own[owner])[self.fields.get(field, field)] = cell.value
                for box, name in zip(cohort.boxes, cohort.names, strict=True):
                    state[box] = self._export({**shared, **own[name]})
        return state

    def _export(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return one parameter's state in torch's form."""
        return {k: jnp.asarray(v, jnp.float32) if k == "step" else v for k, v in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"state": ..., "param_groups": ...}`` in PyTorch's shape: parameters by number, arrays by name."""
        boxes = [box for group in self.param_groups for box in group["params"]]
        number = {id(box): i for i, box in enumerate(boxes)}
        state = {number[id(box)]: own for box, own in self.state.items() if own}
        groups = [
            {**{k: v for k, v in group.items() if k != "params"}, "params": [number[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]
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
        fresh = [
            ParamGroup({"params": own["params"], **{k: v for k, v in new.items() if k != "params"}}, self.switches)
            for new, own in zip(groups, self.param_groups, strict=True)
        ]
        cohorts = []
        for i, (new, group) in enumerate(zip(groups, fresh, strict=True)):
            cohorts.append(self._loaded(group, self._group_names(i), [state.get(n) for n in new["params"]]))
        for own, group in zip(self.param_groups, fresh, strict=True):
            own.update({k: v for k, v in group.items() if k != "params"})
        self._cohorts = cohorts
        epoch.count += 1

    def _loaded(self, group: ParamGroup, names: list[str], states: list[Any]) -> list[_Cohort]:
        """Return the cohorts of a group: one for each history among the loaded states."""
        histories: dict[Any, list[int]] = {}
        for i, own in enumerate(states):
            if own:
                scalars = {k: v for k, v in own.items() if np.ndim(_concrete(v)) == 0 and v is not None}
                shared = tuple(sorted((k, float(_concrete(v))) for k, v in scalars.items() if k == "step"))
                histories.setdefault(shared, []).append(i)
        cohorts = []
        for members in histories.values():
            boxes = [group["params"][i] for i in members]
            own_names = [names[i] for i in members]
            values = {n: jax.ShapeDtypeStruct(b.shape, b.dtype) for n, b in zip(own_names, boxes, strict=True)}
            cohort = _Cohort(boxes, own_names, self._zeros(group, values))
            of = {name: self._import(states[i]) for name, i in zip(own_names, members, strict=True)}
            for field, owner, cell in cohort.leaves():
                key = self.fields.get(field, field)
                source = of[owner if owner is not None else own_names[0]]
                cell.value = _fitted(source.get(key), cell.value, f"{key} of parameter {owner or own_names[0]}")
            cohorts.append(cohort)
        return cohorts

    def _import(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return one parameter's state as read from torch's form."""
        return state

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key not in ("params", "param_names")]
        return "\n".join([*lines, ")"])


def _is_traced_setting(value: Any) -> bool:
    return isinstance(value, jax.Array) or (isinstance(value, tuple) and any(map(_is_traced_setting, value)))


def _numbers(value: Any) -> Any:
    return value


def _concrete(value: Any) -> Any:
    return np.asarray(to_array(value)) if value is not None else None


def _fitted(value: Any, like: Any, what: str) -> Any:
    """Return a loaded array in the dtype of the state it replaces; zeros where torch has none yet."""
    if value is None:
        return like
    array = to_array(value)
    if array.shape != like.shape:
        raise RuntimeError(f"{what} has shape {array.shape} in the loaded state dict, expected {like.shape}")
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
            raise TypeError(f"optimizer can only optimize Parameters, but one of the params is {type(box).__name__}")
    if len({id(box) for box in boxes}) < len(boxes):
        raise ValueError("some parameters appear more than once in the parameter list of a group")
    return boxes, [item[0] for item in items] if all(named) and items else None


def _new_values(
    rule: Callable[..., Rule], static: dict[str, Any], arrays: dict[str, Any], grads: Any, state: Any, values: Any
) -> tuple[Any, Any]:
    if static.get("maximize"):
        grads = jax.tree.map(jnp.negative, grads)
    updates, state = rule(**static, **arrays).update(grads, state, values)
    return optax.apply_updates(values, updates), state


@functools.lru_cache(maxsize=256)
def _compiled(rule: Any, owner: Any, static: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """Return the update for eager steps: one compiled program for each kind of group."""
    chosen = rule if rule is not None else lambda **_: owner
    return jax.jit(lambda arrays, grads, state, values: _new_values(chosen, dict(static), arrays, grads, state, values))
