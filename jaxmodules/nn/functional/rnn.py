"""Recurrent networks: layers and directions around the loop over time, packed sequences, and cells."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodules._autocast import cast_tree
from jaxmodules._shapes import as_array, as_array_or_none
from jaxmodules._typing import Array, ArrayLike
from jaxmodules.nn.functional._recurrence import State, Weights, matmul, run, step
from jaxmodules.nn.functional.dropout import dropout as drop


class _Weights(NamedTuple):
    """The parameters of one direction of one layer, or of a cell."""

    input: Array  # (gates * H, I)
    hidden: Array  # (gates * H, H)
    bias_input: Array | None = None
    bias_hidden: Array | None = None
    projection: Array | None = None  # (P, H)


def recurrence(
    mode: str,
    input: ArrayLike,
    hx: Sequence[ArrayLike],
    params: Sequence[ArrayLike],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
    batch_sizes: np.ndarray | None = None,
) -> tuple[Array, State]:
    """Run layers of recurrent cells over the time steps of a batch; the arguments are those of ``torch.lstm``.

    The input is projected for all time steps at once; only what depends on the step before is in the scan.

    Args:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
        input: ``(T, N, I)``, ``(N, T, I)`` where ``batch_first``, or with ``batch_sizes`` packed rows ``(rows, I)``.
        hx: the initial states, each ``(num_layers * directions, N, H)``: ``(h_0,)``, or for an LSTM ``(h_0, c_0)``.
        params: for each layer and direction ``weight_ih, weight_hh``, then the two biases and the projection that
            there are.
        has_biases: whether there are biases.
        num_layers: number of layers.
        dropout: probability of an element of the output of all but the last layer to be zeroed.
        train: whether to do so.
        bidirectional: whether each layer also runs from the end to the start.
        batch_first: whether the batch is the first axis of input and output.
        batch_sizes: the number of sequences that reach each time step, decreasing.

    Returns:
        The output, laid out as the input is, and the final states, as ``hx``.

    Raises:
        RuntimeError: if there is no time step, or types do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> weights = [jnp.ones((4, 3)), jnp.ones((4, 4))]
        >>> output, _ = recurrence("RNN_TANH", jnp.ones((7, 2, 3)), [jnp.zeros((1, 2, 4))], weights,
        ...                        False, 1, 0.0, False, False)
        >>> output.shape
        (7, 2, 4)
    """
    hx, input, params = cast_tree(mode.lower(), (hx, input, params))
    output, states = as_array(input), tuple(map(as_array, hx))
    arrays = [as_array(parameter) for parameter in params]
    _check_dtypes(arrays[0], output, *states)
    mask = None
    if batch_sizes is not None:
        mask = _reached(batch_sizes)[..., None]
        output = spread(output, packed_index(batch_sizes, len(output)))
    elif batch_first:
        output = output.swapaxes(0, 1)
    if output.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN: got an input without time steps")
    layers = _grouped(arrays, has_biases, num_layers, 1 + bidirectional)
    finals = []
    for index, layer in enumerate(layers):
        if index:
            output = drop(output, dropout, train)
        initial = states if num_layers == 1 else tuple(_of_layer(state, index, len(layer)) for state in states)
        output, final = _layer(output, mask, initial, layer, mode)
        finals.append(final)
    final = finals[0] if num_layers == 1 else tuple(map(jnp.concatenate, zip(*finals, strict=True)))
    if mask is not None:
        return gather(output, np.flatnonzero(mask)), final
    return (output.swapaxes(0, 1) if batch_first else output), final


def recurrent_cell(
    mode: str,
    input: ArrayLike,
    hx: Sequence[ArrayLike] | None,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias_ih: ArrayLike | None = None,
    bias_hh: ArrayLike | None = None,
) -> State:
    """Do one step of a recurrent cell.

    Args:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
        input: ``(N, I)``, or ``(I,)`` for one sample.
        hx: the state before, each ``(N, H)`` or ``(H,)``: ``(h,)``, or for an LSTM ``(h, c)``; ``None`` for zeros.
        weight_ih: ``(gates * H, I)``.
        weight_hh: ``(gates * H, H)``.
        bias_ih: ``(gates * H,)``.
        bias_hh: ``(gates * H,)``.

    Returns:
        The state after.

    Raises:
        RuntimeError: if sizes or types do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> recurrent_cell("GRU", jnp.ones((2, 3)), None, jnp.ones((12, 3)), jnp.ones((12, 4)))[0].shape
        (2, 4)
    """
    given = (weight_ih, weight_hh, bias_ih, bias_hh)
    hx, input, given = cast_tree(f"{mode.lower()}_cell", (hx, input, given))
    input = as_array(input)
    single = input.ndim == 1
    weights = _Weights(as_array(given[0]), as_array(given[1]), *map(as_array_or_none, given[2:]))
    if hx is None:
        zeros = jnp.zeros((*input.shape[:-1], weights.hidden.shape[1]), input.dtype)
        states = (zeros,) * (2 if mode == "LSTM" else 1)
    else:
        states = tuple(map(as_array, hx))
    if single:
        input, states = input[None], tuple(state[None] for state in states)
    _check_cell(input, states, weights)
    state = _cell(input, states, weights, mode)
    return tuple(part[0] for part in state) if single else state


def packed_index(batch_sizes: np.ndarray, rows: int, steps: int | None = None) -> np.ndarray:
    """Return the packed row of each time step and sequence, ``(T, N)``; one past the last where there is none.

    Raises:
        RuntimeError: if the number of rows is not that of the batch sizes.
    """
    reached = _reached(batch_sizes)
    if reached.sum() != rows:
        raise RuntimeError(f"Expected sum(batch_sizes) = {reached.sum()} rows of packed data, got {rows}")
    index = np.full((steps or len(reached), reached.shape[1]), rows, np.int32)
    index[: len(reached)][reached] = np.arange(rows)
    return index


@partial(jax.jit, static_argnames="fill", inline=True)
def spread(data: Array, index: ArrayLike, fill: float = 0.0) -> Array:
    """Lay packed rows out, ``(rows, *), (T, N) -> (T, N, *)``; ``fill`` is put where there is none."""
    return data.at[index].get(mode="fill", fill_value=np.array(fill).astype(data.dtype).item())


@partial(jax.jit, inline=True)
def gather(padded: Array, places: ArrayLike) -> Array:
    """Collect the rows at different places of the first two axes, counted through, ``(T, N, *) -> (rows, *)``."""
    rows = padded.reshape(-1, *padded.shape[2:])
    return rows.at[places].get(mode="promise_in_bounds", unique_indices=True)


def _reached(batch_sizes: np.ndarray) -> np.ndarray:
    """Tell for each time step which sequences reach it, ``(T, N)``."""
    return np.arange(batch_sizes[0]) < batch_sizes[:, None]


def _grouped(arrays: list[Array], has_biases: bool, num_layers: int, directions: int) -> list[tuple[_Weights, ...]]:
    """Give each direction of each layer its own of a flat list of parameters."""
    each = len(arrays) // (num_layers * directions)
    weights = []
    for start in range(0, len(arrays), each):
        weight_ih, weight_hh, *rest = arrays[start : start + each]
        bias_ih, bias_hh = rest[:2] if has_biases else (None, None)
        projection = rest[-1] if len(rest) % 2 else None
        weights.append(_Weights(weight_ih, weight_hh, bias_ih, bias_hh, projection))
    return [tuple(weights[start : start + directions]) for start in range(0, len(weights), directions)]


@partial(jax.jit, static_argnames=("index", "directions"), inline=True)
def _of_layer(state: Array, index: int, directions: int) -> Array:
    return state[index * directions : (index + 1) * directions]


@partial(jax.jit, static_argnames="mode", inline=True)
def _layer(
    input: Array, mask: Array | None, states: State, layer: tuple[_Weights, ...], mode: str
) -> tuple[Array, State]:
    runs = [
        _scan(input, mask, tuple(state[direction] for state in states), weights, mode, direction == 1)
        for direction, weights in enumerate(layer)
    ]
    outputs, finals = zip(*runs, strict=True)
    output = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
    return output, tuple(map(jnp.stack, zip(*finals, strict=True)))


def _scan(
    input: Array, mask: Array | None, state: State, weights: _Weights, mode: str, reverse: bool
) -> tuple[Array, State]:
    """Run one direction; where the mask is false, the state stays as it is."""
    projected, repeated = _project(input, weights, mode)
    initial = tuple(part.astype(projected.dtype) for part in state)
    output, final = run(mode, reverse, projected, mask, initial, repeated)
    return output, tuple(part.astype(input.dtype) for part in final)


@partial(jax.jit, static_argnames="mode", inline=True)
def _cell(input: Array, state: State, weights: _Weights, mode: str) -> State:
    projected, repeated = _project(input, weights, mode)
    new = step(mode, projected, tuple(part.astype(projected.dtype) for part in state), repeated)
    return tuple(part.astype(input.dtype) for part in new)


def _project(input: Array, weights: _Weights, mode: str) -> tuple[Array, Weights]:
    """Project the input, of any number of steps at once, and return the parameters of what is left of a step."""
    projected, bias = matmul(input, weights.input), None
    if weights.bias_input is not None and weights.bias_hidden is not None:
        bias_input, bias = (b.astype(projected.dtype) for b in (weights.bias_input, weights.bias_hidden))
        if mode == "GRU":  # the reset gate multiplies the last third, so that it has to be added in the step
            size = weights.hidden.shape[1]
            bias_input, bias = bias_input + jnp.pad(bias[: 2 * size], (0, size)), bias[None, 2 * size :]
        else:
            bias_input, bias = bias_input + bias, None
        projected = projected + jnp.broadcast_to(bias_input, projected.shape)
    return projected, Weights(weights.hidden, bias, weights.projection)


def _check_dtypes(weight: Array, *operands: Array) -> None:
    for operand in operands:
        if operand.dtype != weight.dtype:
            raise RuntimeError(
                f"mat1 and mat2 must have the same dtype, but got {operand.dtype} and {weight.dtype}:"
                " convert input and hidden states to the type of the weights"
            )


def _check_cell(input: Array, states: State, weights: _Weights) -> None:
    wanted, size = weights.input.shape[1], weights.hidden.shape[1]
    if input.shape[1] != wanted:
        raise RuntimeError(f"input has inconsistent input_size: got {input.shape[1]} expected {wanted}")
    for index, state in enumerate(states):
        if state.shape[0] != input.shape[0]:
            raise RuntimeError(
                f"Input batch size {input.shape[0]} doesn't match hidden{index} batch size {state.shape[0]}:"
                f" expected shape {[input.shape[0], size]}, got {list(state.shape)}"
            )
        if state.shape[1:] != (size,):
            raise RuntimeError(
                f"hidden{index} has inconsistent hidden_size: got {state.shape[-1]}, expected {size}"
                f" (shape {list(state.shape)})"
            )
    _check_dtypes(weights.input, input, *states)
