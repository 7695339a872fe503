"""Rows of the recurrent family."""

from tests.table import Case

BOTH = ("train", "eval")
X = (5, 3, 4)  # T, N, I


def pair(*shape: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the hidden state and the memory of an LSTM one shape."""
    return shape, shape


LAYERS = [
    Case("RNN", (4, 6), {}, (X,), BOTH),
    Case("RNN", (4, 6), dict(nonlinearity="relu", bias=False, bidirectional=True), (X, (2, 3, 6))),
    Case("RNN", (4, 6, 2, "relu"), dict(batch_first=True), ((3, 5, 4), (2, 3, 6))),
    Case("RNN", (4, 6), {}, ((5, 4), (1, 6))),
    Case("LSTM", (4, 6), {}, (X,), BOTH),
    Case("LSTM", (4, 6), dict(bias=False), (X, pair(1, 3, 6))),
    Case("LSTM", (4, 6, 3), dict(bidirectional=True, dropout=0.5), (X, pair(6, 3, 6)), ("eval",)),
    Case("LSTM", (4, 6, 2), dict(bidirectional=True, dropout=1.0, batch_first=True), ((3, 5, 4),), BOTH),
    Case("LSTM", (4, 6, 2), dict(proj_size=2, bidirectional=True), (X, ((4, 3, 2), (4, 3, 6)))),
    Case("LSTM", (4, 6), dict(proj_size=2, bias=False, batch_first=True), ((5, 4), ((1, 2), (1, 6)))),
    Case("GRU", (4, 6), {}, (X,), BOTH),
    Case("GRU", (4, 6), dict(bias=False), (X, (1, 3, 6))),
    Case("GRU", (4, 6, 2), dict(bidirectional=True, batch_first=True), ((3, 5, 4), (4, 3, 6))),
    Case("GRU", (4, 6, 2), {}, ((1, 4), (2, 6))),
    Case("GRU", (4, 6), {}, ((5, 0, 4),)),
    Case("RNNCell", (4, 6), {}, ((3, 4), (3, 6))),
    Case("RNNCell", (4, 6), dict(nonlinearity="relu", bias=False), ((3, 4),)),
    Case("RNNCell", (4, 6), {}, ((4,), (6,))),
    Case("LSTMCell", (4, 6), {}, ((3, 4), pair(3, 6))),
    Case("LSTMCell", (4, 6), dict(bias=False), ((3, 4),)),
    Case("LSTMCell", (4, 6), {}, ((4,), pair(6))),
    Case("GRUCell", (4, 6), {}, ((3, 4), (3, 6))),
    Case("GRUCell", (4, 6), dict(bias=False), ((3, 4),)),
    Case("GRUCell", (4, 6), {}, ((4,), (6,))),
]

REFUSED_LAYERS = [
    ("RNN", (4, 6), {}, ((5, 3, 2),), r"input.size\(-1\) must be equal to input_size. Expected 4, got 2"),
    ("RNN", (4, 6), {}, ((5, 3, 4, 1),), "RNN: Expected input to be 2D or 3D, got 4D tensor instead"),
    ("LSTM", (4, 6), {}, ((5, 3, 4, 1),), "LSTM: Expected input to be 2D or 3D, got 4D instead"),
    ("GRU", (4, 6), {}, ((4,),), "GRU: Expected input to be 2D or 3D, got 1D instead"),
    ("GRU", (4, 6), {}, ((0, 3, 4),), "Expected sequence length to be larger than 0 in RNN"),
    ("RNN", (4, 6), {}, (X, (1, 2, 6)), r"Expected hidden size \(1, 3, 6\), got \[1, 2, 6\]"),
    ("GRU", (4, 6), {}, (X, (1, 6)), "For batched 3-D input, hx should also be 3-D but got 2-D tensor"),
    ("RNN", (4, 6), {}, ((5, 4), (1, 3, 6)), "For unbatched 2-D input, hx should also be 2-D but got 3-D tensor"),
    ("LSTM", (4, 6), {}, (X, pair(1, 6)), r"hx and cx should also be 3-D but got \(2-D, 2-D\) tensors"),
    ("LSTM", (4, 6), {}, ((5, 4), pair(1, 3, 6)), r"hx and cx should also be 2-D but got \(3-D, 3-D\) tensors"),
    ("LSTM", (4, 6), {}, (X, pair(1, 2, 6)), r"Expected hidden\[0\] size \(1, 3, 6\), got \[1, 2, 6\]"),
    ("LSTM", (4, 6), dict(proj_size=2), (X, pair(1, 3, 2)), r"Expected hidden\[1\] size \(1, 3, 6\), got \[1, 3, 2\]"),
    ("LSTM", (4, 6), dict(proj_size=6), None, "proj_size has to be smaller than hidden_size"),
    ("LSTM", (4, 6), dict(proj_size=-1), None, "proj_size should be a positive integer or zero to disable"),
    ("GRU", (4, 6), dict(proj_size=2), None, "proj_size argument is only supported for LSTM, not RNN or GRU"),
    ("RNN", (4, 6), dict(proj_size=2), None, "proj_size argument is only supported for LSTM, not RNN or GRU"),
    ("RNN", (4, 6), dict(nonlinearity="x"), None, "Unknown nonlinearity 'x'. Select from 'tanh' or 'relu'."),
    ("LSTM", (4, 6), dict(dropout=1.5), None, r"dropout should be a number in range \[0, 1\]"),
    ("LSTM", (4, 6), dict(dropout=True), None, r"dropout should be a number in range \[0, 1\]"),
    ("LSTM", (4, 6), dict(bias=1), None, "bias should be of type bool, got: int"),
    ("LSTM", (4, 6), dict(batch_first=1), None, "batch_first should be of type bool, got: int"),
    ("LSTM", (4.0, 6), {}, None, "input_size should be of type int, got: float"),
    ("LSTM", (0, 6), {}, None, "input_size must be greater than zero"),
    ("LSTM", (4, "6"), {}, None, "hidden_size should be of type int, got: str"),
    ("LSTM", (4, 0), {}, None, "hidden_size must be greater than zero"),
    ("LSTM", (4, 6, 0), {}, None, "num_layers must be greater than zero"),
    ("RNNBase", ("X", 4, 6), {}, None, "Unrecognized RNN mode: X"),
    ("RNNBase", ("GRU", 4, 6), {}, (X,), r'Module \[RNNBase\] is missing the required "forward" function'),
    ("RNNCell", (4, 6), {}, ((2, 3, 4),), "RNNCell: Expected input to be 1D or 2D, got 3D instead"),
    ("GRUCell", (4, 6), {}, ((3, 4), (1, 3, 6)), "GRUCell: Expected hidden to be 1D or 2D, got 3D instead"),
    ("LSTMCell", (4, 6), {}, ((3, 4), pair(1, 3, 6)), r"LSTMCell: Expected hx\[0\] to be 1D or 2D, got 3D instead"),
    ("RNNCell", (4, 6), {}, ((3, 2),), "input has inconsistent input_size: got 2 expected 4"),
    ("GRUCell", (4, 6), {}, ((3, 4), (2, 6)), "Input batch size 3 doesn't match hidden0 batch size 2"),
    ("LSTMCell", (4, 6), {}, ((3, 4), ((3, 6), (3, 5))), "hidden1 has inconsistent hidden_size: got 5, expected 6"),
    ("RNNCell", (4, 6), dict(nonlinearity="x"), ((3, 4),), "Unknown nonlinearity: x"),
]
