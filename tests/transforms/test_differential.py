"""Random sequences of structural changes, writes and calls: compiled always equals eager."""

import copy
import random
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn
from tests.transforms.helpers import arrays, assert_arrays, assert_clean


class Block(nn.Module):
    """A block whose every attribute, flag and optional part takes part in the result."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.scale = nn.Parameter(jnp.ones((1, 3), jnp.float32))
        self.register_parameter("shift", None)
        self.register_buffer("count", jnp.zeros((1, 1), jnp.float32))
        self.register_buffer("extra", None)
        self.gain, self.powers, self.table = 1.0, [1.0], {"a": np.array([1.0], np.float32)}
        self.extras: list[nn.Module] = []

    def forward(self, x: Any) -> Any:
        if self.training:
            self.count = self.count + 1
        x = jnp.tanh(self.fc(x)) * self.scale * self.gain + self.count * 0.01
        x = x + sum(self.powers) * 0.1 + float(self.table["a"][0]) * 0.1
        x = x if self.shift is None else x + self.shift
        x = x if self.extra is None else x - self.extra
        for module in self.extras:
            x = x + module(x)
        return x * (0.5 if not self.scale.requires_grad else 1.0)


def hook_double(module: Any, args: Any, output: Any) -> Any:
    return output * 2


def hook_minus(module: Any, args: Any, output: Any) -> Any:
    return output - module.gain


def blocks(net: nn.Sequential) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, Block)]


def fixed(rng: random.Random, *shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(rng.randrange(1000)).normal(size=shape).astype(np.float32))


Change = Callable[[Any, random.Random, Any], Any]
CHANGES: dict[str, Change] = {
    "mode": lambda net, rng, b: net.train(rng.random() < 0.5),
    "mode of a block": lambda net, rng, b: b.train(rng.random() < 0.5),
    "gain": lambda net, rng, b: setattr(b, "gain", rng.choice([1, 1.0, True, -2.0, 0.5])),
    "append": lambda net, rng, b: b.powers.append(rng.choice([0.0, 1.0])),
    "pop": lambda net, rng, b: b.powers and b.powers.pop(),
    "table": lambda net, rng, b: b.table["a"].__setitem__(0, rng.choice([0.0, 1.0, 2.0])),
    "hook": lambda net, rng, b: b.register_forward_hook(
        rng.choice([hook_double, hook_minus]), prepend=rng.random() < 0.5
    ),
    "clear hooks": lambda net, rng, b: b._forward_hooks.clear(),
    "freeze": lambda net, rng, b: b.scale.requires_grad_(rng.random() < 0.5),
    "replace": lambda net, rng, b: setattr(b, "scale", nn.Parameter(fixed(rng, 1, 3))),
    "tie": lambda net, rng, b: setattr(b, "scale", rng.choice(blocks(net)).scale),
    "tie modules": lambda net, rng, b: setattr(b, "fc", rng.choice(blocks(net)).fc),
    "untie modules": lambda net, rng, b: setattr(b, "fc", copy.deepcopy(b.fc)),
    "shift": lambda net, rng, b: setattr(b, "shift", rng.choice([None, nn.Parameter(fixed(rng, 1, 3))])),
    "direct": lambda net, rng, b: b._parameters.update(shift=nn.Parameter(fixed(rng, 1, 3))),
    "buffer": lambda net, rng, b: setattr(b, "extra", rng.choice([None, fixed(rng, 1, 3)])),
    "buffer shape": lambda net, rng, b: b._buffers.update(extra=fixed(rng, 1, 1)),
    "hidden module": lambda net, rng, b: b.extras.append(nn.Linear(3, 3)),
    "no hidden modules": lambda net, rng, b: b.extras.clear(),
    "shared hidden module": lambda net, rng, b: b.extras.append(rng.choice(blocks(net)).fc),
    "value": lambda net, rng, b: b.scale.data.mul_(rng.choice([0.5, -1.0])),
    "share an array": lambda net, rng, b: setattr(b.scale, "value", rng.choice(blocks(net)).scale.value),
    "load": lambda net, rng, b: b.fc.load_state_dict(nn.Linear(3, 3).state_dict()),
    "swap": lambda net, rng, b: net._modules.update({"0": net[1], "1": net[0]}),
    "repeat": lambda net, rng, b: net.append(b) if len(net) < 4 else None,
    "drop": lambda net, rng, b: net.pop(-1) if len(net) > 2 else None,
    "new block": lambda net, rng, b: net.__setitem__(0, Block()),
    "copy": lambda net, rng, b: net.__setitem__(1, copy.deepcopy(net[1])),
    "delete buffer": lambda net, rng, b: (delattr(b, "extra"), b.register_buffer("extra", None)),
}


@pytest.mark.parametrize(("seed", "donate"), [(0, False), (1, True), (2, False)])
def test_compiled_equals_eager_after_any_sequence(seed: int, donate: bool) -> None:
    x = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32)
    nets, rngs = [nn.Sequential(Block(), Block()) for _ in range(2)], [random.Random(seed) for _ in range(2)]
    nets[1].load_state_dict({k: np.array(v) for k, v in nets[0].state_dict().items()})
    compiled = [jm.jit(lambda net, x: net(x), donate=donate), jm.jit(lambda net, x: (net(x), net(x))[1], donate=donate)]
    history: list[str] = []
    for _ in range(10):
        for _ in range(rngs[0].randint(0, 2)):
            rngs[1].setstate(rngs[0].getstate())
            history.append(rngs[0].choice(list(CHANGES)))
            rngs[1].choice(list(CHANGES))
            state = jm.get_rng_state()
            for net, rng in zip(nets, rngs, strict=True):
                jm.set_rng_state(state)
                CHANGES[history[-1]](net, rng, rng.choice(blocks(net)))
        which = rngs[0].randrange(2)
        expected = [nets[0](x) for _ in range(which + 1)][-1]
        ours = compiled[which](nets[1], x)
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4, err_msg=", ".join(history))
        assert_arrays(arrays(nets[1]), arrays(nets[0]))
        assert_clean(nets[1])


@pytest.mark.parametrize(("seed", "donate"), [(0, True)])
def test_compiled_training_equals_eager_after_any_sequence(seed: int, donate: bool) -> None:
    x = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32)
    harmless = ["mode", "gain", "table", "hook", "clear hooks", "freeze", "value", "buffer"]
    nets, rngs = [nn.Sequential(Block(), Block()) for _ in range(2)], [random.Random(seed) for _ in range(2)]
    nets[1].load_state_dict({k: np.array(v) for k, v in nets[0].state_dict().items()})
    optimizers = [jm.optim.SGD(net.parameters(), lr=0.05, momentum=0.9) for net in nets]

    def step(net: Any, optimizer: Any, x: Any) -> Any:
        loss, grads = jm.value_and_grad(lambda net: jnp.mean(net(x) ** 2))(net)
        optimizer.step(grads)
        return loss

    compiled = jm.jit(step, donate=donate)
    for _ in range(5):
        name = rngs[0].choice(harmless)
        rngs[1].choice(harmless)
        for net, rng in zip(nets, rngs, strict=True):
            CHANGES[name](net, rng, rng.choice(blocks(net)))
        step(nets[0], optimizers[0], x)
        compiled(nets[1], optimizers[1], x)
        ours, theirs = arrays(nets[1]), arrays(nets[0])
        for key in theirs:
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-3, atol=1e-4, err_msg=f"{name}: {key}")
