"""Vectors of parameters, fused batch normalisation and uninitialised modules against torch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodules as jm
from jaxmodules import nn

Check = Callable[..., None]

STATEMENTS = {
    "to vector": "out = to_vector(net.parameters())",
    "to vector and back": "to_parameters(2 * to_vector(net.parameters()), net.parameters())",
    "a longer vector": "to_parameters(s.array([1.0] * 99), net.parameters())",
    "keeps the box": "w = net[2].bias; to_parameters(s.array([1.0] * 14), net.parameters()); out = w is net[2].bias",
}
REFUSED = {
    "too short": (RuntimeError, "s.utils.vector_to_parameters(s.array([1.0] * 9), net.parameters())"),
    "no vector": (TypeError, "s.utils.vector_to_parameters([1.0] * 14, net.parameters())"),
    "nothing": (ValueError, "s.utils.parameters_to_vector([])"),
}


def net_of(s: Any) -> Any:
    return s.Sequential(s.Linear(2, 3), s.PReLU(), s.Linear(3, 1))


@pytest.mark.parametrize("case", STATEMENTS)
def test_vectors(agree: Check, case: str) -> None:
    names = "to_vector, to_parameters = s.utils.parameters_to_vector, s.utils.vector_to_parameters"
    agree(net_of, f"{names}\n{STATEMENTS[case]}")


@pytest.mark.parametrize("case", REFUSED)
def test_vectors_are_refused(both: Check, case: str) -> None:
    error, expression = REFUSED[case]
    both(lambda s: eval(expression, {"s": s, "net": net_of(s)}), raises=error)


def test_vector_of_parameters_on_different_devices_is_refused() -> None:
    here, there = jnp.ones(2), jax.device_put(jnp.ones(2), jax.devices()[1])
    with pytest.raises(TypeError, match="Found two parameters on different devices"):
        nn.utils.parameters_to_vector([here, there])
    with pytest.raises(TypeError, match="Found two parameters on different devices"):
        nn.utils.vector_to_parameters(jnp.ones(4), [nn.Parameter(here), nn.Parameter(there)])


def test_vectors_in_a_compiled_function() -> None:
    net = nn.Linear(2, 2)

    @jm.jit
    def scale(net, by):
        vector = nn.utils.parameters_to_vector(net.parameters()) * by
        nn.utils.vector_to_parameters(vector, net.parameters())
        return vector

    before = net.weight.value
    assert scale(net, 3.0).shape == (6,)
    np.testing.assert_allclose(net.weight, 3 * before, rtol=1e-6)


BATCH_NORM = {"plain": {}, "not affine": {"affine": False}, "eps": {"eps": 0.5}}


def normed(s: Any, kind: str, features: int, **options: Any) -> Any:
    bn = getattr(s, kind)(features, **options)
    bn.running_mean = s.array([0.5 * i for i in range(features)])
    bn.running_var = s.array([1.0 + i for i in range(features)])
    if bn.affine:
        s.utils.vector_to_parameters(s.array([0.3 * i - 1 for i in range(2 * features)]), bn.parameters())
    return bn.eval()


@pytest.mark.parametrize("options", BATCH_NORM)
@pytest.mark.parametrize("bias", [True, False])
def test_fused_convolution(both: Check, options: str, bias: bool) -> None:
    def script(s):
        conv = s.Conv2d(2, 3, 2, bias=bias).eval()
        return s.utils.fuse_conv_bn_eval(conv, normed(s, "BatchNorm2d", 3, **BATCH_NORM[options]))

    both(script)


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_linear(both: Check, features: int, bias: bool) -> None:
    def script(s):
        linear = s.Linear(2, 3, bias=bias).eval()
        linear.weight.requires_grad_(False)
        return s.utils.fuse_linear_bn_eval(linear, normed(s, "BatchNorm1d", features))

    both(script)


def test_fused_weights_of_a_transposed_convolution(both: Check) -> None:
    def script(s):
        weight = s.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
        v = s.array([1.0, 2.0, 3.0])
        return s.utils.fuse_conv_bn_weights(weight, None, v, v, 1e-3, v, None, transpose=True)

    both(script)


FUSIONS = {
    "conv in training": "fuse_conv_bn_eval(s.Conv2d(1, 1, 1), s.BatchNorm2d(1).eval())",
    "norm in training": "fuse_linear_bn_eval(s.Linear(1, 1).eval(), s.BatchNorm1d(1))",
    "no statistics": "fuse_conv_bn_eval(s.Conv2d(1, 1, 1).eval(), s.BatchNorm2d(1, track_running_stats=False).eval())",
    "other sizes": "fuse_linear_bn_eval(s.Linear(2, 3).eval(), s.BatchNorm1d(2).eval())",
}


@pytest.mark.parametrize("case", FUSIONS)
def test_fusion_is_refused(both: Check, case: str) -> None:
    both(lambda s: eval(FUSIONS[case], {"s": s, **vars(s.utils)}), raises=AssertionError)


def test_fused_network_computes_the_same() -> None:
    conv, bn = nn.Conv2d(2, 3, 2).eval(), nn.BatchNorm2d(3).eval()
    x = jm.randn(2, 2, 4, 4)
    np.testing.assert_allclose(nn.utils.fuse_conv_bn_eval(conv, bn)(x), bn(conv(x)), rtol=1e-5, atol=1e-5)


def test_skip_init_draws_nothing(both: Check) -> None:
    def script(s):
        net = s.utils.skip_init(s.Linear, 3, out_features=2)
        names = {name: list(p.shape) for name, p in net.named_parameters()}
        return [repr(net), names, s.Linear(2, 2)]

    both(script)


@pytest.mark.parametrize("expression", ["skip_init(int, 3)", "skip_init(s.Sequential)"])
def test_skip_init_is_refused(both: Check, expression: str) -> None:
    both(lambda s: eval(expression, {"s": s, **vars(s.utils)}), raises=RuntimeError)


def test_skip_init_puts_the_module_on_a_device() -> None:
    device = jax.devices()[1]
    net = nn.utils.skip_init(nn.BatchNorm1d, 3, device=device, dtype=jnp.float16)
    assert net.weight.devices() == net.running_mean.devices() == {device} and net.weight.dtype == jnp.float16
