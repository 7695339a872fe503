"""Flax: the arrays of a module as linen's variables and as NNX's state, and back.

Both count channels last: a dense kernel is ``(in, out)``, a convolution's ``(*window, in / groups, out)``. A model in
Flax takes its images as ``(N, H, W, C)``; flattening them orders features differently, so the first Linear after it
needs its input permuted.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodules.export._arrays import Path, flatten, nest
from jaxmodules.export._layouts import (
    SCALAR,
    TRANSPOSE,
    Dialect,
    Entry,
    Layout,
    Move,
    Part,
    Rename,
    entry,
    into_layers,
)
from jaxmodules.nn.modules._state_dict import IncompatibleKeys
from jaxmodules.nn.modules.activation import PReLU
from jaxmodules.nn.modules.attention import MultiheadAttention
from jaxmodules.nn.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
from jaxmodules.nn.modules.container import ModuleDict, ModuleList, Sequential
from jaxmodules.nn.modules.conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from jaxmodules.nn.modules.instancenorm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from jaxmodules.nn.modules.linear import Linear
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.modules.normalization import GroupNorm, LayerNorm, RMSNorm
from jaxmodules.nn.modules.rnn import GRUCell, LSTMCell, RNNBase, RNNCell
from jaxmodules.nn.modules.sparse import Embedding, EmbeddingBag

Cell = Callable[[str, int, Any, str, bool], Iterator[Entry]]  # kind, hidden size, dtype, suffix of our names, bias

_CONV = Move(
    lambda w: w.transpose(*range(2, w.ndim), 1, 0),
    lambda k: k.transpose(k.ndim - 1, k.ndim - 2, *range(k.ndim - 2)),
)


def _flip(array: Any) -> Any:
    """Reverse the window, which comes last."""
    return np.flip(array, tuple(range(2, array.ndim)))


_CONV_TRANSPOSE = Move(
    lambda w: _flip(w).transpose(*range(2, w.ndim), 0, 1),
    lambda k: _flip(k.transpose(k.ndim - 2, k.ndim - 1, *range(k.ndim - 2))),
)


def _linear(layer: Linear) -> list[Entry]:
    return [entry("kernel", "weight", TRANSPOSE), entry("bias", "bias")]


def _conv(layer: Any) -> list[Entry]:
    return [entry("kernel", "weight", _CONV), entry("bias", "bias")]


def _conv_transpose(layer: Any) -> list[Entry]:
    if layer.groups > 1:
        raise NotImplementedError(f"Flax's ConvTranspose has no groups, and the layer has {layer.groups}")
    return [entry("kernel", "weight", _CONV_TRANSPOSE), entry("bias", "bias")]


def _embedding(layer: Any) -> list[Entry]:
    return [entry("embedding", "weight")]


def _norm(layer: Any) -> list[Entry]:
    return [entry("scale", "weight"), entry("bias", "bias")]


def _rms_norm(layer: RMSNorm) -> list[Entry]:
    return [entry("scale", "weight")]


def _batch_norm(layer: Any) -> list[Entry]:
    return [*_norm(layer), entry("mean", "running_mean"), entry("var", "running_var")]


def _instance_norm(layer: Any) -> list[Entry]:
    if layer.track_running_stats:
        raise NotImplementedError(
            "Flax's InstanceNorm has no running statistics: make the layer with track_running_stats=False"
        )
    return _norm(layer)


def _prelu(layer: PReLU) -> list[Entry]:
    if layer.num_parameters != 1:
        raise NotImplementedError(f"Flax's PReLU has one slope, and the layer has {layer.num_parameters}")
    return [entry("negative_slope", "weight", SCALAR)]


def _attention(layer: MultiheadAttention) -> Iterator[Entry]:
    if layer.bias_k is not None:
        raise NotImplementedError("Flax's attention has no bias_k and bias_v: make the layer with add_bias_kv=False")
    heads = (layer.num_heads, layer.head_dim)
    inward = Move(lambda w: w.T.reshape(-1, *heads), lambda k: k.reshape(k.shape[0], -1).T)
    bias = Move(lambda b: b.reshape(heads), lambda b: b.reshape(-1))
    outward = Move(lambda w: w.T.reshape(*heads, -1), lambda k: k.reshape(-1, k.shape[-1]).T)
    for i, name in enumerate(("query", "key", "value")):
        if layer.in_proj_weight is None:
            yield entry(f"{name}.kernel", f"{name[0]}_proj_weight", inward)
        else:
            yield Entry((name, "kernel"), (Part(("in_proj_weight",), i, 3),), inward)
        yield Entry((name, "bias"), (Part(("in_proj_bias",), i, 3),), bias)
    yield entry("out.kernel", "out_proj.weight", outward)
    yield entry("out.bias", "out_proj.bias")


def _part(names: tuple[str, ...], has_bias: bool, size: int, dtype: Any, index: int = 0, count: int = 1) -> Part:
    """Return the part of a bias that Flax has whether or not the layer has one."""
    return Part(names, index, count) if has_bias else Part((), blank=np.zeros(size, dtype))


def _linen_cell(kind: str, size: int, dtype: Any, suffix: str, has_bias: bool) -> Iterator[Entry]:
    """Yield the entries of linen's SimpleCell, GRUCell or LSTMCell, which have a Dense for each gate."""
    gates = {"RNN": ("",), "GRU": "rzn", "LSTM": "ifgo"}[kind]
    ih, hh = f"bias_ih{suffix}", f"bias_hh{suffix}"
    for i, gate in enumerate(gates):
        block = i, len(gates)
        for side in "ih":
            yield Entry((side + gate, "kernel"), (Part((f"weight_{side}h{suffix}",), *block),), TRANSPOSE)
        if gate == "n":
            yield Entry(("in", "bias"), (_part((ih,), has_bias, size, dtype, *block),))
            yield Entry(("hn", "bias"), (_part((hh,), has_bias, size, dtype, *block),))
        else:
            side, both = ("h", (hh, ih)) if kind == "LSTM" else ("i", (ih, hh))
            yield Entry((side + gate, "bias"), (_part(both, has_bias, size, dtype, *block),))


def _nnx_cell(kind: str, size: int, dtype: Any, suffix: str, has_bias: bool) -> Iterator[Entry]:
    """Yield the entries of NNX's SimpleCell, GRUCell or OptimizedLSTMCell, which have one Linear for all gates."""
    ih, hh = f"bias_ih{suffix}", f"bias_hh{suffix}"
    for side in "ih":
        yield entry(f"dense_{side}.kernel", f"weight_{side}h{suffix}", TRANSPOSE)
    if kind == "GRU" and has_bias:
        gates = (Part((ih, hh), 0, 3), Part((ih, hh), 1, 3), Part((ih,), 2, 3, zero=(hh,)))
        yield Entry(("dense_i", "bias"), gates)
    else:
        rows = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind] * size
        side, both = ("h", (hh, ih)) if kind == "LSTM" else ("i", (ih, hh))
        yield Entry((f"dense_{side}", "bias"), (_part(both, has_bias, rows, dtype),))


def _cell_rule(cell: Cell) -> Callable[[Any], Iterator[Entry]]:
    def rule(layer: Any) -> Iterator[Entry]:
        kind = type(layer).__mro__
        name = next(known for known, cls in (("LSTM", LSTMCell), ("GRU", GRUCell), ("RNN", RNNCell)) if cls in kind)
        return cell(name, layer.hidden_size, layer.weight_ih.dtype, "", layer.bias)

    return rule


def _layers_rule(cell: Cell, stack: Callable[[int], Path]) -> Callable[[Any], Iterator[Entry]]:
    """Return the rule for a recurrent layer: cells in RNN or Bidirectional, in a Sequential if there are several."""

    def rule(layer: RNNBase) -> Iterator[Entry]:
        if layer.proj_size:
            raise NotImplementedError("Flax's cells have no projection: make the layer with proj_size=0")
        directions = {"_reverse": ("backward_rnn",), "": ("forward_rnn",)} if layer.bidirectional else {"": ()}
        for i in range(layer.num_layers):
            for suffix, direction in directions.items():
                path = (*(stack(i) if layer.num_layers > 1 else ()), *direction, "cell")
                dtype = getattr(layer, f"weight_ih_l{i}").dtype
                kind = layer.mode.partition("_")[0]
                for item in cell(kind, layer.hidden_size, dtype, f"_l{i}{suffix}", layer.bias):
                    yield item._replace(path=(*path, *item.path))

    return rule


def _rules(cell: Cell, stack: Callable[[int], Path]) -> dict[type[Module], Any]:
    return {
        Linear: _linear,
        **dict.fromkeys((Conv1d, Conv2d, Conv3d), _conv),
        **dict.fromkeys((ConvTranspose1d, ConvTranspose2d, ConvTranspose3d), _conv_transpose),
        **dict.fromkeys((Embedding, EmbeddingBag), _embedding),
        **dict.fromkeys((LayerNorm, GroupNorm), _norm),
        RMSNorm: _rms_norm,
        **dict.fromkeys((BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm), _batch_norm),
        **dict.fromkeys((InstanceNorm1d, InstanceNorm2d, InstanceNorm3d), _instance_norm),
        PReLU: _prelu,
        MultiheadAttention: _attention,
        **dict.fromkeys((LSTMCell, GRUCell, RNNCell), _cell_rule(cell)),
        RNNBase: _layers_rule(cell, stack),
    }


def _linen_step(module: Module, path: Path, name: str) -> Path:
    if isinstance(module, Sequential) and name.isdecimal():
        return (*path, f"layers_{name}")
    if isinstance(module, ModuleList | ModuleDict) and path:  # linen names what is in a list after the attribute
        return (*path[:-1], f"{path[-1]}_{name}")
    return (*path, name)


_LINEN = Dialect("flax.linen", _rules(_linen_cell, lambda i: (f"layers_{i}",)), _linen_step)
_NNX = Dialect("flax.nnx", _rules(_nnx_cell, lambda i: ("layers", str(i))), into_layers)


def to_linen(
    net: Module, *, rename: Rename = None, buffers: bool = False, numpy: bool = False, remove_duplicate: bool = True
) -> dict[str, Any]:
    """Return the arrays of a module as the variables of its counterpart in Flax linen.

    Modules go by their attribute names, as those made in linen's ``setup`` do: a child of a Sequential is
    ``layers_0``, one of a ModuleList ``blocks`` is ``blocks_0``, an LSTM, GRU or RNN is a linen ``RNN`` around an
    ``OptimizedLSTMCell``, ``GRUCell`` or ``SimpleCell``, in ``Bidirectional`` and ``Sequential`` where need be.
    Layers that linen lacks, and parameters of your own, keep their names and layouts. What PyTorch has twice and linen
    once (a bias for the input and one for the state of a gate) becomes the sum. A ConvTranspose is linen's with the
    default ``transpose_kernel=False``.

    Arrays are rearranged on the host. Settings are not part of the variables: build the linen model with the same
    ``eps`` (linen's default is 1e-6), ``momentum`` (1 minus ours), padding and so on.

    Args:
        net: the module.
        rename: other names for modules: a dict ``{"features.0": "Conv_0"}`` from the dotted name in ``net`` to the one
            in linen, counted from the root, or a function of the first that returns the second or ``None``.
        buffers: whether to list buffers besides running statistics, in a collection ``"buffers"``.
        numpy: whether to give NumPy arrays.
        remove_duplicate: list what is tied under its first name alone.

    Returns:
        ``{"params": {...}}``, and ``"batch_stats"`` if there are running statistics.

    Raises:
        NotImplementedError: naming a layer that linen can't express.
        ValueError: if ``rename`` names what is not there, or gives two arrays one name, or an array has no numbers.

    Examples:
        >>> import jax, jaxmodules as jm
        >>> net = jm.nn.Sequential(jm.nn.Conv2d(3, 8, 5), jm.nn.ReLU(), jm.nn.Conv2d(8, 4, 1, bias=False))
        >>> jax.tree.map(lambda array: array.shape, to_linen(net, rename={"2": "head"}))
        {'params': {'head': {'kernel': (1, 1, 8, 4)}, 'layers_0': {'bias': (8,), 'kernel': (5, 5, 3, 8)}}}
    """
    layout = Layout(net, _LINEN, rename, buffers)
    variables: dict[str, Any] = {"params": {}}
    for path, array in layout.out(remove_duplicate).items():
        variables.setdefault(_collection(layout, path), {})[path] = array if numpy else jnp.asarray(array)
    return {collection: nest(leaves) for collection, leaves in variables.items()}


def _collection(layout: Layout, path: Path) -> str:
    place = layout.places[path]
    return "params" if not place.is_buffer else "batch_stats" if place.is_stated else "buffers"


def from_linen(
    net: Module, variables: Mapping[str, Any], *, rename: Rename = None, strict: bool = True
) -> IncompatibleKeys:
    """Put the variables of a Flax linen model into its counterpart, copied.

    The opposite of :func:`to_linen`. A bias that linen has once becomes our one for the same side, and the other
    zero, unless the two already have that sum; ``num_batches_tracked`` is left as it is.

    Args:
        net: the module.
        variables: ``{"params": {...}, "batch_stats": {...}}``.
        rename: as for :func:`to_linen`.
        strict: whether names that are missing or unexpected are an error.

    Returns:
        The names that were missing and unexpected.

    Raises:
        RuntimeError: naming all that is missing, unexpected, or of another shape; the module is left as it was.
        ValueError: if ``variables`` has no ``"params"``.
        NotImplementedError: naming a layer that linen can't express.
    """
    layout = Layout(net, _LINEN, rename)
    layout.places = {(_collection(layout, path), *path): place for path, place in layout.places.items()}
    given = dict(flatten(_mapping(variables)))
    if "params" not in variables and any(path[0] == "params" for path in layout.places):
        raise ValueError(
            f"expected variables with a collection 'params', got {list(variables)}: wrap parameters as"
            " {'params': ...}"
        )
    return layout.back(given, "variables", strict)


def to_nnx(
    net: Module, *, rename: Rename = None, buffers: bool = False, numpy: bool = False, remove_duplicate: bool = True
) -> dict[Any, Any]:
    """Return the arrays of a module as the state of its counterpart in Flax NNX, a pure dict.

    ``nnx.update(model, to_nnx(net))`` puts it into a model. The arrays are those of :func:`to_linen` under the names of
    NNX's modules: a child of a Sequential is ``layers: {0: ...}``, one of a ModuleList ``blocks`` (an ``nnx.List``)
    ``blocks: {0: ...}``, and LSTMs, GRUs and RNNs are ``OptimizedLSTMCell``, ``GRUCell`` and ``SimpleCell`` in an
    ``RNN``. NNX's GRUCell has no bias within the reset gate: a GRU whose ``bias_hh`` is not zero there can't be
    expressed.

    Args:
        net: the module.
        rename: as for :func:`to_linen`; steps that are numbers are indices.
        buffers: whether to list buffers besides running statistics.
        numpy: whether to give NumPy arrays.
        remove_duplicate: list what is tied under its first name alone.

    Raises:
        NotImplementedError: naming a layer that NNX can't express.
        ValueError: if ``rename`` names what is not there, or gives two arrays one name, or an array has no numbers.

    Examples:
        >>> import jax, jaxmodules as jm
        >>> net = jm.nn.Sequential(jm.nn.Linear(3, 2), jm.nn.BatchNorm1d(2, affine=False))
        >>> jax.tree.map(lambda array: array.shape, to_nnx(net))
        {'layers': {0: {'bias': (2,), 'kernel': (3, 2)}, 1: {'mean': (2,), 'var': (2,)}}}
    """
    leaves = Layout(net, _NNX, rename, buffers).out(remove_duplicate)
    indexed = {tuple(int(step) if step.isdecimal() else step for step in path): a for path, a in leaves.items()}
    return nest(indexed if numpy else {path: jnp.asarray(array) for path, array in indexed.items()})


def from_nnx(net: Module, state: Any, *, rename: Rename = None, strict: bool = True) -> IncompatibleKeys:
    """Put the state of a Flax NNX model into its counterpart, copied.

    The opposite of :func:`to_nnx`; see :func:`from_linen`. Random state (of Dropout) has no counterpart and is passed
    over.

    Args:
        net: the module.
        state: an NNX model, its ``nnx.state(model)``, or that as a pure dict.
        rename: as for :func:`to_nnx`.
        strict: whether names that are missing or unexpected are an error.

    Returns:
        The names that were missing and unexpected.

    Raises:
        RuntimeError: naming all that is missing, unexpected, or of another shape; the module is left as it was.
        ImportError: if a model is given and Flax is missing.
        NotImplementedError: naming a layer that NNX can't express.
    """
    if not isinstance(state, Mapping):
        try:
            nnx = importlib.import_module("flax.nnx")
        except ImportError as error:
            raise ImportError("from_nnx(net, model) needs Flax: pip install flax") from error
        if not isinstance(state, nnx.Module):
            raise TypeError(f"expected an nnx.Module, its state or a dict, got {type(state).__name__}")
        state = nnx.state(state)
    given = {path: leaf for path, leaf in flatten(state) if "rngs" not in path}
    return Layout(net, _NNX, rename).back(given, "state", strict)


def _mapping(variables: Any) -> Mapping[str, Any]:
    if not isinstance(variables, Mapping):
        raise TypeError(f"expected a dict of variables, got {type(variables).__name__}")
    return variables
