"""L-BFGS."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodules._tracing import Tracer, epoch, is_tracing
from jaxmodules.nn._writable import to_array
from jaxmodules.nn.parameter import Parameter, is_lazy
from jaxmodules.optim._checks import check_lr
from jaxmodules.optim._cohort import Cohort
from jaxmodules.optim._groups import ParamGroup
from jaxmodules.optim._match import match
from jaxmodules.optim._quasi_newton import Layout, Memory, advance, begin, empty
from jaxmodules.optim.optimizer import Optimizer
from jaxmodules.transforms.loops import while_loop

_VECTORS = ("old_dirs", "old_stps", "ro")  # one entry for each pair


class LBFGS(Optimizer):
    r"""Minimise along directions from the last gradients (Liu & Nocedal, 1989); the counterpart of torch's ``LBFGS``.

    .. math:: p \leftarrow p - t H g

    where :math:`H` approximates the inverse Hessian by the last ``history_size`` steps and changes of the gradient,
    and :math:`t` is the learning rate, or is found by a line search. A step is up to ``max_iter`` such iterations. It
    evaluates the function many times, so that :meth:`step` takes a closure; in a compiled function the iterations
    are a loop of the program, and so is the search.

    The pairs take up ``2 * history_size`` times the memory of the parameters, from the first step on.

    Args:
        params: a module, parameters, named parameters, or one group.
        lr: the learning rate: the first step that is tried along a direction.
        max_iter: the largest number of iterations in a step.
        max_eval: the number of evaluations after which no iteration begins, by default ``max_iter * 1.25``.
        tolerance_grad: the largest entry of the gradient at which a step ends.
        tolerance_change: the change of the loss, or of the parameters, at which a step ends.
        history_size: how many pairs :math:`H` is made of.
        line_search_fn: ``"strong_wolfe"``, or ``None`` to take steps of ``lr``.

    Raises:
        ValueError: if the learning rate is negative, or there is more than one group.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> net = jm.nn.Linear(2, 1)
        >>> optimizer = jm.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe")
        >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), jnp.array([[1.0], [2.0], [3.0]])
        >>> loss = optimizer.step(lambda: jm.value_and_grad(lambda net: ((net(x) - y) ** 2).sum())(net))
        >>> bool(jnp.allclose(net(x), y, atol=1e-3))
        True
    """

    fixed = frozenset({"history_size"})
    counter = "func_evals"

    def __init__(
        self,
        params: Any,
        lr: Any = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_lr(lr)
        settings = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, settings)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    @staticmethod
    def rule(*, history_size: int, **_: Any) -> optax.GradientTransformation:
        """Return the state as an optax transformation, which can't update: that takes a function to evaluate."""

        def init(params: Any) -> Memory:
            layout = _layout(params.values())
            return empty(layout.size, layout.dtype, history_size)

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            raise NotImplementedError("LBFGS has to evaluate the loss again: call step(closure)")

        return optax.GradientTransformation(init, update)

    def step(self, closure: Callable[[], Any]) -> Any:
        """Minimise for up to ``max_iter`` iterations.

        Args:
            closure: computes the loss and returns ``(loss, grads)``, as ``jm.value_and_grad`` does, or fills ``.grad``,
                as ``jm.backward`` does, and returns the loss.

        Returns:
            The loss at the parameters before the step.

        Raises:
            AssertionError: if groups were added.
            TypeError: if there is no closure, or it returns no loss.
            RuntimeError: if ``line_search_fn`` is unknown, or a gradient has the wrong shape.
        """
        if len(self.param_groups) != 1:
            raise AssertionError(f"Expected exactly one param_group, but got {len(self.param_groups)}")
        if not callable(closure):
            raise TypeError(
                "LBFGS.step() expects a closure that computes the loss again and returns (loss, grads), or fills .grad"
                f" and returns the loss; got {type(closure).__name__}"
            )
        group = self.param_groups[0]
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise RuntimeError(f"only 'strong_wolfe' is supported, got line_search_fn={group['line_search_fn']!r}")
        boxes: list[Parameter] = group["params"]
        result, loss, gradients = self._evaluated(closure)
        self._align(map(id, boxes))
        layout, settings = _layout(boxes), {k: v for k, v in group.arrays().items() if k in _NUMBERS}
        before, searches = [box.value for box in boxes], group["line_search_fn"] is not None
        state = begin(layout, searches, self._cohorts[0].state(), settings, before, loss, gradients)

        def body(state: Any) -> Any:
            memory, machine, values = state
            _place(boxes, values)
            _, loss, gradients = self._evaluated(closure)
            return advance(layout, memory, machine, settings, loss, gradients)

        if is_tracing():
            state = while_loop(_is_running, body, state)
        else:
            try:
                while _is_running(state):
                    state = body(state)
            except BaseException:
                _place(boxes, before)
                raise
        memory, _, values = state
        _place(boxes, values)
        for cell, leaf in zip(self._cohorts[0].cells, memory, strict=True):
            cell.value = leaf
        return result

    def _evaluated(self, closure: Callable[[], Any]) -> tuple[Any, jax.Array, list[Any]]:
        """Return the loss as the closure has it, as a scalar, and the gradients."""
        result, boxes = closure(), self._boxes()
        if isinstance(result, tuple) and len(result) == 2:
            result, grads = result
            found = match(grads, boxes, self._names())
            gradients = [found.get(id(box)) for box in boxes]
        else:
            gradients = [box.grad for box in boxes]
        if result is None:
            raise TypeError("the closure given to LBFGS.step() must return the loss, got None")
        return result, jnp.asarray(result).reshape(()), gradients

    def _is_aligned(self, active: set[int]) -> bool:
        group = self.param_groups[0]
        if any(map(is_lazy, group["params"])):
            return True
        cohort = self._cohorts[0] if self._cohorts else None
        if cohort is None or cohort.left or cohort.static != group.static_key():
            return False
        if cohort.boxes[0] is not group["params"][0]:
            return False
        layout, d = _layout(group["params"]), cohort.cells[Memory._fields.index("d")]._value
        return d.shape == (layout.size,) and d.dtype == layout.dtype

    def _arrange(self, active: set[int]) -> None:
        group = self.param_groups[0]
        fresh = self._fresh(group, self._keys(0), ())
        for old in self._cohorts:
            if not old.left and (saved := _saved(old.state())):
                _fill(fresh, saved)
        for entries in self._loose.values():
            _fill(fresh, entries.values())
        self._cohorts, self._loose = [fresh], {}
        epoch.count += 1

    def _fresh(self, group: ParamGroup, names: Mapping[int, str], ids: Iterable[int]) -> Cohort:
        """Return the one cohort there is: a parameter without a gradient has zeros. The first has the state of all."""
        whole = super()._fresh(group, names, names)
        return Cohort(group, group["params"][:1], whole.names[:1], whole.state(), whole.static)

    def _loaded(self, group: ParamGroup, names: Mapping[int, str], states: Sequence[Any]) -> list[Cohort]:
        cohort = self._fresh(group, names, ())
        if states[0]:
            _fill(cohort, states[0])
        return [cohort]

    def _export(self, state: dict[str, Any]) -> dict[str, Any]:
        return _saved(Memory(**state))


_NUMBERS = ("lr", "max_iter", "max_eval", "tolerance_grad", "tolerance_change")


def _layout(arrays: Iterable[Any]) -> Layout:
    listed = list(arrays)
    return Layout(tuple(tuple(a.shape) for a in listed), tuple(np.dtype(a.dtype) for a in listed))


def _place(boxes: Sequence[Parameter], values: Sequence[Any]) -> None:
    for box, value in zip(boxes, values, strict=True):
        box.value = value


def _is_running(state: Any) -> Any:
    return state[1].is_running


def _saved(memory: Memory) -> dict[str, Any]:
    """Return the memory as torch's state: lists of the pairs there are. Under a trace the arrays as they lie."""
    if isinstance(memory.n_iter, Tracer):
        return memory._asdict()
    counts = {"func_evals": int(memory.func_evals), "n_iter": int(memory.n_iter)}
    if counts["n_iter"] == 0:
        return counts if counts["func_evals"] else {}
    size, stored = len(memory.ro), int(memory.stored)
    count = min(size, stored)
    rows = [(stored - count + i) % size for i in range(count)]
    lists = {name: [getattr(memory, name)[row] for row in rows] for name in _VECTORS}
    weights = {"al": [*memory.al[:count], *[None] * (size - count)]} if counts["n_iter"] > 1 else {}
    numbers = {"t": float(memory.t), "prev_loss": float(memory.prev_loss)}
    arrays = {"d": memory.d, "H_diag": memory.H_diag, "prev_flat_grad": memory.prev_flat_grad}
    return {**counts, **weights, **arrays, **lists, **numbers}


def _fill(cohort: Cohort, saved: Mapping[str, Any]) -> None:
    """Write torch's state into a fresh cohort; of more pairs than it has room for the newest."""
    given = {name: value for name, value in saved.items() if value is not None}
    if "func_evals" not in given:
        raise ValueError(
            f"loaded state dict has no 'func_evals', only {', '.join(map(repr, given))}: is it that of another"
            " optimizer?"
        )
    count = min(len(given.get("ro", ())), len(cohort.state().ro))
    given["stored"] = count
    for name, cell in zip(Memory._fields, cohort.cells, strict=True):
        if name not in given:
            continue
        new = np.array(cell.value)
        if name in _VECTORS:
            for row, value in enumerate(given[name][len(given[name]) - count :]):
                new[row] = _fitted(value, new[row].shape, name)
        elif name == "al":
            for row, value in enumerate(given[name][: len(new)]):
                new[row] = 0 if value is None else _fitted(value, (), name)
        else:
            new = _fitted(given[name], new.shape, name).astype(new.dtype)
        cell.value = jnp.asarray(new)


def _fitted(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(to_array(value))
    if array.shape != shape:
        raise RuntimeError(f"{name} has shape {array.shape} in the loaded state dict, expected {shape}")
    return array
