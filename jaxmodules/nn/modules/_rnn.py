"""What the settings of a recurrent layer may be, and what its parameters are called."""

import numbers
import warnings
from typing import Any

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def check_settings(layer: Any, dropout: Any) -> None:
    """Raise, in PyTorch's order, unless the settings stored in a layer are possible; ``dropout`` is as it was given.

    Raises:
        ValueError: if a setting is out of range.
        TypeError: if a setting is of a wrong type.
    """
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= layer.dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed,"
            f" got {dropout!r}"
        )
    if layer.dropout > 0 and layer.num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects"
            f" num_layers greater than 1, but got dropout={dropout} and num_layers={layer.num_layers}",
            stacklevel=4,
        )
    for name, kind in (("bias", bool), ("batch_first", bool), ("input_size", int), ("hidden_size", int)):
        value = getattr(layer, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} should be of type {kind.__name__}, got: {type(value).__name__}")
        if kind is int and value <= 0:
            raise ValueError(f"{name} must be greater than zero, got {value}")
    if layer.num_layers <= 0:
        raise ValueError(f"num_layers must be greater than zero, got {layer.num_layers}")
    if layer.proj_size < 0:
        raise ValueError(
            f"proj_size should be a positive integer or zero to disable projections, got {layer.proj_size}"
        )
    if layer.proj_size >= layer.hidden_size:
        raise ValueError(f"proj_size has to be smaller than hidden_size, got {layer.proj_size} and {layer.hidden_size}")
    if layer.mode not in GATES:
        raise ValueError(f"Unrecognized RNN mode: {layer.mode}: expected one of {', '.join(GATES)}")


def refuse_projection(kwargs: dict[str, Any]) -> None:
    """Raise ValueError if there is a ``proj_size`` among the arguments of a layer that has none."""
    if "proj_size" in kwargs:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


def parameter_names(layer: Any) -> list[list[str]]:
    """List the names of the parameters of each direction of each layer."""
    kinds = ["weight_ih", "weight_hh"]
    kinds += ["bias_ih", "bias_hh"] if layer.bias else []
    kinds += ["weight_hr"] if layer.proj_size > 0 else []
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    return [[f"{kind}_l{k}{suffix}" for kind in kinds] for k in range(layer.num_layers) for suffix in suffixes]
