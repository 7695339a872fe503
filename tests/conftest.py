"""The strict session: silent broadcasting raises, four CPU devices stand in for a mesh, every test is seeded."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
    "JAX_DISABLE_MOST_OPTIMIZATIONS", "1"
)  # most programs here run once: a third of the time was LLVM's
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import jax  # noqa: E402 - the variables above are read when jax is imported
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

SEED = 0


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, whichever ran before it in the same process."""
    import torch

    import jaxmodules as jm

    np.random.seed(SEED)
    torch.manual_seed(SEED)
    jm.manual_seed(SEED)


@pytest.fixture
def key() -> jax.Array:
    """Give a fresh JAX key."""
    return jax.random.key(SEED)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one process, except where rows of a table form groups of their own."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))
