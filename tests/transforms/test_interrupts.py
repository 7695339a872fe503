"""An exception between any two lines of the library leaves the state whole, concrete and usable."""

import linecache
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import X, assert_clean

CORE = ("state.py", "_call.py", "jit.py", "autodiff.py", "_tracing.py", "_tracked.py", "_generator.py", "_keys.py")


class Interrupted(BaseException):
    """Stands for what a signal handler raises."""


class Net(nn.Module):
    """Write two boxes and two buffers in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.ones(3, np.float32))
        self.bias = nn.Parameter(np.ones(3, np.float32))
        self.register_buffer("total", np.ones(3, np.float32))
        self.register_buffer("count", np.ones(3, np.float32))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        self.total, self.count = self.total + 1, self.count + 1
        self.weight.data.add_(1.0)
        self.bias.data.add_(1.0)
        return self.dropout(self.weight * x)


def interrupt(job: Callable[[], Any], line: int) -> bool:
    """Run the job and raise before the given line of the library's core; tell whether it came so far."""
    left = line

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        path = frame.f_code.co_filename
        return count(set()) if "jaxmodules" in path and path.endswith(CORE) else None

    def count(entered: set[int]) -> Any:
        def local(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal left
            if event != "line":
                return local
            if linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
                if frame.f_lineno in entered:  # no signal can come as a block is left, before the lock is released
                    return local
                entered.add(frame.f_lineno)
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise Interrupted
            return local

        return local

    sys.settrace(trace)
    try:
        job()
    except Interrupted:
        return True
    finally:
        sys.settrace(None)
    return False


def steps(net: Net) -> list[float]:
    """Tell how often each place has been written."""
    return [float(np.asarray(array)[0]) for array in net.state_dict().values()]


WAYS: dict[str, Callable[[], Callable[[Any, Any], Any]]] = {
    "jit": lambda: jm.jit(lambda net, x: net(x)),
    "donating": lambda: jm.jit(lambda net, x: net(x), donate=True),
    "value_and_grad": lambda: lambda net, x: jm.value_and_grad(lambda net: jnp.sum(net(x)))(net),
    "vmap": lambda: lambda net, x: jm.vmap(net, randomness="same")(x[None]),
    "jit of grad": lambda: jm.jit(lambda net, x: jm.grad(lambda net: jnp.sum(net(x)))(net)),
}


@pytest.mark.parametrize(
    "way, traces, earlier, stride",
    [
        pytest.param("jit", False, 3, 1, id="cached call"),
        pytest.param("jit", False, 1, 1, id="second call"),
        pytest.param("jit", False, 0, 5, id="another model"),
        pytest.param("jit", True, 0, 131, id="trace"),
        pytest.param("jit of grad", True, 0, 211, id="trace of a gradient"),
        pytest.param("donating", False, 3, 1, id="donating call"),
        pytest.param("value_and_grad", False, 0, 59, id="eager gradient"),
        pytest.param("vmap", False, 0, 83, id="eager vmap"),
    ],
)
def test_state_is_all_old_or_all_new(way: str, traces: bool, earlier: int, stride: int) -> None:
    run = WAYS[way]()
    run(Net(), X)
    line, reached = 0, True
    while reached:
        net, run = Net(), WAYS[way]() if traces else run
        for _ in range(earlier):
            run(net, X)
        before = steps(net)
        reached = interrupt(lambda: run(net, X), line)  # noqa: B023 - called at once
        assert_clean(net)
        assert jm.random.current_generator() is jm.default_generator
        after = steps(net)
        assert len(set(after)) == 1 and after[0] - before[0] in (0, 1), f"line {line}"
        run(net, X)
        assert set(steps(net)) == {after[0] + 1}, f"line {line}"
        line += stride
    assert line > 5 * stride


def ring(*args: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, which the workers of a parallel run ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_keyboard_interrupt_in_a_trace() -> None:
    net, rings = Net(), [True]
    net.dropout.register_forward_pre_hook(lambda module, args: ring() if rings else None)
    compiled = jm.jit(lambda net, x: net(x))
    with pytest.raises(KeyboardInterrupt, match="^$"):
        compiled(net, X)
    assert_clean(net)
    assert set(steps(net)) == {1.0}
    rings.clear()
    compiled(net, X)
    assert set(steps(net)) == {2.0}


def test_error_in_a_callback_of_a_cached_call() -> None:
    fails: list[bool] = []

    def callback() -> None:
        if fails:
            raise ValueError("stop")

    net = Net()
    compiled = jm.jit(lambda net, x: jax.debug.callback(callback, ordered=True) or net(x))
    compiled(net, X)
    fails.append(True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="stop"):
        compiled(net, X)
        jax.effects_barrier()
    assert_clean(net)
    fails.clear()
    before = steps(net)
    compiled(net, X)
    assert set(steps(net)) == {before[0] + 1}
