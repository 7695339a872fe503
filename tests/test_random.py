"""Random numbers: PyTorch's bits on the host, JAX's keys under a trace."""

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodules import random
from jaxmodules._mt19937 import HostStream
from jaxmodules.random import Generator

SIZES = (0, 1, 3, 15, 16, 17, 1000, 70001)
BOUNDS = ((0.0, 1.0), (-0.1, 0.1), (0.3, 0.9), (0.0, 0.7), (-1.0, 0.3))
MOMENTS = ((0.0, 1.0), (0.0, 0.3), (0.7, 0.3))
RANGES = ((0, 10), (-5, 7), (0, 2**28 - 1), (0, 2**28), (-(2**63), 2**63 - 1))
TRANSFORMS = [jax.jit, jax.vmap, lambda f: jax.vmap(jax.jit(f)), lambda f: jax.jit(jax.vmap(f))]


def theirs(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ours(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noise(x: Any) -> Any:
    return x + jax.random.normal(random.next_key(), x.shape)


@pytest.mark.parametrize("seed", [0, 5, -1, -(2**63), 2**64 - 1])
@pytest.mark.parametrize("size", SIZES)
def test_rand_has_the_bits_of_torch(size: int, seed: int) -> None:
    expected = torch.rand(size, generator=theirs(seed)).numpy()
    np.testing.assert_array_equal(random.rand(size, generator=ours(seed)), expected)


@pytest.mark.parametrize("size", SIZES)
def test_randn_has_the_bits_of_torch(size: int) -> None:
    np.testing.assert_array_equal(random.randn(size, generator=ours()), torch.randn(size, generator=theirs()).numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_uniform_has_the_bits_of_torch(low: float, high: float, dtype: str) -> None:
    expected = torch.empty(70001, dtype=getattr(torch, dtype)).uniform_(low, high, generator=theirs()).numpy()
    np.testing.assert_array_equal(random.uniform((70001,), low, high, dtype=dtype, generator=ours()), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("mean", "std"), MOMENTS)
def test_normal_values_have_the_bits_of_torch(mean: float, std: float, size: int) -> None:
    expected = torch.empty(size).normal_(mean, std, generator=theirs()).numpy()
    np.testing.assert_array_equal(random.normal_values((size,), mean, std, generator=ours()), expected)


@pytest.mark.parametrize("size", SIZES)
def test_float64_normals_agree_to_rounding(size: int) -> None:
    expected = torch.empty(size, dtype=torch.float64).normal_(0.1, 0.3, generator=theirs()).numpy()
    actual = random.normal_values((size,), 0.1, 0.3, dtype=np.float64, generator=ours())
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("seed", "size"), [(0, 1_600_003), (15, 300_000), (24, 1 << 18)])
def test_large_normal_draws_have_the_bits_of_torch(seed: int, size: int) -> None:
    expected = torch.empty(size).normal_(0, 0.02, generator=theirs(seed)).numpy()
    np.testing.assert_array_equal(HostStream(seed).normal((size,), 0.0, 0.02), expected)


@pytest.mark.parametrize("shape", [(), (3,), (5, 7)])
@pytest.mark.parametrize("name", ["rand", "randn"])
def test_complex_numbers_have_the_bits_of_torch(name: str, shape: tuple[int, ...]) -> None:
    expected = getattr(torch, name)(shape, generator=theirs(), dtype=torch.complex64).numpy()
    actual = getattr(random, name)(shape, generator=ours(), dtype=jnp.complex64)
    np.testing.assert_array_equal(actual, expected, strict=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_a_cast_of_float32(dtype: str) -> None:
    expected = torch.rand(100, generator=theirs(), dtype=getattr(torch, dtype)).float().numpy()
    actual = random.rand(100, generator=ours(), dtype=jnp.dtype(dtype))
    np.testing.assert_array_equal(actual.astype(jnp.float32), expected)


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_randint_draws_what_torch_draws(low: int, high: int) -> None:
    expected = torch.randint(low, high, (7, 3), generator=theirs()).numpy()
    np.testing.assert_array_equal(HostStream(0).randint(low, high, (7, 3)), expected)


@pytest.mark.parametrize("size", [0, 1, 2, 4, 1000])
def test_randperm_draws_what_torch_draws(size: int) -> None:
    mine = random.randperm(size, generator=ours())
    np.testing.assert_array_equal(mine, torch.randperm(size, generator=theirs()).numpy())
    assert mine.dtype == jnp.int32


@pytest.mark.parametrize("size", [3, 1000])
@pytest.mark.parametrize("p", [None, 0.3])
def test_bernoulli_draws_what_torch_draws(p: float | None, size: int) -> None:
    chances = torch.rand(size)
    expected = torch.bernoulli(chances, *([] if p is None else [p]), generator=theirs()).numpy()
    np.testing.assert_array_equal(random.bernoulli(chances.numpy(), p, generator=ours()), expected)


@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize("which", ["both", "mean", "std"])
def test_normal_with_arrays_draws_what_torch_draws(which: str, size: int) -> None:
    mean = torch.rand(size) if which != "std" else 2.0
    std = torch.rand(size) if which != "mean" else 0.3
    expected = torch.normal(mean, std, generator=theirs()).numpy()
    actual = random.normal(*(x.numpy() if torch.is_tensor(x) else x for x in (mean, std)), generator=ours())
    np.testing.assert_array_equal(actual, expected)


def test_draws_of_every_kind_keep_in_step_with_torch() -> None:
    mine, oracle = ours(3), theirs(3)
    for size in (3, 20, 1, 7):
        np.testing.assert_array_equal(random.randn(size, generator=mine), torch.randn(size, generator=oracle).numpy())
        random.randperm(size, generator=mine), torch.randperm(size, generator=oracle)
        random.randint(9, (size,), generator=mine), torch.randint(9, (size,), generator=oracle)
    np.testing.assert_array_equal(random.rand(5, generator=mine), torch.rand(5, generator=oracle).numpy())


SPELLINGS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("rand", (2, 3), {}),
    ("rand", ((2, 3),), {}),
    ("randn", ([2, 3],), {}),
    ("rand", (), {"size": (2, 3)}),
    ("randint", (10, (2, 3)), {}),
    ("randint", (5, 10, (2, 3)), {}),
    ("randint", (10,), {"size": (2, 3)}),
    ("randint", (2,), {"high": 10, "size": (2, 3)}),
    ("randint", (), {"low": 1, "high": 5, "size": (2, 3)}),
    ("normal", (1.0, 2.0, (2, 3)), {}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), SPELLINGS)
def test_spelling_is_torchs(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    expected = getattr(torch, name)(*args, **kwargs, generator=theirs()).numpy()
    np.testing.assert_array_equal(getattr(random, name)(*args, **kwargs, generator=ours()), expected)


BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("rand", (), {}, "invalid combination"),
    ("rand", (2,), {"size": (2,)}, "invalid combination"),
    ("rand", ("a",), {}, "must be tuple of ints, not str"),
    ("rand", (2.5,), {}, "must be tuple of ints, not float"),
    ("rand", (True,), {}, "must be tuple of ints, not bool"),
    ("rand", (-1,), {}, "negative dimension -1"),
    ("rand", ((-1, 2),), {}, "negative dimension -1"),
    ("rand", (2,), {"generator": 3}, "generator|invalid combination"),
    ("randint", (5, 5, (2,)), {}, "from=5 >= to=5"),
    ("randint", (10,), {}, "invalid combination"),
    ("randint", (10, 3), {}, "must be tuple of ints, not int"),
    ("randint", (1.5, (2,)), {}, "must be int, not float"),
    ("randint", (0, 2**70, (2,)), {}, "Overflow when unpacking long long"),
    ("randperm", (-1,), {}, "negative dimension -1"),
    ("randperm", (2.5,), {}, "must be int, not float"),
    ("randperm", (3,), {"requires_grad": True}, "can require gradients"),
    ("normal", (0.0, -1.0, (2,)), {}, "std >= 0.0, but found std -1"),
    ("normal", (0, 1), {}, "invalid combination"),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "message"), BAD)
def test_bad_arguments_raise_torchs_error(name: str, args: tuple, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, RuntimeError, ValueError), match=message) as error:
        getattr(torch, name)(*args, **kwargs)
    with pytest.raises(error.type, match=message):
        getattr(random, name)(*args, **kwargs)


BAD_DTYPES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("rand", lambda: random.rand(2, dtype=np.int32), NotImplementedError, "not implemented for 'int32'"),
    ("randn", lambda: random.randn(2, dtype=np.int64), NotImplementedError, "not implemented for 'int64'"),
    ("randint", lambda: random.randint(300, (2,), dtype=np.uint8), RuntimeError, "to - 1 is out of bounds for uint8"),
    ("uniform", lambda: random.uniform((2,), 1, 0), RuntimeError, "found from=1 > to=0"),
    ("wide", lambda: random.uniform((2,), 0, 1e39), RuntimeError, "to is out of bounds for float32"),
    ("span", lambda: random.uniform((2,), -3e38, 3e38), RuntimeError, "expects to-from <="),
    ("bernoulli", lambda: random.bernoulli(np.ones(2), 2), RuntimeError, "p to be in"),
    ("chances", lambda: random.bernoulli(np.full(2, 1.5)), RuntimeError, "p_in <= 1"),
    ("ints", lambda: random.bernoulli(np.ones(2, int)), NotImplementedError, "not implemented for 'int64'"),
    ("stds", lambda: random.normal(np.zeros(2), -np.ones(2)), RuntimeError, "all elements of std"),
    ("like", lambda: random.rand_like(3), TypeError, "must be an array, not int"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD_DTYPES], ids=[r[0] for r in BAD_DTYPES])
def test_bad_values_raise(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("seed", [1.5, "a", None, True, 2**64, -(2**63) - 1])
def test_bad_seed_raises_torchs_error(seed: Any) -> None:
    with pytest.raises((RuntimeError, ValueError), match="manual_seed expected|Overflow") as error:
        torch.Generator().manual_seed(seed)
    with pytest.raises(error.type, match=str(error.value)):
        Generator().manual_seed(seed)


def test_seed_is_remembered() -> None:
    generator = Generator()
    assert generator.initial_seed() == torch.Generator().initial_seed()
    assert generator.manual_seed(-1) is generator and generator.initial_seed() == theirs(-1).initial_seed()
    assert generator.seed() == generator.initial_seed()


def test_only_the_cpu_has_a_host_stream() -> None:
    assert Generator("cpu").device == "cpu"
    with pytest.raises(RuntimeError, match="Expected 'cpu' as the device"):
        Generator("cuda")


def test_states_are_exchanged_with_torch() -> None:
    mine, oracle = ours(1), theirs(1)
    random.randn(3, generator=mine), torch.randn(3, generator=oracle)
    np.testing.assert_array_equal(mine.get_state()[:5056], oracle.get_state().numpy())
    fresh, other = Generator(), torch.Generator()
    fresh.set_state(oracle.get_state())
    other.set_state(torch.from_numpy(mine.get_state()[:5056]))
    np.testing.assert_array_equal(random.randn(3, generator=fresh), torch.randn(3, generator=other).numpy())


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (3, TypeError, "expected a uint8 array"),
        (np.zeros(5056), TypeError, "must be a uint8 array"),
        (np.zeros(5, np.uint8), RuntimeError, "size to be 5"),
    ],
)
def test_bad_state_raises(state: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Generator().set_state(state)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda g: pickle.loads(pickle.dumps(g)), "clone": Generator.clone_state}


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_draws_the_same_and_on_its_own(name: str, typed: bool) -> None:
    generator = ours(2)
    if typed:
        generator.set_key(jax.random.key(7))
    random.randn(3, generator=generator), generator.next_key()
    twin = COPIES[name](generator)
    for _ in range(2):
        assert jnp.array_equal(random.randn(3, generator=twin), random.randn(3, generator=generator))
        assert twin.next_key() == generator.next_key()


@pytest.mark.parametrize("key", [0, jax.random.key(0), jax.random.PRNGKey(0), np.int64(0)], ids=str)
def test_fork_with_a_key_draws_from_it_and_leaves_the_streams(key: Any) -> None:
    before = random.get_rng_state()
    with random.fork_rng(key):
        random.rand(3)
        assert random.next_key() == jax.random.split(jax.random.key(0))[1]
    np.testing.assert_array_equal(random.get_rng_state(), before)


def test_fork_without_a_key_puts_the_streams_back_even_after_an_error() -> None:
    before = random.get_rng_state()
    with pytest.raises(KeyError, match="mine"), random.fork_rng():
        random.rand(3), random.next_key()
        raise KeyError("mine")
    np.testing.assert_array_equal(random.get_rng_state(), before)
    assert random.current_generator() is random.default_generator


@pytest.mark.parametrize(
    ("key", "error"), [("a", TypeError), (jax.random.split(jax.random.key(0)), ValueError), (jnp.ones(2), ValueError)]
)
def test_fork_refuses_what_is_no_key(key: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="key must be"), random.fork_rng(key):
        pass


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_random_operation_without_a_key_raises_under_a_transformation(transform: Callable[..., Any]) -> None:
    key = random.current_generator().get_state()
    with pytest.raises(RuntimeError, match=r"no key bound.*rng=key.*fork_rng\(key\).*jm.jit"):
        transform(noise)(jnp.zeros((3, 2)))
    np.testing.assert_array_equal(random.get_rng_state(), key)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_bound_key_serves_every_transformation(transform: Callable[..., Any]) -> None:
    def bound(x: jax.Array, key: jax.Array) -> jax.Array:
        with random.fork_rng(key):
            return noise(x)

    keys = jax.random.split(jax.random.key(0), 3) if transform is not jax.jit else jax.random.key(0)
    out = transform(bound)(jnp.zeros((3, 2)), keys)
    assert len(np.unique(out)) == out.size


def test_a_key_bound_outside_a_vmap_does_not_serve_it() -> None:
    with random.fork_rng(0), pytest.raises(RuntimeError, match="no key bound"):
        jax.vmap(noise)(jnp.zeros((3, 2)))


def test_eager_grad_draws_from_the_current_key() -> None:
    with random.fork_rng(0):
        gradient = jax.grad(lambda x: (x * random.randn(3)).sum())(jnp.ones(3))
    with random.fork_rng(0):
        np.testing.assert_array_equal(gradient, jax.random.normal(random.next_key(), (3,)))


DRAWS: dict[str, Callable[[], Any]] = {
    "rand": lambda: random.rand(5),
    "randn": lambda: random.randn(5),
    "randint": lambda: random.randint(1000000, (5,)),
    "randperm": lambda: random.randperm(100),
    "rand_like": lambda: random.rand_like(jnp.zeros(5, jnp.bfloat16)),
    "bernoulli": lambda: random.bernoulli(jnp.full(100, 0.5)),
    "normal": lambda: random.normal(jnp.zeros((2, 5)), jnp.ones(5)),
    "uniform": lambda: random.uniform((5,), -1, 1),
    "normal_values": lambda: random.normal_values((5,), 1, 2),
}


@pytest.mark.parametrize("name", DRAWS)
def test_no_draw_is_baked_into_a_compiled_program(name: str) -> None:
    def bound(key: jax.Array) -> jax.Array:
        with random.fork_rng(key):
            return DRAWS[name]()

    first, again, other = (jax.jit(bound)(jax.random.key(seed)) for seed in (0, 0, 1))
    assert jnp.array_equal(first, again) and not jnp.array_equal(first, other)
    eager = DRAWS[name]()
    assert (first.shape, first.dtype) == (eager.shape, eager.dtype)
    with pytest.raises(RuntimeError, match="no key bound"):
        jax.jit(DRAWS[name])()


def test_threads_have_their_own_current_generator() -> None:
    seen: list[Generator] = []
    with random.bind_generator(ours()) as bound:
        thread = threading.Thread(target=lambda: seen.append(random.current_generator()))
        thread.start()
        thread.join()
        assert random.current_generator() is bound
    assert seen == [random.default_generator]


def test_seeding_starts_no_device() -> None:
    program = (
        "from jaxmodules.random import Generator, manual_seed, fork_rng\n"
        "manual_seed(1), Generator().manual_seed(2)\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
