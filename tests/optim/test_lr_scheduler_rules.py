"""What the table of schedulers can't say: warnings, errors, epochs given, loops, the user's own schedulers."""

import copy
import types
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.optim.test_lr_schedulers import CASES, OURS, THEIRS, check_equal, optimizers, pair, settings

ZEROS = [jnp.zeros(2, jnp.float32), jnp.zeros(3, jnp.float32)]


def stepped() -> Any:
    """Make an optimizer that has taken a step."""
    optimizer, _ = optimizers()
    optimizer.step()
    return optimizer


def train(scheduler: Any) -> None:
    """Step the optimizer and the scheduler."""
    scheduler.optimizer.step(ZEROS)
    scheduler.step()


def recorded(function: Callable[[], Any]) -> list[str]:
    """Return the texts of the warnings, and of the exception, of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function()
        except Exception as error:
            return [f"{w.category.__name__}: {w.message}" for w in caught] + [f"{type(error).__name__}: {error}"]
    return [f"{w.category.__name__}: {w.message}" for w in caught]


@pytest.mark.parametrize("case", [name for name in CASES if "edule" not in name and "Seq" not in name])
def test_a_given_epoch_is_gone_to_with_the_warning_of_torch(case: str) -> None:
    ours, theirs = pair(case)
    metric = [1.0] if "Plateau" in case else []
    for epoch in (3, 1, 10, 30, 2):
        texts = [recorded(lambda s=s, epoch=epoch: s.step(*metric, epoch)) for s in (ours, theirs)]
        assert texts[0] == texts[1]
        check_equal(ours, theirs)


def test_fractions_of_epochs_of_warm_restarts() -> None:
    optimizer, oracle = optimizers()
    ours, theirs = OURS.CosineAnnealingWarmRestarts(optimizer, 3, 2), THEIRS.CosineAnnealingWarmRestarts(oracle, 3, 2)
    twin = OURS.CosineAnnealingWarmRestarts(optimizers()[0], 3, 2)
    compiled = jm.jit(lambda scheduler, epoch: scheduler.step(epoch))
    for epoch in (0.5, 2.25, 3.0, 8.75, 9.0, 20.5, 21.0, 1.5):
        for scheduler in (ours, theirs):
            scheduler.step(epoch)
        compiled(twin, epoch)
        check_equal(ours, theirs)
        np.testing.assert_allclose(twin.get_last_lr(), ours.get_last_lr(), rtol=1e-5)
        assert twin.last_epoch == ours.last_epoch


def replaced(optimizer: Any) -> None:
    optimizer.step = types.MethodType(lambda self: None, optimizer)


WARNED: dict[str, Callable[[Any, Any], Any]] = {
    "order": lambda room, o: room.StepLR(o, 3).step(),
    "right order": lambda room, o: (s := room.StepLR(o, 3), o.step(), s.step()),
    "resumed": lambda room, o: (room.StepLR(o, 3), room.StepLR(o, 3, last_epoch=4).step()),
    "replaced": lambda room, o: (s := room.StepLR(o, 3), replaced(o), s.step()),
    "get_lr": lambda room, o: room.StepLR(o, 3).get_lr(),
    "nested": lambda room, o: room.SequentialLR(o, [room.ChainedScheduler([room.ConstantLR(o)])], []),
}


@pytest.mark.parametrize("case", WARNED)
def test_warnings_are_those_of_torch(case: str) -> None:
    optimizer, oracle = optimizers()
    theirs = recorded(lambda: WARNED[case](THEIRS, oracle))
    assert recorded(lambda: WARNED[case](OURS, optimizer)) == theirs


def test_a_step_of_a_compiled_function_traced_for_another_counts() -> None:
    compiled = jm.jit(lambda optimizer: optimizer.step(ZEROS))
    for _ in range(2):
        optimizer, _ = optimizers()
        scheduler = OURS.StepLR(optimizer, 3)
        compiled(optimizer)
        scheduler.step()
    assert scheduler.last_epoch == 1


class NoScheduler:
    """Has no optimizer."""


ERRORS: dict[str, Callable[[Any, Any], Any]] = {
    "no optimizer": lambda room, o: room.StepLR(3, 3),
    "no optimizer, plateau": lambda room, o: room.ReduceLROnPlateau(3),
    "no optimizer, cyclic": lambda room, o: room.CyclicLR(3, 0.1, 0.2),
    "no optimizer, one cycle": lambda room, o: room.OneCycleLR(3, 0.1, total_steps=3),
    "no initial_lr": lambda room, o: room.StepLR(o, 3, last_epoch=1),
    "no get_lr": lambda room, o: room.LRScheduler(o),
    "lambdas": lambda room, o: room.LambdaLR(o, [abs]),
    "multiplicative": lambda room, o: room.MultiplicativeLR(o, 0.95),
    "multiplicative lambdas": lambda room, o: room.MultiplicativeLR(o, [abs]),
    "constant": lambda room, o: room.ConstantLR(o, 1.5),
    "linear start": lambda room, o: room.LinearLR(o, 0.0),
    "linear end": lambda room, o: room.LinearLR(o, 0.5, -1.0),
    "T_0": lambda room, o: room.CosineAnnealingWarmRestarts(o, 1.5),
    "T_mult": lambda room, o: room.CosineAnnealingWarmRestarts(o, 1, 0),
    "eta_min": lambda room, o: room.CosineAnnealingWarmRestarts(o, 1, 1, "0"),
    "negative epoch": lambda room, o: room.CosineAnnealingWarmRestarts(o, 5).step(-1),
    "factor": lambda room, o: room.ReduceLROnPlateau(o, factor=1.0),
    "min_lrs": lambda room, o: room.ReduceLROnPlateau(o, min_lr=[0.1]),
    "mode": lambda room, o: room.ReduceLROnPlateau(o, "mini"),
    "threshold mode": lambda room, o: room.ReduceLROnPlateau(o, threshold_mode="relative"),
    "cyclic mode": lambda room, o: room.CyclicLR(o, 0.1, 0.2, mode="CATS"),
    "cyclic bounds": lambda room, o: room.CyclicLR(o, [0.1], 0.2),
    "total_steps": lambda room, o: room.OneCycleLR(o, 0.1, total_steps=-1),
    "epochs": lambda room, o: room.OneCycleLR(o, 0.1, epochs=1.5, steps_per_epoch=1),
    "steps_per_epoch": lambda room, o: room.OneCycleLR(o, 0.1, epochs=1, steps_per_epoch=0),
    "no total": lambda room, o: room.OneCycleLR(o, 0.1, epochs=1),
    "pct_start": lambda room, o: room.OneCycleLR(o, 0.1, total_steps=3, pct_start=1.5),
    "anneal_strategy": lambda room, o: room.OneCycleLR(o, 0.1, total_steps=3, anneal_strategy="CATS"),
    "one cycle bounds": lambda room, o: room.OneCycleLR(o, [0.1], total_steps=3),
    "a step too many": lambda room, o: [s := room.OneCycleLR(o, 0.1, total_steps=1), o.step(), s.step(), s.step()],
    "no schedulers": lambda room, o: room.SequentialLR(o, [], []),
    "milestones": lambda room, o: room.SequentialLR(o, [room.ConstantLR(o), room.ConstantLR(o)], [1, 2]),
    "no scheduler": lambda room, o: room.SequentialLR(o, [NoScheduler()], []),
    "plateau in sequence": lambda room, o: room.SequentialLR(o, [room.ReduceLROnPlateau(o)], []),
    "no chain": lambda room, o: room.ChainedScheduler([]),
    "plateau in chain": lambda room, o: room.ChainedScheduler([room.ReduceLROnPlateau(o)]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_those_of_torch(case: str) -> None:
    optimizer, oracle = optimizers()
    theirs = recorded(lambda: ERRORS[case](THEIRS, oracle))
    assert any("Error: " in text for text in theirs)
    assert recorded(lambda: ERRORS[case](OURS, optimizer)) == theirs


@pytest.mark.parametrize("kind", ["SequentialLR", "ChainedScheduler"])
def test_schedulers_of_two_optimizers_are_refused(kind: str) -> None:
    schedulers = [OURS.ConstantLR(optimizers()[0]) for _ in range(2)]
    arguments = [schedulers[0].optimizer, schedulers, [1]] if kind == "SequentialLR" else [schedulers]
    with pytest.raises(ValueError, match=f"{kind} expects all schedulers to belong to the same optimizer.* at index 1"):
        getattr(OURS, kind)(*arguments)


def test_cycling_needs_momentum() -> None:
    optimizer = jm.optim.Optimizer([{"params": [nn.Parameter(jnp.ones(2))], "lr": 0.1}], optax.sgd(0.1))
    with pytest.raises(ValueError, match="optimizer must support momentum or beta1"):
        OURS.CyclicLR(optimizer, 0.1, 0.2)


def test_rates_that_nothing_schedules_are_refused() -> None:
    box = nn.Parameter(jnp.ones(2))
    with pytest.raises(KeyError, match="has no 'lr' to schedule"):
        OURS.StepLR(jm.optim.Optimizer([box], optax.sgd(0.1)), 3)
    with pytest.raises(ValueError, match="is a function of the number of steps"):
        OURS.StepLR(jm.optim.SGD([box], lr=optax.constant_schedule(0.1)), 3)


def test_a_group_added_during_compiled_training() -> None:
    scheduler = OURS.ReduceLROnPlateau(stepped(), patience=0)
    compiled = jm.jit(lambda scheduler, metric: scheduler.step(metric))
    compiled(scheduler, 1.0)
    scheduler.optimizer.add_param_group({"params": [nn.Parameter(jnp.ones(1))], "lr": 0.25})
    compiled(scheduler, 1.0)
    assert scheduler.get_last_lr() == pytest.approx([0.005, 0.05, 0.025])


def test_groups_added_to_a_plateau_need_bounds() -> None:
    optimizer = stepped()
    scheduler = OURS.ReduceLROnPlateau(optimizer, patience=0, min_lr=[1e-5, 1e-4])
    optimizer.add_param_group({"params": [nn.Parameter(jnp.ones(1))], "lr": 0.05})
    scheduler.step(1)
    with pytest.raises(RuntimeError, match=r"`optimizer` \(3\) differs .* initialized \(2\)"):
        scheduler.step(1.3)
    scheduler.min_lrs.append(0.04)
    scheduler.step(1.3)
    assert scheduler.get_last_lr()[2] == 0.04


@pytest.mark.parametrize("room", [OURS, THEIRS], ids=["ours", "torch's"])
def test_the_attributes_of_callable_objects_are_saved(room: Any) -> None:
    class Times:
        def __init__(self, value: float) -> None:
            self.value = value

        def __call__(self, epoch: Any) -> Any:
            return self.value * epoch

    saved = room.LambdaLR(optimizers()[room is THEIRS], [Times(3.0), lambda epoch: epoch]).state_dict()
    assert saved["lr_lambdas"] == [{"value": 3.0}, None]
    ours = OURS.LambdaLR(optimizers()[0], Times(1.0))
    ours.load_state_dict(saved)
    assert ours.lr_lambdas[0](2) == 6.0
    assert saved["lr_lambdas"] == [{"value": 3.0}, None]


def test_a_one_cycle_state_of_old_carries_its_function() -> None:
    ours, twin = (OURS.OneCycleLR(stepped(), 0.3, total_steps=9) for _ in range(2))
    del ours._anneal_func_type
    ours.load_state_dict({**ours.state_dict(), "anneal_func": torch.optim.lr_scheduler.OneCycleLR._annealing_cos})
    for _ in range(8):
        train(ours)
        train(twin)
    assert ours.get_last_lr() == twin.get_last_lr()


def test_arrays_are_taken_for_numbers() -> None:
    tenth = jnp.asarray(0.1, jnp.float32)
    optimizer = jm.optim.SGD([nn.Parameter(jnp.ones(2))], lr=tenth, momentum=0.9)
    scheduler = OURS.CyclicLR(optimizer, tenth, np.float32(0.2), base_momentum=jnp.asarray(0.8, jnp.float32))
    state = scheduler.state_dict()
    assert all(type(number) is float for number in (*state["base_lrs"], *state["max_lrs"], *scheduler.get_last_lr()))


def test_a_state_with_tensors_is_loaded_as_numbers() -> None:
    theirs = THEIRS.StepLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(0.5)), 3)
    ours = OURS.StepLR(jm.optim.SGD([nn.Parameter(jnp.ones(2))], lr=0.1), 3)
    ours.load_state_dict(theirs.state_dict())
    assert ours.base_lrs == ours.get_last_lr() == [0.5]
    assert type(ours.base_lrs[0]) is type(ours.get_last_lr()[0]) is float


class Own(OURS.LRScheduler):
    """Has a setting, a flag and a counter of its own."""

    def __init__(self, optimizer: Any, last_epoch: int = -1) -> None:
        self.factor = 0.5
        self.enabled = True
        self.calls = 0
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Halve the rates, or not."""
        self.calls += 1
        return [group["lr"] * (self.factor if self.enabled else 1) for group in self.optimizer.param_groups]


def test_a_scheduler_of_the_users_counts_in_compiled_steps() -> None:
    scheduler, twin = Own(stepped()), Own(stepped())
    traces: list[int] = []
    compiled = jm.jit(lambda scheduler: (traces.append(1), train(scheduler))[1])
    for i in range(8):
        for own in (scheduler, twin):
            own.enabled = i != 2
            own.factor = 0.5 if i < 4 else 0.25
        (train if i == 6 else compiled)(scheduler)
        train(twin)
    assert len(traces) == 4  # the first one finds that calls are counted
    assert scheduler.calls == twin.calls == 9
    assert scheduler.get_last_lr() == pytest.approx(twin.get_last_lr())
    state = {key: value for key, value in scheduler.state_dict().items() if key != "_last_lr"}
    assert state == {key: value for key, value in twin.state_dict().items() if key != "_last_lr"}


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
def test_attributes_read_as_what_was_set(compile_it: bool) -> None:
    scheduler = OURS.CosineAnnealingWarmRestarts(stepped(), 4)
    for epoch in (7, 8, 9):
        scheduler.T_cur = epoch
        (jm.jit(lambda s: s.step()) if compile_it else OURS.CosineAnnealingWarmRestarts.step)(scheduler)
        assert scheduler.T_cur == (epoch + 1) % 4
    assert type(scheduler.__dict__["T_cur"]) is type(scheduler.last_epoch) is int


def test_the_dict_of_attributes_is_one_of_numbers() -> None:
    scheduler = OURS.StepLR(stepped(), 3)
    own = {**vars(scheduler)}
    assert vars(scheduler) == own == dict(vars(scheduler).items()) != {**own, "last_epoch": 1}
    assert vars(scheduler).pop("gamma") == 0.1
    assert not hasattr(scheduler, "gamma")


def test_a_whole_rate_costs_no_trace() -> None:
    scheduler = OURS.StepLR(jm.optim.SGD([nn.Parameter(jnp.ones(2))], lr=1), 1)
    traces: list[int] = []
    compiled = jm.jit(lambda scheduler: (traces.append(1), scheduler.step())[1])
    compiled(scheduler)
    compiled(scheduler)
    assert scheduler.get_last_lr() == [pytest.approx(0.01)]
    assert traces == [1]


def deciding(epoch: Any) -> Any:
    return 1.0 if epoch < 3 else 0.5


def test_python_decisions_in_a_compiled_step_are_explained() -> None:
    scheduler = OURS.LambdaLR(stepped(), deciding)
    with pytest.raises(TypeError, match=r"LambdaLR.get_lr\(\) needs in Python .* expected jnp.where"):
        jm.jit(train)(scheduler)
    train(scheduler)
    assert scheduler.last_epoch == 1


def test_a_hidden_scheduler_is_not_baked_in() -> None:
    hidden = {frozenset([1]): {1: {2: {3: {4: {5: {6: {7: {8: OURS.StepLR(stepped(), 3)}}}}}}}}}
    scheduler = hidden[frozenset([1])][1][2][3][4][5][6][7][8]
    with pytest.raises(RuntimeError, match="was not given it"):
        jm.jit(lambda x: (hidden[frozenset([1])][1][2][3][4][5][6][7][8].step(), x)[1])(1.0)
    assert scheduler.last_epoch == 0


def test_schedulers_are_made_where_their_optimizer_is() -> None:
    def train_anew(box: nn.Parameter) -> Any:
        optimizer = jm.optim.SGD([box], lr=0.5)
        scheduler = OURS.ExponentialLR(optimizer, 0.5)
        optimizer.step([jnp.zeros(2, jnp.float32)])
        scheduler.step()
        return jnp.asarray(scheduler.get_last_lr()[0])

    optimizer = stepped()
    assert jm.jit(train_anew)(nn.Parameter(jnp.ones(2, jnp.float32))) == 0.25
    with pytest.raises(RuntimeError, match="for an optimizer that outlives it: make it outside"):
        jm.jit(lambda optimizer: OURS.StepLR(optimizer, 3) and None)(optimizer)
    assert "initial_lr" not in optimizer.param_groups[0]


def test_no_traced_number_stays_behind() -> None:
    scheduler = Own(stepped())
    for name in ("last_epoch", "factor", "new"):
        with pytest.raises(RuntimeError, match="was about to be stored in"):
            jax.jit(lambda x, name=name: (setattr(scheduler, name, x), x)[1])(1)
    assert (scheduler.last_epoch, scheduler.factor) == (0, 0.5)


def test_loops_over_steps() -> None:
    scheduler, twin = (CASES["SequentialLR"](OURS, stepped()) for _ in range(2))
    jm.fori_loop(0, 15, lambda i, x: (train(scheduler), x)[1], 0)
    for _ in range(15):
        train(twin)
    assert scheduler.get_last_lr() == pytest.approx(twin.get_last_lr(), rel=2e-6)
    assert scheduler.state_dict()["_schedulers"][1]["last_epoch"] == 5


def test_a_scheduler_in_a_closure_with_donation() -> None:
    scheduler, twin = (CASES["OneCycleLR"](OURS, stepped()) for _ in range(2))
    compiled = jm.jit(lambda: train(scheduler), donate=True)
    for _ in range(4):
        compiled()
        train(twin)
    assert scheduler.get_last_lr() == pytest.approx(twin.get_last_lr(), rel=2e-6)
    assert settings(copy.deepcopy(scheduler).optimizer)[0]["momentum"] == pytest.approx(
        settings(twin.optimizer)[0]["momentum"]
    )


def test_rates_set_by_others_are_gone_on_from() -> None:
    ours, theirs = pair("ExponentialLR")
    compiled = jm.jit(lambda scheduler: scheduler.step())
    for i in range(6):
        if i == 3:
            ours.optimizer.param_groups[0]["lr"] = theirs.optimizer.param_groups[0]["lr"] = 1.0
        compiled(ours)
        theirs.step()
    assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=2e-6)


def test_step_at_a_time_decays_stay_exact_for_long() -> None:
    scheduler = OURS.ExponentialLR(stepped(), 0.999)
    jm.fori_loop(0, 5000, lambda i, x: (scheduler.step(), x)[1], 0)
    assert scheduler.get_last_lr() == pytest.approx([0.05 * 0.999**5000, 0.5 * 0.999**5000], rel=2e-6)
