"""An optax schedule as the learning rate: the same steps as in optax, compiled once, resumed where it was."""

import copy

import numpy as np
import optax
import pytest

import jaxmodules as jm
from tests.optim.configs import Settings, every_optimizer
from tests.optim.helpers import SMALL, Counted, Pair, gradients, mlp, train_step, values

SCHEDULE = optax.warmup_cosine_decay_schedule(0.01, 0.1, 5, 30)


@every_optimizer
def test_steps_are_those_of_torch_with_the_rates_of_the_schedule(name: str, kwargs: Settings) -> None:
    pair = Pair(name, shapes=SMALL, theirs=kwargs, **{**kwargs, "lr": SCHEDULE})
    compiled = Counted(pair.optimizer)
    for i, grads in enumerate(gradients(20, shapes=SMALL)):
        assert pair.optimizer.param_groups[0]["lr"] == pytest.approx(float(SCHEDULE(i)))
        pair.oracle.param_groups[0]["lr"] = float(SCHEDULE(i))
        pair.step(grads, compiled)
    pair.check(2e-6)
    assert compiled.traces == 1


def test_a_number_may_become_a_schedule_and_a_number_again() -> None:
    pair = Pair("SGD", lr=0.1, weight_decay=0.1)
    step = Counted(pair.optimizer)
    for setting in (0.1, lambda count: 0.2, 0.3):
        pair.optimizer.param_groups[0]["weight_decay"] = setting
        pair.oracle.param_groups[0]["weight_decay"] = setting(0) if callable(setting) else setting
        pair.step(gradients(1)[0], step)
    pair.check()
    assert pair.optimizer.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("how", ["state_dict", "deepcopy"])
def test_a_copy_goes_on_at_the_same_place_of_the_schedule(how: str) -> None:
    nets = [mlp(), mlp()]
    optimizer = jm.optim.Adam(nets[0].parameters(), lr=SCHEDULE)
    step = jm.jit(train_step)
    for _ in range(7):
        step(nets[0], optimizer)
    if how == "deepcopy":
        nets[1], other = copy.deepcopy((nets[0], optimizer))
    else:
        nets[1].load_state_dict(nets[0].state_dict())
        other = jm.optim.Adam(nets[1].parameters(), lr=SCHEDULE)
        other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == pytest.approx(float(SCHEDULE(7)))
    for net, each in zip(nets, (optimizer, other), strict=True):
        step(net, each)
    np.testing.assert_equal(values(nets[0]), values(nets[1]))
