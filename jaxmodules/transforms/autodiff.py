"""Gradients with respect to modules, parameters and pytrees."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxmodules._gradient_hooks import run_accumulated
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.transforms._call import Call
from jaxmodules.transforms._point import Point, Problem


def value_and_grad(
    fn: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
) -> Callable[..., tuple[Any, Any]]:
    """Return a function that computes ``fn`` and its gradient.

    The gradient of a module is a dict of its trainable parameters' gradients in ``named_parameters()`` order; of a
    :class:`~jaxmodules.nn.Parameter` an array; of a pytree a pytree. What ``fn`` writes to buffers and random state
    is written back. Without ``jm.jit`` around it everything runs eagerly, Python control flow on values included.

    Args:
        fn: a function with a scalar result.
        argnums: which arguments to differentiate; a sequence gives a tuple of gradients.
        has_aux: whether ``fn`` returns ``(value, aux)``; the new function then returns ``((value, aux), gradient)``.
        options: further keyword arguments of :func:`jax.value_and_grad`.

    Raises:
        TypeError: on a call, if the value is no real scalar or an argument can't be differentiated.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Linear(3, 1)
        >>> loss, grads = value_and_grad(lambda net: net(jnp.ones((2, 3))).sum())(net)
        >>> grads["weight"].tolist()
        [[2.0, 2.0, 2.0]]
    """

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        problem = Problem(Call(fn, args, kwargs), args, argnums, has_aux)
        (value, rest), gradient = jax.value_and_grad(problem.pure, has_aux=True, **options)(problem.point)
        out = problem.finish(value, rest)
        return out if has_aux else out[0], problem.form(gradient)

    return wrapped


def grad(
    fn: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
) -> Callable[..., Any]:
    """Return a function that computes the gradient of ``fn``; :func:`value_and_grad` without the value.

    With ``has_aux`` it returns ``(gradient, aux)``, as :func:`jax.grad` does.

    Args:
        fn: a function with a scalar result.
        argnums: which arguments to differentiate; a sequence gives a tuple of gradients.
        has_aux: whether ``fn`` returns ``(value, aux)``.
        options: further keyword arguments of :func:`jax.value_and_grad`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> grad(lambda net, x: net(x).sum())(nn.Linear(2, 1), jnp.ones((3, 2)))["bias"].tolist()
        [3.0]
    """
    both = value_and_grad(fn, argnums, has_aux, **options)

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapped


def backward(loss_fn: Callable[..., Any], *modules: Module | Parameter) -> Any:
    """Compute a loss, and add its gradient to the ``.grad`` of the trainable parameters that it depends on.

    The counterpart of ``loss.backward()`` for PyTorch-style loops: ``optimizer.zero_grad()``;
    ``loss = jm.backward(lambda: F.mse_loss(net(x), y), net)``; ``optimizer.step()``. As there, the ``.grad`` of a
    parameter that took no part in the loss stays what it was: ``None``, and optimizers leave the parameter alone.

    Args:
        loss_fn: computes a scalar; called without arguments, or with the modules if it takes any.
        modules: modules and parameters that get gradients; by default all that the function's closure and globals
            show.

    Returns:
        The loss.

    Raises:
        RuntimeError: if the loss is no real scalar, or depends on no trainable parameter.
        TypeError: if one of ``modules`` is no Module or Parameter, or none is given or found.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Linear(3, 1)
        >>> loss = backward(lambda: net(jnp.ones((2, 3))).sum(), net)
        >>> net.bias.grad.tolist()
        [2.0]
    """
    for module in modules:
        if not isinstance(module, Module | Parameter):
            raise TypeError(f"expected modules after the loss function, got {module!r}")

    @functools.wraps(loss_fn, updated=())
    def scalar_loss(*args: Any) -> tuple[Any, Any]:
        loss = jnp.asarray(loss_fn(*args))
        if jnp.size(loss) != 1:
            raise RuntimeError(f"grad can be implicitly created only for scalar outputs, got shape {jnp.shape(loss)}")
        if jnp.iscomplexobj(loss):
            raise RuntimeError(f"grad can be implicitly created only for real scalar outputs, got {loss.dtype}")
        return jnp.reshape(loss, ()), loss

    call = Call(scalar_loss, modules if _takes_arguments(loss_fn) else (), {}, also=modules)
    found = modules or [root for root in call.roots if isinstance(root, Module | Parameter)]
    if not found:
        raise TypeError("expected the modules whose parameters get gradients, as in jm.backward(loss_fn, net)")
    targets = [target for target in found if isinstance(target, Module) or target.requires_grad]
    problem = Problem(call, targets, range(len(targets)), has_aux=True)
    reached: set[int] = set()
    noting = _noting(reached)
    (value, rest), gradient = jax.value_and_grad(lambda p: problem.pure(noting(p)), has_aux=True)(problem.point)
    _, loss = problem.finish(value, rest)
    if not reached:
        raise RuntimeError(
            "element 0 of tensors does not require grad and does not have a grad_fn: the loss depends on no trainable"
            f" parameter of {', '.join(type(target).__name__ for target in found)}"
        )
    reached_ones = Point({i: g for i, g in gradient.slots.items() if i in reached}, {})
    for name, box, new in reversed([*problem.boxes(reached_ones)]):
        box.grad = new if box.grad is None else box.grad + new
        run_accumulated(box, name)
    return loss


def _noting(reached: set[int]) -> Callable[[Point], Point]:
    """Return an identity that notes, in the backward pass, to which slots a gradient comes back."""

    @jax.custom_vjp
    def same(slots: dict[int, Any]) -> dict[int, Any]:
        return slots

    def forward(slots: dict[int, Any]) -> tuple[dict[int, Any], None]:
        return {i: slot.value for i, slot in slots.items()}, None

    def reverse(_: None, gradients: dict[int, Any]) -> tuple[dict[int, Any]]:
        there = {i for i, gradient in gradients.items() if not isinstance(gradient, SymbolicZero)}
        reached.update(there)
        return ({i: gradient if i in there else None for i, gradient in gradients.items()},)

    same.defvjp(forward, reverse, symbolic_zeros=True)
    return lambda point: Point(same(point.slots), point.leaves)


def _takes_arguments(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
