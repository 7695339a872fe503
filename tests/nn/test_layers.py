"""Every property of every layer, over the rows of the table."""

import copy
import inspect
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
from tests.rows import params, refusals, rows
from tests.table import Case, build_pair, build_seeded, cotangents, draw, dtype_name, is_float, leaves, to_torch

LAYERS = params("LAYERS")
RUNS = [
    pytest.param(row, mode, id=f"{row}-{mode}", marks=pytest.mark.xdist_group(f"LAYERS-{family}"))
    for family, row in rows("LAYERS")
    for mode in row.modes
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True, but"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


def call_torch(case: Case, theirs: torch.nn.Module, mode: str) -> tuple[list[torch.Tensor], dict[int, list[Any]]]:
    """Call torch's layer and its gradients; return the outputs, and the inputs that have gradients by position."""
    inputs = [to_torch(x) for x in case.make_inputs()]
    trained = {i: [leaf.requires_grad_() for leaf in leaves(inputs[i])] for i in trained_inputs(case)}
    outputs = leaves(theirs.train(mode == "train")(*inputs, **to_torch(case.make_options())))
    floating = [output for output in outputs if is_float(output)]
    given = [torch.tensor(cotangent) for cotangent in cotangents(outputs)]
    differentiable = [pair for pair in zip(floating, given, strict=True) if pair[0].requires_grad]
    if differentiable:
        torch.autograd.backward(*zip(*differentiable, strict=True))
    return outputs, trained


def trained_inputs(case: Case) -> list[int]:
    """List the positions of the inputs that torch has gradients for."""
    inputs = case.make_inputs()
    return [i for i, x in enumerate(inputs) if i not in case.untrained and all(is_float(leaf) for leaf in leaves(x))]


@cache
def run(case: Case, mode: str) -> Any:
    """Compile the layer once: its output, its new buffers and its gradients, of parameters and inputs."""
    net, _ = build_pair(case)
    apply, params, state = jm.functionalize(net.train(mode == "train"))
    options = case.make_options()

    @jax.jit
    def compiled(params: Any, state: Any, inputs: Any) -> Any:
        def function(params: Any, trained: Any) -> Any:
            given = [trained.get(i, x) for i, x in enumerate(inputs)]
            result, new_state = apply(params, state, *given, **options)
            return [leaf for leaf in leaves(result) if is_float(leaf)], (result, new_state)

        trained = {i: inputs[i] for i in trained_inputs(case)}
        outputs, pullback, (result, new_state) = jax.vjp(function, params, trained, has_aux=True)
        return result, new_state, pullback([jnp.asarray(cotangent) for cotangent in cotangents(outputs)])

    return compiled(params, state, jax.tree.map(jnp.asarray, case.make_inputs()))


def close(ours: Any, theirs: Any, case: Case, name: str) -> None:
    expected = np.zeros(ours.shape, np.float32) if theirs is None else theirs.detach().numpy()
    assert ours.shape == expected.shape, name
    assert theirs is None or dtype_name(ours) == dtype_name(theirs), name
    np.testing.assert_allclose(ours, expected, case.tolerance, case.tolerance, err_msg=name)


@pytest.mark.parametrize("case, mode", RUNS)
def test_output_gradients_and_buffers_equal_torch(case: Case, mode: str) -> None:
    _, theirs = build_pair(case)
    expected, trained = call_torch(case, theirs, mode)
    result, new_state, (param_grads, input_grads) = run(case, mode)
    for one, other in zip(leaves(result), expected, strict=True):
        close(one, other, case, "output")
    for name, parameter in theirs.named_parameters():
        close(param_grads[name], parameter.grad, case, name)
    for position, tensors in trained.items():
        for one, tensor in zip(leaves(input_grads[position]), tensors, strict=True):
            close(one, tensor.grad, case, f"input {position}")
    for name, buffer in theirs.named_buffers():
        if name in theirs.state_dict():
            close(new_state[name], buffer, case, name)


@pytest.mark.parametrize("case, mode", RUNS)
def test_eager_equals_compiled_and_writes_its_buffers(case: Case, mode: str) -> None:
    net, _ = build_pair(case)
    result = net.train(mode == "train")(*case.make_inputs(), **case.make_options())
    compiled, new_state, _ = run(case, mode)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, 1e-5, 1e-5), result, compiled)
    for name, buffer in net.named_buffers():
        np.testing.assert_allclose(buffer, new_state[name], 1e-5, 1e-5, err_msg=name)


@pytest.mark.parametrize("case", LAYERS)
def test_state_dict_has_the_keys_shapes_and_dtypes_of_torch(case: Case) -> None:
    ours, theirs = build_pair(case)
    expected = {name: (tuple(t.shape), dtype_name(t)) for name, t in theirs.state_dict().items()}
    found = {name: (a.shape, dtype_name(a)) for name, a in ours.state_dict().items()}
    assert list(found.items()) == list(expected.items())
    theirs.load_state_dict({name: torch.tensor(np.asarray(a)) for name, a in ours.state_dict().items()})


@pytest.mark.parametrize("case", LAYERS)
def test_repr_and_settings_are_those_of_torch(case: Case) -> None:
    ours, theirs = build_pair(case)
    assert repr(ours) == repr(theirs)
    for name, value in vars(theirs).items():
        if name == "_reversed_padding_repeated_twice":
            assert getattr(ours, name) == tuple(value)
        elif not name.startswith("_") and not callable(value):
            assert getattr(ours, name) == value, name


@pytest.mark.parametrize("case", LAYERS)
def test_the_same_seed_draws_the_weights_of_torch(case: Case) -> None:
    for build in (lambda net: None, lambda net: hasattr(net, "reset_parameters") and net.reset_parameters()):
        ours, theirs = build_seeded(case, 7)
        build(ours)
        build(theirs)
        for name, tensor in theirs.state_dict().items():
            np.testing.assert_array_equal(ours.state_dict()[name], tensor.numpy(), err_msg=name)


@pytest.mark.parametrize("case", [param for param in LAYERS if param.values[0].maps])
def test_vmap_equals_a_loop(case: Case) -> None:
    net, _ = build_pair(case)
    apply, params, state = jm.functionalize(net.eval())
    options = case.make_options()
    batches = jax.tree.map(lambda *pair: jnp.stack(pair), case.make_inputs(0), case.make_inputs(1))
    mapped = jax.jit(jax.vmap(lambda *inputs: apply(params, state, *inputs, **options)[0]))(*batches)
    for i in range(2):
        one = net(*jax.tree.map(lambda batch: batch[i], batches), **options)  # noqa: B023
        jax.tree.map(lambda whole, part: np.testing.assert_allclose(whole[i], part, 1e-5, 1e-5), mapped, one)  # noqa: B023


@pytest.mark.parametrize("case", [param for param in LAYERS if is_float(leaves(param.values[0].make_inputs())[0])])
def test_bfloat16_stays_near_float32(case: Case) -> None:
    def shorten(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        return jnp.asarray(x, jnp.bfloat16 if x.dtype == np.float32 else None)

    short = [jax.tree.map(shorten, given) for given in (case.make_inputs(), case.make_options())]
    net, _ = build_pair(case)
    result = leaves(net.train(case.modes[0] == "train").to(jnp.bfloat16)(*short[0], **short[1]))
    for one, other in zip(result, leaves(run(case, case.modes[0])[0]), strict=True):
        if is_float(other):
            assert one.dtype == jnp.bfloat16
            limit = 0.05 * (1 + abs(np.asarray(other)).max(initial=0))
            np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0.05, atol=limit)


@pytest.mark.parametrize("case", LAYERS)
def test_copies_and_pickles_are_alike_and_apart(case: Case) -> None:
    net, _ = build_pair(case)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(twin) == repr(net) and type(twin) is type(net)
        for (name, array), (other, copied) in zip(net.state_dict().items(), twin.state_dict().items(), strict=True):
            assert name == other
            np.testing.assert_array_equal(array, copied)
        for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
            before = np.array(mine)
            its.data[...] = before + 1
            assert mine is not its
            np.testing.assert_array_equal(mine, before)


@pytest.mark.parametrize("case", LAYERS)
def test_dtype_argument_reaches_every_array(case: Case) -> None:
    if "dtype" not in inspect.signature(getattr(torch.nn, case.name)).parameters:
        return
    net = case.make(nn, dtype=jnp.bfloat16, device="cpu")
    floating = [a for a in net.state_dict().values() if jnp.issubdtype(a.dtype, jnp.floating)]
    assert all(array.dtype == jnp.bfloat16 for array in floating)


@pytest.mark.parametrize("name, args, kwargs, inputs, message", refusals("REFUSED_LAYERS"))
def test_refusal_is_of_the_class_and_words_of_torch(
    name: str, args: Any, kwargs: Any, inputs: Any, message: str | tuple[str, str]
) -> None:
    one = inputs is None or all(isinstance(size, int) for size in inputs)
    given = [draw(recipe, np.random.default_rng(0)) for recipe in ((inputs or (1,),) if one else inputs)]

    def call(library: Any, arrays: Any) -> Any:
        return getattr(library, name)(*args, **kwargs)(*arrays)

    expected, ours = message if isinstance(message, tuple) else (message, message)
    with pytest.raises(Exception, match=expected) as refusal:  # noqa: B017 - the class is torch's to choose
        call(torch.nn, to_torch(given))
    with pytest.raises(refusal.type, match=ours):
        call(nn, given)


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
