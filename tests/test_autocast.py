"""Mixed precision: PyTorch's lists, region by region and thread by thread, eagerly and compiled."""

import re
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from jaxmodules.nn import functional as F
from tests.rows import rows
from tests.table import Call, Case, build_pair, leaves, to_torch
from tests.transforms.helpers import counted

SHORT = jnp.dtype(jnp.bfloat16)
X = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)


def first_rows(kind: str) -> dict[str, Any]:
    """Take one row for each name."""
    found: dict[str, Any] = {}
    for _, row in rows(kind):
        found.setdefault(row.name, row)
    return found


CALLS, LAYERS = first_rows("CALLS"), first_rows("LAYERS")
# What torch has no kernel for, or refuses, under autocast on a CPU; and a loss that its function, not its kernel, casts
UNKNOWN = {"pdist", "grouped_mm", "AdaptiveLogSoftmaxWithLoss", "Bilinear"}


def is_shortened(value: Any, short: bool) -> bool:
    return short and value.dtype == np.float32


def for_torch(tree: Any, short: bool) -> Any:
    return jax.tree.map(
        lambda x: (
            torch.tensor(x).to(torch.bfloat16 if is_shortened(x, short) else None) if isinstance(x, np.ndarray) else x
        ),
        tree,
    )


def for_us(tree: Any, short: bool) -> Any:
    return jax.tree.map(
        lambda x: jnp.asarray(x, SHORT if is_shortened(x, short) else None) if isinstance(x, np.ndarray) else x, tree
    )


def names(result: Any) -> list[str]:
    """Name the types of the floating point arrays or tensors in a result."""
    return [str(leaf.dtype).removeprefix("torch.") for leaf in leaves(result) if "float" in str(leaf.dtype)]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
@pytest.mark.parametrize("short", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("call", [row for name, row in CALLS.items() if name not in UNKNOWN], ids=lambda row: row.name)
def test_functions_return_the_types_of_torch_on_a_cpu(call: Call, short: bool) -> None:
    arrays = call.make()
    options = {k: getattr(torch, v) if k == "dtype" else v for k, v in call.options.items()}
    with torch.autocast("cpu", torch.bfloat16):
        expected = names(getattr(torch.nn.functional, call.name)(**for_torch(arrays, short), **options))
    with jm.autocast("bfloat16"):
        run = lambda arrays: leaves(getattr(F, call.name)(**arrays, **call.options))  # noqa: E731
        assert names(jax.eval_shape(run, for_us(arrays, short))) == expected


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides", "ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("case", [row for name, row in LAYERS.items() if name not in UNKNOWN], ids=lambda row: row.name)
def test_layers_return_the_types_of_torch_on_a_cpu_and_keep_their_own(case: Case) -> None:
    ours, theirs = build_pair(case)
    inputs, options, training = case.make_inputs(), case.make_options(), case.modes[0] == "train"
    with torch.autocast("cpu", torch.bfloat16):
        expected = names(theirs.train(training)(*for_torch(inputs, False), **to_torch(options)))
    run = lambda *inputs: leaves(ours.train(training)(*inputs, **options))  # noqa: E731
    with jm.autocast("bfloat16"):
        assert names(jm.eval_shape(run, *for_us(inputs, False))) == expected
    assert all(parameter.dtype == jnp.float32 for parameter in ours.parameters())


def header_lists() -> dict[str, str]:
    """Read from torch's header which of our functions its list for CUDA names, and in which type they return."""
    text = (Path(torch.__file__).parent / "include/ATen/autocast_mode.h").read_text()
    found = {}
    for macro, dtype in (("LOWER_PRECISION_FP", "bfloat16"), ("FP32", "float32"), ("FP32_SET_OPT_DTYPE", "float32")):
        body = re.search(rf"#define AT_FORALL_{macro}\(_\)(.*?)\n\n", text, re.DOTALL)
        assert body is not None
        found |= {name: dtype for name in re.findall(r"_\((\w+)", body[1]) if name in CALLS}
    return found


@pytest.mark.parametrize("name, dtype", header_lists().items())
def test_functions_return_the_types_of_the_list_for_accelerators(name: str, dtype: str) -> None:
    call = CALLS[name]
    with jm.autocast("cuda", SHORT):
        for short in (False, True):
            run = lambda arrays: leaves(getattr(F, call.name)(**arrays, **call.options))  # noqa: E731
            assert names(jax.eval_shape(run, for_us(call.make(), short))) == [dtype]


def test_binary_cross_entropy_is_refused_on_accelerators_as_in_torch() -> None:
    with jm.autocast("cuda"), pytest.raises(RuntimeError, match="BCELoss are unsafe to autocast"):
        nn.BCELoss()(jnp.full(3, 0.5), jnp.ones(3))


def test_mixed_arguments_meet_in_the_widest_type_on_accelerators() -> None:
    arrays = jnp.ones((2, 3), SHORT), jnp.ones((2, 4)), jnp.ones((5, 3, 4), SHORT)
    with jm.autocast("cuda"):
        assert F.bilinear(*arrays).dtype == jnp.float32


def test_regions_nest_and_end_even_with_an_error() -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(KeyError, match="stop"), jm.autocast("bfloat16"):
        assert net(X).dtype == SHORT and jm.is_autocast_enabled()
        with jm.autocast(enabled=False):
            assert net(X).dtype == jnp.float32 and not jm.is_autocast_enabled()
            with jm.autocast(dtype=jnp.float16):
                assert net(X).dtype == jnp.float16 == jm.get_autocast_dtype()
        assert net(X).dtype == SHORT == jm.get_autocast_dtype()
        raise KeyError("stop")
    assert net(X).dtype == jnp.float32 and not jm.is_autocast_enabled()


def test_one_object_can_be_entered_again_and_decorates() -> None:
    region = jm.autocast("bfloat16")

    @region
    def run(depth: int) -> Any:
        """Explain."""
        return run(depth - 1) if depth else F.linear(X, X).dtype

    assert run(2) == SHORT and run.__doc__ == "Explain."
    with region, region:
        pass
    assert not jm.is_autocast_enabled()


def test_forward_can_be_decorated() -> None:
    class Net(nn.Linear):
        @jm.autocast("bfloat16")
        def forward(self, input: Any) -> Any:
            return super().forward(input)

    assert Net(3, 2)(X).dtype == SHORT == jm.jit(Net(3, 2))(X).dtype


def test_a_region_is_of_the_thread_that_enters_it() -> None:
    found = []
    with jm.autocast("bfloat16"):
        thread = threading.Thread(target=lambda: found.append(F.linear(X, X).dtype))
        thread.start()
        thread.join()
    assert found == [jnp.float32]


@pytest.mark.parametrize("compiler", [jm.jit, jax.jit], ids=["jm.jit", "jax.jit"])
def test_compiled_functions_have_a_program_for_each_kind_of_region(compiler: Any) -> None:
    function = counted(lambda x: F.linear(x, X))
    compiled = compiler(function)
    for _ in range(2):
        assert compiled(X).dtype == jnp.float32
        with jm.autocast("bfloat16"):
            assert compiled(X).dtype == SHORT
            with jm.autocast(enabled=False):
                assert compiled(X).dtype == jnp.float32
    assert len(function.calls) == 2


def test_explain_names_the_region() -> None:
    compiled = jm.jit(lambda x: F.linear(x, X))
    compiled(X)
    with jm.autocast("bfloat16"):
        compiled(X)
    assert "jm.autocast" in repr(jm.explain(compiled)) and "bfloat16" in repr(jm.explain(compiled))


def test_equal_blocks_inside_and_outside_a_region_share_no_trace() -> None:
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(6))

    @jm.jit
    def run(blocks: Any) -> Any:
        outside = [block(X).dtype for block in blocks[:3]]
        with jm.autocast("bfloat16"):
            inside = [block(X).dtype for block in blocks[3:]]
        seen.append((outside, inside))

    seen: list[Any] = []
    run(blocks)
    assert seen == [([jnp.float32] * 3, [SHORT] * 3)]


def test_a_compiled_training_step_follows_the_region_around_it() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = jm.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    seen = []

    @jm.jit
    def step(net: Any, optimizer: Any) -> Any:
        def loss(net: Any) -> Any:
            output = net(X)
            seen.append(output.dtype)
            return F.mse_loss(output, jnp.zeros((4, 2)))

        value, grads = jm.value_and_grad(loss)(net)
        optimizer.step(grads)
        return value, grads

    for _ in range(2):
        with jm.autocast("bfloat16"):
            value, grads = step(net, optimizer)
        step(net, optimizer)
    assert seen == [SHORT, jnp.float32] and value.dtype == jnp.float32
    assert {a.dtype.name for a in (*grads.values(), *net.state_dict().values())} == {"float32", "int32"}


def transforms(net: nn.Module) -> dict[str, Any]:
    return {
        "vmap": lambda: jax.vmap(net)(X),
        "scan": lambda: jax.lax.scan(lambda carry, x: (carry, net(x)), 0, X)[1],
        "checkpoint": lambda: jax.checkpoint(net)(X),
        "functionalize": lambda: jm.functionalize(net)[0](*jm.functionalize(net)[1:], X)[0],
        "jvp": lambda: jax.jvp(net, (X,), (X,))[1],
        "vjp": lambda: jax.vjp(net, X)[0],
    }


@pytest.mark.parametrize("name", transforms(nn.Linear(3, 2)))
def test_regions_reach_into_the_transforms_of_jax(name: str) -> None:
    run = transforms(nn.Linear(3, 2))[name]
    with jm.autocast("bfloat16"):
        assert run().dtype == SHORT
    assert run().dtype == jnp.float32


def test_double_precision_and_integers_are_left_alone() -> None:
    with jax.enable_x64(True), jm.autocast("bfloat16"):
        assert F.linear(np.ones((2, 3)), np.ones((2, 3))).dtype == jnp.float64
        assert F.linear(np.ones((2, 3), np.int32), np.ones((2, 3), np.int32)).dtype == jnp.int32


def test_arguments_are_those_of_torch_or_the_type_alone() -> None:
    assert jm.autocast("cpu").fast_dtype == SHORT and jm.autocast("cuda").fast_dtype == jnp.float16
    assert jm.autocast("cpu", dtype="float16", enabled=True, cache_enabled=False).fast_dtype == jnp.float16
    assert jm.autocast(jnp.float16).fast_dtype == jm.autocast(dtype="float16").fast_dtype == jnp.float16
    with pytest.raises(RuntimeError, match="unsupported autocast device_type 'bfloat17'"):
        jm.autocast("bfloat17")
    with pytest.raises(TypeError, match=r"autocast\(\)\(func\) requires a callable, but got int"):
        jm.autocast("bfloat16")(3)  # type: ignore[arg-type]


def test_a_type_that_is_not_short_warns_and_casts_nothing_as_in_torch() -> None:
    with pytest.warns(UserWarning, match="CPU autocast, but the target dtype is not supported") as caught:
        region = jm.autocast("cpu", "float32")
    with region:
        assert F.linear(X, X).dtype == jnp.float32
    assert caught[0].filename == __file__


def mlp(library: Any) -> Any:
    return library.Sequential(
        library.Linear(8, 16), library.LayerNorm(16), library.GELU(), library.Linear(16, 16), library.Linear(16, 3)
    )


def conv(library: Any) -> Any:
    return library.Sequential(
        library.Unflatten(1, (2, 2, 2)),
        library.Conv2d(2, 4, 3, padding=1),
        library.BatchNorm2d(4),
        library.ReLU(),
        library.Flatten(),
        library.Linear(16, 3),
    )


def transformer(library: Any) -> Any:
    layer = library.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return library.Sequential(library.Unflatten(1, (1, 8)), layer, library.Flatten(), library.Linear(8, 3))


@pytest.mark.parametrize("build", [mlp, conv, transformer])
def test_training_follows_torch(build: Any) -> None:
    torch.manual_seed(0)
    theirs, ours = build(torch.nn), build(nn)
    ours.load_state_dict(theirs.state_dict())
    x, y = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
    optimizers = jm.optim.SGD(ours.parameters(), 0.1), torch.optim.SGD(theirs.parameters(), 0.1)

    @jm.jit
    def step(net: Any, optimizer: Any) -> Any:
        def loss(net: Any) -> Any:
            with jm.autocast("bfloat16"):
                return F.cross_entropy(net(x), y)

        value, grads = jm.value_and_grad(loss)(net)
        optimizer.step(grads)
        return value

    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            expected = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        optimizers[1].zero_grad()
        expected.backward()
        optimizers[1].step()
        np.testing.assert_allclose(step(ours, optimizers[0]), expected.item(), rtol=0.02)
    assert all(parameter.dtype == jnp.float32 for parameter in ours.parameters())
