"""The listings of PyTorch tutorials, run with torch and with jaxmodules from the same seed.

A listing takes ``t``, which is ``torch`` or its counterpart here. The models read as in the tutorials, but for
``x.reshape(x.shape[0], -1)`` instead of ``x.view(x.size(0), -1)`` and ``abs(x)`` instead of ``x.abs()``.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn

OURS = SimpleNamespace(
    nn=nn,
    optim=jm.optim,
    manual_seed=jm.manual_seed,
    rand=jm.rand,
    randn=jm.randn,
    randint=jm.randint,
    randn_like=jm.randn_like,
    matmul=jnp.matmul,
    mm=jnp.matmul,
    tensor=jnp.asarray,
    float=jnp.float32,
)

Listing = Callable[[Any], Any]


def run(listing: Listing, t: Any) -> Any:
    t.manual_seed(0)
    return listing(t)


def assert_same(listing: Listing) -> None:
    """Run a listing in both libraries and compare every result, arrays with a tolerance."""
    theirs = run(listing, torch)
    with jax.numpy_rank_promotion("allow"):  # the tutorials add biases to batches
        ours = run(listing, OURS)
    assert len(ours) == len(theirs)
    for our_value, their_value in zip(ours, theirs, strict=True):
        if isinstance(their_value, torch.Tensor):
            np.testing.assert_allclose(np.asarray(our_value), their_value.detach().numpy(), rtol=1e-4, atol=1e-5)
        else:
            assert our_value == their_value


def named_shapes(net: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(parameter.shape)) for name, parameter in net.named_parameters()]


def my_linear(t: Any) -> Any:
    class MyLinear(t.nn.Module):
        def __init__(self, inp, outp):
            super().__init__()
            self.w = t.nn.Parameter(t.randn(outp, inp))
            self.b = t.nn.Parameter(t.randn(outp))

        def forward(self, x):
            return x @ self.w.t() + self.b

    net = MyLinear(4, 3)
    return [net(t.rand(2, 4)), *net.parameters(), named_shapes(net)]


def flatten_in_sequential(t: Any) -> Any:
    class Flatten(t.nn.Module):
        def forward(self, input):
            return input.reshape(input.shape[0], -1)

    class TestNet(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = t.nn.Sequential(
                t.nn.Conv2d(1, 16, 3, stride=1, padding=1), t.nn.MaxPool2d(2, 2), Flatten(), t.nn.Linear(16 * 4 * 4, 10)
            )

        def forward(self, x):
            return self.net(x)

    net = TestNet()
    return [net(t.rand(2, 1, 8, 8)), repr(net)]


def nested_net(t: Any) -> Any:
    class BasicNet(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = t.nn.Linear(4, 3)

        def forward(self, x):
            return self.net(x)

    class Net(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = t.nn.Sequential(BasicNet(), t.nn.ReLU(), t.nn.Linear(3, 2))

        def forward(self, x):
            return self.net(x)

    net = Net().to("cpu")
    net.train()
    net.eval()
    children = [(name, repr(module)) for name, module in net.named_children()]
    modules = [(name, repr(module)) for name, module in net.named_modules()]
    return [net(t.rand(2, 4)), named_shapes(net), children, modules, list(net.state_dict())]


def sequential_mlp(t: Any) -> Any:
    net = t.nn.Sequential(t.nn.Linear(20, 256), t.nn.ReLU(), t.nn.Linear(256, 10))
    return [net(t.rand(2, 20))]


def mlp(t: Any) -> Any:
    class MLP(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = t.nn.Linear(20, 256)
            self.out = t.nn.Linear(256, 10)

        def forward(self, X):
            return self.out(t.nn.functional.relu(self.hidden(X)))

    return [MLP()(t.rand(2, 20))]


def my_sequential_class(t: Any, seen: list[str]) -> Any:
    class MySequential(t.nn.Module):
        def __init__(self, *args):
            super().__init__()
            for block in args:
                self._modules[block] = block

        def forward(self, X):
            for block in self._modules.values():
                seen.append(repr(block))
                X = block(X)
            return X

    return MySequential


def my_sequential(t: Any) -> Any:
    seen: list[str] = []
    net = my_sequential_class(t, seen)(t.nn.Linear(20, 256), t.nn.ReLU(), t.nn.Linear(256, 10))
    return [net(t.rand(2, 20)), seen]


def fixed_hidden_class(t: Any) -> Any:
    class FixedHiddenMLP(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.rand_weight = t.rand((20, 20))
            self.linear = t.nn.Linear(20, 20)

        def forward(self, X):
            X = self.linear(X)
            X = t.nn.functional.relu(t.mm(X, self.rand_weight + 1))
            X = self.linear(X)
            while abs(X).sum() > 1:
                X = X / 2
            return X.sum()

    return FixedHiddenMLP


def fixed_hidden(t: Any) -> Any:
    return [fixed_hidden_class(t)()(t.rand(2, 20))]


def chimera(t: Any) -> Any:
    class NestMLP(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = t.nn.Sequential(t.nn.Linear(20, 64), t.nn.ReLU(), t.nn.Linear(64, 32), t.nn.ReLU())
            self.linear = t.nn.Linear(32, 16)

        def forward(self, X):
            return self.linear(self.net(X))

    net = t.nn.Sequential(NestMLP(), t.nn.Linear(16, 20), fixed_hidden_class(t)())
    return [net(t.rand(2, 20))]


def parameter_access(t: Any) -> Any:
    net = t.nn.Sequential(t.nn.Linear(4, 8), t.nn.ReLU(), t.nn.Linear(8, 1))
    return [
        net(t.rand(size=(2, 4))),
        *net[2].state_dict().values(),
        type(net[2].bias) is t.nn.Parameter,
        net[2].bias,
        net[2].bias.data,
        net[2].weight.grad is None,
        named_shapes(net[0]),
        named_shapes(net),
        net.state_dict()["2.bias"],
    ]


def nested_blocks(t: Any) -> Any:
    def block1():
        return t.nn.Sequential(t.nn.Linear(4, 8), t.nn.ReLU(), t.nn.Linear(8, 4), t.nn.ReLU())

    def block2():
        net = t.nn.Sequential()
        for i in range(4):
            net.add_module(f"block{i}", block1())
        return net

    rgnet = t.nn.Sequential(block2(), t.nn.Linear(4, 1))
    return [rgnet(t.rand(size=(2, 4))), repr(rgnet), rgnet[0][1][0].bias.data]


def built_in_initialisation(t: Any) -> Any:
    def init_normal(m):
        if type(m) is t.nn.Linear:
            t.nn.init.normal_(m.weight, mean=0, std=0.01)
            t.nn.init.zeros_(m.bias)

    net = t.nn.Sequential(t.nn.Linear(4, 8), t.nn.ReLU(), t.nn.Linear(8, 1))
    net.apply(init_normal)
    return [net[0].weight.data[0], net[0].bias.data[0]]


def parameter_replacement(t: Any) -> Any:
    def my_init(m):
        if type(m) is t.nn.Linear:
            seen.append([(name, tuple(param.shape)) for name, param in m.named_parameters()][0])
            t.nn.init.uniform_(m.weight, -10, 10)
            m.weight.data *= m.weight.data.abs() >= 5

    seen: list[Any] = []
    net = t.nn.Sequential(t.nn.Linear(4, 8), t.nn.ReLU(), t.nn.Linear(8, 1))
    net.apply(my_init)
    first = net[0].weight[:2] * 1
    net[0].weight.data[:] += 1
    net[0].weight.data[0, 0] = 42
    return [first, net[0].weight.data[0], seen]


def layer_without_parameters(t: Any) -> Any:
    class CenteredLayer(t.nn.Module):
        def __init__(self):
            super().__init__()

        def forward(self, X):
            return X - X.mean()

    net = t.nn.Sequential(t.nn.Linear(8, 128), CenteredLayer())
    return [CenteredLayer()(t.tensor([1.0, 2.0, 3.0, 4.0, 5.0])), net(t.rand(4, 8)).mean()]


def layer_with_parameters(t: Any) -> Any:
    class MyLinear(t.nn.Module):
        def __init__(self, in_units, units):
            super().__init__()
            self.weight = t.nn.Parameter(t.randn(in_units, units))
            self.bias = t.nn.Parameter(t.randn(units))

        def forward(self, X):
            linear = t.matmul(X, self.weight.data) + self.bias.data
            return t.nn.functional.relu(linear)

    dense = MyLinear(5, 3)
    net = t.nn.Sequential(MyLinear(64, 8), MyLinear(8, 1))
    return [dense.weight, dense(t.rand(2, 5)), net(t.rand(2, 64))]


def lenet_sequential(t: Any) -> Any:
    class LeNetSequential(t.nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.features = t.nn.Sequential(
                t.nn.Conv2d(3, 6, 5), t.nn.ReLU(), t.nn.MaxPool2d(kernel_size=2, stride=2),
                t.nn.Conv2d(6, 16, 5), t.nn.ReLU(), t.nn.MaxPool2d(kernel_size=2, stride=2),
            )  # fmt: skip
            self.classifier = t.nn.Sequential(
                t.nn.Linear(16 * 5 * 5, 120), t.nn.ReLU(), t.nn.Linear(120, 84), t.nn.ReLU(), t.nn.Linear(84, classes)
            )

        def forward(self, x):
            x = self.features(x)
            x = x.reshape(x.shape[0], -1)
            return self.classifier(x)

    net = LeNetSequential(classes=2)
    return [net(t.rand(4, 3, 32, 32)), repr(net)]


def lenet_ordered_dict(t: Any) -> Any:
    class LeNetSequentialOrderDict(t.nn.Module):
        def __init__(self, classes):
            super().__init__()
            layers = {"conv1": t.nn.Conv2d(3, 6, 5), "relu1": t.nn.ReLU(), "pool1": t.nn.MaxPool2d(2, stride=2)}
            layers |= {"conv2": t.nn.Conv2d(6, 16, 5), "relu2": t.nn.ReLU(), "pool2": t.nn.MaxPool2d(2, stride=2)}
            self.features = t.nn.Sequential(OrderedDict(layers))
            layers = {"fc1": t.nn.Linear(16 * 5 * 5, 120), "relu3": t.nn.ReLU(), "fc2": t.nn.Linear(120, 84)}
            layers |= {"relu4": t.nn.ReLU(), "fc3": t.nn.Linear(84, classes)}
            self.classifier = t.nn.Sequential(OrderedDict(layers))

        def forward(self, x):
            x = self.features(x)
            x = x.reshape(x.shape[0], -1)
            return self.classifier(x)

    net = LeNetSequentialOrderDict(classes=2)
    return [net(t.rand(4, 3, 32, 32)), named_shapes(net), repr(net)]


def lenet_functional(t: Any) -> Any:
    F = t.nn.functional

    class LeNet(t.nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.conv1 = t.nn.Conv2d(3, 6, 5)
            self.conv2 = t.nn.Conv2d(6, 16, 5)
            self.fc1 = t.nn.Linear(16 * 5 * 5, 120)
            self.fc2 = t.nn.Linear(120, 84)
            self.fc3 = t.nn.Linear(84, classes)

        def forward(self, x):
            out = F.max_pool2d(F.relu(self.conv1(x)), 2)
            out = F.max_pool2d(F.relu(self.conv2(out)), 2)
            out = out.reshape(out.shape[0], -1)
            out = F.relu(self.fc1(out))
            out = F.relu(self.fc2(out))
            return self.fc3(out)

    net = LeNet(classes=2)
    return [net(t.rand(4, 3, 32, 32)), list(net._modules), list(net.conv1._parameters), list(net.conv1._modules)]


def module_list(t: Any) -> Any:
    class ModuleList(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.linears = t.nn.ModuleList([t.nn.Linear(10, 10) for i in range(20)])

        def forward(self, x):
            for _, linear in enumerate(self.linears):
                x = linear(x)
            return x

    net = ModuleList()
    return [net(t.rand(2, 10)), repr(net), len(list(net.parameters()))]


def module_dict(t: Any) -> Any:
    class ModuleDict(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.choices = t.nn.ModuleDict({"conv": t.nn.Conv2d(10, 10, 3), "pool": t.nn.MaxPool2d(3)})
            self.activations = t.nn.ModuleDict({"relu": t.nn.ReLU(), "prelu": t.nn.PReLU()})

        def forward(self, x, choice, act):
            x = self.choices[choice](x)
            return self.activations[act](x)

    net, x = ModuleDict(), t.randn(4, 10, 9, 9)
    return [net(x, choice, act) for choice in ("conv", "pool") for act in ("relu", "prelu")] + [repr(net)]


def alexnet(t: Any) -> Any:
    class AlexNet(t.nn.Module):
        def __init__(self, num_classes=1000):
            super().__init__()
            self.features = t.nn.Sequential(
                t.nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2), t.nn.ReLU(inplace=True),
                t.nn.MaxPool2d(kernel_size=3, stride=2),
                t.nn.Conv2d(64, 192, kernel_size=5, padding=2), t.nn.ReLU(inplace=True),
                t.nn.MaxPool2d(kernel_size=3, stride=2),
                t.nn.Conv2d(192, 384, kernel_size=3, padding=1), t.nn.ReLU(inplace=True),
                t.nn.Conv2d(384, 256, kernel_size=3, padding=1), t.nn.ReLU(inplace=True),
                t.nn.Conv2d(256, 256, kernel_size=3, padding=1), t.nn.ReLU(inplace=True),
                t.nn.MaxPool2d(kernel_size=3, stride=2),
            )  # fmt: skip
            self.avgpool = t.nn.AdaptiveAvgPool2d((6, 6))
            self.classifier = t.nn.Sequential(
                t.nn.Dropout(), t.nn.Linear(256 * 6 * 6, 4096), t.nn.ReLU(inplace=True),
                t.nn.Dropout(), t.nn.Linear(4096, 4096), t.nn.ReLU(inplace=True), t.nn.Linear(4096, num_classes),
            )  # fmt: skip

        def forward(self, x):
            x = self.features(x)
            x = self.avgpool(x)
            x = x.reshape(x.shape[0], -1)
            return self.classifier(x)

    net = AlexNet(num_classes=10).eval()
    return [net(t.rand(1, 3, 96, 96)), repr(net), sum(p.numel() for p in net.parameters())]


def xavier_convolution(t: Any) -> Any:
    conv_layer = t.nn.Conv2d(3, 1, 3)
    t.nn.init.xavier_normal_(conv_layer.weight.data)
    return [conv_layer.weight, conv_layer(t.rand(1, 3, 8, 8))]


def pooling(t: Any) -> Any:
    img_tensor = t.rand(1, 1, 4, 4)
    img_pool, indices = t.nn.MaxPool2d((2, 2), stride=(2, 2), return_indices=True)(img_tensor)
    plain = t.nn.MaxPool2d((2, 2), stride=(2, 2))(img_tensor)
    return [img_pool, indices, plain, t.nn.AvgPool2d((2, 2), stride=(2, 2))(img_tensor)]


def unpooling(t: Any) -> Any:
    img_tensor = t.randint(high=5, size=(1, 1, 4, 4), dtype=t.float)
    img_pool, indices = t.nn.MaxPool2d((2, 2), stride=(2, 2), return_indices=True)(img_tensor)
    img_reconstruct = t.randn_like(img_pool, dtype=t.float)
    img_unpool = t.nn.MaxUnpool2d((2, 2), stride=(2, 2))(img_reconstruct, indices)
    return [img_pool, indices, img_reconstruct, img_unpool]


def transposed_convolution(t: Any) -> Any:
    conv_layer = t.nn.ConvTranspose2d(3, 1, 3, stride=2)
    t.nn.init.xavier_normal_(conv_layer.weight.data)
    return [conv_layer.weight, conv_layer(t.rand(1, 3, 4, 4)), repr(conv_layer)]


def linear_by_hand(t: Any) -> Any:
    inputs = t.tensor([[1.0, 2, 3]])
    linear_layer = t.nn.Linear(3, 4)
    linear_layer.weight.data = t.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0], [4.0, 4.0, 4.0]])
    linear_layer.bias.data.fill_(0.5)
    return [linear_layer(inputs), linear_layer.weight.data, tuple(linear_layer.weight.data.shape)]


def activations(t: Any) -> Any:
    x = t.randn(2, 8)
    layers = [t.nn.Sigmoid(), t.nn.Tanh(), t.nn.ReLU(), t.nn.LeakyReLU(), t.nn.PReLU()]
    return [layer(x) for layer in layers] + [repr(layer) for layer in layers]


def list_and_dict_by_hand(t: Any) -> Any:
    layers = t.nn.ModuleList([t.nn.Linear(10, 10) for _ in range(5)])
    output = t.randn(1, 10)
    for layer in layers:
        output = layer(output)
    named = t.nn.ModuleDict({"linear": t.nn.Linear(10, 10), "relu": t.nn.ReLU()})
    return [output, named["relu"](named["linear"](t.randn(1, 10)))]


LISTINGS = [
    my_linear, flatten_in_sequential, nested_net, sequential_mlp, mlp, my_sequential, fixed_hidden, chimera,
    parameter_access, nested_blocks, built_in_initialisation, parameter_replacement, layer_without_parameters,
    layer_with_parameters, lenet_sequential, lenet_ordered_dict, lenet_functional, module_list, module_dict, alexnet,
    xavier_convolution, pooling, unpooling, transposed_convolution, linear_by_hand, activations, list_and_dict_by_hand,
]  # fmt: skip


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.__name__)
def test_listing_gives_torchs_results(listing: Listing) -> None:
    assert_same(listing)


def test_data_dependent_loop_has_torchs_gradients() -> None:
    theirs, ours = (run(lambda t: (fixed_hidden_class(t)(), t.rand(2, 20)), t) for t in (torch, OURS))
    their_loss = theirs[0](theirs[1])
    their_loss.backward()
    loss, grads = jm.value_and_grad(lambda net: net(ours[1]))(ours[0])
    assert float(loss) == pytest.approx(their_loss.item(), rel=1e-4)
    for name, parameter in theirs[0].named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=1e-3, atol=1e-5)


def test_parameter_is_trained_by_sgd() -> None:
    def listing(t: Any) -> list[Any]:
        class MyModule(t.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = t.nn.Parameter(t.randn(10, 10))

            def forward(self, x):
                return t.mm(x, self.weight)

        model = MyModule()
        optimizer = t.optim.SGD(model.parameters(), lr=0.1)
        input, target = t.randn(1, 10), t.randn(1, 10)
        optimizer.zero_grad()
        if t is torch:
            t.nn.MSELoss()(model(input), target).backward()
        else:
            jm.backward(lambda: t.nn.MSELoss()(model(input), target), model)
        optimizer.step()
        return [model.weight, model.weight.grad]

    assert_same(listing)


def test_checkpoint_is_saved_and_loaded(tmp_path: Path) -> None:
    net, again = nn.Linear(4, 3), nn.Linear(4, 3)
    jm.save(net.state_dict(), tmp_path / "ckpt.mdl")
    again.load_state_dict(jm.load(tmp_path / "ckpt.mdl"))
    np.testing.assert_array_equal(again.weight.value, net.weight.value)


def test_layer_without_its_kernel_size_is_refused() -> None:
    with pytest.raises(TypeError, match="kernel_size"):
        nn.Conv2d(1, 16, stride=1, padding=1)


def test_modules_keyed_by_themselves_run_compiled() -> None:
    net, x = my_sequential_class(OURS, [])(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), jnp.ones((2, 4))
    np.testing.assert_allclose(jm.jit(lambda net, x: net(x))(net, x), net(x), rtol=1e-6)
