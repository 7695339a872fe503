"""Compare jaxmodules with hand-written JAX, Equinox, Flax NNX and PyTorch: ``python -m jaxmodules.bench``."""
