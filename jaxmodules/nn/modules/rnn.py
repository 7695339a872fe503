"""Recurrent layers and cells."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodules._autocast import is_autocast_enabled
from jaxmodules._shapes import as_array
from jaxmodules._typing import Array, ArrayLike, DType
from jaxmodules.nn import init
from jaxmodules.nn.functional.rnn import recurrence, recurrent_cell
from jaxmodules.nn.modules._rnn import GATES, check_settings, parameter_names, refuse_projection
from jaxmodules.nn.modules.module import Module
from jaxmodules.nn.parameter import Parameter
from jaxmodules.nn.utils.rnn import PackedSequence
from jaxmodules.random import blank


def apply_permutation(tensor: ArrayLike, permutation: ArrayLike, dim: int = 1) -> Array:
    """Reorder an axis; deprecated: use ``jnp.take(tensor, permutation, axis=dim)``."""
    warnings.warn(
        "`apply_permutation` is deprecated, please use `jnp.take(tensor, permutation, axis=dim)` instead",
        FutureWarning,
        stacklevel=2,
    )
    return _permuted(tensor, permutation, dim)


class RNNBase(Module):
    r"""Settings, parameters and checks of :class:`RNN`, :class:`LSTM` and :class:`GRU`.

    Args:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
        input_size: number of features of the input.
        hidden_size: number of features of the hidden state.
        num_layers: number of layers, each fed with the output of the one before.
        bias: whether to add learnable biases.
        batch_first: whether input and output are ``(N, T, *)`` instead of ``(T, N, *)``; the states never are.
        dropout: probability of an element of the output of each layer but the last to be zeroed in training.
        bidirectional: whether each layer also runs from the end to the start; both outputs are concatenated.
        proj_size: number of features that an LSTM projects its output to; 0 for no projection.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(T, N, input_size), (L * D, N, H) -> (T, N, D * H), (L * D, N, H)`` with ``L`` layers and ``D`` directions;
        without ``N`` for a single sequence. A :class:`~jaxmodules.nn.utils.rnn.PackedSequence` gives a packed output.

    Attributes:
        weight_ih_l[k]: ``(gates * hidden_size, features in)`` of layer k, drawn from :math:`U(-\sqrt{k}, \sqrt{k})`,
            :math:`k = 1 / hidden\_size`, as all others; ``_reverse`` is appended for the other direction.
        weight_hh_l[k]: ``(gates * hidden_size, features out)``.
        bias_ih_l[k]: ``(gates * hidden_size,)``.
        bias_hh_l[k]: ``(gates * hidden_size,)``.
        weight_hr_l[k]: ``(proj_size, hidden_size)``.

    Raises:
        ValueError: if a setting is out of range.
        TypeError: if a setting is of a wrong type.
    """

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int = 0

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        check_settings(self, dropout)
        gates, out = GATES[mode] * hidden_size, proj_size or hidden_size
        shapes = {"weight_hh": (gates, out), "weight_hr": (proj_size, hidden_size)}
        for index, names in enumerate(self._all_weights):
            size = input_size if index < self._directions else out * self._directions
            for name in names:
                shape = shapes | {"weight_ih": (gates, size)}
                setattr(self, name, Parameter(blank(shape.get(name[:9], (gates,)), dtype)))
        if device is not None:
            self.to(device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new values, as ``__init__`` does."""
        _draw(self)

    def extra_repr(self) -> str:
        """Show the sizes and the settings that differ from their defaults."""
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = dict(proj_size=0, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False)
        return text + "".join(f", {k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v)

    def flatten_parameters(self) -> None:
        """Do nothing: PyTorch's method moves parameters in memory, which is for XLA to decide."""

    @property
    def all_weights(self) -> list[list[Any]]:
        """The parameters of each direction of each layer."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _all_weights(self) -> list[list[str]]:
        return parameter_names(self)

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Any]:
        # read by name each time: a parametrization, or an assignment, may have put something else there
        return [getattr(self, name, None) for name in self._flat_weights_names]

    def check_input(self, input: Array, batch_sizes: np.ndarray | None) -> None:
        """Raise unless ``input`` has the type of the weights and the shape that the settings ask for."""
        dtype = self._flat_weights[0].dtype
        if input.dtype != dtype and not is_autocast_enabled():
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
                f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
                f" (an array is converted by input.astype('{dtype}'))"
            )
        expected = 3 if batch_sizes is None else 2
        if input.ndim != expected:
            raise RuntimeError(f"input must have {expected} dimensions, got {input.ndim}")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
            )

    def get_expected_hidden_size(self, input: Array, batch_sizes: np.ndarray | None) -> tuple[int, int, int]:
        """Return the shape of the hidden state for an input."""
        if batch_sizes is not None:
            batch = int(batch_sizes[0])
        else:
            batch = input.shape[0 if self.batch_first else 1]
        return self.num_layers * self._directions, batch, self.proj_size or self.hidden_size

    def check_hidden_size(
        self, hx: Array, expected_hidden_size: tuple[int, int, int], msg: str = "Expected hidden size {}, got {}"
    ) -> None:
        """Raise unless ``hx`` is of the expected shape."""
        if hx.shape != expected_hidden_size:
            raise RuntimeError(msg.format(expected_hidden_size, list(hx.shape)))

    def check_forward_args(self, input: Array, hidden: Any, batch_sizes: np.ndarray | None) -> None:
        """Raise unless input and hidden state fit the settings."""
        self.check_input(input, batch_sizes)
        self.check_hidden_size(hidden, self.get_expected_hidden_size(input, batch_sizes))

    def permute_hidden(self, hx: Any, permutation: ArrayLike | None) -> Any:
        """Reorder the batch of a hidden state."""
        return hx if permutation is None else _permuted(hx, permutation)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _zero_hidden(self, input: Array, batch_sizes: np.ndarray | None) -> Any:
        return jnp.zeros(self.get_expected_hidden_size(input, batch_sizes), input.dtype)

    def _batched_hidden(self, hx: Any, single: bool) -> Any:
        """Return a given hidden state as arrays with a batch axis."""
        hx, rank = as_array(hx), 2 if single else 3
        if hx.ndim != rank:
            raise RuntimeError(
                f"For {'unbatched' if single else 'batched'} {rank}-D input, hx should also be {rank}-D"
                f" but got {hx.ndim}-D tensor"
            )
        return hx[:, None] if single else hx

    def _recur(self, input: Any, hx: Any) -> tuple[Any, Any]:
        """Check, complete and run a batch, a single sequence or a packed sequence."""
        packed = isinstance(input, PackedSequence)
        data, batch_sizes, order, inverse = input if packed else (input, None, None, None)
        data, axis = as_array(data), 0 if self.batch_first else 1
        single = not packed and data.ndim == 2
        if not packed and data.ndim not in (2, 3):
            tensor = " tensor" if self.mode.startswith("RNN") else ""
            raise ValueError(
                f"{self.mode.split('_')[0]}: Expected input to be 2D or 3D, got {data.ndim}D{tensor} instead"
            )
        if single:
            data = jnp.expand_dims(data, axis)
        hx = self._zero_hidden(data, batch_sizes) if hx is None else self._batched_hidden(hx, single)
        self.check_forward_args(data, hx, batch_sizes)
        hx = self.permute_hidden(hx, order)
        settings = self.bias, self.num_layers, self.dropout, self.training, self.bidirectional, self.batch_first
        states = hx if isinstance(hx, tuple) else (hx,)
        output, states = recurrence(self.mode, data, states, self._flat_weights, *settings, batch_sizes)
        if packed:
            output = PackedSequence(output, batch_sizes, order, inverse)
        elif single:
            output, states = output.squeeze(axis), tuple(state[:, 0] for state in states)
        return output, self.permute_hidden(states if isinstance(hx, tuple) else states[0], inverse)


class RNN(RNNBase):
    r"""Run Elman's recurrent network over sequences; all but one argument are those of :class:`RNNBase`.

    .. math:: h_t = \tanh(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    Args:
        nonlinearity: ``"tanh"`` or ``"relu"``.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> output, h_n = nn.RNN(10, 20, 2)(jnp.ones((5, 3, 10)), jnp.ones((2, 3, 20)))
        >>> output.shape, h_n.shape
        ((5, 3, 20), (2, 3, 20))
    """

    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: DType | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_projection(kwargs)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        settings: Any = dict(bias=bias, batch_first=batch_first, dropout=dropout, bidirectional=bidirectional)
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(mode, input_size, hidden_size, num_layers, **settings, device=device, dtype=dtype, **kwargs)
        self.nonlinearity = nonlinearity

    def forward(self, input: Array | PackedSequence, hx: ArrayLike | None = None) -> tuple[Any, Array]:
        """Return the output of all time steps, and the last hidden state of every layer."""
        return self._recur(input, hx)


class LSTM(RNNBase):
    r"""Run a long short-term memory over sequences (Hochreiter & Schmidhuber, 1997).

    .. math::
        i, f, o &= \sigma(W x_t + b + W' h_{t-1} + b'), \quad g = \tanh(W_g x_t + b_g + W'_g h_{t-1} + b'_g) \\
        c_t &= f \odot c_{t-1} + i \odot g, \quad h_t = o \odot \tanh(c_t)

    The rows of the weights are those of :math:`i, f, g, o`. With ``proj_size`` the output is
    :math:`h_t = W_{hr} (o \odot \tanh(c_t))` (Sak et al., 2014). Arguments are those of :class:`RNNBase`.

    Shape:
        ``(T, N, input_size), ((L * D, N, H), (L * D, N, hidden_size)) -> (T, N, D * H)`` and both states.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> output, (h_n, c_n) = nn.LSTM(10, 20, 2)(jnp.ones((5, 3, 10)))
        >>> output.shape, h_n.shape, c_n.shape
        ((5, 3, 20), (2, 3, 20), (2, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        settings = num_layers, bias, batch_first, dropout, bidirectional, proj_size
        super().__init__("LSTM", input_size, hidden_size, *settings, device, dtype)

    def forward(
        self, input: Array | PackedSequence, hx: Sequence[ArrayLike] | None = None
    ) -> tuple[Any, tuple[Array, Array]]:
        """Return the output of all time steps, and the last hidden state and memory of every layer."""
        return self._recur(input, hx)

    def get_expected_cell_size(self, input: Array, batch_sizes: np.ndarray | None) -> tuple[int, int, int]:
        """Return the shape of the memory for an input."""
        return *self.get_expected_hidden_size(input, batch_sizes)[:2], self.hidden_size

    def check_forward_args(self, input: Array, hidden: Any, batch_sizes: np.ndarray | None) -> None:
        """Raise unless input, hidden state and memory fit the settings."""
        self.check_input(input, batch_sizes)
        wanted = self.get_expected_hidden_size(input, batch_sizes), self.get_expected_cell_size(input, batch_sizes)
        for index, (state, size) in enumerate(zip(hidden, wanted, strict=True)):
            self.check_hidden_size(state, size, f"Expected hidden[{index}] size {{}}, got {{}}")

    def permute_hidden(self, hx: Any, permutation: ArrayLike | None) -> Any:
        """Reorder the batch of a hidden state and memory."""
        return hx if permutation is None else tuple(_permuted(state, permutation) for state in hx)

    def _zero_hidden(self, input: Array, batch_sizes: np.ndarray | None) -> Any:
        sizes = self.get_expected_hidden_size(input, batch_sizes), self.get_expected_cell_size(input, batch_sizes)
        return tuple(jnp.zeros(size, input.dtype) for size in sizes)

    def _batched_hidden(self, hx: Any, single: bool) -> Any:
        hidden, memory = (as_array(hx[index]) for index in range(2))
        rank = 2 if single else 3
        if hidden.ndim != rank or memory.ndim != rank:
            raise RuntimeError(
                f"For {'unbatched' if single else 'batched'} {rank}-D input, hx and cx should also be {rank}-D"
                f" but got ({hidden.ndim}-D, {memory.ndim}-D) tensors"
            )
        return (hidden[:, None], memory[:, None]) if single else (hidden, memory)


class GRU(RNNBase):
    r"""Run gated recurrent units over sequences (Cho et al., 2014).

    .. math::
        r, z &= \sigma(W x_t + b + W' h_{t-1} + b'), \quad
        n = \tanh(W_n x_t + b_n + r \odot (W'_n h_{t-1} + b'_n)) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    The rows of the weights are those of :math:`r, z, n`. Arguments and shapes are those of :class:`RNNBase`.

    Raises:
        ValueError: if a setting is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> output, h_n = nn.GRU(10, 20, bidirectional=True, batch_first=True)(jnp.ones((3, 5, 10)))
        >>> output.shape, h_n.shape
        ((3, 5, 40), (2, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: DType | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_projection(kwargs)
        settings: Any = dict(bias=bias, batch_first=batch_first, dropout=dropout, bidirectional=bidirectional)
        super().__init__("GRU", input_size, hidden_size, num_layers, **settings, device=device, dtype=dtype, **kwargs)

    def forward(self, input: Array | PackedSequence, hx: ArrayLike | None = None) -> tuple[Any, Array]:
        """Return the output of all time steps, and the last hidden state of every layer."""
        return self._recur(input, hx)


class RNNCellBase(Module):
    r"""Settings and parameters of :class:`RNNCell`, :class:`LSTMCell` and :class:`GRUCell`.

    Args:
        input_size: number of features of the input.
        hidden_size: number of features of the hidden state.
        bias: whether to add learnable biases.
        num_chunks: number of gates.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Shape:
        ``(N, input_size), (N, hidden_size) -> (N, hidden_size)``; without ``N`` for one sample.

    Attributes:
        weight_ih: ``(num_chunks * hidden_size, input_size)``, drawn from :math:`U(-\sqrt{k}, \sqrt{k})`,
            :math:`k = 1 / hidden\_size`, as all others.
        weight_hh: ``(num_chunks * hidden_size, hidden_size)``.
        bias_ih: ``(num_chunks * hidden_size,)``.
        bias_hh: ``(num_chunks * hidden_size,)``.
    """

    input_size: int
    hidden_size: int
    bias: bool
    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(blank((rows, input_size), dtype))
        self.weight_hh = Parameter(blank((rows, hidden_size), dtype))
        self.register_parameter("bias_ih", Parameter(blank((rows,), dtype)) if bias else None)
        self.register_parameter("bias_hh", Parameter(blank((rows,), dtype)) if bias else None)
        if device is not None:
            self.to(device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new values, as ``__init__`` does."""
        _draw(self)

    def extra_repr(self) -> str:
        """Show the sizes and the settings that differ from their defaults."""
        text = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        return text if nonlinearity == "tanh" else f"{text}, nonlinearity={nonlinearity}"

    def _step(self, mode: str, input: Array, hx: Sequence[ArrayLike] | None) -> tuple[Array, ...]:
        input, name = as_array(input), type(self).__name__
        if input.ndim not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.ndim}D instead")
        states = None if hx is None else tuple(map(as_array, hx))
        for index, state in enumerate(states or ()):
            if state.ndim not in (1, 2):
                what = f"hx[{index}]" if mode == "LSTM" else "hidden"
                raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {state.ndim}D instead")
        return recurrent_cell(mode, input, states, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


class RNNCell(RNNCellBase):
    r"""Do one step of an :class:`RNN`; shapes and attributes are those of :class:`RNNCellBase`.

    Args:
        input_size: number of features of the input.
        hidden_size: number of features of the hidden state.
        bias: whether to add learnable biases.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.RNNCell(10, 20)(jnp.ones((3, 10)), jnp.ones((3, 20))).shape
        (3, 20)
    """

    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Array, hx: ArrayLike | None = None) -> Array:
        """Return the hidden state after ``input``."""
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}: expected 'tanh' or 'relu'")
        return self._step(f"RNN_{self.nonlinearity.upper()}", input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """Do one step of an :class:`LSTM`; shapes and attributes are those of :class:`RNNCellBase`.

    Args:
        input_size: number of features of the input.
        hidden_size: number of features of the hidden state and of the memory.
        bias: whether to add learnable biases.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> h, c = nn.LSTMCell(10, 20)(jnp.ones((3, 10)))
        >>> h.shape, c.shape
        ((3, 20), (3, 20))
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: DType | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Array, hx: Sequence[ArrayLike] | None = None) -> tuple[Array, ...]:
        """Return the hidden state and the memory after ``input``."""
        return self._step("LSTM", input, hx)


class GRUCell(RNNCellBase):
    """Do one step of a :class:`GRU`; shapes and attributes are those of :class:`RNNCellBase`.

    Args:
        input_size: number of features of the input.
        hidden_size: number of features of the hidden state.
        bias: whether to add learnable biases.
        device: where the parameters live.
        dtype: type of the parameters, ``float32`` by default.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxmodules import nn
        >>> nn.GRUCell(10, 20)(jnp.ones(10)).shape
        (20,)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: DType | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Array, hx: ArrayLike | None = None) -> Array:
        """Return the hidden state after ``input``."""
        return self._step("GRU", input, None if hx is None else (hx,))[0]


def _draw(module: RNNBase | RNNCellBase) -> None:
    bound = 1 / math.sqrt(module.hidden_size) if module.hidden_size > 0 else 0
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)


def _permuted(tensor: ArrayLike, permutation: ArrayLike, dim: int = 1) -> Array:
    return jnp.take(as_array(tensor), as_array(permutation), axis=dim)
