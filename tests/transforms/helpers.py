"""Small modules whose behaviour a test gives, and a counter of traces."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules import nn

X = np.array([1.0, 2.0, 3.0], np.float32)
BATCH = np.arange(12, dtype=np.float32).reshape(4, 3) / 7 - 0.5


class Custom(nn.Module):
    """A module with one parameter, one buffer, any attributes, and a ``forward`` that the test gives."""

    def __init__(self, body: Callable[[Any, Any], Any], **attributes: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(jnp.array([1.0, 2.0, 3.0], jnp.float32))
        self.register_buffer("total", jnp.zeros(3, jnp.float32))
        for name, value in attributes.items():
            setattr(self, name, value)
        self.body = body

    def forward(self, x: Any) -> Any:
        return self.body(self, x)


def counted(function: Callable[..., Any]) -> Any:
    """Return ``function`` with a list ``calls`` that grows when its Python code runs, that is, when it is traced."""
    calls: list[int] = []

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    run.calls = calls  # type: ignore[attr-defined]
    return run


def multiply(module: Any, x: Any) -> Any:
    """Multiply by the weight: a body for :class:`Custom`."""
    return x * module.weight


def accumulate(module: Any, x: Any) -> Any:
    """Add the input to the buffer: a body for :class:`Custom` that writes."""
    module.total = module.total + x
    return module.total * module.weight


def mlp() -> nn.Sequential:
    """Return a net with parameters, buffers and layers that draw random numbers."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2))


def plain() -> nn.Sequential:
    """Return a net of parameters alone."""
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def arrays(net: nn.Module) -> dict[str, np.ndarray]:
    """Return a copy of everything in the ``state_dict``."""
    return {name: np.array(value) for name, value in net.state_dict().items()}


def assert_arrays(ours: Any, theirs: Any) -> None:
    """Compare two dicts of arrays by name."""
    assert list(ours) == list(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)


def same(ours: Any, theirs: Any) -> None:
    """Compare two arrays."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def is_traced(value: Any) -> bool:
    """Tell whether a tracer is anywhere in a value, plain objects included."""
    if isinstance(value, jax.core.Tracer):
        return True
    if isinstance(value, dict):
        return any(map(is_traced, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(is_traced, value))
    return hasattr(value, "__dict__") and not isinstance(value, type) and any(map(is_traced, vars(value).values()))


def assert_clean(net: nn.Module) -> None:
    """Assert that no tracer stayed behind in a module."""
    for path, module in net.named_modules():
        for name, box in module._parameters.items():
            assert box is None or not (is_traced(box._value) or is_traced(box._grad)), f"{path}.{name}"
        for name, value in module.__dict__.items():
            if name != "_modules" and name != "_parameters":
                assert not is_traced(value), f"{path}.{name}"
