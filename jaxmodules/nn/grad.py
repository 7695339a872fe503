"""Gradients of the convolutions by their input and by their weight, each on its own."""

from jaxmodules.nn.functional.grad import conv1d_input as conv1d_input
from jaxmodules.nn.functional.grad import conv1d_weight as conv1d_weight
from jaxmodules.nn.functional.grad import conv2d_input as conv2d_input
from jaxmodules.nn.functional.grad import conv2d_weight as conv2d_weight
from jaxmodules.nn.functional.grad import conv3d_input as conv3d_input
from jaxmodules.nn.functional.grad import conv3d_weight as conv3d_weight
