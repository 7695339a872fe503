"""Averages of a model's weights along its training, equal (SWA) or exponential (EMA), and a schedule for them."""

import copy
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._device import beside, move, parse_device
from jaxmodules._tracing import Tracer
from jaxmodules._typing import Array
from jaxmodules.nn._writable import Writable, copy_array, to_array
from jaxmodules.nn.modules import batchnorm
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.optim.lr_scheduler._arithmetic import is_traced, maximum, minimum
from jaxmodules.optim.lr_scheduler.scheduler import LRScheduler, for_each_group
from jaxmodules.optim.optimizer import Optimizer


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[..., None]:
    r"""Return the function that moves a list of parameters by an exponential average.

    .. math:: a \leftarrow \beta a + (1 - \beta) p

    The counterpart of :func:`torch.optim.swa_utils.get_ema_multi_avg_fn`.

    Args:
        decay: the share :math:`\beta` of the old average.

    Returns:
        A function of the averaged Parameters, which it writes, the current arrays and the number of averages.

    Raises:
        ValueError: if ``decay`` is no fraction.

    Examples:
        >>> import jax.numpy as jnp
        >>> average = Parameter(jnp.zeros(2))
        >>> get_ema_multi_avg_fn(0.75)([average], [jnp.ones(2)], 1)
        >>> average.value.tolist()
        [0.25, 0.25]
    """
    _check_decay(decay)
    return functools.partial(_ema_update, decay)


def get_swa_multi_avg_fn() -> Callable[..., None]:
    r"""Return the function that moves a list of parameters by an average of equal weights.

    .. math:: a \leftarrow a + \frac{p - a}{n + 1}

    The counterpart of :func:`torch.optim.swa_utils.get_swa_multi_avg_fn`.

    Returns:
        A function of the averaged Parameters, which it writes, the current arrays and the number of averages.

    Examples:
        >>> import jax.numpy as jnp
        >>> average = Parameter(jnp.zeros(2))
        >>> get_swa_multi_avg_fn()([average], [jnp.ones(2)], 3)
        >>> average.value.tolist()
        [0.25, 0.25]
    """
    return _swa_update


def get_ema_avg_fn(decay: float = 0.999) -> Callable[..., Array]:
    r"""Return the function that computes the exponential average of one parameter, :math:`\beta a + (1 - \beta) p`.

    The counterpart of :func:`torch.optim.swa_utils.get_ema_avg_fn`.

    Args:
        decay: the share :math:`\beta` of the old average.

    Returns:
        A function of the averaged array, the current one and the number of averages.

    Raises:
        ValueError: if ``decay`` is no fraction.

    Examples:
        >>> import jax.numpy as jnp
        >>> get_ema_avg_fn(0.75)(jnp.zeros(2), jnp.ones(2), 1).tolist()
        [0.25, 0.25]
    """
    _check_decay(decay)
    return functools.partial(_ema, decay)


def get_swa_avg_fn() -> Callable[..., Array]:
    r"""Return the function that computes the equal average of one parameter, :math:`a + (p - a) / (n + 1)`.

    The counterpart of :func:`torch.optim.swa_utils.get_swa_avg_fn`.

    Returns:
        A function of the averaged array, the current one and the number of averages.

    Examples:
        >>> import jax.numpy as jnp
        >>> get_swa_avg_fn()(jnp.zeros(2), jnp.ones(2), 3).tolist()
        [0.25, 0.25]
    """
    return _swa


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def _ema(decay: float, ema_param: Any, current_param: Any, num_averaged: Any) -> Any:
    return decay * ema_param + (1 - decay) * current_param


def _swa(averaged_param: Any, current_param: Any, num_averaged: Any) -> Any:
    return averaged_param + (current_param - averaged_param) / (num_averaged + 1)


def _ema_update(decay: float, ema_param_list: Any, current_param_list: Any, num_averaged: Any) -> None:
    _move(ema_param_list, current_param_list, 1 - decay)


def _swa_update(averaged_param_list: Any, current_param_list: Any, num_averaged: Any) -> None:
    _move(averaged_param_list, current_param_list, 1 / (num_averaged + 1))


def _move(boxes: Sequence[Any], current: Sequence[Any], weight: Any) -> None:
    moved = _between([box.data.detach() for box in boxes], list(map(to_array, current)), weight)
    for box, new in zip(boxes, moved, strict=True):
        box.copy_(new)


@jax.jit
def _between(starts: list[Any], ends: list[Any], weight: Any) -> list[Any]:
    """Go a part of the way, in the form that is exact at the nearer end; integers are cut off."""

    def between(start: Any, end: Any) -> Any:
        way = end - start
        return jnp.where(weight < 0.5, start + weight * way, end - way * (1 - weight)).astype(start.dtype)

    return list(map(between, starts, ends))


@jax.jit
def _swa_of_each(averaged: list[Any], current: list[Any], num_averaged: Any) -> list[Any]:
    return [_swa(a, c, num_averaged) for a, c in zip(averaged, current, strict=True)]


class AveragedModel(Module):
    """Average the parameters of a model over its training (Izmailov et al., 2018).

    The averaged model is a copy of the model. The first :meth:`update_parameters` takes the parameters over, each
    later one averages: with equal weights, or as the given function says. It works eagerly, and in a compiled step
    that gets the averaged model as an argument. The counterpart of :class:`torch.optim.swa_utils.AveragedModel`.

    Args:
        model: the model to copy.
        device: where the copy lives.
        avg_fn: returns a new average of a parameter, from the old one, the current parameter and the number of
            averages so far; a traced number in a compiled function.
        multi_avg_fn: writes all parameters of one type, from a list of averaged Parameters, a list of current arrays
            and the number of averages.
        use_buffers: whether buffers are averaged as well, instead of copied.

    Attributes:
        module: the averaged copy.
        n_averaged: buffer, how often the parameters were updated.

    Raises:
        AssertionError: if both functions are given.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Linear(2, 1)
        >>> averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.75))
        >>> for bias in (4.0, 8.0):
        ...     _ = net.bias.data.fill_(bias)
        ...     averaged.update_parameters(net)
        >>> averaged.module.bias.value.tolist(), int(averaged.n_averaged)
        ([5.0], 2)
    """

    n_averaged: Array

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Callable[[Any, Any, Any], Any] | None = None,
        multi_avg_fn: Callable[[Any, Any, Any], None] | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", np.array(0))
        if device is not None:
            self.to(device)
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the averaged model."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the present parameters of ``model`` into the average.

        Args:
            model: the model that is being trained; its parameters are only read.

        Raises:
            ValueError: if it has another number of buffers.
        """
        boxes, sources = self._averaged_boxes(self.module), self._averaged_boxes(model)
        pairs = list(zip(boxes, sources, strict=False))
        old = [_detached(box) for box, _ in pairs]
        current = [_brought(source, box) for box, source in pairs]
        count = self.n_averaged
        if isinstance(count, Tracer):
            averaged = self._averaged(old, current, count)
            new = [jnp.where(count == 0, c, a.astype(c.dtype)) for a, c in zip(averaged, current, strict=True)]
        else:
            new = self._averaged(old, current, count) if count > 0 else list(map(copy_array, current))
        if not self.use_buffers:
            copies = list(zip(_buffers(self.module), _buffers(model), strict=True))
            pairs += copies
            new += [copy_array(_brought(source, box)) for box, source in copies]
        for (box, _), array in zip(pairs, new, strict=True):
            box.copy_(array)
        self.n_averaged = count + 1

    def _averaged_boxes(self, model: Module) -> list[Any]:
        return [*model.parameters(), *(_buffers(model) if self.use_buffers else ())]

    def _averaged(self, old: list[Any], current: list[Any], count: Any) -> list[Any]:
        """Return the averages; arrays of one type and place are computed at once, unless by a function of one."""
        if self.avg_fn is not None:
            return [self.avg_fn(a, c, beside(count, a)) for a, c in zip(old, current, strict=True)]
        groups: dict[Any, list[int]] = {}
        for i, array in enumerate(old):
            groups.setdefault((array.dtype, None if isinstance(array, Tracer) else array.sharding), []).append(i)
        averaged = list(old)
        for members in groups.values():
            some = self._averaged_group([old[i] for i in members], [current[i] for i in members], count)
            for i, array in zip(members, some, strict=True):
                averaged[i] = array
        return averaged

    def _averaged_group(self, old: list[Any], current: list[Any], count: Any) -> list[Any]:
        count = beside(count, old[0])
        if self.multi_avg_fn is None:
            return _swa_of_each(old, current, count)
        boxes = [Parameter(array, requires_grad=False) for array in old]
        self.multi_avg_fn(boxes, current, count)
        return [box.value for box in boxes]


class _BufferBox(Writable):
    """A buffer to write into as one writes into a Parameter."""

    __slots__ = ("_name", "_owner")
    is_meta = False

    def __init__(self, owner: Module, name: str) -> None:
        self._owner = owner
        self._name = name

    def _read(self) -> Any:
        return self._owner._buffers[self._name]

    def _write(self, array: Any) -> None:
        self._owner._buffers[self._name] = array


def _buffers(model: Module) -> list[Any]:
    places = [name.rpartition(".") for name, _ in model.named_buffers(remove_duplicate=False)]
    return [_BufferBox(model.get_submodule(path), name) for path, _, name in places]


def _detached(box: Any) -> Any:
    value = box._read()
    return jax.lax.stop_gradient(value) if isinstance(value, Tracer) else value


def _brought(source: Any, box: Any) -> Any:
    """Return the array of a box where that of another box is."""
    return beside(_detached(source), box._read())


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the statistics of a model's batch normalisation layers anew, as averages over all batches.

    The counterpart of :func:`torch.optim.swa_utils.update_bn`. Batches go through the model as it is given: eagerly,
    or as one program for each shape where it is ``jm.jit(model)``.

    Args:
        loader: any iterable of batches: arrays, or lists and tuples whose first element is the model's input.
        model: the model; its mode, and the momentum of its layers, are afterwards what they were.
        device: where each input is put before.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> norm = nn.BatchNorm1d(1)
        >>> update_bn([jnp.full((2, 1), 3.0), (jnp.full((2, 1), 5.0), "label")], norm)
        >>> norm.running_mean.tolist(), norm.momentum
        ([4.0], 0.1)
    """
    momenta = {module: module.momentum for module in model.modules() if isinstance(module, batchnorm._BatchNorm)}
    for module in momenta:
        module.reset_running_stats()
    if not momenta:
        return
    place, was_training = parse_device(device), model.training
    try:
        model.train()
        for module in momenta:
            module.momentum = None
        for batch in loader:
            input = batch[0] if isinstance(batch, list | tuple) else batch
            if place is not None or hasattr(input, "detach"):  # a torch DataLoader's tensors
                input = move(to_array(input), place)
            model(input)
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum
        model.train(was_training)


class SWALR(LRScheduler):
    r"""Bring every group's learning rate to a fixed one; the counterpart of :class:`torch.optim.swa_utils.SWALR`.

    .. math:: \eta_t = \alpha_t\,\eta_{swa} + (1 - \alpha_t)\,\eta_0, \qquad
        \alpha_t = \tfrac{1 - \cos \pi t/T}{2} \text{ or } t/T \text{, at most } 1

    Args:
        optimizer: whose rates to set.
        swa_lr: the rate in the end, or one for each group.
        anneal_epochs: the number of epochs :math:`T` until then.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        last_epoch: the number of steps taken, to resume.

    Raises:
        ValueError: if there are as many rates as there are no groups, or a setting is none of these.

    Examples:
        >>> import jaxmodules as jm
        >>> optimizer = jm.optim.SGD(jm.nn.Linear(2, 1), lr=0.5)
        >>> scheduler = SWALR(optimizer, swa_lr=0.25, anneal_epochs=2, anneal_strategy="linear")
        >>> for _ in range(3):
        ...     optimizer.step([None, None])
        ...     scheduler.step()
        ...     scheduler.get_last_lr()
        [0.375]
        [0.25]
        [0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float,
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
    ) -> None:
        rates = for_each_group("swa_lr", optimizer, swa_lr)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        for rate, group in zip(rates, optimizer.param_groups, strict=True):
            group["swa_lr"] = rate
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    @property
    def anneal_func(self) -> Callable[[Any], Any]:
        """The share of the last rate as a function of the share of epochs gone by."""
        return self._cosine_anneal if self._anneal_strategy == "cos" else self._linear_anneal

    def get_lr(self) -> list[Any]:
        """Return the rates of the next epoch, going on from the present ones."""
        self._check_within_step()
        step, epochs = self._step_count - 1, max(1, self.anneal_epochs)
        step = maximum(1, step) if self.anneal_epochs == 0 else step
        before, now = (maximum(0, minimum(1, number / epochs)) for number in (step - 1, step))
        groups = self.optimizer.param_groups
        if is_traced(step):
            left = self._left(now) / jnp.maximum(self._left(before), 1e-30)
            return [group["swa_lr"] + (group["lr"] - group["swa_lr"]) * left for group in groups]
        alpha, alpha_before = self.anneal_func(now), self.anneal_func(before)
        first = [self._get_initial_lr(group["lr"], group["swa_lr"], alpha_before) for group in groups]
        return [group["swa_lr"] * alpha + lr * (1 - alpha) for group, lr in zip(groups, first, strict=True)]

    def _left(self, t: Any) -> Any:
        """Return the share of the first rate, without cancellation."""
        return 1 - t if self._anneal_strategy == "linear" else jnp.sin(math.pi / 2 * (1 - t)) ** 2

    @staticmethod
    def _linear_anneal(t: Any) -> Any:
        return t

    @staticmethod
    def _cosine_anneal(t: Any) -> Any:
        return (1 - math.cos(math.pi * t)) / 2

    @staticmethod
    def _get_initial_lr(lr: Any, swa_lr: Any, alpha: Any) -> Any:
        return swa_lr if alpha == 1 else (lr - alpha * swa_lr) / (1 - alpha)
