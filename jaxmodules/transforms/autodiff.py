"""Gradients with respect to modules, parameters and pytrees."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodules._gradient_hooks import hooked, run_accumulated
from jaxmodules._tracing import Cell
from jaxmodules.nn.modules.module import Module
from jaxmodules.state import Structure
from jaxmodules.transforms._call import Call, Changes, commit, is_stateful
from jaxmodules.transforms._label import label


class _Target:
    """One differentiated argument: which slots and which arrays of the call it is made of."""

    def __init__(self, value: Any, first_leaf: int, index: dict[Any, int]) -> None:
        parts, self._treedef = jax.tree_util.tree_flatten(value, is_leaf=is_stateful)
        self._parts: list[Any] = []  # a dict of slots by name, one slot, or None for the next array
        self.slots: list[int] = []
        for part in parts:
            if isinstance(part, Module):
                self._parts.append({name: index[id(box)] for name, box in label(part).items()})
                self.slots += self._parts[-1].values()
            elif isinstance(part, Cell):
                self._parts.append(index[id(part)])
                self.slots.append(self._parts[-1])
            elif is_stateful(part):
                raise TypeError(f"expected modules, parameters and arrays to differentiate, got {part!r}")
            else:
                self._parts.append(None)
        self.leaves = range(first_leaf, first_leaf + sum(part is None for part in self._parts))

    def gradient(self, slots: dict[int, Any], leaves: dict[int, Any]) -> Any:
        """Return the gradient in the form of the argument."""
        arrays = iter(self.leaves)

        def of(part: Any) -> Any:
            if part is None:
                return leaves[next(arrays)]
            return {name: slots[i] for name, i in part.items()} if isinstance(part, dict) else slots[part]

        return jax.tree_util.tree_unflatten(self._treedef, [of(part) for part in self._parts])


def _differentiate(
    call: Call, structure: Structure, slots: Sequence[int], leaves: Sequence[int], has_aux: bool, options: Any
) -> tuple[Any, dict[int, Any], dict[int, Any]]:
    """Run a call; return its output and its gradient with respect to some slots and some array arguments."""
    values = structure.read()

    def pure(slots: dict[int, Any], leaves: dict[int, Any]) -> tuple[Any, tuple[Any, Changes]]:
        slots = hooked(structure, slots)
        now = [slots.get(i, value) for i, value in enumerate(values)]
        out, changes = call.run(structure, now, [leaves.get(i, leaf) for i, leaf in enumerate(call.leaves)])
        return (out[0] if has_aux else out), (out, changes)

    chosen = {i: values[i] for i in slots}, {i: call.leaves[i] for i in leaves}
    (value, (out, changes)), gradients = jax.value_and_grad(pure, (0, 1), has_aux=True, **options)(*chosen)
    commit(structure, changes)
    out = (value, out[1]) if has_aux else value
    return call.restore(out, structure) if changes.has_refs else out, *gradients


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
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        call = Call(fn, args, kwargs)
        structure = call.structure()
        index = {place: i for i, place in enumerate(structure.places)}
        counts = [sum(not is_stateful(x) for x in jax.tree.leaves(arg, is_leaf=is_stateful)) for arg in args]
        for i in positions:
            if not -len(args) <= i < len(args):
                raise TypeError(f"argnums names argument {i}, but the call has {len(args)} positional arguments")
        targets = [_Target(args[i], sum(counts[: i % len(args)]), index) for i in positions]
        slots = [i for target in targets for i in target.slots]
        leaves = [i for target in targets for i in target.leaves]
        out, *gradients = _differentiate(call, structure, slots, leaves, has_aux, options)
        gradient = tuple(target.gradient(*gradients) for target in targets)
        return out, gradient[0] if isinstance(argnums, int) else gradient

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


def backward(loss_fn: Callable[..., Any], *modules: Module) -> Any:
    """Compute a loss, and add its gradient to the ``.grad`` of the modules' trainable parameters.

    The counterpart of ``loss.backward()`` for PyTorch-style loops: ``optimizer.zero_grad()``;
    ``loss = jm.backward(lambda: F.mse_loss(net(x), y), net)``; ``optimizer.step()``.

    Args:
        loss_fn: computes a scalar; called without arguments, or with the modules if it takes any.
        modules: whose parameters get gradients; by default all that the function's closure and globals show.

    Returns:
        The loss.

    Raises:
        RuntimeError: if the loss is no scalar.
        TypeError: if one of ``modules`` is no Module, or none is given or found.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> net = nn.Linear(3, 1)
        >>> loss = backward(lambda: net(jnp.ones((2, 3))).sum(), net)
        >>> net.bias.grad.tolist()
        [2.0]
    """
    for module in modules:
        if not isinstance(module, Module):
            raise TypeError(f"expected modules after the loss function, got {module!r}")

    @functools.wraps(loss_fn, updated=())
    def scalar_loss(*args: Any) -> Any:
        loss = loss_fn(*args)
        if jnp.shape(loss) != ():
            raise RuntimeError(f"grad can be implicitly created only for scalar outputs, got shape {jnp.shape(loss)}")
        return loss

    call = Call(scalar_loss, modules if _takes_arguments(loss_fn) else (), {}, also=modules)
    targets = modules or [root for root in call.roots if isinstance(root, Module)]
    if not targets:
        raise TypeError("expected the modules whose parameters get gradients, as in jm.backward(loss_fn, net)")
    structure = call.structure()
    index = {place: i for i, place in enumerate(structure.places)}
    boxes = {index[id(box)]: box for module in targets for box in label(module).values()}
    loss, gradients, _ = _differentiate(call, structure, list(boxes), (), False, {})
    for i, box in reversed(boxes.items()):
        box.grad = gradients[i] if box.grad is None else box.grad + gradients[i]
        run_accumulated(box, structure.names[i])
    return loss


def _takes_arguments(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
