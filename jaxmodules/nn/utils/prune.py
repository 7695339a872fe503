"""Pruning: parameters with a mask of zeros and ones in front.

A pruned parameter ``weight`` becomes ``weight_orig``, beside the buffer ``weight_mask``; ``weight`` is an attribute
that is their product whenever it is read. Each method is a class that computes masks, and the hook of the modules that
it has been applied to.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal, TypeVar

import jax.numpy as jnp
from jax import lax

from jaxmodules._shapes import as_array
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.modules._hooks import Derivation
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.utils._masks import (
    channel_norms,
    keep_channels,
    number_of_channels,
    prunable,
    without,
)
from jaxmodules.nn.utils._masks import compute_nparams_toprune as _compute_nparams_toprune
from jaxmodules.nn.utils._masks import validate_pruning_amount as _validate_pruning_amount
from jaxmodules.nn.utils._masks import validate_pruning_amount_init as _validate_pruning_amount_init
from jaxmodules.nn.utils.convert_parameters import parameters_to_vector
from jaxmodules.random import rand, rand_like

_M = TypeVar("_M", bound=Module)


class BasePruningMethod(Derivation, ABC):
    """Base class of pruning methods; a subclass sets ``PRUNING_TYPE`` and overrides :meth:`compute_mask`.

    Attributes:
        PRUNING_TYPE: what a repeated application leaves alone: the ``"unstructured"`` elements or ``"structured"``
            channels that are pruned already; ``"global"`` for nothing.
    """

    PRUNING_TYPE: ClassVar[str]
    _tensor_name: str

    @abstractmethod
    def compute_mask(self, t: Array, default_mask: Array) -> Array:
        """Compute a mask.

        Args:
            t: the scores of the elements, of which the least important are pruned.
            default_mask: the mask so far, ones at first.

        Returns:
            Zeros and ones in the shape of ``t``.
        """

    def apply_mask(self, module: Module) -> Array:
        """Return the pruned value of a module's parameter."""
        orig = getattr(module, f"{self._tensor_name}_orig")
        return getattr(module, f"{self._tensor_name}_mask").astype(orig.dtype) * as_array(orig)

    @classmethod
    def apply(cls, module: Module, name: str, *args: Any, importance_scores: Any = None, **kwargs: Any) -> Any:
        """Prune a parameter, on top of what has been pruned of it before.

        Args:
            module: the module.
            name: the parameter.
            args: arguments of the method's constructor.
            importance_scores: an array of the parameter's shape to judge by instead of its own values.
            kwargs: keyword arguments of the constructor.

        Returns:
            The method that is the module's hook now, a :class:`PruningContainer` from the second time on.
        """
        orig = getattr(module, name)
        old = _hooks_of(module, name)
        if len(old) > 1:
            raise AssertionError(
                f"Avoid adding multiple pruning hooks to the same tensor {name} of module {module}."
                " Use a PruningContainer."
            )
        new = cls(*args, **kwargs)
        new._tensor_name = name
        if importance_scores is None:
            importance_scores = orig
        elif tuple(importance_scores.shape) != tuple(orig.shape):
            raise AssertionError(
                f"importance_scores should have the same shape as parameter {name} of {module},"
                f" got torch.Size({list(importance_scores.shape)}) vs torch.Size({list(orig.shape)})"
            )
        scores = as_array(importance_scores)
        if not old:
            mask = new.compute_mask(scores, default_mask=jnp.ones_like(as_array(orig)))
            module.register_parameter(f"{name}_orig", orig)
            del module._parameters[name]
            module.register_buffer(f"{name}_mask", mask)
            module.register_forward_pre_hook(new)
            return new
        number, hook = old[0]
        container = hook if isinstance(hook, PruningContainer) else PruningContainer(hook)
        container._add_and_prune(new, module, scores)
        del module._forward_pre_hooks[number]
        module.register_forward_pre_hook(container)
        return container

    def prune(self, t: ArrayLike, default_mask: Any = None, importance_scores: Any = None) -> Array:
        """Return an array pruned by this method.

        Args:
            t: the array.
            default_mask: what is pruned already, nothing by default.
            importance_scores: an array of the same shape to judge by instead of ``t``.

        Raises:
            AssertionError: if ``importance_scores`` has another shape.
        """
        t = as_array(t)
        if importance_scores is None:
            importance_scores = t
        elif tuple(importance_scores.shape) != t.shape:
            raise AssertionError(
                "importance_scores should have the same shape as tensor t,"
                f" got torch.Size({list(importance_scores.shape)}) vs torch.Size({list(t.shape)})"
            )
        default_mask = jnp.ones_like(t) if default_mask is None else as_array(default_mask)
        return t * self.compute_mask(as_array(importance_scores), default_mask=default_mask)

    def remove(self, module: Module) -> None:
        """Make the pruned value the value of the parameter, and take the mask away."""
        name = self._tensor_name
        weight = self.apply_mask(module)
        Derivation.__call__(self, module, ())
        orig = module._parameters.pop(f"{name}_orig")
        del module._buffers[f"{name}_mask"]
        if orig is not None:
            orig.data = weight
        setattr(module, name, orig)

    @property
    def derived_name(self) -> str:
        """The name of the pruned parameter."""
        return self._tensor_name

    def derive(self, module: Any) -> Array:
        """Return the pruned value of a module's parameter."""
        return self.apply_mask(module)


class PruningContainer(BasePruningMethod):
    """Hold the methods that have pruned one parameter, in order.

    Args:
        args: pruning methods of one parameter.
    """

    def __init__(self, *args: BasePruningMethod) -> None:
        self._pruning_methods: tuple[Any, ...] = ()
        if len(args) == 1:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod | None) -> None:
        """Add a method.

        Raises:
            TypeError: if it is no pruning method.
            ValueError: if it prunes another parameter.
        """
        if not isinstance(method, BasePruningMethod) and method is not None:
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if method is not None and self._tensor_name != method._tensor_name:
            raise ValueError(
                f"Can only add pruning methods acting on the parameter named '{self._tensor_name}' to PruningContainer"
                f" {self}. Found '{method._tensor_name}'"
            )
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[BasePruningMethod]:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: Any) -> Any:
        return self._pruning_methods[idx]

    def compute_mask(self, t: Array, default_mask: Array) -> Array:
        """Apply the newest method to what ``default_mask`` has left."""
        method = self._pruning_methods[-1]
        left = prunable(method, t, default_mask)
        partial = method.compute_mask(t[left], default_mask=default_mask[left])
        mask = default_mask.astype(t.dtype)
        return mask.at[left].set(partial.astype(mask.dtype))

    def _add_and_prune(self, method: BasePruningMethod, module: Module, scores: Array) -> None:
        """Add a method and put its mask into a module; if that fails, leave both as they were."""
        before, name = self._pruning_methods, f"{self._tensor_name}_mask"
        self.add_pruning_method(method)
        try:
            module.register_buffer(name, self.compute_mask(scores, default_mask=getattr(module, name)))
        except Exception:
            self._pruning_methods = before
            raise


class Identity(BasePruningMethod):
    """Prune nothing, but put a mask of ones in front."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Array, default_mask: Array) -> Array:
        """Return the mask so far."""
        return default_mask

    @classmethod
    def apply(cls, module: Module, name: str) -> Any:
        """Prune a parameter."""
        return super().apply(module, name)


class _Unstructured(BasePruningMethod):
    """Prune a number of elements; subclasses say which."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount

    def compute_mask(self, t: Array, default_mask: Array) -> Array:
        """Return the mask so far with zeros at the chosen places."""
        count = _compute_nparams_toprune(self.amount, t.size)
        _validate_pruning_amount(count, t.size)
        return default_mask if count == 0 else without(default_mask, self._places(t, count))

    def _places(self, t: Array, count: int) -> Array:
        """Return the places of so many elements in the flattened array."""
        raise NotImplementedError


class RandomUnstructured(_Unstructured):
    """Prune elements at random.

    Args:
        amount: how many, or as a float between 0 and 1 which share.
    """

    @classmethod
    def apply(cls, module: Module, name: str, amount: float) -> Any:
        """Prune a parameter."""
        return super().apply(module, name, amount=amount)

    def _places(self, t: Array, count: int) -> Array:
        return lax.top_k(rand_like(t).reshape(-1), count)[1]


class L1Unstructured(_Unstructured):
    """Prune the elements of the lowest absolute values; of equal ones the first, where PyTorch takes any.

    Args:
        amount: how many, or as a float between 0 and 1 which share.
    """

    @classmethod
    def apply(cls, module: Module, name: str, amount: float, importance_scores: Any = None) -> Any:
        """Prune a parameter."""
        return super().apply(module, name, amount=amount, importance_scores=importance_scores)

    def _places(self, t: Array, count: int) -> Array:
        return jnp.argsort(jnp.abs(t).reshape(-1))[:count]


class RandomStructured(BasePruningMethod):
    """Prune whole channels at random.

    Args:
        amount: how many, or as a float between 0 and 1 which share.
        dim: the axis of the channels.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = -1) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.dim = dim

    def compute_mask(self, t: Array, default_mask: Array) -> Array:
        """Return the mask so far with zeros in random channels; IndexError is raised if there is no axis ``dim``."""
        count = number_of_channels(self.amount, t, self.dim)
        if count == 0:
            return default_mask
        draws = rand(t.shape[self.dim])
        return keep_channels(default_mask, draws > jnp.sort(draws)[count - 1], t, self.dim)

    @classmethod
    def apply(cls, module: Module, name: str, amount: float, dim: int = -1) -> Any:
        """Prune a parameter."""
        return super().apply(module, name, amount=amount, dim=dim)


class LnStructured(BasePruningMethod):
    """Prune the channels of the lowest norms.

    Args:
        amount: how many, or as a float between 0 and 1 which share.
        n: the order of the norm: a number, ``"fro"`` or ``"nuc"``.
        dim: the axis of the channels.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, n: float | Literal["fro", "nuc"], dim: int = -1) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.n = n
        self.dim = dim

    def compute_mask(self, t: Array, default_mask: Array) -> Array:
        """Return the mask so far with zeros in the least channels; IndexError is raised if there is no axis ``dim``."""
        count = number_of_channels(self.amount, t, self.dim)
        if count == 0:
            return default_mask
        norms = channel_norms(t, self.n, self.dim)
        kept = lax.top_k(norms, t.shape[self.dim] - count)[1]
        return keep_channels(default_mask, jnp.zeros(norms.shape, bool).at[kept].set(True), t, self.dim)

    @classmethod
    def apply(
        cls,
        module: Module,
        name: str,
        amount: float,
        n: float | Literal["fro", "nuc"],
        dim: int,
        importance_scores: Any = None,
    ) -> Any:
        """Prune a parameter."""
        return super().apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores)


class CustomFromMask(BasePruningMethod):
    """Prune what a given mask says.

    Args:
        mask: zeros and ones in the shape of the parameter.
    """

    PRUNING_TYPE = "global"

    def __init__(self, mask: ArrayLike) -> None:
        self.mask = mask

    def compute_mask(self, t: Array, default_mask: Array) -> Array:
        """Return the mask so far times the given one; AssertionError is raised if their shapes differ."""
        mask = as_array(self.mask)
        if default_mask.shape != mask.shape:
            raise AssertionError(
                f"default_mask shape torch.Size({list(default_mask.shape)}) must match self.mask shape"
                f" torch.Size({list(mask.shape)})"
            )
        return default_mask * mask.astype(default_mask.dtype)

    @classmethod
    def apply(cls, module: Module, name: str, mask: ArrayLike) -> Any:
        """Prune a parameter."""
        return super().apply(module, name, mask=mask)


def identity(module: _M, name: str) -> _M:
    """Put a mask of ones in front of a parameter, and return the module.

    Examples:
        >>> from jaxmodules import nn
        >>> identity(nn.Linear(2, 3), "bias").bias_mask.tolist()
        [1.0, 1.0, 1.0]
    """
    Identity.apply(module, name)
    return module


def random_unstructured(module: _M, name: str, amount: float) -> _M:
    """Prune elements of a parameter at random, and return the module.

    Args:
        module: the module.
        name: the parameter.
        amount: how many, or as a float between 0 and 1 which share.

    Examples:
        >>> from jaxmodules import nn
        >>> int((random_unstructured(nn.Linear(2, 3), "weight", amount=1).weight_mask == 0).sum())
        1
    """
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: _M, name: str, amount: float, importance_scores: Any = None) -> _M:
    """Prune the elements of the lowest absolute values of a parameter, and return the module.

    Args:
        module: the module.
        name: the parameter.
        amount: how many, or as a float between 0 and 1 which share.
        importance_scores: an array of the parameter's shape to judge by instead of its own values.

    Examples:
        >>> from jaxmodules import nn
        >>> list(l1_unstructured(nn.Linear(2, 3), "weight", amount=0.2).state_dict())
        ['bias', 'weight_orig', 'weight_mask']
    """
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: _M, name: str, amount: float, dim: int) -> _M:
    """Prune channels of a parameter at random, and return the module.

    Args:
        module: the module.
        name: the parameter.
        amount: how many, or as a float between 0 and 1 which share.
        dim: the axis of the channels.

    Examples:
        >>> from jaxmodules import nn
        >>> net = random_structured(nn.Linear(5, 3), "weight", amount=3, dim=1)
        >>> int((net.weight_mask.sum(0) == 0).sum())
        3
    """
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: _M,
    name: str,
    amount: float,
    n: float | Literal["fro", "nuc"],
    dim: int,
    importance_scores: Any = None,
) -> _M:
    """Prune the channels of the lowest norms of a parameter, and return the module.

    Args:
        module: the module.
        name: the parameter.
        amount: how many, or as a float between 0 and 1 which share.
        n: the order of the norm: a number, ``"fro"`` or ``"nuc"``.
        dim: the axis of the channels.
        importance_scores: an array of the parameter's shape to judge by instead of its own values.

    Examples:
        >>> from jaxmodules import nn
        >>> net = ln_structured(nn.Conv2d(5, 3, 2), "weight", amount=0.3, dim=1, n=float("-inf"))
        >>> int((net.weight_mask.sum((0, 2, 3)) == 0).sum())
        2
    """
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: Callable[..., Any],
    importance_scores: dict[tuple[Module, str], Any] | None = None,
    **kwargs: Any,
) -> None:
    """Prune several parameters as if they were one.

    Args:
        parameters: pairs of a module and the name of its parameter.
        pruning_method: an unstructured method, such as :class:`L1Unstructured`.
        importance_scores: arrays to judge by instead of the parameters' values, for any of the pairs.
        kwargs: arguments of the method's constructor, such as ``amount``.

    Raises:
        TypeError: if the method is not unstructured, or the arguments are no pairs and no dict.

    Examples:
        >>> from jaxmodules import nn
        >>> net = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 1))
        >>> global_unstructured([(net[0], "weight"), (net[1], "weight")], L1Unstructured, amount=10)
        >>> int(sum((mask == 0).sum() for mask in net.buffers()))
        10
    """
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    scores = {} if importance_scores is None else importance_scores
    if not isinstance(scores, dict):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    pairs = [(module, name, as_array(getattr(module, name))) for module, name in parameters]
    joint = parameters_to_vector([scores.get((module, name), value) for module, name, value in pairs])
    masks = parameters_to_vector([getattr(m, f"{name}_mask", jnp.ones_like(value)) for m, name, value in pairs])
    container = PruningContainer()
    container._tensor_name = "temp"
    method = pruning_method(**kwargs)
    method._tensor_name = "temp"
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`.'
            f" Found method {pruning_method} of type {method.PRUNING_TYPE}"
        )
    container.add_pruning_method(method)
    mask = container.compute_mask(joint, masks)
    start = 0
    for module, name, value in pairs:
        custom_from_mask(module, name, mask=mask[start : start + value.size].reshape(value.shape))
        start += value.size


def custom_from_mask(module: _M, name: str, mask: ArrayLike) -> _M:
    """Prune what a mask says of a parameter, and return the module.

    Args:
        module: the module.
        name: the parameter.
        mask: zeros and ones in its shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> custom_from_mask(nn.Linear(5, 3), "bias", jnp.array([0, 1, 0])).bias_mask.tolist()
        [0.0, 1.0, 0.0]
    """
    CustomFromMask.apply(module, name, mask)
    return module


def remove(module: _M, name: str) -> _M:
    """Make a pruned parameter an ordinary one with zeros in it, and return the module.

    Args:
        module: the module.
        name: the parameter.

    Raises:
        ValueError: if it is not pruned.

    Examples:
        >>> from jaxmodules import nn
        >>> list(remove(random_unstructured(nn.Linear(5, 7), "weight", 0.2), "weight").state_dict())
        ['bias', 'weight']
    """
    for number, hook in _hooks_of(module, name):
        hook.remove(module)
        del module._forward_pre_hooks[number]
        return module
    raise ValueError(f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed")


def is_pruned(module: Module) -> bool:
    """Tell whether a module, or one below it, has a pruned parameter.

    Examples:
        >>> from jaxmodules import nn
        >>> is_pruned(nn.Sequential(identity(nn.Linear(2, 3), "bias")))
        True
    """
    return any(isinstance(h, BasePruningMethod) for m in module.modules() for h in m._forward_pre_hooks.values())


def _hooks_of(module: Module, name: str) -> list[tuple[int, BasePruningMethod]]:
    hooks = module._forward_pre_hooks.items()
    return [(n, hook) for n, hook in hooks if isinstance(hook, BasePruningMethod) and hook._tensor_name == name]
