"""PyTorch's own database of module inputs: every input of every layer in scope, against torch."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.databases import call, close, in_brief, module_db, named, run_ours, run_torch, to_ours
from tests.table import is_float

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# Layers of the database that are left out, and why: none.
LEFT_OUT: dict[str, str] = {}
# Arguments whose gradient is not compared, and why.
UNTRAINED = {
    "PoissonNLLLoss": (["1"], "torch's gradient of the target is NaN where Stirling's term is masked out"),
    "NLLLoss": (["1"], "labels"),
    "CosineEmbeddingLoss": (["2"], "labels"),
    "MarginRankingLoss": (["2"], "labels"),
    "HingeEmbeddingLoss": (["1"], "labels"),
    "SoftMarginLoss": (["1"], "labels"),
    "MultiLabelSoftMarginLoss": (["1"], "labels"),
}
FEW = 60  # inputs of one layer that one test runs


def inputs_of(info: Any, training: bool) -> list[Any]:
    """Make the inputs of one layer; the same each time."""
    torch.manual_seed(0)
    make = info.module_inputs_func
    return list(make(info, device="cpu", dtype=torch.float32, requires_grad=False, training=training))


def parts() -> Iterator[Any]:
    """Yield each layer in each mode that the database tells apart, long lists of inputs in parts."""
    for info in module_db:
        name = info.name.removeprefix("nn.")
        if name in LEFT_OUT:
            continue
        for training in (True, False) if info.train_and_eval_differ else (True,):
            count = len(inputs_of(info, training))
            for start in range(0, count, FEW):
                mode = "train" if training else "eval"
                label = f"{name}-{mode}" + (f"-{start // FEW}" if count > FEW else "")
                yield pytest.param(info, training, start, id=label, marks=pytest.mark.xdist_group(f"db-{label}"))


def trained_arguments(name: str, net: torch.nn.Module, arguments: dict[str, Any]) -> list[str]:
    """List the arguments that torch has gradients for."""
    floating = [k for k, v in arguments.items() if isinstance(v, torch.Tensor) and is_float(v)]
    chosen = [k for k in floating if k not in UNTRAINED.get(name, ([],))[0]]
    try:
        run_torch(net, arguments, chosen)
    except RuntimeError as error:
        if not any(word in str(error) for word in ("derivative", "requires_grad", "require gradients")):
            raise
        return chosen[:1]
    return chosen


def in_single(value: Any) -> Any:
    """Make tensors of double precision single: the database draws some that torch itself refuses."""
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.float64 else value


def compare(cls: Any, given: Any, training: bool) -> None:
    """Build both layers from one input of the database and compare everything they do."""
    make, arguments = given.constructor_input, named(given.forward_input.args, given.forward_input.kwargs)
    name, kwargs = cls.__name__, {k: in_single(v) for k, v in make.kwargs.items()}
    theirs = cls(*make.args, **kwargs).train(training)
    ours = getattr(nn, name)(*map(to_ours, make.args), **to_ours(kwargs)).train(training)
    if isinstance(ours, nn.modules.lazy.LazyModuleMixin):
        call(theirs, arguments)
        call(ours, to_ours(arguments))
    assert repr(ours) == repr(theirs) and type(ours).__name__ == type(theirs).__name__
    ours.load_state_dict(theirs.state_dict())
    trained = trained_arguments(name, theirs, arguments)
    ours.load_state_dict(theirs.state_dict())  # finding them out moved the buffers
    theirs.zero_grad()
    outputs, gradients = run_torch(theirs, arguments, trained)

    apply, params, state = jm.functionalize(ours)

    def function(params: Any, arguments: dict[str, Any]) -> Any:
        return call(lambda *args, **kwargs: apply(params, state, *args, **kwargs), arguments)

    # a module of modules shares kernels with others: quicker than a program of its own
    compiles = not list(ours.children())
    result, new_state, param_grads, found = run_ours(function, params, to_ours(arguments), gradients, compiles)
    for one, other in zip(result, outputs, strict=True):
        close(one, other, "output")
    for key, gradient in gradients.items():
        close(found[key], gradient, f"argument {key}")
    for key, parameter in theirs.named_parameters():
        close(param_grads[key], parameter.grad, key)
    for key, buffer in theirs.named_buffers():
        close(new_state[key], buffer, key)


@pytest.mark.parametrize("info, training, start", list(parts()))
def test_every_input_of_the_database(info: Any, training: bool, start: int) -> None:
    problems = []
    for number, given in enumerate(inputs_of(info, training)[start : start + FEW], start):
        try:
            compare(info.module_cls, given, training)
        except Exception as error:
            problems.append(f"{number} ({given.desc}): {in_brief(error)}")
    assert not problems, f"{len(problems)} inputs:\n" + "\n".join(problems[:10])


@pytest.mark.parametrize("info", [i for i in module_db if i.module_error_inputs_func], ids=lambda i: i.name)
def test_every_error_of_the_database(info: Any) -> None:
    make = info.module_error_inputs_func
    cls = getattr(nn, info.name.removeprefix("nn."))
    for given in make(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True):
        constructor, forward = given.module_error_input.constructor_input, given.module_error_input.forward_input
        built = [to_ours(a) for a in constructor.args], to_ours(constructor.kwargs)
        if forward is None or "CONSTRUCTION" in str(given.error_on):
            with pytest.raises(given.error_type, match=given.error_regex):
                cls(*built[0], **built[1])
            continue
        net = cls(*built[0], **built[1])
        # where there is no double precision, half stands for another type than single
        arguments = to_ours(named(forward.args, forward.kwargs), double="float16")
        with pytest.raises(given.error_type, match=given.error_regex):
            call(net, arguments)
