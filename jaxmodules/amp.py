"""Mixed precision: :class:`autocast`, and :class:`GradScaler`, which keeps float16 gradients from underflowing."""

import enum
import functools
import warnings
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._autocast import autocast as autocast
from jaxmodules._autocast import is_autocast_available as is_autocast_available
from jaxmodules._keys import Same, Stateful
from jaxmodules._shapes import as_array
from jaxmodules._tracing import StructureMoves, Tracer, epoch, local
from jaxmodules._typing import Array
from jaxmodules.nn._writable import is_differentiable, unbox
from jaxmodules.nn.parameter import Parameter
from jaxmodules.nn.utils._gradients import leaves, refilled
from jaxmodules.optim._match import match
from jaxmodules.optim._number import Count, Number
from jaxmodules.optim.optimizer import Optimizer
from jaxmodules.state import Scan, structure_of

_LOCAL = (
    "an optimizer that is made in a compiled function has no state that a step left out could go back to: make it"
    " outside, and hand it to the function"
)


class _Stage(enum.IntEnum):
    READY = 0
    UNSCALED = 1
    STEPPED = 2


class _Float(Number):
    """A number of the training's own, in float32 as PyTorch keeps it."""

    __slots__ = ()

    def _array(self, python: Any) -> Any:
        return jnp.asarray(python, jnp.float32)

    def _traced(self, value: Any) -> Any:
        return value.astype(jnp.float32)

    def _number(self, array: Any) -> Any:
        return float(np.asarray(array))


class _Progress:
    """How far an optimizer is in the present iteration, and whether its gradients were not finite."""

    def __init__(self) -> None:
        self.stage = Count(_Stage.READY)
        self.found = _Float(0.0)

    @property
    def is_ready(self) -> bool:
        """Whether the optimizer is known not to have begun: at the start of a compiled function it is not known."""
        stage = self.stage.get()
        return not isinstance(stage, Tracer) and stage == _Stage.READY


class GradScaler(Stateful):
    r"""Scale losses so that float16 gradients do not underflow; the counterpart of :class:`torch.amp.GradScaler`.

    A step whose gradients are infinite or nan is left out, and the scale goes down by ``backoff_factor``; after
    ``growth_interval`` good steps it goes up by ``growth_factor``. In a compiled step the scale is an argument, and
    a step left out is a selection of the old state: nothing is traced again, and nothing waits for the device::

        loss, grads = jm.value_and_grad(lambda net: scaler.scale(loss_of(net, batch)))(net)
        scaler.step(optimizer, grads)  # scaler.step(optimizer) for gradients in .grad, as jm.backward leaves them
        scaler.update()

    Args:
        device: the kind of device that the training runs on; ``"cuda"`` without one disables the scaler.
        init_scale: the scale at first.
        growth_factor: what the scale is multiplied by after a row of good steps.
        backoff_factor: what it is multiplied by after a bad one.
        growth_interval: how many good steps make a row.
        enabled: whether to scale; otherwise :meth:`step` is the optimizer's and the rest does nothing.

    Raises:
        AssertionError: if a factor would not grow, or not shrink, the scale.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> net = jm.nn.Linear(2, 1)
        >>> optimizer, scaler = jm.optim.SGD(net.parameters(), lr=0.1), GradScaler("cpu", init_scale=8.0)
        >>> loss = jm.backward(lambda: scaler.scale(net(jnp.array([[jnp.inf, 0.0]])).sum()), net)
        >>> scaler.step(optimizer)
        >>> scaler.update()
        >>> scaler.get_scale(), bool(jnp.isfinite(net.weight.value).all())
        (4.0, True)
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self._device = device
        self._enabled = enabled
        if enabled and device == "cuda" and all(there.platform != "gpu" for there in jax.devices()):
            warnings.warn(
                "jaxmodules.amp.GradScaler is enabled, but CUDA is not available.  Disabling."
                " (GradScaler('cpu') scales on any machine)",
                stacklevel=2,
            )
            self._enabled = False
        if self._enabled:
            if growth_factor <= 1.0:
                raise AssertionError("The growth factor must be > 1.0.")
            if backoff_factor >= 1.0:
                raise AssertionError("The backoff factor must be < 1.0.")
        self._scale = _Float(_rounded(init_scale))
        self._growth_tracker = Count(0)
        self._growth_factor = Number(growth_factor)
        self._backoff_factor = Number(backoff_factor)
        self._growth_interval = Count(growth_interval)
        self._used = False
        self._progress: weakref.WeakKeyDictionary[Optimizer, _Progress] = weakref.WeakKeyDictionary()

    def scale(self, outputs: Any) -> Any:
        """Return outputs multiplied by the scale.

        Args:
            outputs: an array, or an iterable of what :meth:`scale` takes; lists and tuples stay what they are.

        Raises:
            ValueError: for anything else.
        """
        if not self._enabled:
            return outputs
        if isinstance(outputs, jax.Array | np.ndarray | np.generic | Parameter):
            self._used = True
            return _scaled(as_array(outputs), self._scale.value)
        if isinstance(outputs, Iterable) and not isinstance(outputs, str | bytes):
            scaled = map(self.scale, outputs)
            return type(outputs)(scaled) if isinstance(outputs, list | tuple) else scaled
        raise ValueError(f"outputs must be a Tensor or an iterable of Tensors, got {outputs!r}")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the ``.grad`` of an optimizer's parameters by the scale, and note whether all are finite.

        Raises:
            RuntimeError: on a second call for one step, or one after the step.
            ValueError: if a gradient is of float16.
            AssertionError: if nothing was scaled.
        """
        if self._enabled:
            progress = self._unscalable(optimizer)
            _put(optimizer, self._unscaled(_own_gradients(optimizer, None), progress, _Stage.READY))
            progress.stage.set(_Stage.UNSCALED)

    def unscale(self, optimizer: Optimizer, grads: Any) -> Any:
        """Return gradients divided by the scale, and note whether those of an optimizer's parameters are finite.

        What :meth:`unscale_` does, for gradients as ``jm.value_and_grad`` returns them, to be clipped and handed to
        :meth:`step`.

        Args:
            optimizer: the optimizer that gets them next.
            grads: what ``optimizer.step`` takes.

        Raises:
            RuntimeError: on a second call for one step, or one after the step.
            ValueError: if a gradient is of float16.
            AssertionError: if nothing was scaled.
        """
        if not self._enabled:
            return grads
        progress = self._unscalable(optimizer)
        self._unscaled(_own_gradients(optimizer, grads), progress, _Stage.READY)
        flat, _ = _unscale([unbox(leaf) for leaf in leaves(grads)], self._scale.value)
        progress.stage.set(_Stage.UNSCALED)
        return refilled(grads, iter(flat))

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Unscale gradients, unless that was done, and step the optimizer if all of them are finite.

        Args:
            optimizer: the optimizer.
            args: what its ``step`` takes: gradients, or nothing for those in ``.grad``.
            kwargs: likewise.

        Returns:
            What the optimizer's ``step`` returns, ``None`` if it was left out.

        Raises:
            RuntimeError: on a second step without :meth:`update`, or for a closure.
            ValueError: if a gradient is of float16.
            AssertionError: if nothing was scaled, or there are no gradients.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or any(map(callable, args)):
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        self._check_used("step")
        progress = self._progress_of(optimizer)
        stage = progress.stage.get()
        if not isinstance(stage, Tracer) and stage == _Stage.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        grads, *rest = args or (kwargs.pop("grads", None),)
        own = _own_gradients(optimizer, grads)
        if not own:
            raise AssertionError("No inf checks were recorded for this optimizer: its parameters have no gradients.")
        own = self._unscaled(own, progress, stage)
        if grads is None:
            _put(optimizer, own)
            progress.stage.set(_Stage.UNSCALED)
        else:
            grads = [own.get(id(box)) for box in _boxes(optimizer)]
        result = _step_unless(progress.found.get(), optimizer, grads, *rest, **kwargs)
        progress.stage.set(_Stage.STEPPED)
        return result

    def _unscaled(self, own: dict[int, Any], progress: _Progress, stage: Any) -> dict[int, Any]:
        """Return an optimizer's gradients divided by the scale, and note whether one is not finite.

        At the start of a compiled function the stage is traced: whether that was done already is not known.
        """
        if not own or (not isinstance(stage, Tracer) and stage == _Stage.UNSCALED):
            return own
        if any(grad.dtype == jnp.float16 for grad in own.values()):
            raise ValueError("Attempting to unscale FP16 gradients.")
        scale, found = self._scale.value, progress.found.value
        if isinstance(stage, Tracer):
            is_done = stage == _Stage.UNSCALED
            unscaled, bad = _unscale(list(own.values()), jnp.where(is_done, 1, scale))
            progress.found.set(jnp.where(is_done, found, bad))
        else:
            unscaled, bad = _unscale(list(own.values()), scale)
            progress.found.set(bad)
        return dict(zip(own, unscaled, strict=True))

    def _unscalable(self, optimizer: Optimizer) -> _Progress:
        self._check_used("unscale_")
        progress = self._progress_of(optimizer)
        stage = progress.stage.get()
        if not isinstance(stage, Tracer) and stage == _Stage.UNSCALED:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if not isinstance(stage, Tracer) and stage == _Stage.STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        return progress

    def update(self, new_scale: Any = None) -> None:
        r"""Adapt the scale to what the steps since the last update have found.

        .. math:: s \leftarrow \begin{cases} \beta s & \text{gradients were infinite or nan} \\
            \gamma s & \text{that was the last of a row of good steps} \\ s & \text{otherwise} \end{cases}

        Args:
            new_scale: the scale to take instead.

        Raises:
            AssertionError: if nothing was scaled, no optimizer has stepped, or ``new_scale`` is no single number.
        """
        if not self._enabled:
            return
        self._check_used("update")
        started = [progress for progress in self._progress.values() if not progress.is_ready]
        if new_scale is not None:
            if not isinstance(new_scale, int | float) and int(np.prod(np.shape(new_scale))) != 1:
                raise AssertionError(
                    f"new_scale should be a float or an array of one element, got one of shape {np.shape(new_scale)}"
                )
            self._scale.set(new_scale if isinstance(new_scale, Tracer) else _rounded(new_scale))
        elif not started:
            raise AssertionError("No inf checks were recorded prior to update: step an optimizer by scaler.step first.")
        else:
            self._adapt([progress.found.value for progress in started])
        for progress in started:
            progress.stage.set(_Stage.READY)
            progress.found.set(0.0)

    def _adapt(self, found: list[Any]) -> None:
        cells = (self._growth_factor, self._backoff_factor, self._growth_interval)
        state = self._scale.value, self._growth_tracker.value, *(cell.get() for cell in cells)
        if any(isinstance(value, Tracer) for value in (*state, *found)):
            scale, tracker = _adapted(jnp, sum(found) > 0, *state)
        else:
            new = _adapted(np, sum(map(float, found)) > 0, *(np.float64(value) for value in state))
            scale, tracker = _rounded(new[0]), int(new[1])
        self._scale.set(scale)
        self._growth_tracker.set(tracker)

    def get_scale(self) -> float:
        """Return the scale, a traced one in a compiled function; 1 if the scaler is not enabled."""
        return self._scale.get() if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """Return what the scale is multiplied by after a row of good steps."""
        return self._growth_factor.get()

    def set_growth_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by after a row of good steps; nothing is compiled anew."""
        self._growth_factor.set(new_factor)

    def get_backoff_factor(self) -> float:
        """Return what the scale is multiplied by after a bad step."""
        return self._backoff_factor.get()

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by after a bad step; nothing is compiled anew."""
        self._backoff_factor.set(new_factor)

    def get_growth_interval(self) -> int:
        """Return how many good steps make a row."""
        return self._growth_interval.get()

    def set_growth_interval(self, new_interval: int) -> None:
        """Set how many good steps make a row; nothing is compiled anew."""
        self._growth_interval.set(new_interval)

    def is_enabled(self) -> bool:
        """Tell whether losses are scaled."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, the settings and the number of good steps in a row, under PyTorch's names.

        Empty if the scaler is not enabled. Call it after :meth:`update`.
        """
        return {name: cell.get() for name, cell in self._saved().items()} if self._enabled else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict`, or that of torch's scaler, returned; nothing if the scaler is not enabled.

        Raises:
            RuntimeError: if the state is that of a scaler that was not enabled.
            KeyError: if something is missing; nothing is changed then.
        """
        if not self._enabled:
            return
        if len(state_dict) == 0:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        cells = self._saved()
        values = [state_dict[name] for name in cells]
        for cell, value in zip(cells.values(), values, strict=True):
            cell.set(_rounded(value) if cell is self._scale else value)

    def _saved(self) -> dict[str, Number]:
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def __getstate__(self) -> dict[str, Any]:
        if any(not progress.is_ready for progress in self._progress.values()):
            raise AssertionError(
                "A GradScaler instance may only be pickled at the beginning of an iteration, or at the end after"
                " scaler.update()."
            )
        return {name: value for name, value in super().__getstate__().items() if name != "_progress"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _progress=weakref.WeakKeyDictionary())

    def _check_used(self, name: str) -> None:
        if not self._used:
            raise AssertionError(
                f"Attempted {name} but _scale is None.  This may indicate your script did not use"
                " scaler.scale(loss or outputs) earlier in the iteration."
            )

    def _progress_of(self, optimizer: Optimizer) -> _Progress:
        if optimizer not in self._progress:
            if any(id(self._scale) in frame.owned for frame in local.frames):
                if any(cell._born is not None and cell._born() is not None for cell in structure_of(optimizer).cells):
                    raise RuntimeError(_LOCAL)
                raise StructureMoves(functools.partial(self._meet, optimizer))
            self._meet(optimizer)
        return self._progress[optimizer]

    def _meet(self, optimizer: Optimizer) -> None:
        self._progress[optimizer] = _Progress()
        epoch.count += 1

    def _jm_scan(self, scan: Scan, path: str) -> Any:
        self._used = True  # in a function that is compiled already, it may be
        for name, cell in self._saved().items():
            scan.stateful(cell, name)
        met = []
        for number, (optimizer, progress) in enumerate(self._progress.items()):
            met.append(scan.ordinal.get(id(optimizer), Same(optimizer)))
            scan.stateful(progress.stage, f"stage[{number}]")
            scan.stateful(progress.found, f"found_inf[{number}]")
        return self._enabled, tuple(met)


def _boxes(optimizer: Optimizer) -> list[Parameter]:
    return [box for group in optimizer.param_groups for box in group["params"]]


def _own_gradients(optimizer: Optimizer, grads: Any) -> dict[int, Any]:
    """Return the gradients of an optimizer's parameters by the parameters' ``id``."""
    boxes = _boxes(optimizer)
    if grads is not None:
        return match(grads, boxes, optimizer._names())
    return {id(box): box.grad for box in boxes if box.grad is not None}


def _put(optimizer: Optimizer, own: Mapping[int, Any]) -> None:
    for box in _boxes(optimizer):
        if id(box) in own:
            box.grad = own[id(box)]


def _step_unless(found: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
    """Step an optimizer unless ``found``; where that is traced, by choosing between all state before and after."""
    if not isinstance(found, Tracer):
        return None if found else optimizer.step(*args, **kwargs)
    slots = structure_of(optimizer)
    before = slots.read()
    result = optimizer.step(*args, **kwargs)
    if len(structure_of(optimizer)) != len(slots):
        raise RuntimeError(_LOCAL)
    after = slots.read()
    written = [i for i, (new, old) in enumerate(zip(after, before, strict=True)) if new is not old]
    slots.assign(written, [jnp.where(found > 0, before[i], after[i]) for i in written])
    return result


def _rounded(value: Any) -> float:
    """Return a number as float32 holds it."""
    return float(np.float32(np.reshape(value, ())))


@partial(jax.jit, inline=True)
def _scaled(output: Array, scale: Array) -> Array:
    """Multiply in float32 at least; an array of float16 stays one, for a scalar of it has no say in PyTorch's types."""
    product = output.astype(jnp.promote_types(output.dtype, jnp.float32)) * scale
    return product.astype(output.dtype) if output.ndim and is_differentiable(output) else product


@partial(jax.jit, inline=True)
def _unscale(gradients: list[Array], scale: Array) -> tuple[list[Array], Array]:
    """Return gradients divided by the scale, and 1 if one of them is not finite, else 0."""
    inverse = 1 / scale
    unscaled = [(g.astype(jnp.promote_types(g.dtype, jnp.float32)) * inverse).astype(g.dtype) for g in gradients]
    bad = jnp.stack([~jnp.isfinite(g).all() for g in gradients]).astype(jnp.float32)
    return unscaled, jnp.minimum(jnp.vdot(bad, bad), 1)  # a product, which XLA does not compute anew in every user


def _adapted(xp: Any, found: Any, scale: Any, tracker: Any, growth: Any, backoff: Any, interval: Any) -> Any:
    """Return the new scale and the number of good steps in a row; a scale that would overflow stays."""
    is_full = tracker + 1 == interval
    grown = xp.where(scale * growth <= xp.finfo(xp.float32).max, scale * growth, scale)
    new = xp.where(found, scale * backoff, xp.where(is_full, grown, scale))
    return new, xp.where(found | is_full, 0, tracker + 1)
