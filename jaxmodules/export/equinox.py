"""Equinox: the arrays of a module in an Equinox model of the same structure, and back."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules.export._arrays import Path, check
from jaxmodules.export._layouts import Dialect, Entry, Layout, Move, Part, Rename, entry, into_layers
from jaxmodules.nn.modules._state_dict import IncompatibleKeys
from jaxmodules.nn.modules.activation import PReLU
from jaxmodules.nn.modules.attention import MultiheadAttention
from jaxmodules.nn.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
from jaxmodules.nn.modules.conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.modules.rnn import GRUCell, LSTMCell, RNNBase

_MANY = 1 << 30  # updates of running statistics, after which nothing is left of the zeros that Equinox starts from


def _conv(layer: Any) -> list[Entry]:
    bias = Move(lambda b: b.reshape(-1, *(1,) * len(layer.kernel_size)), lambda b: b.reshape(-1))
    return [entry("weight", "weight"), entry("bias", "bias", bias)]


def _conv_transpose(layer: Any) -> list[Entry]:
    """Return the entries of a convolution of the dilated input, whose kernel is (O, I / groups, *window), flipped."""

    def swap(kernel: Any) -> Any:  # (A, B / groups, *window) -> (B, A / groups, *window)
        grouped = kernel.reshape(layer.groups, -1, *kernel.shape[1:]).swapaxes(1, 2)
        return np.flip(grouped.reshape(-1, *grouped.shape[2:]), tuple(range(2, kernel.ndim)))

    return [entry("weight", "weight", Move(swap, swap)), _conv(layer)[1]]


def _batch_norm(layer: Any) -> list[Entry]:
    same = [entry(name, name) for name in ("weight", "bias")]
    return [*same, entry("mean", "running_mean"), entry("var", "running_var")]


def _prelu(layer: PReLU) -> list[Entry]:
    if layer.num_parameters != 1:
        return [entry("negative_slope", "weight")]
    return [entry("negative_slope", "weight", Move(lambda a: a.reshape(()), lambda a: a.reshape(1)))]


def _attention(layer: MultiheadAttention) -> Iterator[Entry]:
    if layer.bias_k is not None:
        raise NotImplementedError("Equinox's attention has no bias_k and bias_v: make the layer with add_bias_kv=False")
    for i, name in enumerate(("query", "key", "value")):
        if layer.in_proj_weight is None:
            yield entry(f"{name}_proj.weight", f"{name[0]}_proj_weight")
        else:
            yield Entry((f"{name}_proj", "weight"), (Part(("in_proj_weight",), i, 3),))
        yield Entry((f"{name}_proj", "bias"), (Part(("in_proj_bias",), i, 3),))
    yield entry("output_proj.weight", "out_proj.weight")
    yield entry("output_proj.bias", "out_proj.bias")


def _cell(kind: str, suffix: str, has_bias: bool) -> Iterator[Entry]:
    """Yield the entries of an LSTMCell or GRUCell, whose biases are one but for that within the reset gate."""
    for name in ("weight_ih", "weight_hh"):
        yield entry(name, name + suffix)
    ih, hh = f"bias_ih{suffix}", f"bias_hh{suffix}"
    if has_bias and kind == "LSTM":
        yield Entry(("bias",), (Part((ih, hh)),))
    elif has_bias:
        yield Entry(("bias",), (Part((ih, hh), 0, 3), Part((ih, hh), 1, 3), Part((ih,), 2, 3)))
        yield Entry(("bias_n",), (Part((hh,), 2, 3),))


def _recurrent(layer: RNNBase) -> Iterator[Entry]:
    """Yield the entries of a cell, or of a list of cells in PyTorch's order."""
    kind = layer.mode.partition("_")[0]
    if kind == "RNN":  # Equinox has none: whoever wrote one has chosen the names
        return
    if layer.proj_size:
        raise NotImplementedError("Equinox's LSTMCell has no projection: make the layer with proj_size=0")
    suffixes = [f"_l{i}{way}" for i in range(layer.num_layers) for way in ("", "_reverse")[: 1 + layer.bidirectional]]
    for i, suffix in enumerate(suffixes):
        for item in _cell(kind, suffix, layer.bias):
            yield item._replace(path=(*((str(i),) if len(suffixes) > 1 else ()), *item.path))


_RULES: dict[type[Module], Callable[[Any], Any]] = {
    **dict.fromkeys((Conv1d, Conv2d, Conv3d), _conv),
    **dict.fromkeys((ConvTranspose1d, ConvTranspose2d, ConvTranspose3d), _conv_transpose),
    **dict.fromkeys((BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm), _batch_norm),
    PReLU: _prelu,
    MultiheadAttention: _attention,
    LSTMCell: lambda layer: _cell("LSTM", "", layer.bias),
    GRUCell: lambda layer: _cell("GRU", "", layer.bias),
    RNNBase: _recurrent,
}
_EQUINOX = Dialect("Equinox", _RULES, into_layers)


class _Target:
    """The arrays of an Equinox model by path, with the running statistics that its State holds."""

    def __init__(self, model: Any, state: Any, function: str) -> None:
        try:
            eqx = importlib.import_module("equinox")
        except ImportError as error:
            raise ImportError(f"{function}(net, model) needs Equinox: pip install equinox") from error
        if not isinstance(model, eqx.Module):
            raise TypeError(f"expected an equinox.Module, got {type(model).__name__}: call {function}(net, model)")
        nodes, self.structure = _flatten(model, eqx.nn.StateIndex)
        self.nodes = [node for _, node in nodes]
        self.places = {path: i for i, (path, node) in enumerate(nodes) if eqx.is_array(node)}
        norm = eqx.nn.BatchNorm
        self.norms = {path: node for path, node in _flatten(model, norm)[0] if isinstance(node, norm)}
        if self.norms and state is None:
            name = ".".join(next(iter(self.norms)))
            raise ValueError(
                f"{name!r} is a BatchNorm, whose statistics are in a State: call {function}(net, model, state) with the"
                " one that equinox.nn.make_with_state gave"
            )
        self.state = jax.tree.map(lambda leaf: leaf, state)  # setting in a State makes the old one useless

    def read(self) -> dict[Path, Any]:
        """Return every array."""
        arrays = {path: self.nodes[i] for path, i in self.places.items()}
        for path, norm in self.norms.items():
            mean, var = self.state.get(_statistics(norm))
            if norm.mode == "batch" and (count := int(self.state.get(norm.batch_counter))):
                mean, var = (moment / (1 - norm.momentum**count) for moment in (mean, var))
            arrays |= {(*path, "mean"): mean, (*path, "var"): var}
        return arrays

    def write(self, arrays: dict[Path, Any]) -> tuple[Any, Any]:
        """Return the model and the state with other arrays."""
        nodes = list(self.nodes)
        for path, array in arrays.items():
            if path in self.places:
                nodes[self.places[path]] = array
        for path, norm in self.norms.items():
            if (*path, "mean") in arrays and (*path, "var") in arrays:
                moments = arrays[(*path, "mean")], arrays[(*path, "var")]
                self.state = self.state.set(_statistics(norm), moments)
                if norm.mode == "batch":
                    self.state = self.state.set(
                        norm.batch_counter, jnp.full_like(self.state.get(norm.batch_counter), _MANY)
                    )
                else:
                    self.state = self.state.set(norm.ema_first_time_index, jnp.array(False))
        return jax.tree.unflatten(self.structure, nodes), self.state


def _flatten(model: Any, kind: type) -> tuple[list[tuple[Path, Any]], Any]:
    """Return what is in a model with its path, up to nodes of one kind, and the structure above."""
    nodes, structure = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda node: isinstance(node, kind))
    return [(tuple(jax.tree_util.keystr((key,), simple=True) for key in keys), node) for keys, node in nodes], structure


def _statistics(norm: Any) -> Any:
    return norm.batch_state_index if norm.mode == "batch" else norm.ema_state_index


def to_equinox(net: Module, model: Any, state: Any = None, *, rename: Rename = None, strict: bool = True) -> Any:
    """Return an Equinox model with the arrays of a module in place of its own.

    The two have to have the same attribute names; a child of a Sequential is ``layers[0]``, one of a ModuleList
    ``blocks`` is ``blocks[0]``. Equinox's layers have PyTorch's names and layouts, but for: a convolution's bias, which
    is ``(C, 1, 1)``; ConvTranspose; MultiheadAttention, which has a Linear for each projection; LSTMCell and GRUCell,
    where two biases become their sum; and BatchNorm, whose statistics are in the State. An LSTM or GRU is its cell, or
    a list of cells if it has several layers or directions.

    A module needs no export to be used *with* Equinox: it is a pytree, and ``eqx.partition``, ``eqx.filter_jit`` and
    ``eqx.tree_serialise_leaves`` take it.

    Args:
        net: the module.
        model: an Equinox model of the same structure; it stays as it is.
        state: its State, if it has BatchNorm layers; that stays as it is too.
        rename: other paths for modules: a dict ``{"features.0": "stem.conv"}`` from the dotted name in ``net`` to the
            one in the model, counted from the root, or a function of the first that returns the second or ``None``.
        strict: whether arrays that only one of the two has are an error.

    Returns:
        The new model, in the dtypes of the old one; with a state ``(model, state)``.

    Raises:
        RuntimeError: naming all arrays that are missing, unexpected, or of another shape.
        NotImplementedError: naming a layer that Equinox can't express.
        ValueError: if ``rename`` names what is not there, or statistics are wanted and there is no ``state``.
        ImportError: if Equinox is missing.

    Examples:
        >>> import equinox as eqx, jaxmodules as jm
        >>> net = jm.nn.Linear(3, 2)
        >>> model = to_equinox(net, eqx.nn.Linear(3, 2, key=jax.random.key(0)))
        >>> bool((model.weight == net.weight).all())
        True
    """
    target = _Target(model, state, "to_equinox")
    layout = Layout(net, _EQUINOX, rename)
    held = target.read()
    given = {
        path: array
        for path, array in layout.out(remove_duplicate=False).items()
        if path in held or layout.is_required(path)
    }
    missing = [".".join(path) for path in held if path not in given]
    shapes = {".".join(path): tuple(array.shape) for path, array in held.items()}
    check("module", type(model).__name__, {".".join(path): a for path, a in given.items()}, shapes, missing, strict)
    fitting = {path: jnp.asarray(given[path], held[path].dtype) for path in given if path in held}
    model, state = target.write(fitting)
    return model if state is None else (model, state)


def from_equinox(
    net: Module, model: Any, state: Any = None, *, rename: Rename = None, strict: bool = True
) -> IncompatibleKeys:
    """Put the arrays of an Equinox model into its counterpart, copied.

    The opposite of :func:`to_equinox`. A bias that Equinox has once becomes our ``bias_ih``, and ``bias_hh`` zero,
    unless the two already have that sum; ``num_batches_tracked`` is left as it is.

    Args:
        net: the module.
        model: an Equinox model of the same structure.
        state: its State, if it has BatchNorm layers.
        rename: as for :func:`to_equinox`.
        strict: whether names that are missing or unexpected are an error.

    Returns:
        The names that were missing and unexpected.

    Raises:
        RuntimeError: naming all that is missing, unexpected, or of another shape; the module is left as it was.
        NotImplementedError: naming a layer that Equinox can't express.
        ValueError: if there are statistics to be had and no ``state``.
        ImportError: if Equinox is missing.
    """
    return Layout(net, _EQUINOX, rename).back(_Target(model, state, "from_equinox").read(), "model", strict)
