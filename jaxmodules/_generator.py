"""The generator: PyTorch's random stream on the host and JAX's key on the device.

A :class:`Generator` owns two streams that one seed starts. The *host stream* gives what PyTorch's CPU generator
gives, bit for bit; initialisers and ``rand``, ``randn``, ``randint``, ``randperm`` and their kin draw from it when
nothing is being traced. The *device key* is a JAX key that :func:`next_key` splits; Dropout and the other random
layers draw from it, and so does everything above under a JAX transformation, where a host draw would become a
constant of the compiled program.

The key is state like a parameter is. ``jm.jit`` threads it through; a foreign transformation needs a key of its
own, bound by ``apply(..., rng=key)`` or ``with fork_rng(key):``, and a random operation without one raises.

Nothing here touches a JAX device before the first sample is drawn.
"""

import numbers
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._mt19937 import DEFAULT_SEED, STATE_BYTES, HostStream
from jaxmodules._tracing import (
    Cell,
    LeakError,
    UnboundStateError,
    ancestry,
    birth,
    current_trace,
    is_staging,
    is_tracing,
    owner,
    unbound_key,
)
from jaxmodules._typing import Array, ArrayLike

_UNBOUND = (
    "a random operation ran under a JAX transformation with no key bound (its samples would become a constant"
    " of the compiled program, or the same for every element of a vmap): bind a key with apply(..., rng=key) or"
    " `with jm.fork_rng(key):` inside the transformed function, or use jm.jit, which threads the key through"
    " (a Generator of your own must be an argument)"
)


def _is_typed(key: Any) -> bool:
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def _key_of_seed(seed: int) -> np.ndarray:
    return np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)


def _split_key(key: Any) -> tuple[Any, Any]:
    """Split a typed or raw key into its successor, in the form it had, and a typed key to draw with."""
    if _is_typed(key):
        new, sub = jax.random.split(key)
        return new, sub
    impl = "threefry2x32" if key.shape[-1] == 2 else None
    new, sub = jax.random.split(jax.random.wrap_key_data(key, impl=impl))
    return jax.random.key_data(new), sub


_split = jax.jit(_split_key, inline=True)


def _vmapped_alone(cell: Cell, birthplace: Any) -> bool:
    """Tell whether a vmap that knows nothing of ``cell`` lies between this operation and the cell's home."""
    frame = owner(id(cell))
    home = frame.trace if frame is not None else birthplace
    for trace in ancestry(current_trace()):
        if trace is home:
            return False
        if type(trace).__name__ == "BatchTrace":
            return True
    return False


class KeyCell(Cell):
    """The box of a generator's key; keys are handed around freely, so a key's memory is never given away."""

    __slots__ = ()


class Generator:
    """Own a host stream with PyTorch's bits and a device key, both started by one seed.

    Args:
        device: ``"cpu"``; the device key follows the arrays, wherever they are.

    Raises:
        RuntimeError: if ``device`` is anything else.

    Examples:
        >>> generator = Generator().manual_seed(0)
        >>> generator.initial_seed()
        0
    """

    def __init__(self, device: str = "cpu") -> None:
        if str(device) != "cpu":
            raise RuntimeError(
                f"Expected 'cpu' as the device of a Generator, got {device!r}"
                " (one generator serves every device: the device key follows the arrays)"
            )
        self._set(HostStream(DEFAULT_SEED), _key_of_seed(DEFAULT_SEED))

    def _set(self, host: HostStream, key: Any) -> "Generator":
        self.host = host
        self._key = KeyCell(key)
        self._born = birth()
        return self

    @classmethod
    def _of(cls, host: HostStream, key: Any) -> "Generator":
        return cls.__new__(cls)._set(host, key)

    @classmethod
    def from_key(cls, key: ArrayLike) -> "Generator":
        """Return a generator whose device key is ``key`` and whose host stream is a copy of the current one.

        Args:
            key: one JAX key, typed or raw, or an int seed; it may be traced.

        Raises:
            TypeError: if ``key`` is neither a key nor an int.
            ValueError: if ``key`` is a batch of keys.
        """
        return cls._of(current_generator().host.clone(), _as_key(key))

    def set_key(self, key: ArrayLike) -> "Generator":
        """Continue from a device key, typed or raw, and leave the host stream where it is.

        Raises:
            RuntimeError: if the key is traced and this generator outlives the trace.
        """
        birthplace = self._born() if self._born is not None else None
        if is_tracing() and _vmapped_alone(self._key, birthplace):
            raise RuntimeError(_UNBOUND)
        try:
            self._key.value = _as_key(key)
        except LeakError:
            raise RuntimeError(_UNBOUND) from None
        return self

    @property
    def device(self) -> str:
        """The device of the host stream, always ``"cpu"``."""
        return "cpu"

    def manual_seed(self, seed: int) -> "Generator":
        """Start both streams over from ``seed``, and return this generator.

        Args:
            seed: from ``-2**63`` to ``2**64 - 1``; negative seeds count from ``2**64`` down.

        Raises:
            RuntimeError: if ``seed`` is no integer.
            ValueError: if ``seed`` is out of range.
        """
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
            raise RuntimeError(f"manual_seed expected a long, but got {type(seed).__name__}")
        seed = int(seed)
        if not -(1 << 63) <= seed < 1 << 64:
            raise ValueError(f"Overflow when unpacking long long: expected -2**63 <= seed < 2**64, got {seed}")
        self.host.manual_seed(seed)
        self._key.value = _key_of_seed(self.host.initial_seed)
        return self

    def seed(self) -> int:
        """Start over from a seed that the operating system draws, and return it."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little"))
        return self.initial_seed()

    def initial_seed(self) -> int:
        """Return the seed that the streams started from."""
        return self.host.initial_seed

    def get_state(self) -> np.ndarray:
        """Return both streams as bytes: the 5056 of ``torch.Generator.get_state``, then the device key."""
        key = self._key.value
        data = np.asarray(jax.random.key_data(key) if _is_typed(key) else key)
        return np.concatenate([self.host.get_state(), np.ascontiguousarray(data).view(np.uint8)])

    def set_state(self, new_state: ArrayLike) -> "Generator":
        """Continue from a state, of this class or of ``torch.Generator`` (whose seed then gives the device key).

        Args:
            new_state: a uint8 array.

        Raises:
            TypeError: if it is no uint8 array.
            RuntimeError: if it has the wrong size.
        """
        state = _state_bytes(new_state)
        extra = state.size - STATE_BYTES
        if extra not in (0, 8, 16):
            raise RuntimeError(
                f"Expected a CPUGeneratorImplState of size {STATE_BYTES} (and the 8 or 16 bytes of a JAX key)"
                f" but found the input RNG state size to be {state.size}"
            )
        self.host.set_state(state[:STATE_BYTES])
        if not extra:
            self._key.value = _key_of_seed(self.host.initial_seed)
            return self
        data, old = state[STATE_BYTES:].copy().view(np.uint32), self._key.value
        typed = _is_typed(old)
        self._key.value = (
            jax.random.wrap_key_data(jax.device_put(data), impl=jax.random.key_impl(old)) if typed else data
        )
        return self

    def clone_state(self) -> "Generator":
        """Return a generator of its own in the state of this one."""
        return Generator._of(self.host.clone(), self._key.value)

    def next_key(self) -> Array:
        """Split the device key: keep one half, and return the other for ``jax.random``.

        Raises:
            RuntimeError: under a JAX transformation that this generator's key was not bound for.
        """
        cell = self._key
        birthplace = self._born() if self._born is not None else None
        if is_tracing() and _vmapped_alone(cell, birthplace):
            raise RuntimeError(_UNBOUND)
        try:
            cell.value, key = _split(cell.value)
        except (LeakError, UnboundStateError):
            raise RuntimeError(_UNBOUND) from None
        return key

    def sample_key(self) -> Array:
        """Return :meth:`next_key`, or where no key is bound one that shapes can be computed from, but no values.

        It lets ``jax.eval_shape`` build a model; compiling what is drawn from it raises next_key's RuntimeError.
        """
        try:
            return self.next_key()
        except RuntimeError as error:
            if error.args != (_UNBOUND,) or not is_staging():
                raise
            return unbound_key(_UNBOUND)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Generator":
        return self.clone_state()

    def __getstate__(self) -> dict[str, Any]:
        key = self._key.value
        return {"state": self.get_state(), "impl": str(jax.random.key_impl(key)) if _is_typed(key) else None}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        host = HostStream()
        host.set_state(saved["state"][:STATE_BYTES])
        data = saved["state"][STATE_BYTES:].copy().view(np.uint32)
        self._set(host, data if saved["impl"] is None else jax.random.wrap_key_data(data, impl=saved["impl"]))

    def __repr__(self) -> str:
        return f"<jaxmodules.Generator device={self.device} initial_seed={self.initial_seed()}>"


def _state_bytes(state: Any) -> np.ndarray:
    """Return a generator state as a flat uint8 array."""
    if not hasattr(state, "dtype") or not hasattr(state, "shape"):
        raise TypeError(f"expected a uint8 array (as get_rng_state returns), but got {type(state).__name__}")
    array = np.asarray(state)
    if array.dtype != np.uint8:
        raise TypeError(f"RNG state must be a uint8 array, got {array.dtype}")
    return array.ravel()


class _Local(threading.local):
    def __init__(self) -> None:
        self.generators: list[Generator] = []


_local = _Local()
default_generator = Generator()


def current_generator() -> Generator:
    """Return the generator that this thread draws from: the innermost one bound, else ``default_generator``."""
    return _local.generators[-1] if _local.generators else default_generator


def next_key() -> Array:
    """Return a fresh JAX key, split off the current generator's.

    Examples:
        >>> _ = manual_seed(0)
        >>> jax.random.bernoulli(next_key(), 0.5, (3,)).shape
        (3,)
    """
    return current_generator().next_key()


def manual_seed(seed: int) -> Generator:
    """Seed the current generator, and return it.

    Examples:
        >>> manual_seed(0).initial_seed()
        0
    """
    return current_generator().manual_seed(int(seed))


def seed() -> int:
    """Seed the current generator from the operating system, and return the seed."""
    return current_generator().seed()


def initial_seed() -> int:
    """Return the seed that the current generator started from."""
    return current_generator().initial_seed()


def get_rng_state() -> np.ndarray:
    """Return the state of the current generator as a uint8 array."""
    return current_generator().get_state()


def set_rng_state(new_state: ArrayLike) -> None:
    """Continue the current generator from a state that :func:`get_rng_state` or ``torch.get_rng_state`` returned."""
    current_generator().set_state(new_state)


@contextmanager
def bind_generator(generator: Generator) -> Iterator[Generator]:
    """Draw from ``generator`` in this thread until the block ends."""
    stack = _local.generators
    depth = len(stack)
    try:
        try:
            stack.append(generator)
            yield generator
        finally:
            del stack[depth:]
    finally:  # an interrupt may have come before
        del stack[depth:]


@contextmanager
def fork_rng(key: ArrayLike | None = None) -> Iterator[Generator]:
    """Draw inside the block without moving the streams outside it.

    Args:
        key: a JAX key (typed, raw, or an int seed) to draw with inside the block; it may be traced, which is how a
            random layer runs under a JAX transformation. Without one the current streams are used and put back.

    Raises:
        TypeError: if ``key`` is neither a key nor an int.
        ValueError: if ``key`` is a batch of keys.

    Examples:
        >>> with fork_rng(jax.random.key(0)):
        ...     a = next_key()
        >>> with fork_rng(0):
        ...     b = next_key()
        >>> bool(a == b)
        True
    """
    generator = current_generator()
    if key is not None:
        with bind_generator(Generator.from_key(key)) as forked:
            yield forked
        return
    host, old = generator.host.get_state(), generator._key.value
    try:
        yield generator
    finally:
        generator.host.set_state(host)
        generator._key.value = old


def _as_key(key: Any) -> Any:
    """Return ``key`` as one typed or raw key."""
    if isinstance(key, numbers.Integral) and not isinstance(key, bool):
        return _key_of_seed(int(key) % (1 << 64))
    dtype = getattr(key, "dtype", None)
    if dtype is None:
        raise TypeError(f"key must be a JAX key (jax.random.key(seed)) or an int seed, got {key!r}")
    if _is_typed(key):
        if key.ndim:
            raise ValueError(f"key must be one key, got a batch of shape {key.shape}: give each vmap element its own")
        return key
    if key.ndim == 0 and jnp.issubdtype(dtype, np.integer):
        return jax.random.key_data(jax.random.key(key, impl="threefry2x32"))
    if dtype != np.uint32 or key.shape not in ((2,), (4,)):
        raise ValueError(f"key must be one JAX key: typed, or raw uint32 of shape (2,), got {dtype} of {key.shape}")
    return key


def resolve(generator: Generator | None) -> Generator:
    """Return ``generator``, or the current one when it is ``None``.

    Raises:
        TypeError: if it is anything else.
    """
    if generator is None:
        return current_generator()
    if not isinstance(generator, Generator):
        raise TypeError(f"generator must be a jaxmodules Generator, got {type(generator).__name__}")
    return generator
