"""``capture``: the outputs of submodules beside the output of a module."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from jaxmodules.nn.modules._hooks import Recorder, recorders
from jaxmodules.nn.modules.module import Module


def capture(net: Module, names: str | Sequence[str]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return a function that calls a module and returns the outputs of some of its submodules as well.

    It is pure where the module is: compile it, differentiate it, map it; nothing is registered and nothing retraces.
    An output is what the submodule's caller gets, forward hooks included. State is updated as by any call.

    Args:
        net: the module.
        names: dotted paths of submodules, as in ``named_modules()``. A path with ``*``, ``?`` or ``[`` stands for all
            that match it and are called (``*`` matches dots as well).

    Returns:
        A function of the module's arguments that returns ``(output, outputs)``, where ``outputs`` has the output of
        each submodule by name; of one that is called several times, the list of its outputs in the order of the calls.

    Raises:
        AttributeError: if there is no such submodule.
        TypeError: if ``net`` is no Module.
        RuntimeError: on a call, if a submodule is not called, nor any that a pattern stands for, or if one is called
            inside a transform within the forward pass.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxmodules as jm
        >>> from jaxmodules import nn
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> output, hidden = jm.jit(capture(net, "1"))(jnp.ones((5, 3)))
        >>> output.shape, hidden["1"].shape
        ((5, 2), (5, 4))
    """
    if not isinstance(net, Module):
        raise TypeError(f"expected a Module to capture from, got {net!r}: put transforms around jm.capture instead")
    paths = (names,) if isinstance(names, str) else tuple(names)
    dict(_chosen(net, paths))

    def captured(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        modules = dict(_chosen(net, paths))
        recorder = Recorder(modules)
        recorders.append(recorder)
        try:
            output = net(*args, **kwargs)
        finally:
            recorders.remove(recorder)
        return output, _results(net, paths, modules, recorder)

    return captured


def _chosen(net: Module, paths: Sequence[str]) -> Iterator[tuple[str, Module]]:
    for path in paths:
        if not any(sign in path for sign in "*?["):
            yield path, net.get_submodule(path)
            continue
        found = [(n, m) for n, m in net.named_modules(remove_duplicate=False) if n and fnmatchcase(n, path)]
        if not found:
            raise AttributeError(f"{net._get_name()} has no submodule that matches `{path}`")
        yield from found


def _results(net: Module, paths: Sequence[str], modules: Mapping[str, Module], recorder: Recorder) -> dict[str, Any]:
    outputs = {name: found for name, module in modules.items() if (found := recorder.results[id(module)])}
    if missing := [path for path in paths if not any(name == path or fnmatchcase(name, path) for name in outputs)]:
        raise RuntimeError(
            f"the forward pass of {net._get_name()} did not call {', '.join(map(repr, missing))}: expected a call of"
            " each captured submodule (one inside a compiled function is not called again)"
        )
    return {name: results[0] if len(results) == 1 else results for name, results in outputs.items()}
