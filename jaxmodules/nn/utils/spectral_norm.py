"""Spectral norm by a hook, the older form of :func:`jaxmodules.nn.utils.parametrizations.spectral_norm`."""

from typing import Any, TypeVar

import jax.numpy as jnp

from jaxmodules._shapes import as_array
from jaxmodules._tracing import epoch
from jaxmodules._typing import Array
from jaxmodules.nn.modules._hooks import Derivation
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter, is_lazy, to_array
from jaxmodules.nn.utils._norms import as_matrix, divide_by_sigma, power_iteration, unit_vector
from jaxmodules.random import normal_values, to_jax

_M = TypeVar("_M", bound=Module)


class SpectralNorm(Derivation):
    """Divide a weight by an estimate of its largest singular value; see :func:`spectral_norm`.

    Args:
        name: the name of the weight.
        n_power_iterations: how many iterations of the power method a call in training mode does.
        dim: the axis of the outputs.
        eps: the least norm that is divided by.

    Raises:
        ValueError: if ``n_power_iterations`` is not positive.
    """

    _version: int = 1  # 1 saves weight_v, and no weight

    name: str
    n_power_iterations: int
    dim: int
    eps: float

    def __init__(self, name: str = "weight", n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        self.name = name
        self.dim = dim
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        self.is_called = False  # until then the weight reads as the original

    @staticmethod
    def apply(module: Module, name: str, n_power_iterations: int, dim: int, eps: float) -> "SpectralNorm":
        """Replace the parameter ``name`` of a module by its original and two vectors, and return the hook.

        Raises:
            RuntimeError: if it has been replaced already.
            ValueError: if the parameter is ``None`` or has no shape yet, or ``n_power_iterations`` is not positive.
        """
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm) and hook.name == name:
                raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
        hook = SpectralNorm(name, n_power_iterations, dim, eps)
        weight = module._parameters[name]
        if weight is None:
            raise ValueError(f"`SpectralNorm` cannot be applied as parameter `{name}` is None")
        if is_lazy(weight):
            raise ValueError(
                "The module passed to `SpectralNorm` can't have uninitialized parameters. Make sure to run the dummy"
                " forward before applying spectral normalization"
            )
        height, width = hook.reshape_weight_to_matrix(weight).shape
        u, v = (unit_vector(to_jax(normal_values((n,), dtype=weight.dtype)), eps) for n in (height, width))
        delattr(module, name)
        module.register_parameter(f"{name}_orig", weight)
        module.register_buffer(f"{name}_u", u)
        module.register_buffer(f"{name}_v", v)
        module.register_forward_pre_hook(hook)
        module._register_state_dict_hook(SpectralNormStateDictHook(hook))
        module._register_load_state_dict_pre_hook(SpectralNormLoadStateDictPreHook(hook))
        return hook

    def reshape_weight_to_matrix(self, weight: Any) -> Array:
        """Return a weight as a matrix with a row for each output."""
        return as_matrix(as_array(weight), self.dim)

    def compute_weight(self, module: Module, do_power_iteration: bool) -> Array:
        """Return the normalised weight of a module, after a better estimate if it is asked for."""
        weight, u, v = (as_array(getattr(module, f"{self.name}_{part}")) for part in ("orig", "u", "v"))
        if do_power_iteration:
            u, v = power_iteration(
                weight, u, v, dim=self.dim, iterations=self.n_power_iterations, eps=self.eps, starts_with_u=False
            )
            setattr(module, f"{self.name}_u", u)
            setattr(module, f"{self.name}_v", v)
        return divide_by_sigma(weight, u, v, dim=self.dim)

    def remove(self, module: Module) -> None:
        """Make the weight a parameter again, with its present normalised value."""
        weight = self.compute_weight(module, do_power_iteration=False)
        super().__call__(module, ())
        for part in ("u", "v", "orig"):
            delattr(module, f"{self.name}_{part}")
        module.register_parameter(self.name, Parameter(weight))

    def __call__(self, module: Module, inputs: Any) -> None:
        """Improve the estimate, if the module is in training mode."""
        super().__call__(module, inputs)
        if not self.is_called:
            self.is_called = True
            epoch.count += 1
        if module.training:
            self.compute_weight(module, do_power_iteration=True)

    @property
    def derived_name(self) -> str:
        """The name of the weight."""
        return self.name

    def derive(self, module: Any) -> Array:
        """Return the normalised weight of a module, or the original if it has never been called."""
        if not self.is_called:
            return as_array(getattr(module, f"{self.name}_orig"))
        return self.compute_weight(module, do_power_iteration=False)

    def _solve_v_and_rescale(self, weight_mat: Array, u: Array, target_sigma: Array) -> Array:
        """Return the ``v`` that belongs to ``u`` and the singular value ``target_sigma``."""
        v = jnp.linalg.pinv(weight_mat.T @ weight_mat) @ (weight_mat.T @ u)
        return v * (target_sigma / jnp.dot(u, weight_mat @ v))


class SpectralNormLoadStateDictPreHook:
    """Compute ``weight_v`` for a file of a version that did not save it.

    Args:
        fn: the hook whose state is loaded.
    """

    compared_by_content = True

    def __init__(self, fn: SpectralNorm) -> None:
        self.fn = fn

    def __call__(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Replace the normalised weight of the file by ``weight_v``."""
        version = local_metadata.get("spectral_norm", {}).get(f"{self.fn.name}.version", None)
        if version is not None and version >= 1:
            return
        key = prefix + self.fn.name
        if version is None and key not in state_dict and all(f"{key}_{p}" in state_dict for p in ("orig", "u", "v")):
            return  # of the newest version, made by hand without metadata
        missing = [key + suffix for suffix in ("_orig", "", "_u") if key + suffix not in state_dict]
        if missing:
            missing_keys.extend(missing if strict else ())
            return
        original, weight, u = (to_array(state_dict[key + suffix]) for suffix in ("_orig", "", "_u"))
        del state_dict[key]
        sigma = (original / weight).mean()
        state_dict[f"{key}_v"] = self.fn._solve_v_and_rescale(self.fn.reshape_weight_to_matrix(original), u, sigma)


class SpectralNormStateDictHook:
    """Note the version in the metadata of a ``state_dict``.

    Args:
        fn: the hook whose state is saved.
    """

    compared_by_content = True

    def __init__(self, fn: SpectralNorm) -> None:
        self.fn = fn

    def __call__(self, module: Module, state_dict: Any, prefix: str, local_metadata: dict[str, Any]) -> None:
        """Note the version; RuntimeError is raised if one is there already."""
        versions = local_metadata.setdefault("spectral_norm", {})
        key = f"{self.fn.name}.version"
        if key in versions:
            raise RuntimeError(f"Unexpected key in metadata['spectral_norm']: {key}")
        versions[key] = self.fn._version


def spectral_norm(
    module: _M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> _M:
    r"""Divide a parameter by its largest singular value (Miyato et al., 2018).

    .. math:: W_{SN} = W / \sigma(W), \quad \sigma(W) = \max_{h \ne 0} \lVert W h \rVert / \lVert h \rVert

    The parameter is ``weight_orig`` then, and the buffers ``weight_u`` and ``weight_v`` estimate its first singular
    vectors, better by some iterations of the power method with each call in training mode. ``weight`` is an attribute
    that is computed whenever it is read. :func:`jaxmodules.nn.utils.parametrizations.spectral_norm` is newer.

    Args:
        module: the module.
        name: the parameter; one of more than two axes counts as a matrix with its axis ``dim`` in front.
        n_power_iterations: how many iterations a call does.
        eps: the least norm that is divided by.
        dim: the axis of the outputs; 0, but 1 for transposed convolutions.

    Returns:
        The module.

    Raises:
        RuntimeError: if the parameter has a spectral norm already.
        ValueError: if it is ``None``, or ``n_power_iterations`` is not positive.

    Examples:
        >>> from jaxmodules import nn
        >>> sorted(spectral_norm(nn.Linear(20, 40)).state_dict())
        ['bias', 'weight_orig', 'weight_u', 'weight_v']
    """
    if dim is None:
        dim = 1 if getattr(module, "transposed", False) else 0
    SpectralNorm.apply(module, name, n_power_iterations, dim, eps)
    return module


def remove_spectral_norm(module: _M, name: str = "weight") -> _M:
    """Make a parameter under :func:`spectral_norm` an ordinary parameter again, with its normalised value.

    Args:
        module: the module.
        name: the parameter.

    Returns:
        The module.

    Raises:
        ValueError: if the parameter has no spectral norm.

    Examples:
        >>> from jaxmodules import nn
        >>> list(remove_spectral_norm(spectral_norm(nn.Linear(20, 40))).state_dict())
        ['bias', 'weight']
    """
    for number, hook in module._forward_pre_hooks.items():
        if isinstance(hook, SpectralNorm) and hook.name == name:
            hook.remove(module)
            del module._forward_pre_hooks[number]
            break
    else:
        raise ValueError(f"spectral_norm of '{name}' not found in {module}")
    _drop(module._state_dict_hooks, SpectralNormStateDictHook, name)
    _drop(module._load_state_dict_pre_hooks, SpectralNormLoadStateDictPreHook, name)
    return module


def _drop(hooks: Any, kind: type, name: str) -> None:
    for number, registered in hooks.items():
        hook = getattr(registered, "hook", registered)
        if isinstance(hook, kind) and hook.fn.name == name:
            del hooks[number]
            return
