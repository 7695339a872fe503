"""The kernels of the sweep in PyTorch, eager, on two threads."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from jaxmodules.bench._kernel_cases import BOTH, FORWARD, INPUT, Case
from jaxmodules.bench._measure import Side

torch.set_num_threads(2)


def make_side(case: Case, measure: str, arrays: Sequence[np.ndarray], cotangent: np.ndarray) -> Side:
    """Return what computes one measure of a case: a gradient alone is that of a graph built before."""
    function, operands = _function(case), [torch.from_numpy(array) for array in arrays]
    back = torch.from_numpy(cotangent)
    if measure == FORWARD:
        return lambda: _without_graph(function, operands)
    wanted = {INPUT: operands[:1], BOTH: operands}.get(measure, operands[1:])
    for operand in wanted:
        operand.requires_grad_()
    if measure == BOTH:

        def both() -> Any:
            output = function(*operands)
            return output.detach(), torch.autograd.grad(output, wanted, back)

        return both
    output = function(*operands)
    return lambda: torch.autograd.grad(output, wanted, back, retain_graph=True)


@torch.no_grad()
def _without_graph(function: Callable[..., torch.Tensor], operands: Sequence[torch.Tensor]) -> torch.Tensor:
    return function(*operands)


def _function(case: Case) -> Callable[..., torch.Tensor]:
    if case.kind == "recurrence":
        return lambda *operands: _recurrence(*operands, **case.options)
    return case.function(functional)


def _recurrence(x: torch.Tensor, *weights: torch.Tensor, mode: str) -> torch.Tensor:
    zeros = torch.zeros(1, x.shape[1], weights[1].shape[1])
    run = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh}[mode]
    return run(x, (zeros, zeros) if mode == "LSTM" else zeros, weights, True, 1, 0.0, True, False, False)[0]
