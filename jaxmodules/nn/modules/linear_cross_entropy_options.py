"""How a linear cross entropy is cut into pieces, under PyTorch's name for the file."""

from jaxmodules.nn.functional.linear_cross_entropy_options import (
    LinearCrossEntropyOptions as LinearCrossEntropyOptions,
)
