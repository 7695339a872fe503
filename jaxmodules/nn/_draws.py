"""What the random in-place methods of a tensor write: PyTorch's bits from the host stream, or under a trace JAX's."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._tracing import is_tracing
from jaxmodules._typing import Array
from jaxmodules.random import Generator, randint, resolve, to_jax


def _check(name: str, dtype: Any, is_valid: bool, rule: str) -> None:
    if not jnp.issubdtype(dtype, np.floating):
        raise RuntimeError(f"{name}_ expects a floating point dtype, but got {np.dtype(dtype).name}: cast it first")
    if not is_valid:
        raise RuntimeError(f"{name}_ expects {rule}")


def exponential(array: Array, lambd: float = 1.0, *, generator: Generator | None = None) -> Array:
    """Draw from the exponential distribution of rate ``lambd``."""
    _check("exponential", array.dtype, lambd > 0, f"lambda > 0.0, but found lambda={lambd}")
    generator = resolve(generator)
    if is_tracing():
        return jax.random.exponential(generator.next_key(), array.shape, array.dtype) / lambd
    return to_jax((-1 / lambd * np.log1p(-_doubles(generator, array))).astype(array.dtype))


def geometric(array: Array, p: float, *, generator: Generator | None = None) -> Array:
    """Draw the number of trials until the first success, which has probability ``p``."""
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p}")
    generator = resolve(generator)
    if is_tracing():
        return jax.random.geometric(generator.next_key(), p, array.shape).astype(array.dtype)
    return to_jax(np.ceil(np.log(_doubles(generator, array)) / math.log1p(-p)).astype(array.dtype))


def cauchy(array: Array, median: float = 0.0, sigma: float = 1.0, *, generator: Generator | None = None) -> Array:
    """Draw from the Cauchy distribution."""
    _check("cauchy", array.dtype, sigma > 0, f"sigma > 0.0, but found sigma={sigma}")
    generator = resolve(generator)
    if is_tracing():
        return median + sigma * jax.random.cauchy(generator.next_key(), array.shape, array.dtype)
    return to_jax((median + sigma * np.tan(math.pi * (_doubles(generator, array) - 0.5))).astype(array.dtype))


def log_normal(array: Array, mean: float = 1.0, std: float = 2.0, *, generator: Generator | None = None) -> Array:
    """Draw from the distribution whose logarithm is normal."""
    _check("log_normal", array.dtype, std > 0, f"std > 0.0, but found std={std}")
    generator = resolve(generator)
    if is_tracing():
        return jnp.exp(mean + std * jax.random.normal(generator.next_key(), array.shape, array.dtype))
    normals = generator.host.scalar_normals(array.size)
    return to_jax(np.exp(normals * std + mean).reshape(array.shape).astype(array.dtype))


def integers(array: Array, from_: int = 0, to: int | None = None, *, generator: Generator | None = None) -> Array:
    """Draw integers: ``(to)``, ``(from, to)``, or without bounds all that the dtype represents exactly.

    Raises:
        RuntimeError: if there is no integer between the bounds.
    """
    if to is None and from_:
        from_, to = 0, from_
    if to is not None:
        return randint(from_, to, tuple(array.shape), generator=generator, dtype=array.dtype)
    dtype = np.dtype(array.dtype)
    if jnp.issubdtype(dtype, np.floating):
        limit = 2 ** (jnp.finfo(dtype).nmant + 1) + 1
    else:
        limit = 2 if dtype.kind == "b" else jnp.iinfo(dtype).max + 1
    generator = resolve(generator)
    if is_tracing():
        return jax.random.randint(generator.next_key(), array.shape, 0, min(limit, 2**31 - 1)).astype(dtype)
    draw = generator.host.words64 if dtype.itemsize == 8 else generator.host.words
    return to_jax((draw(array.size) % np.uint64(limit)).reshape(array.shape).astype(dtype))


def _doubles(generator: Generator, array: Array) -> np.ndarray:
    return generator.host.doubles(array.size).reshape(array.shape)
