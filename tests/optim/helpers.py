"""Pairs of optimizers, ours and torch's, that get the same parameters and the same gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxmodules as jm
from jaxmodules import nn

Grads = Sequence[np.ndarray | None]
SHAPES = ((4, 3), (3,), (2, 2, 2), ())
SMALL = ((4, 3), ())
X = jnp.linspace(-1.0, 1.0, 15, dtype=jnp.float32).reshape(5, 3)


def draw(seed: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[np.ndarray]:
    """Draw an array for each shape."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), np.float32) for shape in shapes]


def gradients(steps: int, seed: int = 1, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[list[np.ndarray]]:
    """Draw gradients over four orders of magnitude."""
    scale = 10.0 ** np.random.default_rng(seed).uniform(-3, 1, steps)
    return [[g * np.float32(s) for g in draw(seed + i, shapes)] for i, s in enumerate(scale)]


class Pair:
    """Equal parameters under an optimizer of ours and one of torch's."""

    def __init__(
        self,
        name: str,
        dtype: str = "float32",
        theirs: dict[str, Any] | None = None,
        shapes: Sequence[tuple[int, ...]] = SHAPES,
        **kwargs: Any,
    ) -> None:
        convert = getattr(torch, dtype)
        self.ours = [nn.Parameter(jnp.asarray(a, dtype)) for a in draw(0, shapes)]
        self.theirs = [torch.nn.Parameter(torch.tensor(a).to(convert)) for a in draw(0, shapes)]
        self.optimizer = getattr(jm.optim, name)(self.ours, **kwargs)
        self.oracle = getattr(torch.optim, name)(self.theirs, **(kwargs if theirs is None else theirs))

    def set(self, **settings: Any) -> None:
        """Change settings of both."""
        for groups in (self.optimizer.param_groups, self.oracle.param_groups):
            for group in groups:
                group.update(settings)

    def step(self, grads: Grads, ours: Callable[..., Any] | None = None) -> None:
        """Step both with the same gradients."""
        for parameter, grad in zip(self.theirs, grads, strict=True):
            parameter.grad = None if grad is None else torch.tensor(grad).to(parameter.dtype)
            if isinstance(self.oracle, torch.optim.SparseAdam) and grad is not None:
                parameter.grad = parameter.grad.to_sparse(min(1, grad.ndim))
        self.oracle.step()
        arrays = [None if g is None else jnp.asarray(g, p.dtype) for p, g in zip(self.ours, grads, strict=True)]
        (ours or self.optimizer.step)(arrays)

    def check(self, tolerance: float = 1e-6) -> None:
        """Compare the parameters, with a tolerance that is relative to their size above one."""
        for ours, theirs in zip(self.ours, self.theirs, strict=True):
            expected = theirs.detach().double().numpy()
            np.testing.assert_allclose(np.asarray(ours.value, np.float64), expected, rtol=tolerance, atol=tolerance)

    def check_state(self) -> None:
        """Compare whose state there is, and what is in it."""
        ours, theirs = self.optimizer.state_dict()["state"], self.oracle.state_dict()["state"]
        assert {i: sorted(own) for i, own in ours.items()} == {i: sorted(own) for i, own in theirs.items() if own}
        for i, own in ours.items():
            for key, value in own.items():
                np.testing.assert_allclose(value, theirs[i][key], rtol=1e-5, atol=1e-7, err_msg=f"{i} {key}")


class Counted:
    """A compiled step that takes gradients, and counts its traces."""

    def __init__(self, optimizer: Any, change: Callable[[Any], None] = lambda optimizer: None, **options: Any) -> None:
        self.traces = 0
        self.optimizer = optimizer

        def step(optimizer: Any, grads: Any) -> None:
            self.traces += 1
            change(optimizer)
            optimizer.step(grads)

        self.jitted = jm.jit(step, **options)

    def __call__(self, grads: Any) -> None:
        self.jitted(self.optimizer, grads)


def mlp(seed: int = 0) -> nn.Sequential:
    """Build a small network."""
    jm.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def loss_of(net: Any) -> jax.Array:
    """Compute a loss on the fixed batch."""
    return (net(X) ** 2).mean()


def train_step(net: Any, optimizer: Any) -> jax.Array:
    """Step once, the gradient by ``jm.value_and_grad``."""
    loss, grads = jm.value_and_grad(loss_of)(net)
    optimizer.step(grads)
    return loss


def values(net: Any) -> list[np.ndarray]:
    """Copy the parameters of a net or the values of a list of them."""
    parameters = net.parameters() if isinstance(net, nn.Module) else net
    return [np.array(p.value) for p in parameters]


def to_torch(value: Any) -> Any:
    """Turn the arrays in a state dict into tensors."""
    return jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)) if isinstance(leaf, jax.Array) else leaf, value)
