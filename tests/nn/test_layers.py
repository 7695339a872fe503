"""Every property of every layer, over the table of cases."""

import copy
import pickle
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn
from tests.cases import CASES, Case, build_pair, build_seeded

RUNS = [pytest.param(case, mode, id=f"{case}-{mode}") for case in CASES for mode in case.modes]
FLOATING = [case for case in CASES if all(x.dtype == np.float32 for x in case.make_inputs()[:1])]


def first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


@cache
def run(case: Case, mode: str) -> Any:
    """Compile the layer once: its output, its new buffers and its gradients, of inputs and parameters."""
    net, _ = build_pair(case)
    apply, params, state = jm.functionalize(net.train(mode == "train"))

    @jax.jit
    def compiled(params: Any, state: Any, inputs: Any, cotangent: Any) -> Any:
        def function(params: Any, trained: Any) -> Any:
            given = [trained.get(i, x) for i, x in enumerate(inputs)]
            result, new_state = apply(params, state, *given)
            return first(result), (result, new_state)

        trained = {i: x for i, x in enumerate(inputs) if is_trained(case, i, x)}
        output, pullback, (result, new_state) = jax.vjp(function, params, trained, has_aux=True)
        return result, new_state, pullback(cotangent)

    inputs = [jnp.asarray(x) for x in case.make_inputs()]
    return compiled(params, state, inputs, make_cotangent(case, mode))


def make_cotangent(case: Case, mode: str) -> np.ndarray:
    _, theirs = build_pair(case)
    with torch.no_grad():
        shape = first(theirs.train(mode == "train")(*map(torch.tensor, case.make_inputs()))).shape
    return np.random.default_rng(1).standard_normal(tuple(shape)).astype(np.float32)


def is_trained(case: Case, position: int, value: Any) -> bool:
    """Tell whether torch has a gradient with respect to this input."""
    return value.dtype == np.float32 and not (case.name == "CrossEntropyLoss" and position == 1)


def close(ours: Any, theirs: Any, case: Case, name: str) -> None:
    np.testing.assert_allclose(ours, theirs.detach().numpy(), case.tolerance, case.tolerance, err_msg=name)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("case, mode", RUNS)
def test_output_gradients_and_buffers_equal_torch(case: Case, mode: str) -> None:
    _, theirs = build_pair(case)
    theirs.train(mode == "train")
    inputs = [torch.tensor(x) for x in case.make_inputs()]
    trained = {i: x.requires_grad_() for i, x in enumerate(inputs) if is_trained(case, i, case.make_inputs()[i])}
    expected = theirs(*inputs)
    first(expected).backward(torch.tensor(make_cotangent(case, mode)))

    result, new_state, (param_grads, input_grads) = run(case, mode)
    for one, other in zip(jax.tree.leaves(result), torch.utils._pytree.tree_leaves(expected), strict=True):
        close(one, other, case, "output")
    for name, parameter in theirs.named_parameters():
        close(param_grads[name], parameter.grad, case, name)
    for position, tensor in trained.items():
        close(input_grads[position], tensor.grad, case, f"input {position}")
    for name, buffer in theirs.named_buffers():
        close(new_state[name], buffer, case, name)


@pytest.mark.parametrize("case, mode", RUNS)
def test_eager_equals_compiled_and_writes_its_buffers(case: Case, mode: str) -> None:
    net, _ = build_pair(case)
    result = net.train(mode == "train")(*case.make_inputs())
    compiled, new_state, _ = run(case, mode)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, 1e-5, 1e-5), result, compiled)
    for name, buffer in net.named_buffers():
        np.testing.assert_allclose(buffer, new_state[name], 1e-5, 1e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_dict_has_the_keys_shapes_and_dtypes_of_torch(case: Case) -> None:
    ours, theirs = build_pair(case)
    expected = {name: (tuple(t.shape), str(t.dtype).split(".")[1]) for name, t in theirs.state_dict().items()}
    found = {name: (a.shape, str(a.dtype).replace("int32", "int64")) for name, a in ours.state_dict().items()}
    assert list(found.items()) == list(expected.items())
    theirs.load_state_dict({name: torch.tensor(np.asarray(a)) for name, a in ours.state_dict().items()})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_repr_and_settings_are_those_of_torch(case: Case) -> None:
    ours, theirs = build_pair(case)
    assert repr(ours) == repr(theirs)
    for name, value in vars(theirs).items():
        if not name.startswith("_") or name == "_reversed_padding_repeated_twice":
            assert getattr(ours, name) == (tuple(value) if name.startswith("_") else value), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_seed_draws_the_weights_of_torch(case: Case) -> None:
    for build in (lambda net: None, lambda net: hasattr(net, "reset_parameters") and net.reset_parameters()):
        ours, theirs = build_seeded(case, 7)
        build(ours)
        build(theirs)
        for name, tensor in theirs.state_dict().items():
            np.testing.assert_array_equal(ours.state_dict()[name], tensor.numpy(), err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap_equals_a_loop(case: Case) -> None:
    net, _ = build_pair(case)
    apply, params, state = jm.functionalize(net.eval())
    batches = [jnp.stack(pair) for pair in zip(case.make_inputs(0), case.make_inputs(1), strict=True)]
    mapped = jax.jit(jax.vmap(lambda *inputs: apply(params, state, *inputs)[0]))(*batches)
    for i in range(2):
        one = net(*(batch[i] for batch in batches))
        jax.tree.map(lambda whole, part: np.testing.assert_allclose(whole[i], part, 1e-5, 1e-5), mapped, one)  # noqa: B023


@pytest.mark.parametrize("case", FLOATING, ids=str)
def test_bfloat16_stays_near_float32(case: Case) -> None:
    inputs = case.make_inputs()
    short = [jnp.asarray(x, jnp.bfloat16) if x.dtype == np.float32 else jnp.asarray(x) for x in inputs]
    net, _ = build_pair(case)
    result = first(net.train(case.modes[0] == "train").to(jnp.bfloat16)(*short))
    expected = np.asarray(first(run(case, case.modes[0])[0]))
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=0.05, atol=0.05 * (1 + abs(expected).max()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_copies_and_pickles_are_alike_and_apart(case: Case) -> None:
    net, _ = build_pair(case)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(twin) == repr(net) and type(twin) is type(net)
        for (name, array), (other, copied) in zip(net.state_dict().items(), twin.state_dict().items(), strict=True):
            assert name == other
            np.testing.assert_array_equal(array, copied)
        for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
            its.data[...] = 0
            assert mine is not its and jnp.any(mine != 0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dtype_argument_reaches_every_array(case: Case) -> None:
    if not list(build_pair(case)[0].parameters()) or case.name == "CrossEntropyLoss":
        return
    net = Case(case.name, case.args, case.kwargs | dict(dtype=jnp.bfloat16, device="cpu")).make(nn)
    floating = [a for a in net.state_dict().values() if jnp.issubdtype(a.dtype, jnp.floating)]
    assert floating and all(array.dtype == jnp.bfloat16 for array in floating)


REFUSED = [
    ("Conv2d", (3, 4, 3), dict(padding="foo"), None, "Invalid padding string 'foo', should be one of"),
    ("Conv2d", (3, 4, 3), dict(padding_mode="foo"), None, "padding_mode must be one of .* but got padding_mode='foo'"),
    ("Conv2d", (3, 4, 3), dict(padding="same", stride=2), None, "padding='same' is not supported for strided conv"),
    ("Conv2d", (3, 4, 3), dict(groups=0), None, "groups must be a positive integer"),
    ("Conv2d", (3, 4, 3), dict(groups=2), None, "in_channels must be divisible by groups"),
    ("Conv2d", (4, 3, 3), dict(groups=2), None, "out_channels must be divisible by groups"),
    ("Conv2d", (3, 4, 3), dict(padding=5, padding_mode="reflect"), (3, 5, 5), "Padding size should be less than"),
    ("Conv2d", (3, 4, 3), dict(padding=6, padding_mode="circular"), (3, 5, 5), "wrapping around more than once"),
    ("Conv2d", (3, 4, 3), {}, (1, 2, 5, 5), "to have 3 channels, but got 2 channels instead"),
    ("Linear", (-1, 3), {}, None, "Trying to create tensor with negative dimension -1"),
    ("Linear", (3, 4), {}, (2, 5), r"cannot be multiplied \(2x5 and 3x4\)"),
    ("Bilinear", (0, 2, 3), {}, None, r"in1_features must be > 0, but got \(in1_features=0\)"),
    ("BatchNorm1d", (3,), {}, (3,), r"expected 2D or 3D input \(got 1D input\)"),
    ("BatchNorm2d", (3,), {}, (2, 3, 4), r"expected 4D input \(got 3D input\)"),
    ("BatchNorm1d", (3,), {}, (2, 4), "running_mean should contain 4 elements not 3"),
    ("BatchNorm1d", (3,), {}, (1, 3), "Expected more than 1 value per channel when training"),
    ("LayerNorm", ((2, 3),), {}, (4, 3), r"Given normalized_shape=\[2, 3\], expected input with shape \[\*, 2, 3\]"),
    ("PReLU", (3,), {}, (2, 4, 4), "Found parameter numbers = 3 and channel size = 4"),
    ("Embedding", (3, 4), dict(padding_idx=3), None, "Padding_idx must be within num_embeddings"),
    ("Embedding", (3, 4), dict(padding_idx=-4), None, "Padding_idx must be within num_embeddings"),
    ("Dropout", (1.5,), {}, None, "dropout probability has to be between 0 and 1, but got 1.5"),
    ("Flatten", (), {}, (3,), r"Dimension out of range \(expected to be in range of \[-1, 0\], but got 1\)"),
    ("Flatten", (2, 1), {}, (3, 4, 5), "start_dim cannot come after end_dim"),
    ("Unflatten", (1, 4), {}, None, "unflattened_size must be a tuple of ints, but found type int"),
    ("Unflatten", (1, (2.0, 2)), {}, None, "must be tuple of ints, but found element of type float at pos 0"),
    ("Unflatten", (1, (2, 3)), {}, (3, 4), r"Provided sizes \[2, 3\] don't multiply up to the size of dim 1 \(4\)"),
    ("Unflatten", (1, (3, -1)), {}, (3, 4), r"Provided sizes \[3, -1\] don't multiply up to the size of dim 1 \(4\)"),
    ("Unflatten", (1, (-1, -1)), {}, (3, 4), "only one dimension can be inferred"),
    ("Unflatten", (1, ()), {}, (3, 4), "sizes must be non-empty"),
    ("MSELoss", (), dict(reduction="foo"), (2, 3), "foo is not a valid value for reduction"),
]


@pytest.mark.parametrize("name, args, kwargs, shape, message", REFUSED)
def test_refusal_is_of_the_class_and_words_of_torch(
    name: str, args: Any, kwargs: Any, shape: Any, message: str
) -> None:
    def call(library: Any, array: Any) -> Any:
        net = getattr(library, name)(*args, **kwargs)
        return net(array) if name != "MSELoss" else net(array, array)

    with pytest.raises(Exception, match=message) as refusal:  # noqa: B017 - the class is torch's to choose
        call(torch.nn, torch.zeros(shape or 1))
    with pytest.raises(refusal.type, match=message):
        call(nn, np.zeros(shape or 1, np.float32))


def test_batch_norm_averages_over_all_batches_without_momentum() -> None:
    ours, theirs = build_pair(Case("BatchNorm1d", (3,), dict(momentum=None)))
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
        ours(x), theirs(torch.tensor(x))
    for name, buffer in theirs.named_buffers():
        np.testing.assert_allclose(ours.get_buffer(name), buffer.numpy(), 1e-6, 1e-6, err_msg=name)


def test_batch_norm_reads_checkpoints_that_did_not_count_batches() -> None:
    ours, theirs = build_pair(Case("BatchNorm1d", (3,)))
    old = {name: t for name, t in theirs.state_dict().items() if name != "num_batches_tracked"}
    ours(np.ones((2, 3), np.float32))
    assert ours.load_state_dict(old).missing_keys == []
    ours.reset_running_stats()
    assert (ours.running_mean == 0).all() and (ours.running_var == 1).all() and ours.num_batches_tracked == 0


def test_embedding_writes_renormalised_rows_back() -> None:
    ours, theirs = build_pair(Case("Embedding", (5, 3), dict(max_norm=0.5)))
    index = np.array([0, 2, 2])
    theirs(torch.tensor(index)).sum().backward()
    gradient = jm.grad(lambda net: net(index).sum())(ours)["weight"]
    np.testing.assert_allclose(ours.weight, theirs.weight.detach().numpy(), 1e-6, 1e-6)
    np.testing.assert_allclose(gradient, theirs.weight.grad.numpy())


def test_embedding_from_pretrained_is_frozen_unless_told() -> None:
    table = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    assert not nn.Embedding.from_pretrained(table).weight.requires_grad
    net = nn.Embedding.from_pretrained(jnp.asarray(table), freeze=False, padding_idx=1)
    assert net.weight.requires_grad and (net.weight == table).all()
    with pytest.raises(AssertionError, match="Embeddings parameter is expected to be 2-dimensional"):
        nn.Embedding.from_pretrained(table[0])
    with pytest.raises(AssertionError, match="Shape of weight does not match num_embeddings and embedding_dim"):
        nn.Embedding(4, 2, _weight=table)


def test_dropout_draws_anew_in_training_and_as_told() -> None:
    net, x = nn.Dropout(0.5), jnp.ones((8, 8))
    apply, params, state = jm.functionalize(net)
    one, two = (apply(params, state, x, rng=jax.random.key(seed))[0] for seed in (1, 2))
    assert (one != two).any() and (one == apply(params, state, x, rng=jax.random.key(1))[0]).all()
    assert set(np.unique(net(x)).tolist()) == {0.0, 2.0}


def test_legacy_loss_flags_choose_the_reduction() -> None:
    with pytest.warns(UserWarning, match="please use reduction='sum' instead"):
        assert nn.MSELoss(size_average=False).reduction == "sum"
