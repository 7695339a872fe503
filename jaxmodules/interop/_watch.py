"""One run of a module, torch's or ours, with the output of every call in it; what the run changes is put back."""

import contextlib
import dataclasses
import numbers
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._tracing import Tracer
from jaxmodules.interop._live import is_tensor, live_torch, to_tensor
from jaxmodules.nn._writable import tensor_to_numpy, to_array
from jaxmodules.nn.modules._hooks import Recorder, recorders
from jaxmodules.nn.modules._state_dict import Snapshot
from jaxmodules.nn.parameter import Parameter
from jaxmodules.nn.utils.rnn import PackedSequence
from jaxmodules.random import fork_rng, get_rng_state

Leaves = list[tuple[str, np.ndarray]]


class Call(NamedTuple):
    """One call of a module: its name, the number of the call, and the arrays of its output; ``None`` in a trace."""

    name: str
    number: int
    output: Leaves | None


class Run:
    """What a run has shown.

    Args:
        root: the module.
    """

    def __init__(self, root: Any) -> None:
        self.calls: list[Call] = []
        self.error: Exception | None = None
        self.raised_in = ""
        self.is_random = False
        self._names = {id(module): name for name, module in root.named_modules()}
        self._modules = list(root.modules())
        self._counts: Counter[str] = Counter()
        self._open: list[str] = []

    def call(self, root: Any, args: Any, kwargs: Any) -> None:
        """Call a module with hooks on everything in it, and take them away again."""
        handles = []
        try:
            for module in self._modules:
                handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
                handles.append(module.register_forward_hook(self._leave))
            root(*args, **kwargs)
        except Exception as error:
            self.error, self.raised_in = error, self._open[-1] if self._open else ""
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: Any, args: Any) -> None:
        self._open.append(self._names[id(module)])

    def _leave(self, module: Any, args: Any, output: Any) -> None:
        name = self._names[id(module)]
        while self._open and self._open.pop() != name:  # calls whose errors somebody has caught
            pass
        leaves = list(_leaves(output, ""))
        is_traced = any(isinstance(leaf, Tracer) for _, leaf in leaves)
        arrays = None if is_traced else [(path, _to_numpy(leaf)) for path, leaf in leaves]
        self.calls.append(Call(name, self._counts[name], arrays))
        self._counts[name] += 1


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the arrays, tensors and numbers in an output, with the way to each."""
    if is_tensor(value) or isinstance(value, jax.Array | np.ndarray | Parameter | numbers.Number):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}[{key!r}]")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name), f"{path}.{field.name}")


def _to_numpy(leaf: Any) -> np.ndarray:
    """Return what is in an array now: torch may write into it later."""
    return np.array(tensor_to_numpy(leaf) if is_tensor(leaf) else leaf)


def run_ours(net: Any, args: Any, kwargs: Any) -> Run:
    """Call a module of ours, eagerly and in full precision, and leave it and the generator as they were."""
    run = Run(net)
    before = Snapshot(net)
    bypass = Recorder({})  # while there is a recorder, compiled modules run uncompiled
    recorders.append(bypass)
    try:
        with fork_rng(), jax.default_matmul_precision("highest"):
            state = np.array(get_rng_state())
            run.call(net, map_inputs(_to_array, args), map_inputs(_to_array, kwargs))
            run.is_random = not np.array_equal(state, get_rng_state())
    finally:
        recorders.remove(bypass)
        before.restore()
    return run


def run_theirs(module: Any, args: Any, kwargs: Any) -> Run:
    """Call a torch module, without gradients and fused kernels, and leave it and torch's generators as they were."""
    torch: Any = live_torch()
    run = Run(module)
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else "cpu"
    is_double = any(tensor.dtype == torch.float64 for tensor in tensors)
    cuda = sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})
    with contextlib.ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # it goes past the submodules
        if any(getattr(m, "_compiled_call_impl", None) for m in module.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(torch.no_grad())
        stack.callback(_restorer(module))
        state = torch.get_rng_state()
        run.call(
            module, *(map_inputs(lambda leaf: _to_tensor(leaf, device, is_double), given) for given in (args, kwargs))
        )
        run.is_random = not torch.equal(state, torch.get_rng_state())
    return run


def _restorer(module: Any) -> Callable[[], None]:
    """Return a function that puts attributes and buffers of a torch module back as they are now."""
    registries = ("_parameters", "_buffers", "_modules")
    kept = [(m, dict(vars(m)), [(name, dict(getattr(m, name))) for name in registries]) for m in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def restore() -> None:
        for m, attributes, contents in kept:
            vars(m).clear()
            vars(m).update(attributes)
            for name, items in contents:
                registry = getattr(m, name)
                registry.clear()
                registry.update(items)
        for buffer, values in buffers:
            buffer.copy_(values)

    return restore


def fit_inputs(module: Any, value: Any) -> Any:
    """Give arrays in NumPy's default dtype, float64, the floating point dtype of a torch module's weights."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    dtype = jax.dtypes.canonicalize_dtype(str(tensors[0].dtype).removeprefix("torch.") if tensors else np.float32)

    def fit(leaf: Any) -> Any:
        is_default = isinstance(leaf, np.ndarray | np.generic) and leaf.dtype == np.float64
        return leaf.astype(dtype) if is_default else leaf

    return map_inputs(fit, value)


def map_inputs(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to the arrays and tensors in what a module is called with."""
    if is_tensor(value) or isinstance(value, jax.Array | np.ndarray | np.generic | Parameter):
        return function(value)
    if isinstance(value, dict):
        return {key: map_inputs(function, item) for key, item in value.items()}
    if type(value).__name__ == "PackedSequence":
        torch: Any = live_torch()
        parts = [map_inputs(function, part) for part in value]
        return (torch.nn.utils.rnn.PackedSequence if is_tensor(parts[0]) else PackedSequence)(*parts)
    if isinstance(value, tuple | list):
        items = [map_inputs(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _to_array(leaf: Any) -> Any:
    return to_array(leaf) if is_tensor(leaf) else jnp.asarray(leaf)


def _to_tensor(leaf: Any, device: Any, is_double: bool) -> Any:
    """Return a tensor of its own; of the types that torch takes where JAX may only have narrow ones."""
    if is_tensor(leaf):
        return leaf.detach().clone()
    values = np.asarray(leaf)
    if values.dtype.kind == "f" and is_double:
        values = values.astype(np.float64)
    elif values.dtype.kind == "i" and isinstance(leaf, jax.Array) and not jax.config.read("jax_enable_x64"):
        values = values.astype(np.int64)
    return to_tensor(values).to(device)
