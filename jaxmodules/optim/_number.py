"""Numbers that are Python's outside compiled functions and arguments inside them."""

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p

from jaxmodules._tracing import Cell, Tracer, epoch

_on_device = jax.jit(lambda number: number)  # what jnp.asarray returns, several times as fast


class Number(Cell):
    """A hyperparameter: a Python number outside compiled functions, an argument inside them.

    Args:
        value: a Python number, or an array of one element.
        complement: keep ``1 - value``, which float32 holds precisely where the value is close to 1.
        dynamic: whether a compiled function sets the number, so that what is compiled can't depend on it.
    """

    __slots__ = ("_mirror", "_python", "_shown", "complement", "dynamic")

    def __init__(self, value: Any, complement: bool = False, dynamic: bool = False) -> None:
        super().__init__(None)
        self.complement = complement
        self.dynamic = dynamic
        self._python: Any = None
        self._mirror: Any = None
        self._shown: Any = None  # refers to what a trace was told the number is, where that is not what is kept
        self.set(value)

    def set(self, value: Any) -> None:
        """Take a number."""
        if isinstance(value, Tracer):
            if self._shown is not None and self._shown() is value:
                return  # it is the number itself: twice the complement would be less precise
            self._shown = None
            self.value = self._traced(jnp.reshape(value, ()))
            return
        python = value.item() if hasattr(value, "item") else value
        with jax.ensure_compile_time_eval():
            self.value = self._array(python)
        self._python, self._mirror = python, self._value

    def get(self) -> Any:
        """Return the number, or under a trace the traced scalar."""
        if isinstance(self._value, Tracer):
            if not self.complement:
                return self._value
            number = 1 - self._value
            self._shown = weakref.ref(number)
            return number
        if self._value is not self._mirror:
            self._python = self._number(self._value)
            self._mirror = self._value
        return self._python

    def argument(self) -> Any:
        """Return what an update rule gets: the array, whose complement is taken where the number keeps it."""
        return self.value

    @property
    def is_off(self) -> bool:
        """Whether the number is zero for as long as Python does not set it."""
        return not self.dynamic and self._python == 0

    def set_dynamic(self) -> None:
        """Take note that a compiled function sets the number."""
        self.dynamic = True
        epoch.count += 1

    def __reduce__(self) -> Any:
        return type(self), (self.get(), self.complement, self.dynamic)

    def _array(self, python: Any) -> Any:
        return _on_device(1.0 - python if self.complement else float(python))

    def _traced(self, value: Any) -> Any:
        # weakly typed, as Python's numbers are: another type in the same cell would be another program
        weak = convert_element_type_p.bind(
            value, new_dtype=jax.dtypes.canonicalize_dtype(float), weak_type=True, sharding=None
        )
        return 1 - weak if self.complement else weak

    def _number(self, array: Any) -> Any:
        shortest = float(str(np.asarray(array)[()]))  # 0.05, where .item() gives 0.05000000074505806
        return 1 - shortest if self.complement else shortest


class Count(Number):
    """A whole number: of steps, of epochs."""

    __slots__ = ()

    def _array(self, python: Any) -> Any:
        return _on_device(np.int32(python))

    def _traced(self, value: Any) -> Any:
        return value.astype(jnp.int32)

    def _number(self, array: Any) -> Any:
        return int(array)


class Schedule(Count):
    """A hyperparameter that is a function of the number of steps taken, such as an optax schedule.

    The array is the number of steps.

    Args:
        function: of the number of steps, a traced one in compiled functions.
        steps: the number of steps taken.
        complement: give rules ``1 - value``.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any], Any], steps: int = 0, complement: bool = False) -> None:
        self.function = function
        super().__init__(steps, complement, dynamic=True)

    @property
    def steps(self) -> Any:
        """The number of steps taken."""
        return super().get()

    def get(self) -> Any:
        """Return the present value."""
        value = self.function(self.steps if not isinstance(self._value, Tracer) else self._value)
        return value if isinstance(value, Tracer) else float(str(np.asarray(value)[()]))

    def argument(self) -> Any:
        """Return the present value as a rule takes it."""
        value = jnp.asarray(self.function(self.value)) * 1.0
        return 1 - value if self.complement else value

    def advance(self) -> None:
        """Count a step."""
        self.set(self.steps + 1)

    def __reduce__(self) -> Any:
        return Schedule, (self.function, self.steps, self.complement)
