"""What is wrong with a file."""

import pickle


class CheckpointError(ValueError):
    """A file cannot be loaded: it is truncated, damaged or of another kind."""


class RefusedError(CheckpointError, pickle.UnpicklingError):
    """A pickle asks for something that a file of weights has no need of, and that could run code."""
