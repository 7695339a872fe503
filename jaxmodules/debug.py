"""Finding faults: which module was the first to compute something that is not finite."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._boundary import Mapped, cross
from jaxmodules._handles import RemovableHandle
from jaxmodules._keys import Stateful
from jaxmodules._tracing import Cell, Tracer, is_staged, is_tracing
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import UninitializedParameter

_numbers = itertools.count()
_Named = list[tuple[str, Any]]


class FiniteCheck:
    """A check that is on, as :func:`check_finite` returns it; it ends with ``remove()``, or with a ``with`` block."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._found: list[tuple[int, str]] = []

    def remove(self) -> None:
        """End the check; doing it twice is no error."""
        while self._handles:
            self._handles.pop().remove()

    def raise_found(self) -> None:
        """Raise what compiled code has found since the last look; ``jm.jit`` does so after every call.

        Raises:
            FloatingPointError: naming the first module.
        """
        jax.effects_barrier()
        if self._found:
            _, message = min(self._found)
            self._found.clear()
            raise FloatingPointError(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *exception: Any) -> None:
        self.remove()
        if kind is None:
            self.raise_found()

    def _watch(self, module: Module, where: str) -> None:
        """Register hooks on the call of one module and on the gradients of its own parameters."""
        enter, leave = _Enter(self, where), _Leave(self, where)
        self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        self._handles.append(module.register_forward_hook(leave, with_kwargs=True))
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad and not isinstance(parameter, UninitializedParameter):
                gradient = _ParameterGradient(self, f"gradient of the parameter '{name}' of {where}")
                self._handles.append(parameter.register_hook(gradient))

    def _look(self, subjects: _Named, context: Sequence[tuple[str, Any]] = ()) -> None:
        """Raise, or in a program take note, if an array among ``subjects`` is not finite."""
        subjects, context = _inexact(subjects), _inexact(context)
        if not subjects:
            return
        kinds = [(name, tuple(array.shape), array.dtype.name) for name, array in (*subjects, *context)]
        note = functools.partial(_note, self._found, next(_numbers), kinds, len(subjects))
        counts = [_count(array) for _, array in (*subjects, *context)]
        if is_tracing():
            jax.debug.callback(note, counts)
        else:
            note(counts)
        if not is_staged():
            self.raise_found()


class _Hook:
    """A hook of a check; what it says begins with ``where``."""

    def __init__(self, check: FiniteCheck, where: str) -> None:
        self.check = check
        self.where = where

    @property
    def _jm_after_call(self) -> Any:
        return self.check.raise_found


class _Enter(_Hook):
    """Watch the gradients of the arguments."""

    def __call__(self, module: Module, args: Any, kwargs: Any) -> Any:
        return _watched((args, kwargs), _Gradients(self.check, f"of {self.where}", "input"))


class _Leave(_Hook):
    """Look at the results, and watch their gradients."""

    def __call__(self, module: Module, args: Any, kwargs: Any, output: Any) -> Any:
        parameters = [(f"parameter '{name}'", box) for name, box in module._parameters.items() if box is not None]
        context = [("input", array) for _, array in _arrays("", (args, kwargs))]
        boxes = [(name, box.value) for name, box in parameters if not isinstance(box, UninitializedParameter)]
        results = [(f"{name} of {self.where}", array) for name, array in _arrays("output", output)]
        self.check._look(results, [*context, *boxes])
        return _watched(output, _Gradients(self.check, f"of {self.where}", "output"))


class _ParameterGradient(_Hook):
    """Look at the gradient of a parameter."""

    def __call__(self, gradient: Any) -> None:
        self.check._look([(self.where, gradient)])


class _Gradients:
    """The boundary that the gradients of the arguments, or of the results, of a call pass."""

    is_repeated = True

    def __init__(self, check: FiniteCheck, where: str, what: str) -> None:
        self._check = check
        self._where = where
        self._what = what

    def held(self) -> Self:
        """Return this boundary."""
        return self

    def reverse(self, gradients: list[Any], avals: list[Any], is_anchored: bool, mapped: Mapped) -> list[Any]:
        """Look at the gradients, and return them."""
        name = f"gradient of the {self._what} {self._where}"
        self._check._look([(name, gradient) for gradient in gradients if gradient is not None])
        return gradients


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Stateful | Cell)


def _arrays(name: str, tree: Any) -> _Named:
    """List the arrays in a tree, named by their place."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_leaf)[0]
    return [(name + jax.tree_util.keystr(path), leaf) for path, leaf in leaves if isinstance(leaf, jax.Array)]


def _inexact(named: Sequence[tuple[str, Any]]) -> _Named:
    return [(name, array) for name, array in named if jnp.issubdtype(array.dtype, jnp.inexact)]


def _watched(tree: Any, gradients: _Gradients) -> Any:
    """Return a tree whose arrays, each once, pass a boundary; ``None`` where nothing is differentiated."""
    if not is_tracing():
        return None
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_leaf)
    arrays = {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tracer)}
    arrays = {number: array for number, array in arrays.items() if jnp.issubdtype(array.dtype, jnp.inexact)}
    if not arrays:
        return None
    out, _ = cross(list(arrays.values()), gradients)
    places = dict(zip(arrays, out, strict=True))
    return jax.tree.unflatten(treedef, [places.get(id(leaf), leaf) for leaf in leaves])


@functools.partial(jax.jit, inline=True)
def _count(array: Any) -> Any:
    """Count NaN and Inf."""
    return jnp.stack([jnp.isnan(array).sum(), jnp.isinf(array).sum()])


def _note(found: list[tuple[int, str]], number: int, kinds: list[Any], subjects: int, counts: Sequence[Any]) -> None:
    """Put what is wrong with the first subject that is not finite into words."""
    counts = [np.asarray(count) for count in counts]
    wrong = [i for i, count in enumerate(counts) if count.any()]
    if not wrong or wrong[0] >= subjects:
        return
    name, shape, dtype = kinds[wrong[0]]
    message = f"the {name} has {_in_words(counts[wrong[0]])} among {np.prod(shape, dtype=int)} elements"
    message += f" (shape {shape}, {dtype})"
    for i in wrong:
        if i >= subjects:
            message += f"; its {kinds[i][0]} has {_in_words(counts[i])}"
    found.append((number, message))


def _in_words(count: Any) -> str:
    return " and ".join(f"{n} {what}" for n, what in zip(count.tolist(), ("NaN", "Inf"), strict=True) if n)


def check_finite(net: Module) -> FiniteCheck:
    """Raise as soon as a module in ``net`` computes NaN or Inf, or gets a gradient that has one; name the module.

    The error names the first module, in the order in which calls end, whose output is not finite; tells whether its
    input or its own parameters were not either; and in a backward pass the first whose gradients are not. Functions
    that ``jm.jit`` has compiled raise after the call, before anything is written back. What is compiled without it
    (``jax.jit`` over :func:`jm.functionalize`) raises when :meth:`FiniteCheck.raise_found` is called, or at the end of
    the ``with`` block.

    While it is on, each call costs a look at its arrays, and compiled functions are programs of their own, which do
    not reuse donated memory. When it has been removed the programs from before are used again: off, it costs nothing.

    Args:
        net: the module; what is added to it later is not watched.

    Returns:
        The check: ``remove()`` ends it, as does the end of a ``with`` block.

    Raises:
        TypeError: if ``net`` is no Module.
        FloatingPointError: from calls of ``net``, by the check.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> net = jm.nn.Sequential(jm.nn.Linear(2, 2), jm.nn.ReLU())
        >>> net[0].bias.data[0] = float("nan")
        >>> with jm.debug.check_finite(net):
        ...     out = net(jnp.ones((3, 2)))
        Traceback (most recent call last):
        FloatingPointError: the output of Sequential.0 (Linear) has 3 NaN among 6 elements (shape (3, 2), float32);
        its parameter 'bias' has 1 NaN
    """
    if not isinstance(net, Module):
        raise TypeError(f"expected a Module to watch, got {net!r}")
    check, root = FiniteCheck(), type(net).__name__
    for path, module in net.named_modules():
        check._watch(module, f"{root}.{path} ({type(module).__name__})" if path else root)
    return check
