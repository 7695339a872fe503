"""What ``jit`` compiles: one program for each structure, and what it is found to write."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxmodules.transforms._call import Changes
from jaxmodules.transforms.explain import Log

running = threading.local()  # ``plan`` is a reference to the plan whose call this thread runs


class Varies(BaseException):
    """A program traced for new shapes or dtypes writes other slots than it did before."""


class Program:
    """What is compiled for one structure: a ``jax.jit`` function of key, slots, gradients and arrays.

    It returns the output and the arrays to write back; ``changes``, which slots these belong to, is the same for
    every trace (a function for which it is not gets a program for each combination of shapes).
    """

    def __init__(
        self, name: str, donate: bool, options: dict[str, Any], log: Log, after_call: Sequence[Callable[[], None]]
    ) -> None:
        def traced(*flat: Any) -> tuple[Any, Sequence[Any]]:
            plan = running.plan()
            trace = log.trace(plan, flat)
            try:
                out, changes = plan.run(flat)
            finally:
                running.plan = plan.itself  # other compiled calls may have run meanwhile
            if self.changes is not None and changes.static != self.changes.static:
                raise Varies
            self.changes = Changes(changes.static, ())
            log.traces.append(trace)
            return out, changes.values

        traced.__name__ = traced.__qualname__ = name
        self._traced = traced
        self._options = options
        self.changes: Any = None  # a Changes, once there has been a trace
        self.donated: tuple[int, ...] = ()
        self.jitted: Any = None if donate else jax.jit(traced, **options)
        if after_call:  # it may raise, and then everything has to be as before: nothing is donated
            self.jitted = _Followed(jax.jit(traced, **options), after_call)

    def build(self, flat: Sequence[Any], plan: Any) -> Any:
        """Find out what the function writes, and return it compiled to reuse exactly that memory."""
        jax.jit(self._traced, **self._options).eval_shape(*flat)
        assert self.changes is not None
        self.donated = plan.written_arguments(self.changes)
        self.jitted = jax.jit(self._traced, donate_argnums=self.donated, **self._options)
        return self.jitted


class _Followed:
    """A compiled function, and what hooks in it want to be run before anything is written back."""

    def __init__(self, jitted: Any, after_call: Sequence[Callable[[], None]]) -> None:
        self._jitted = jitted
        self._after_call = after_call

    def __call__(self, *flat: Any) -> Any:
        out = self._jitted(*flat)
        for function in self._after_call:
            function()
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)
