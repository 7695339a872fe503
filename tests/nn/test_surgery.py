"""Surgery on a net in training: layers replaced, moved, removed between compiled steps do what they do in PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune

import jaxmodules as jm

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def build(s: Any) -> Any:
    """Return a net of nested containers, with a hook, a frozen layer and a part in evaluation mode."""

    class Block(s.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.norm, self.fc2 = s.Linear(3, 3), s.BatchNorm1d(3), s.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return x + self.fc2(self.norm(self.fc1(x)))

    class Net(s.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = s.Sequential(Block(), Block(), s.Tanh())
            self.heads = s.ModuleDict({"a": s.Linear(3, 2), "b": s.Linear(3, 2)})
            self.extras = s.ModuleList([s.Linear(3, 3), s.Linear(3, 3)])

        def forward(self, x: Any) -> Any:
            x = self.layers(x)
            for layer in self.extras:
                x = layer(x)
            return sum(head(x) for head in self.heads.values())

    net = Net()
    net.layers[1].fc2.register_forward_hook(double)
    net.layers[0].norm.eval()
    net.extras[0].requires_grad_(False)
    return net


def double(module: Any, args: Any, output: Any) -> Any:
    return output * 2


def hooked(s: Any, mode: bool = True) -> Any:
    layer = s.Linear(3, 3).train(mode)
    layer.register_forward_hook(double)
    return layer


SURGERY: dict[str, Callable[[Any, Any], Any]] = {
    "nothing": lambda s, net: None,
    "nested layer": lambda s, net: setattr(net.layers[1], "fc2", s.Linear(3, 3)),
    "layer with hooks and mode": lambda s, net: setattr(net.layers[1], "fc1", hooked(s, False)),
    "layer of a Sequential": lambda s, net: net.layers.__setitem__(0, s.Linear(3, 3)),
    "set_submodule": lambda s, net: net.set_submodule("layers.0.norm", s.BatchNorm1d(3)),
    "set_submodule, other class": lambda s, net: net.set_submodule("layers.0.norm", s.Identity()),
    "wrap": lambda s, net: setattr(net.layers[0], "fc1", s.Sequential(net.layers[0].fc1, s.ReLU())),
    "swap": lambda s, net: net.layers._modules.update({"0": net.layers[1], "1": net.layers[0]}),
    "slice": lambda s, net: setattr(net, "layers", net.layers[1:]),
    "insert": lambda s, net: net.layers.insert(0, s.Linear(3, 3)),
    "append": lambda s, net: net.layers.append(s.Linear(3, 3)),
    "extend": lambda s, net: net.layers.extend(s.Sequential(s.Linear(3, 3), s.Tanh())),
    "pop": lambda s, net: net.layers.pop(0),
    "del": lambda s, net: net.layers.__delitem__(0),
    "share": lambda s, net: net.layers.append(net.layers[0]),
    "list insert": lambda s, net: net.extras.insert(0, s.Linear(3, 3)),
    "list replaced": lambda s, net: setattr(net, "extras", s.ModuleList([net.extras[1], s.Linear(3, 3)])),
    "dict pop": lambda s, net: net.heads.pop("a"),
    "dict update": lambda s, net: net.heads.update({"a": s.Linear(3, 2), "c": s.Linear(3, 2)}),
    "dict in _modules": lambda s, net: net.heads._modules.pop("b"),
    "parameter": lambda s, net: setattr(net.extras[1], "weight", s.Parameter(s.array(np.eye(3, dtype=np.float32)))),
    "no bias": lambda s, net: setattr(net.extras[1], "bias", None),
    "tie": lambda s, net: setattr(net.extras[1], "weight", net.extras[0].weight),
    "freeze": lambda s, net: net.layers[1].requires_grad_(False),
    "unfreeze": lambda s, net: net.requires_grad_(True),
    "modes": lambda s, net: (net.eval(), net.layers[1].train()),
    "fuse": lambda s, net: fuse(s, net.layers[0].eval()),
    "weight norm": lambda s, net: s.utils.parametrizations.weight_norm(net.extras[1]),
    "prune": lambda s, net: s.utils.prune.l1_unstructured(net.extras[1], "weight", amount=2),
}


def fuse(s: Any, block: Any) -> None:
    block.fc1, block.norm = s.utils.fusion.fuse_linear_bn_eval(block.fc1, block.norm), s.Identity()


def flags(net: Any) -> list[Any]:
    """List what surgery must leave alone."""
    modules = [(name, module.training, len(module._forward_hooks)) for name, module in net.named_modules()]
    return [modules, [(name, p.requires_grad, p.grad is None) for name, p in net.named_parameters()]]


def trained(net: Any, optimizer: Any, backward: Callable[[Any], Any]) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        backward(net)
        optimizer.step()


def torch_backward(net: Any) -> None:
    (net(torch.tensor(X)) ** 2).mean().backward()


def our_backward(net: Any) -> None:
    jm.backward(lambda net: (net(X) ** 2).mean(), net)


CASES = [*((kind, "jit") for kind in SURGERY), ("nested layer", "eager"), ("share", "eager"), ("tie", "eager")]


@pytest.mark.parametrize(("kind", "under"), CASES)
def test_training_goes_on_as_in_torch(libraries: Any, kind: str, under: str) -> None:
    nets, optimizers, before = [], [], []
    backwards = torch_backward, jm.jit(our_backward) if under == "jit" else our_backward
    for library, optim, backward in zip(libraries, (torch.optim, jm.optim), backwards, strict=True):
        library.seed(0)
        net = build(library)
        settings: Any = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
        optimizer = optim.SGD(net.parameters(), **settings)
        trained(net, optimizer, backward)
        SURGERY[kind](library, net)
        before.append(flags(net))
        trained(net, optimizer, backward)
        nets.append(net)
        optimizers.append(optimizer)
    assert before[1] == before[0]
    theirs, ours = nets
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    held = [[p.detach().numpy() for p in optimizers[0].param_groups[0]["params"]]]
    held.append([np.asarray(p.value) for p in optimizers[1].param_groups[0]["params"]])
    for their_value, our_value in zip(*held, strict=True):
        np.testing.assert_allclose(our_value, their_value, rtol=1e-3, atol=1e-5)
    assert flags(ours) == flags(theirs)
