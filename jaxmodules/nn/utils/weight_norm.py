"""Weight norm by a hook, the older form of :func:`jaxmodules.nn.utils.parametrizations.weight_norm`."""

import warnings
from typing import Any, TypeVar

from jaxmodules._typing import Array
from jaxmodules.nn.modules._hooks import Derivation
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, is_lazy
from jaxmodules.nn.utils._norms import WHOLE, norm_except_dim, scale_to_norm

_M = TypeVar("_M", bound=Module)


class WeightNorm(Derivation):
    """Compute a weight from its magnitude ``weight_g`` and direction ``weight_v``; see :func:`weight_norm`.

    Args:
        name: the name of the weight.
        dim: the axis of which each slice has a norm of its own; ``None`` for one norm of the whole.
    """

    name: str
    dim: int

    def __init__(self, name: str, dim: int | None) -> None:
        self.name = name
        self.dim = WHOLE if dim is None else dim

    @staticmethod
    def apply(module: Module, name: str, dim: int | None) -> "WeightNorm":
        """Replace the parameter ``name`` of a module by its magnitude and direction, and return the hook.

        Raises:
            RuntimeError: if it has been replaced already.
            ValueError: if it has no shape yet.
        """
        warnings.warn(
            "`jaxmodules.nn.utils.weight_norm` is deprecated in favor of"
            " `jaxmodules.nn.utils.parametrizations.weight_norm`.",
            FutureWarning,
            stacklevel=3,
        )
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.name == name:
                raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
        hook = WeightNorm(name, dim)
        weight = getattr(module, name)
        if is_lazy(weight):
            raise ValueError(
                "The module passed to `WeightNorm` can't have uninitialized parameters. Make sure to run the dummy"
                " forward before applying weight normalization"
            )
        del module._parameters[name]
        module.register_parameter(f"{name}_g", Parameter(norm_except_dim(weight, hook.dim)))
        module.register_parameter(f"{name}_v", Parameter(weight.value))
        module.register_forward_pre_hook(hook)
        return hook

    def compute_weight(self, module: Module) -> Array:
        """Return the weight of a module."""
        return scale_to_norm(getattr(module, f"{self.name}_v"), getattr(module, f"{self.name}_g"), self.dim)

    def remove(self, module: Module) -> None:
        """Make the weight a parameter again, with its present value."""
        weight = self.compute_weight(module)
        self(module, ())
        del module._parameters[f"{self.name}_g"], module._parameters[f"{self.name}_v"]
        setattr(module, self.name, Parameter(weight))

    @property
    def derived_name(self) -> str:
        """The name of the weight."""
        return self.name

    def derive(self, module: Any) -> Array:
        """Return the weight of a module."""
        return self.compute_weight(module)


def weight_norm(module: _M, name: str = "weight", dim: int | None = 0) -> _M:
    r"""Separate the magnitude of a parameter from its direction (Salimans & Kingma, 2016).

    .. math:: w = g \frac{v}{\lVert v \rVert}

    The parameters are ``weight_g`` and ``weight_v`` then. ``weight`` is an attribute that is computed from them
    whenever it is read. Deprecated: :func:`jaxmodules.nn.utils.parametrizations.weight_norm` loads the same files.

    Args:
        module: the module.
        name: the parameter.
        dim: the axis of which each slice has a norm of its own; ``None`` for one norm of the whole.

    Returns:
        The module.

    Raises:
        RuntimeError: if the parameter has a weight norm already.

    Examples:
        >>> import warnings
        >>> from jaxmodules import nn
        >>> with warnings.catch_warnings(action="ignore"):
        ...     net = weight_norm(nn.Linear(20, 40))
        >>> [name for name, _ in net.named_parameters()]
        ['bias', 'weight_g', 'weight_v']
    """
    WeightNorm.apply(module, name, dim)
    return module


def remove_weight_norm(module: _M, name: str = "weight") -> _M:
    """Make a parameter under :func:`weight_norm` an ordinary parameter again.

    Args:
        module: the module.
        name: the parameter.

    Returns:
        The module.

    Raises:
        ValueError: if the parameter has no weight norm.

    Examples:
        >>> import warnings
        >>> from jaxmodules import nn
        >>> with warnings.catch_warnings(action="ignore"):
        ...     net = weight_norm(nn.Linear(20, 40))
        >>> [name for name, _ in remove_weight_norm(net).named_parameters()]
        ['bias', 'weight']
    """
    for number, hook in module._forward_pre_hooks.items():
        if isinstance(hook, WeightNorm) and hook.name == name:
            hook.remove(module)
            del module._forward_pre_hooks[number]
            return module
    raise ValueError(f"weight_norm of '{name}' not found in {module}")
