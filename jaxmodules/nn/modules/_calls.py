"""The call of a module in a trace: its name in profiles, its path in messages, and the trace it may share."""

from typing import Any

import jax

from jaxmodules._tracing import check_call, local
from jaxmodules.nn.modules import _hooks


def call_traced(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run ``forward`` with its hooks under the name that the module is called by."""
    if local.frames:
        check_call()
    name = getattr(module, "_jm_scope", None) or type(module).__name__
    local.path.append(name)
    try:
        with jax.named_scope(name):
            if local.frames and module._modules:
                return module._jm_call_block(module, args, kwargs)
            return _hooks.run(module, args, kwargs)
    finally:
        local.path.pop()
