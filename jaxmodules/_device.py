"""What a device argument means."""

from typing import Any

import jax

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "rocm": "gpu", "tpu": "tpu"}


def parse_device(device: Any) -> Any:
    """Return the JAX device or sharding that ``device`` names.

    Args:
        device: a JAX device or Sharding, an accelerator's index, or a string of PyTorch's: ``"cpu"``, ``"cuda"``,
            ``"cuda:0"``, ``"gpu"``, ``"tpu"``.

    Raises:
        RuntimeError: if there is no such device.
        TypeError: if ``device`` is none of these.
    """
    if device is None or isinstance(device, jax.Device | jax.sharding.Sharding):
        return device
    if isinstance(device, int) and not isinstance(device, bool):
        device = f"{'gpu' if jax.default_backend() == 'cpu' else jax.default_backend()}:{device}"
    if hasattr(device, "type") and hasattr(device, "index"):  # torch.device
        device = str(device)
    if not isinstance(device, str):
        raise TypeError(f"expected a jax.Device, a Sharding or a string such as 'cpu' or 'cuda:0', got {device!r}")
    platform, _, index = device.partition(":")
    if platform not in PLATFORMS or (index and not index.isdigit()):
        raise RuntimeError(
            f"Expected one of {', '.join(PLATFORMS)} device type at start of device string: {device}"
            " (an index may follow, as in 'cuda:0')"
        )
    try:
        devices = jax.devices(PLATFORMS[platform])
    except RuntimeError:
        devices = []
    number = int(index or 0)
    if number >= len(devices):
        there = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise RuntimeError(f"device {device!r} is not there: this process has {there}")
    return devices[number]
