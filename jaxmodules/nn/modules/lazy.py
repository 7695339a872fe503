"""Modules that find the shapes of their parameters from the first input."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

from jaxmodules._device import is_meta
from jaxmodules._handles import RemovableHandle
from jaxmodules._tracing import Tracer, local, outside
from jaxmodules._tracked import buffer_writes, set_item
from jaxmodules.nn.parameter import is_lazy


class LazyModuleMixin:
    """Let a module leave out shapes, which :meth:`initialize_parameters` works out from the first input.

    To be put before a module class. Parameters and buffers whose shapes are not known are
    :class:`~jaxmodules.nn.UninitializedParameter` and :class:`~jaxmodules.nn.UninitializedBuffer`. The first call
    makes ordinary ones of them, the same objects, and the module becomes one of ``cls_to_become``; under ``jm.jit``,
    ``jm.value_and_grad`` and the other transforms the shapes are found before anything is traced, and
    ``jm.eval_shape(net, batch)`` (or ``jax.eval_shape``) finds them without computing anything. Loading a state dict
    gives the parameters the shapes in it. The counterpart of ``torch.nn.modules.lazy.LazyModuleMixin``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
        >>> net
        Sequential(
          (0): LazyLinear(in_features=0, out_features=8, bias=True)
          (1): ReLU()
          (2): LazyLinear(in_features=0, out_features=2, bias=True)
        )
        >>> jax.eval_shape(net, jnp.ones((5, 3))).shape
        (5, 2)
        >>> net
        Sequential(
          (0): Linear(in_features=3, out_features=8, bias=True)
          (1): ReLU()
          (2): Linear(in_features=8, out_features=2, bias=True)
        )
    """

    cls_to_become: type[Any] | None = None

    _load_hook: RemovableHandle
    _initialize_hook: RemovableHandle

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.await_input()

    def await_input(self: Any) -> None:
        """Register the hooks that find the shapes: of the first call, and of a load."""
        self._load_hook = self._register_load_state_dict_pre_hook(self._lazy_load_hook)
        self._initialize_hook = self.register_forward_pre_hook(self._infer_parameters, with_kwargs=True)

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Work out shapes from the input, whose shape and dtype are all there is under a transform."""
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def has_uninitialized_params(self: Any) -> bool:
        """Tell whether a parameter or buffer has no shape yet."""
        return any(map(is_lazy, (*self._parameters.values(), *self._buffers.values())))

    def _lazy_load_hook(self: Any, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name, own in (*self._parameters.items(), *self._buffers.items()):
            loaded = state_dict.get(prefix + name)
            if loaded is not None and is_lazy(own) and not is_lazy(loaded):
                own.materialize(loaded.shape)

    def _infer_parameters(self: Any, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        boxes = {name: box for name, box in module._parameters.items() if is_lazy(box)}
        buffers = [name for name, buffer in module._buffers.items() if is_lazy(buffer)]
        named = {} if kwargs is None else jax.tree.map(_shape_alone, kwargs)
        with outside():
            module.initialize_parameters(*jax.tree.map(_shape_alone, args), **named)
        if module.has_uninitialized_params():
            raise RuntimeError(f"module {self._get_name()} has not been fully initialized")
        for frame in local.frames:
            frame.adopt(*_found(boxes, module._buffers, buffers))
        if local.frames:
            _fill_meta(boxes, module._buffers, buffers)
        module._initialize_hook.remove()
        module._load_hook.remove()
        del module._initialize_hook, module._load_hook
        if module.cls_to_become is not None:
            module.__class__ = module.cls_to_become


def _found(boxes: dict[str, Any], registry: Any, names: list[str]) -> tuple[dict[Hashable, str], Callable[[], None]]:
    """Return the places of new parameters and buffers, and a function that puts back the arrays they now hold."""
    values = [(box, box._value) for box in boxes.values()]
    arrays = [(name, registry[name]) for name in names]

    def restore() -> None:
        buffer_writes[0] += 1
        for box, value in values:
            box._value = value
        for name, array in arrays:
            set_item(registry, name, array)

    places: dict[Hashable, str] = {id(box): name for name, box in boxes.items()}
    return places | {(id(registry), name): name for name in names}, restore


def _fill_meta(boxes: dict[str, Any], registry: Any, names: list[str]) -> None:
    """Put traced arrays where there are shapes alone, for the rest of a run on shapes alone."""
    for box in boxes.values():
        if is_meta(box._value):
            box._value = jax.lax.empty(box.shape, box.dtype)
    for name in names:
        if is_meta(registry[name]):
            set_item(registry, name, jax.lax.empty(registry[name].shape, registry[name].dtype))


def _shape_alone(value: Any) -> Any:
    return jax.ShapeDtypeStruct(value.shape, value.dtype) if isinstance(value, Tracer) else value
