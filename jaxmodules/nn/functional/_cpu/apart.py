"""A computation that XLA keeps apart from what reads its result."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodules._typing import Array


def apart(function: Callable[..., Array], *arrays: Array) -> Array:
    """Call a function of floating point arrays so that its result is computed once, into memory.

    XLA counts additions and multiplications as free: a sum of shifted arrays is computed again in every loop that reads
    it, once for each element that the loop looks at. Optimization barriers are gone before loops are fused; what is not
    looked into is a branch. The condition here always holds, which XLA does not find out.
    """
    first = lax.slice(arrays[0].reshape(-1), (0,), (1,)).astype(jnp.float32)
    holds = lax.ne(lax.bitwise_or(lax.bitcast_convert_type(first, np.int32), np.int32(1)), np.int32(0))
    result = jax.eval_shape(function, *arrays)
    return lax.cond(holds[0], function, lambda *_: jnp.zeros(result.shape, result.dtype), *arrays)
