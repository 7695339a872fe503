"""The loop over time of recurrent networks, with all that a derivative needs not do step by step outside of it.

What a step adds up, the projected input and the projected state, goes through functions of single elements. So a
tangent of the state goes through the same projection and is then scaled by slopes, which are known for all steps at
once when the loop has run. The derivative is written that way: a run that keeps what the slopes are made of; the
slopes, and what tangents of the weights add to each step, for all steps at once; and a loop that is linear in the
state, with one matrix product and few multiplications. Its transpose is a loop as short, after which the gradient of
each weight is one matrix product: left to itself, a scan computes and adds them up step by step.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxmodules._shapes import accumulation_dtype
from jaxmodules._typing import Array
from jaxmodules.nn.functional._cpu.kernel import kernel
from jaxmodules.nn.functional._linear import mapped_in_front

State = tuple[Array, ...]  # the output h, and for an LSTM the memory c
Parts = Sequence[Array]  # one for each gate


class Weights(NamedTuple):
    """The parameters of one direction of one layer, or of a cell, that each step needs."""

    hidden: Array  # (gates * H, H)
    bias: Array | None = None  # (1, H), of a GRU: added before the reset gate multiplies
    projection: Array | None = None  # (P, H)


class _Slopes(NamedTuple):
    """The derivatives of a step, or stacked those of all: of the new memory, or of the output where it has a gate."""

    gates: Parts  # by what the nonlinearities are of, each (..., H)
    hidden: Array | None = None  # of that by the projected state, where it isn't 1
    memory: Array | None = None  # by the memory before, (..., H)
    output: Array | None = None  # of the output by the new memory


def matmul(input: Array, weight: Array) -> Array:
    """Multiply by the transposed weight, with a result of the type that sums run in."""
    return _multiply(input, weight, 1)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def run(
    mode: str, reverse: bool, projected: Array, mask: Array | None, state: State, weights: Weights
) -> tuple[Array, State]:
    """Run one direction over time; where the mask is false, the state stays as it is.

    Args:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
        reverse: whether to start at the end.
        projected: the projected input with its biases, ``(T, N, gates * H)``, of the type that sums run in.
        mask: ``(T, N, 1)``.
        state: the state before, each ``(N, H)``, of the type that sums run in.
        weights: the parameters of a step.

    Returns:
        The output of all steps, of the type of the weights, and the last state.
    """
    final, outputs = _loop(mode, reverse, False, projected, mask, state, weights)
    return jax.tree.map(mapped_in_front, (outputs, final))


def step(mode: str, projected: Array, state: State, weights: Weights) -> State:
    """Do one step, for shapes as in :func:`run` without ``T``."""
    hidden = matmul(state[0].astype(weights.hidden.dtype), weights.hidden)
    sums = _SUMS[mode](_parts(projected, weights), _parts(hidden, weights), weights.bias)
    return _STEPS[mode](sums, state)


def _loop(
    mode: str, reverse: bool, keep: bool, projected: Array, mask: Array | None, state: State, weights: Weights
) -> tuple[State, Any]:
    """Return the last state and all outputs, or where they are to be kept, all states and sums."""
    dtype, weight = weights.hidden.dtype, weights.hidden.T  # once: the product of a step is faster with rows

    def advance(state: State, given: tuple[Parts, Array | None]) -> tuple[State, Any]:
        projected, reached = given
        hidden = _parts(_multiply(state[0].astype(dtype), weight, 0), weights)
        sums = _SUMS[mode](projected, hidden, weights.bias)
        new = _STEPS[mode](sums, state)
        if weights.projection is not None:
            new = (matmul(new[0].astype(dtype), weights.projection), *new[1:])
        new = _where(reached, new, state)
        return new, (new, sums) if keep else new[0].astype(dtype)

    def advance_all(projected: Array, mask: Array | None, state: State) -> tuple[State, Any]:
        # in parts: XLA:CPU reads two parts of one step of an array twenty times slower than the same step of two arrays
        return lax.scan(advance, state, (_parts(projected, weights), mask), reverse=reverse)

    # apart: what the loop stacks takes no memory before it starts, and then that of the projected input
    return kernel(advance_all, projected, mask, state) if keep else advance_all(projected, mask, state)


@partial(run.defjvp, symbolic_zeros=True)
def _run_jvp(mode: str, reverse: bool, primals: tuple, tangents: tuple) -> tuple:
    projected, mask, state, weights = primals
    final, (states, sums) = _loop(mode, reverse, True, *primals)
    before = tuple(_before(*pair, reverse) for pair in zip(state, states, strict=True))
    slopes = _SLOPES[mode](sums, before, states)
    pushed, _, tangent, changes = tangents
    change = _change(before[0], weights.hidden.dtype, changes.hidden, changes.bias)
    pushed = _instantiate(pushed, projected)
    if change is not None:
        pushed = pushed + (change if slopes.hidden is None else change * slopes.hidden)
    shifted = None
    if changes.projection is not None and not isinstance(changes.projection, SymbolicZero):
        output = _STEPS[mode](sums, before)[0]
        shifted = matmul(output.astype(weights.hidden.dtype), changes.projection)
    tangent = tuple(map(_instantiate, tangent, state))
    final_tangent, output_tangent = _linear_loop(reverse, pushed, shifted, mask, slopes, tangent, weights)
    results = jax.tree.map(mapped_in_front, (states[0].astype(weights.hidden.dtype), final))
    return results, (output_tangent, final_tangent)


def _linear_loop(
    reverse: bool,
    pushed: Array,
    shifted: Array | None,
    mask: Array | None,
    slopes: _Slopes,
    state: State,
    weights: Weights,
) -> tuple[State, Array]:
    """Run tangents over time: of what the nonlinearities are of, of the projected output, and of the state before."""
    dtype = weights.hidden.dtype

    def advance(state: State, given: tuple) -> tuple[State, Array]:
        pushed, shifted, reached, slopes = given
        hidden = matmul(state[0].astype(dtype), weights.hidden)  # whose transpose is the product with rows
        if slopes.hidden is not None:
            hidden = hidden * slopes.hidden
        parts = [part * slope for part, slope in zip(_parts(pushed + hidden, weights), slopes.gates, strict=True)]
        memory = sum(parts[1:3], parts[0])
        if slopes.memory is not None:
            memory = memory + slopes.memory * state[-1]
        output = memory if slopes.output is None else slopes.output * memory + parts[3]
        if weights.projection is not None:
            output = matmul(output.astype(dtype), weights.projection)
        if shifted is not None:
            output = output + shifted
        new = _where(reached, (output, memory)[: len(state)], state)
        return new, new[0].astype(dtype)

    return lax.scan(advance, state, (pushed, shifted, mask, slopes), reverse=reverse)


def _change(
    before: Array, dtype: jnp.dtype, weight: Array | SymbolicZero, bias: Array | SymbolicZero | None
) -> Array | None:
    """Return what tangents of the parameters add to the projected states of all steps."""
    change = None
    if not isinstance(weight, SymbolicZero):
        change = matmul(before.astype(dtype), weight)
    if bias is not None and not isinstance(bias, SymbolicZero):
        padded = jnp.pad(bias, ((0, 0), (2 * bias.shape[1], 0)))
        change = padded[None] if change is None else change + jnp.broadcast_to(padded, change.shape)
    return change


def _instantiate(tangent: Array | SymbolicZero, primal: Array) -> Array:
    return jnp.zeros_like(primal) if isinstance(tangent, SymbolicZero) else tangent


def _before(initial: Array, states: Array, reverse: bool) -> Array:
    """Return the states before each step."""
    parts = (states[1:], initial[None]) if reverse else (initial[None], states[:-1])
    return jnp.concatenate(parts)


def _parts(total: Array, weights: Weights) -> Parts:
    size = weights.hidden.shape[1] if weights.projection is None else weights.projection.shape[1]
    return jnp.split(total, total.shape[-1] // size, axis=-1)


def _where(reached: Array | None, new: State, old: State) -> State:
    if reached is None:
        return new
    return tuple(jnp.where(reached, one, other) for one, other in zip(new, old, strict=True))


def _multiply(input: Array, weight: Array, axis: int) -> Array:
    axes = (((input.ndim - 1,), (axis,)), ((), ()))
    return lax.dot_general(input, weight, axes, preferred_element_type=accumulation_dtype(input.dtype))


def _sums(projected: Parts, hidden: Parts, bias: Array | None) -> Parts:
    return [one + other for one, other in zip(projected, hidden, strict=True)]


def _sums_gru(projected: Parts, hidden: Parts, bias: Array | None) -> Parts:
    reset, update = _sums(projected[:2], hidden[:2], None)
    pushed = hidden[2] if bias is None else hidden[2] + jnp.broadcast_to(bias, reset.shape)
    return reset, update, projected[2], pushed


def _step_tanh(sums: Parts, state: State) -> State:
    return (jnp.tanh(sums[0]),)


def _step_relu(sums: Parts, state: State) -> State:
    return (jax.nn.relu(sums[0]),)


def _slopes_tanh(sums: Parts, state: State, new: State) -> _Slopes:
    return _Slopes((1 - new[0] ** 2,))


def _slopes_relu(sums: Parts, state: State, new: State) -> _Slopes:
    return _Slopes(((new[0] > 0).astype(new[0].dtype),))


def _gates_lstm(sums: Parts) -> Parts:
    input, forget, candidate, output = sums
    return jax.nn.sigmoid(input), jax.nn.sigmoid(forget), jnp.tanh(candidate), jax.nn.sigmoid(output)


def _step_lstm(sums: Parts, state: State) -> State:
    input, forget, candidate, output = _gates_lstm(sums)
    memory = forget * state[1] + input * candidate
    return output * jnp.tanh(memory), memory


def _slopes_lstm(sums: Parts, state: State, new: State) -> _Slopes:
    input, forget, candidate, output = _gates_lstm(sums)
    squashed = jnp.tanh(new[1])
    gates = (
        input * (1 - input) * candidate,
        forget * (1 - forget) * state[1],
        input * (1 - candidate**2),
        output * (1 - output) * squashed,
    )
    return _Slopes(gates, None, forget, output * (1 - squashed**2))


def _gates_gru(sums: Parts) -> Parts:
    reset, update = map(jax.nn.sigmoid, sums[:2])
    return reset, update, jnp.tanh(sums[2] + reset * sums[3])


def _step_gru(sums: Parts, state: State) -> State:
    _, update, candidate = _gates_gru(sums)
    return (candidate + update * (state[0] - candidate),)


def _slopes_gru(sums: Parts, state: State, new: State) -> _Slopes:
    reset, update, candidate = _gates_gru(sums)
    slope = (1 - update) * (1 - candidate**2)
    gates = (reset * (1 - reset) * sums[3] * slope, update * (1 - update) * (state[0] - candidate), slope)
    one = jnp.ones_like(reset)
    return _Slopes(gates, jnp.concatenate((one, one, reset), -1), update)


_SUMS: dict[str, Callable[..., Parts]] = {"RNN_TANH": _sums, "RNN_RELU": _sums, "LSTM": _sums, "GRU": _sums_gru}
_STEPS: dict[str, Callable[..., State]] = {
    "RNN_TANH": _step_tanh,
    "RNN_RELU": _step_relu,
    "LSTM": _step_lstm,
    "GRU": _step_gru,
}
_SLOPES: dict[str, Callable[..., _Slopes]] = {
    "RNN_TANH": _slopes_tanh,
    "RNN_RELU": _slopes_relu,
    "LSTM": _slopes_lstm,
    "GRU": _slopes_gru,
}
