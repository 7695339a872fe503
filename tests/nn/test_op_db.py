"""PyTorch's own database of operator samples, for every function of ``nn.functional`` in it: values and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jaxmodules.nn import functional as F
from tests.databases import call, close, in_brief, named, op_db, run_ours, run_torch, to_ours
from tests.table import is_float

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PREFIX = "nn.functional."
# What is left out, and why: what these return is a matter of chance, see the tests of random layers.
LEFT_OUT = ("dropout", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "rrelu",
            "fractional_max_pool2d", "fractional_max_pool3d", "multi_head_attention_forward")  # fmt: skip
EAGER = ("one_hot",)  # the number of classes is read from the values
TURNED = ("embedding", "embedding_bag")  # the database has the table first
MOST = 48  # of the products of all options that some functions have, so many are taken, evenly spread


def name_of(info: Any) -> str:
    return info.name.removeprefix(PREFIX)


INFOS = [
    pytest.param(info, id=f"{name_of(info)}-{info.variant_test_name}", marks=pytest.mark.xdist_group(f"op-{info.name}"))
    for info in op_db
    if info.name.startswith(PREFIX) and name_of(info) not in LEFT_OUT and info.dtypes & {torch.float32, torch.int64}
]


def ours(name: str) -> Callable[..., Any]:
    """Return our function, with its arguments in the order of the database."""
    function = getattr(F, name)
    return (
        (lambda weight, input, *args, **kwargs: function(input, weight, *args, **kwargs))
        if name in TURNED
        else function
    )


def compare(info: Any, sample: Any) -> None:
    arguments = named([sample.input, *sample.args], sample.kwargs)
    trained = [k for k, v in arguments.items() if isinstance(v, torch.Tensor) and v.requires_grad and is_float(v)]
    outputs, gradients = run_torch(info.op, arguments, trained)
    function = ours(name_of(info))
    result, _, _, found = run_ours(
        lambda _, arguments: (call(function, arguments), None),
        None,
        to_ours(arguments),
        gradients,
        compiles=name_of(info) not in EAGER,
    )
    for number, (one, other) in enumerate(zip(result, outputs, strict=True)):
        close(one, other, f"output {number}")
    for key, gradient in gradients.items():
        close(found[key], gradient, f"argument {key}")


@pytest.mark.parametrize("info", INFOS)
def test_samples_of_the_database(info: Any) -> None:
    torch.manual_seed(0)
    dtype = torch.float32 if torch.float32 in info.dtypes else torch.int64
    samples = list(info.sample_inputs("cpu", dtype, requires_grad=dtype.is_floating_point))
    samples = [sample for sample in samples if not sample.kwargs.get("dropout_p")]
    problems = []
    for sample in samples[:: -(-len(samples) // MOST)]:
        try:
            compare(info, sample)
        except Exception as error:
            problems.append(f"{sample.summary()[:300]}: {in_brief(error)}")
    assert not problems, f"{len(problems)} samples:\n" + "\n".join(problems[:8])


@pytest.mark.parametrize("info", [param for param in INFOS if param.values[0].error_inputs_func])
def test_errors_of_the_database(info: Any) -> None:
    problems = []
    for given in info.error_inputs("cpu"):
        sample = given.sample_input
        arguments = to_ours(named([sample.input, *sample.args], sample.kwargs))
        try:
            with pytest.raises(given.error_type, match=given.error_regex):
                call(ours(name_of(info)), arguments)
        except (Exception, pytest.fail.Exception) as error:
            problems.append(f"{given.error_regex}: {in_brief(error)}")
    assert not problems, f"{len(problems)} errors:\n" + "\n".join(problems[:8])
