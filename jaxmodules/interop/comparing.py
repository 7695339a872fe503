"""``compare``: a torch module and its counterpart on one input, call by call."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxmodules._table import align
from jaxmodules.interop._live import check_module, shape_dtype
from jaxmodules.interop._watch import Call, Leaves, Run, fit_inputs, run_ours, run_theirs
from jaxmodules.nn._writable import tensor_to_numpy
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import is_lazy

_TOLERANCES = {"float64": (1e-7, 1e-9), "float16": (1e-2, 1e-3), "bfloat16": (5e-2, 1e-2)}  # rtol, atol
_TITLES = ("module", "class", "shape", "max abs", "max rel", "status")
_SIMPLE = (bool, int, float, str, tuple)


class Row(NamedTuple):
    """What one call of a module gave in both libraries.

    Attributes:
        name: the module's path; ``""`` for the whole.
        call: which of its calls, from 0.
        kind: its class, torch's and ours if the names differ.
        shape: the shape of torch's output, or of each array in it.
        absolute: the largest difference of two elements, ``nan`` where nothing was compared.
        relative: that divided by the largest absolute value of torch's.
        status: ``"equal"``, or what differs.
        agrees: whether that counts as equal; ``None`` for what does not count: a call that only one of the two makes,
            as a port may leave out Dropout in evaluation, or an array of another shape in a module that agrees.
    """

    name: str
    call: int
    kind: str
    shape: str
    absolute: float
    relative: float
    status: str
    agrees: bool | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`: true if everything that was compared agrees; it prints as a table.

    Attributes:
        rows: the calls, in the order in which they ended.
        notes: what else was seen.
    """

    rows: list[Row]
    notes: list[str]

    @property
    def first(self) -> Row | None:
        """The first row that differs, ``None`` if there is none."""
        return next((row for row in self.rows if row.agrees is False), None)

    @property
    def equal(self) -> bool:
        """Whether everything that was compared agrees."""
        return self.first is None

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        cells = [
            (_place(row), row.kind, row.shape, _number(row.absolute), _number(row.relative), row.status)
            for row in self.rows
        ]
        agreeing = sum(row.agrees is True for row in self.rows)
        compared = sum(row.agrees is not None for row in self.rows)
        first = self.first
        verdict = f"{agreeing} of {compared} calls agree"
        if first is not None:
            verdict += f"; the first that does not: {_place(first)} ({first.kind}): {first.status}"
        return "\n".join([align(_TITLES, cells, right=(3, 4)), verdict, *self.notes])

    __repr__ = __str__


def compare(
    torch_module: Any, net: Module, *inputs: Any, rtol: float | None = None, atol: float | None = None, **kwargs: Any
) -> Comparison:
    """Run a torch module and its counterpart on the same input, and find the first submodule that differs.

    Both run as they are, in training or evaluation mode, ours eagerly, in full precision. The outputs of submodules of
    the same name are compared call by call, in the order in which the calls end, so that the first that differs is
    the innermost. Afterwards weights, buffers, hooks and random generators of both are as they were.

    Args:
        torch_module: the :class:`torch.nn.Module`.
        net: its counterpart, with the same names.
        inputs: what both are called with: arrays of NumPy, JAX or torch, and containers of these. A tuple alone is all
            the positional arguments, a dict alone the keyword arguments. NumPy's default, float64, stands for the
            dtype of the weights.
        rtol: how far elements may differ, relative to the largest absolute value of torch's output; by default as
            suits the dtype, 1e-4 for float32. Integers must be equal.
        atol: how far they may differ beside that; 1e-6 for float32.
        kwargs: keyword arguments for both.

    Returns:
        The :class:`Comparison`. An exception in one of the two, too, is a row of it.

    Raises:
        TypeError: if one of the two is no module of its library.
        ValueError: if modules of the same name are in different modes, or have parameters without a shape.

    Examples:
        >>> import torch
        >>> from jaxmodules.interop import from_torch
        >>> theirs = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Threshold(0.5, 0.0))
        >>> net = from_torch(theirs)
        >>> net[1].value = 1.0
        >>> compare(theirs, net, np.array([[[0.0, 1.0]]]))
        module   class       shape   max abs  max rel  status
        -------  ----------  ------  -------  -------  -------
        0        Flatten     (1, 2)        0        0  equal
        1        Threshold   (1, 2)  1.0e+00  1.0e+00  differs
        (whole)  Sequential  (1, 2)  1.0e+00  1.0e+00  differs
        -------  ----------  ------  -------  -------  -------
        1 of 3 calls agree; the first that does not: 1 (Threshold): differs
        in 1 itself: value is 0.0 in torch, 1.0 in net
    """
    check_module(torch_module, "compare(torch_module, net, x)")
    if not isinstance(net, Module):
        raise TypeError(f"expected a jaxmodules Module, got {type(net).__name__}: call compare(torch_module, net, x)")
    _check_alike(torch_module, net)
    if len(inputs) == 1 and type(inputs[0]) is tuple:
        inputs = inputs[0]
    elif len(inputs) == 1 and isinstance(inputs[0], dict):
        inputs, kwargs = (), {**inputs[0], **kwargs}
    inputs, kwargs = fit_inputs(torch_module, inputs), fit_inputs(torch_module, kwargs)
    theirs = run_theirs(torch_module, inputs, kwargs)
    ours = run_ours(net, inputs, kwargs)
    comparing = _Comparing(torch_module, net, rtol, atol)
    rows = [*comparing.calls(theirs, ours), *comparing.errors(theirs, ours), *comparing.alone()]
    result = Comparison(_excuse(rows), [])
    result.notes.extend(comparing.notes(result.first, theirs, ours))
    return result


def _excuse(rows: list[Row]) -> list[Row]:
    """Let pass what could not be compared where the output of a module around it agrees."""
    excused = []
    for number, row in enumerate(rows):
        around = [r for r in rows[number + 1 :] if r.name == "" or row.name.startswith(f"{r.name}.")]
        is_inner = row.agrees is False and math.isnan(row.absolute) and any(r.agrees for r in around)
        excused.append(row._replace(agrees=None) if is_inner else row)
    return excused


def _check_alike(torch_module: Any, net: Module) -> None:
    ours = dict(net.named_modules())
    for which, module in (("torch_module", torch_module), ("net", net)):
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if is_lazy(value) or hasattr(value, "materialize"):
                raise ValueError(f"compare: '{name}' of {which} has no shape yet: call both once before")
    for name, module in torch_module.named_modules():
        if name in ours and ours[name].training != module.training:
            modes = [("evaluation", "training")[m.training] for m in (module, ours[name])]
            raise ValueError(
                f"compare: {f'{name!r}' if name else 'torch_module'} is in {modes[0]} mode, its counterpart in net in"
                f" {modes[1]} mode: call .eval(), or .train(), on both"
            )


class _Comparing:
    """The two modules and how near their outputs have to be."""

    def __init__(self, torch_module: Any, net: Module, rtol: float | None, atol: float | None) -> None:
        self._theirs, self._ours = dict(torch_module.named_modules()), dict(net.named_modules())
        self._rtol, self._atol = rtol, atol

    def calls(self, theirs: Run, ours: Run) -> Iterator[Row]:
        """Yield a row for each call; after an error, for those that both have completed."""
        found = {call[:2]: call for call in ours.calls}
        failed = theirs.error is not None or ours.error is not None
        for call in theirs.calls:
            mine = found.pop(call[:2], None)
            if mine is not None:
                yield self._row(call, mine)
            elif call.name in self._ours and not failed:
                yield self._missing(call, "net")
        for mine in found.values():
            if mine.name in self._theirs and not failed:
                yield self._missing(mine, "torch")

    def errors(self, theirs: Run, ours: Run) -> Iterator[Row]:
        """Yield a row for the module in each library that has raised."""
        for which, run in (("torch", theirs), ("net", ours)):
            if run.error is not None:
                status = f"{which} raised {type(run.error).__name__}"
                yield Row(run.raised_in, 0, self._kind(run.raised_in), "", math.nan, math.nan, status, False)

    def alone(self) -> Iterator[Row]:
        """Yield a row for the top of each subtree that only one of the modules has."""
        for which, own, other in (("torch", self._theirs, self._ours), ("net", self._ours, self._theirs)):
            for name in own:
                if name not in other and (name.rpartition(".")[0] in other):
                    yield Row(name, 0, type(own[name]).__name__, "", math.nan, math.nan, f"only in {which}", None)

    def notes(self, first: Row | None, theirs: Run, ours: Run) -> Iterator[str]:
        """Say what may be behind a difference."""
        for which, run in (("torch", theirs), ("net", ours)):
            if run.error is not None:
                yield f"{which}: {type(run.error).__name__}: {run.error}"
        if first is None or theirs.error is not None or ours.error is not None:
            return
        if theirs.is_random or ours.is_random:
            yield "random numbers were drawn, and the two draw different ones: call .eval() on both"
        if first.name in self._theirs and first.name in self._ours:
            differences = list(_own_differences(self._theirs[first.name], self._ours[first.name]))
            if differences:
                yield f"in {_place(first)} itself: {'; '.join(differences)}"

    def _kind(self, name: str) -> str:
        kinds = (type(modules[name]).__name__ for modules in (self._theirs, self._ours) if name in modules)
        return " / ".join(dict.fromkeys(kinds))

    def _missing(self, call: Call, where: str) -> Row:
        kind, status = self._kind(call.name), f"not called in {where}"
        return Row(call.name, call.number, kind, _shapes(call.output), math.nan, math.nan, status, None)

    def _row(self, theirs: Call, ours: Call) -> Row:
        def row(absolute: float, relative: float, status: str, agrees: bool | None) -> Row:
            shape = _shapes(theirs.output)
            return Row(theirs.name, theirs.number, self._kind(theirs.name), shape, absolute, relative, status, agrees)

        if ours.output is None or theirs.output is None:
            return row(math.nan, math.nan, "inside a transform", None)
        counts = len(theirs.output), len(ours.output)
        if counts[0] != counts[1]:
            return row(math.nan, math.nan, f"{counts[0]} arrays in torch, {counts[1]} in net", False)
        absolute = relative = 0.0
        status = ""
        for (path, theirs_array), (_, ours_array) in zip(theirs.output, ours.output, strict=True):
            at = f" at {path}" if len(theirs.output) > 1 else ""
            for what, one, other in zip(
                ("shape", "dtype"), shape_dtype(theirs_array), shape_dtype(ours_array), strict=True
            ):
                if one != other:
                    return row(math.nan, math.nan, f"{what} {one} in torch, {other} in net{at}", False)
            difference, scale = _distance(theirs_array, ours_array)
            absolute = max(absolute, difference)
            relative = max(relative, difference / scale if scale else math.inf if difference else 0.0)
            rtol, atol = self._tolerances(ours_array.dtype)
            if not status and not difference <= atol + rtol * scale:
                status = f"differs{at}"
        return row(absolute, relative, status or "equal", not status)

    def _tolerances(self, dtype: np.dtype) -> tuple[float, float]:
        if dtype.kind in "biu":
            return 0.0, 0.0
        rtol, atol = _TOLERANCES.get(dtype.name, (1e-4, 1e-6))
        return rtol if self._rtol is None else self._rtol, atol if self._atol is None else self._atol


def _distance(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """Return the largest difference of two elements, and the largest finite absolute value of torch's."""
    wide = np.complex128 if theirs.dtype.kind == "c" else np.float64
    one, other = theirs.astype(wide), ours.astype(wide)
    with np.errstate(all="ignore"):
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        difference = np.where(same, 0.0, np.abs(one - other))
    size = np.abs(one[np.isfinite(one)])
    largest = float(np.where(np.isnan(difference), np.inf, difference).max(initial=0.0))
    return largest, float(size.max(initial=0.0))


def _own_differences(theirs: Any, ours: Any) -> Iterator[str]:
    """Say how the parameters, buffers and settings of two modules differ."""
    for registry in ("_parameters", "_buffers"):
        for name, tensor in getattr(theirs, registry).items():
            mine = getattr(ours, registry).get(name)
            if (tensor is None) != (mine is None):
                yield f"{name} is None in {'torch' if tensor is None else 'net'}"
            elif tensor is not None:
                arrays = np.asarray(tensor_to_numpy(tensor)), np.asarray(mine)
                if arrays[0].shape != arrays[1].shape:
                    yield f"{name} has shape {arrays[0].shape} in torch, {arrays[1].shape} in net"
                elif difference := _distance(*arrays)[0]:
                    yield f"{name} differs by up to {_number(difference)}"
    for name, value in vars(theirs).items():
        mine = vars(ours).get(name, value)
        if isinstance(value, _SIMPLE) and isinstance(mine, _SIMPLE) and mine != value:
            yield f"{name} is {value} in torch, {mine} in net"


def _shapes(output: Leaves | None) -> str:
    shapes = [str(array.shape) for _, array in output or ()]
    return ", ".join(shapes[:2]) + (", ..." if len(shapes) > 2 else "")


def _place(row: Row) -> str:
    return (row.name or "(whole)") + (f" #{row.call + 1}" if row.call else "")


def _number(value: float) -> str:
    return "" if math.isnan(value) else "0" if value == 0 else f"{value:.1e}"
