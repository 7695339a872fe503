"""What the table can't say of normalisation: batches spread over devices, checkpoints, warnings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec as P

import jaxmodules as jm
from jaxmodules import nn
from tests.table import Case, build_pair

BATCH = np.random.default_rng(0).standard_normal((8, 3, 5)).astype(np.float32) * np.arange(1, 9)[:, None, None]
WEIGHTS = np.random.default_rng(1).standard_normal((8, 3, 5)).astype(np.float32)


def spread(apply: Any, how: str) -> Any:
    """Return a function of a whole batch that runs ``apply`` on four parts of it, and the sum of its losses."""

    def local(params: Any, state: Any, x: Any, weights: Any) -> Any:
        output, state = apply(params, state, x)
        return output, state, (weights * output**2).sum()

    def mapped(params: Any, state: Any, x: Any, weights: Any) -> Any:
        parts = [batch.reshape(4, 2, 3, 5) for batch in (x, weights)]
        run = jax.vmap(local, (None, None, 0, 0), (0, None, 0), axis_name="data")
        output, state, losses = run(params, state, *parts)
        return output.reshape(x.shape), state, losses.sum()

    def sharded(params: Any, state: Any, x: Any, weights: Any) -> Any:
        def one(*operands: Any) -> Any:
            output, state, loss = local(*operands)
            return output, state, jax.lax.psum(loss, "data")

        specs = (P(), P(), P("data"), P("data"))
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        return jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=(P("data"), P(), P()))(params, state, x, weights)

    return {"vmap": mapped, "shard_map": sharded, "whole": local}[how]


def results(net: nn.Module, how: str) -> Any:
    """Return output, new buffers, and the gradients by parameters and input."""
    apply, params, state = jm.functionalize(net)

    @jax.jit
    def run(params: Any, state: Any) -> Any:
        def loss(params: Any, x: Any) -> Any:
            output, new_state, total = spread(apply, how)(params, state, x, WEIGHTS)
            return total, (output, new_state)

        return jax.grad(loss, (0, 1), has_aux=True)(params, jnp.asarray(BATCH))

    return run(params, state)


@pytest.mark.parametrize("how", ["vmap", "shard_map"])
@pytest.mark.parametrize("group", ["data", ("data",), None])
@pytest.mark.parametrize("options", [{}, dict(momentum=None, bias=False), dict(track_running_stats=False)], ids=str)
def test_sync_batch_norm_is_batch_norm_of_the_whole_batch(how: str, group: Any, options: dict[str, Any]) -> None:
    whole, _ = build_pair(Case("BatchNorm1d", (3,), options))
    expected = results(whole, "whole")
    found = results(nn.SyncBatchNorm.convert_sync_batchnorm(whole, group), how)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, 2e-4, 2e-4), found, expected)


def test_sync_batch_norm_evaluates_without_the_other_parts() -> None:
    net = nn.SyncBatchNorm(3, process_group="data").eval()
    np.testing.assert_array_equal(net(BATCH), nn.BatchNorm1d(3).eval()(BATCH))
    with pytest.raises(NameError, match=r"process_group='data', but the axes mapped over here are \(\)"):
        net.train()(BATCH)


def test_sync_batch_norm_takes_one_value_of_each_part() -> None:
    net = nn.SyncBatchNorm(3, process_group="data")
    output = jm.vmap(net, axis_name="data")(BATCH[:, None, :, 0])
    np.testing.assert_allclose(output[:, 0], nn.BatchNorm1d(3)(BATCH[:, :, 0]), 1e-5, 1e-5)


def test_convert_sync_batchnorm_keeps_parameters_buffers_and_modes() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3, momentum=0.3).eval()))
    old, before = net[1][0], repr(net)
    assert nn.SyncBatchNorm.convert_sync_batchnorm(net, "data") is net
    new = net[1][0]
    assert type(new) is nn.SyncBatchNorm and repr(net) == before.replace("BatchNorm1d", "SyncBatchNorm")
    assert new.weight is old.weight and new.bias is old.bias and not new.training
    assert new.process_group == "data" and new.running_mean is old.running_mean


@pytest.mark.parametrize("name", ["InstanceNorm1d", "InstanceNorm2d"])
def test_instance_norm_refuses_running_statistics_it_does_not_track(name: str) -> None:
    ours, theirs = build_pair(Case(name, (3,), dict(track_running_stats=True)))
    arrays, tensors = ours.state_dict(), theirs.state_dict()
    del arrays._metadata, tensors._metadata  # as before version 1
    arrays.pop("num_batches_tracked"), tensors.pop("num_batches_tracked")
    with pytest.raises(RuntimeError, match="Unexpected running stats buffer") as refusal:
        getattr(torch.nn, name)(3).load_state_dict(tensors)
    with pytest.raises(RuntimeError, match="Unexpected running stats buffer") as ours_refusal:
        getattr(nn, name)(3).load_state_dict(arrays)
    assert str(ours_refusal.value) == str(refusal.value)


def test_instance_norm_warns_of_a_needless_wrong_size() -> None:
    with pytest.warns(UserWarning, match="input's size at dim=0 does not match num_features"):
        assert nn.InstanceNorm1d(2)(np.ones((3, 4), np.float32)).shape == (3, 4)


def test_empty_batches_leave_running_statistics_alone() -> None:
    net = nn.InstanceNorm1d(3, track_running_stats=True)
    assert net(np.ones((0, 3, 4), np.float32)).shape == (0, 3, 4)
    assert (net.running_mean == 0).all() and (net.running_var == 1).all()
