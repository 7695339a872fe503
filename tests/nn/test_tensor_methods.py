"""A parameter has the methods of a torch tensor: one table of calls, each compared with torch in value and dtype."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodules as jm
from jaxmodules import nn

Check = Callable[..., None]

VALUES = [[1.0, -2.0, 4.0], [3.0, 0.5, -1.0]]

SHAPES = """
p.unsqueeze(0).shape, p.unsqueeze(-1).shape, p.unsqueeze(dim=1).shape, p[0].sum().shape
p.squeeze().shape, p.unsqueeze(0).squeeze().shape, c.squeeze(0).shape, c.squeeze(-1).shape, c.squeeze((0, 1)).shape
c.expand(4, 2, 3), c.expand(4, -1, -1), c.expand((3, 1, 2, 3)), p.expand(5, 2, 3), c.expand_as(s.zeros(4, 2, 3))
p.permute(1, 0), p.permute((1, 0)), p.permute(-1, 0), p.permute(dims=(1, 0))
p.transpose(0, 1), p.transpose(-1, -2), c.transpose(0, 2).shape, c.swapaxes(0, 1).shape, c.swapdims(2, 0).shape
p.t(), p.T, p.mT, p.H, p.mH, c.mT.shape, p.adjoint()
p.movedim(0, 1), c.movedim((0, 1), (1, 2)).shape, c.moveaxis(0, -1).shape
p.flatten(), c.flatten(1).shape, c.flatten(0, 1).shape, c.flatten(start_dim=1, end_dim=2).shape, k.flatten().shape
p.ravel(), p.unflatten(1, (3, 1)).shape, p.unflatten(-1, (-1, 3)).shape
p.view(-1), p.view(3, 2), p.view((3, -1))
p.reshape(-1), p.reshape(3, 2), p.view_as(s.zeros(6)), p.reshape_as(s.zeros(6))
p.size(), p.size(0), p.size(-1), p.size(dim=1), p.stride()
p.stride(0), p.dim(), p.ndimension(), p.numel(), p.nelement()
p.is_contiguous(), p.contiguous(), p.element_size(), p.itemsize, p.nbytes, k.size(), k.stride()
p.chunk(2), p.chunk(2, 1), p.chunk(5, dim=-1), p.split(1), p.split(2, dim=1), p.split([1, 2], 1), p.split([2], -2)
p.tensor_split(2, 1), p.unbind(), p.unbind(1), p.unbind(dim=-1), list(p.unbind())
p.narrow(1, 0, 2), p.narrow(-1, -2, 2), p.select(1, 0), p.select(0, -1), p.unfold(1, 2, 1), c.unfold(-1, 2, 1).shape
p.repeat(2, 1), p.repeat(1, 2, 1), p.repeat((1, 2))
v.repeat(2, 3), p.repeat_interleave(2), p.repeat_interleave(2, dim=1)
p.roll(1), p.roll(1, 0), p.roll((1, 1), (0, 1)), p.roll(shifts=-1, dims=1), p.tile(2), p.tile(2, 1), p.tile((1, 2))
p.flip(0), p.flip(0, 1), p.flip((1,)), p.flip(dims=(0,)), p.fliplr(), p.flipud(), p.rot90(), p.rot90(2, (0, 1))
p.diagonal(), p.diagonal(1), p.diagonal(dim1=1, dim2=0), p.diag(), p.triu(), p.tril(), p.triu(1), p.tril(diagonal=-1)
""".strip().splitlines()

TYPES = """
p.float(), p.half(), p.bfloat16(), p.int(), p.bool(), p.cfloat().dtype, p.short().dtype, p.byte().shape
p.to(s.dtypes.float16), p.to(dtype=s.dtypes.bfloat16), p.to("cpu"), p.to("cpu", s.dtypes.float16), p.to(device="cpu")
p.to(h), p.type_as(h), p.type(s.dtypes.float16), p.cpu(), p.cpu().detach(), p.data.cpu().numpy()
p.contiguous(), p.contiguous().view(-1), p.float().view(-1)
p.to("cpu", non_blocking=True), p.to(s.dtypes.float16, copy=True), p.data.to(s.dtypes.float16).dtype
p.new_zeros(2, 3), p.new_zeros((2, 3)), p.new_ones(2), p.new_full((2,), 7.0), p.new_empty(2).shape, p.new_zeros(())
p.new_zeros(2, dtype=s.dtypes.int32), p.new_ones(2, device="cpu"), p.new_tensor([1.0, 2.0]), p.new_tensor([1, 2]).dtype
h.new_ones(2), h.new_tensor([1.0]), h.data.new_zeros(2), v.new_zeros(2), h.sum().dtype, h.mean(0).dtype
p.is_floating_point(), p.is_complex(), p.is_signed(), p.is_cuda, p.is_sparse, p.is_quantized, p.is_leaf, p.grad_fn
p.data.is_leaf, p.data.grad_fn, p.data.requires_grad, p.is_same_size(s.zeros(2, 3)), p.tolist()
p.detach(), p.clone(), p.data.clone().shape, k.item(), k.tolist(), k.is_nonzero()
""".strip().splitlines()

REDUCTIONS = """
p.sum(), p.sum(0), p.sum(1, True)
p.sum((0, 1)), p.sum(dim=-1, keepdim=True), p.sum(dim=(0, 1), keepdim=True), p.sum(dim=None)
p.mean(), p.mean(0), p.mean(dim=1), p.mean((0, 1), keepdim=True), p.mean(-1, dtype=s.dtypes.float32)
p.std(), p.std(0), p.std(dim=1, keepdim=True)
p.std(unbiased=False), p.std(False), p.std(1, False), p.std(dim=(0, 1), correction=0)
p.var(), p.var(0), p.var(1, unbiased=False), p.var(dim=-1, keepdim=True), p.var(correction=0), p.var(1, False, True)
p.prod(), p.prod(0), p.prod(dim=1, keepdim=True), p.amax(), p.amax(0), p.amin(dim=1, keepdim=True), p.amax((0, 1))
p.max(), p.max(0), p.max(dim=1), p.max(1, keepdim=True).values, p.max(dim=0).indices, p.max(s.zeros(2, 3))
p.min(), p.min(-1), p.min(dim=1, keepdim=True), p.min(other=s.zeros(2, 3)), p.min(1)[1], k.max(0), k.min(dim=-1)
p.argmax(), p.argmax(0), p.argmax(dim=1), p.argmin(1, keepdim=True), p.argmin(dim=-1), k.argmax()
p.norm(), p.norm(2), p.norm(1), p.norm(p=2, dim=1), p.norm(2, 1, True), p.norm(dim=0), p.norm(float("inf")), p.norm(0)
p.norm(dim=(0, 1), keepdim=True), p.norm("fro")
p.norm(p=3, dim=-1, keepdim=True), p.norm(-float("inf"), 1), p.norm("nuc")
p.logsumexp(0), p.logsumexp(dim=1, keepdim=True), p.any(), p.all(), p.any(1), (p > 0).all(), p.all(dim=0, keepdim=True)
p.cumsum(0), p.cumsum(dim=1), p.cumprod(-1), p.count_nonzero(), p.count_nonzero(dim=0), p.nansum(), p.nanmean(1)
p.sort(), p.sort(0), p.sort(dim=1, descending=True)
p.sort(descending=True).values, p.argsort(), p.argsort(0, True), k.sort()
p.topk(2), p.topk(1, 0), p.topk(2, dim=1, largest=False), p.topk(k=1).indices, p.kthvalue(2), p.kthvalue(1, 0, True)
p.median(), p.median(0), p.median(dim=1, keepdim=True), k.median(0), p.quantile(0.5), p.quantile(0.25, dim=1)
p.nonzero(), p.nonzero(as_tuple=True), p.unique()
p.trace(), p.dist(s.ones(2, 3)), p.dist(s.ones(2, 3), 1), k.nonzero().shape
""".strip().splitlines()

ELEMENTS = """
p.abs(), p.neg(), p.exp(), p.sigmoid(), p.tanh(), p.relu(), p.sin(), p.cos(), p.square(), p.sign(), p.floor(), p.ceil()
p.round(), p.trunc(), p.frac(), q.sqrt(), q.rsqrt(), q.log(), p.erf(), p.reciprocal(), p.expm1(), p.atan()
q.data.sqrt(), p.data.exp(), p.data.square().sum(), p.isnan()
p.isinf(), p.isfinite(), p.logical_not(), q.lgamma(), q.digamma()
p.add(1), p.add(p, alpha=2), p.sub(p, alpha=0.5), p.mul(2)
p.div(2), p.div(p, rounding_mode="floor"), p.pow(2), p.pow(p.abs())
p.div(3, rounding_mode="trunc"), p.remainder(2), p.fmod(2)
p.floor_divide(2), p.true_divide(2), p.atan2(p), p.lerp(p, 0.5)
p.eq(1), p.ne(1), p.lt(1), p.le(1), p.gt(1)
p.ge(1), p.logical_and(p), p.logical_or(p), p.logical_xor(p), p.maximum(p * 0)
p.clamp(0, 1), p.clamp(min=0), p.clamp(max=1), p.clamp_min(0), p.clamp_max(0), p.clip(-1, 1), p.clamp(p * 0, p * 0 + 1)
p.softmax(0), p.softmax(dim=-1), p.log_softmax(1)
p.softmax(-1, dtype=s.dtypes.float32), p.equal(p), p.allclose(p), p.isclose(p)
p.mm(p.t()), p.matmul(p.t()), c.bmm(c.mT), p.mv(v), v.dot(v), p.data.mm(p.t()), v.outer(v), v.ger(v)
p.addcmul(p, p, value=2), p.addcdiv(p, q, value=0.5), p.addmm(m, p), p.addmm(m, p, beta=0.5, alpha=2)
p.kron(p), m.det(), m.inverse(), m.slogdet()[0], m.logdet(), p.pinverse(), p.dist(p), v.cov(), v.inner(v)
p.index_select(0, i), p.index_select(1, i), p.gather(1, j)
p.gather(0, i[None]), p.masked_select(p > 0), p.masked_fill(p > 0, 9)
p.where(p > 0, 0), p.where(p > 0, p * 0), p.scatter(1, j, 7.0)
p.scatter_add(1, j, p), p.index_fill(1, i, 3), p.renorm(2, 0, 1.0)
p.scatter(1, j, p * 2), p.index_add(1, i, p[:, :2], alpha=2), p.index_copy(1, i, p[:, :2])
p.data.index_put((i, i), s.ones(2)), p.index_put((i,), s.ones(3), accumulate=True), p.masked_scatter(p > 0, s.zeros(6))
p.nan_to_num(), p.fmax(p), p.copysign(-1), p.hypot(p), p.xlogy(q), p.exp2()
""".strip().splitlines()

WRITES = """
p.data.random_(10).add_(1)
p.data.random_(3, 10)
p.data.random_()
p.data.exponential_()
p.data.exponential_(lambd=2.0)
p.data.geometric_(0.3)
p.data.log_normal_()
p.data.log_normal_(mean=0.0, std=0.5)
p.data.cauchy_()
p.data.cauchy_(1.0, 2.0)
p.data.bernoulli_(0.5).mul_(2).sub_(1)
p.data.exponential_().log_().neg_()
p.data.index_fill_(1, i, 3)
p.data.index_copy_(1, i, p[:, :2] * 2)
p.data.index_add_(1, i, p[:, :2], alpha=2)
p.data.index_put_((i, i), s.ones(2))
p.data.scatter_(1, j, 7.0)
p.data.scatter_(1, j, p.detach() * 2)
p.data.scatter_add_(1, j, q.detach())
p.data.masked_fill_(p > 0, 9)
p.data.masked_scatter_(p > 0, s.zeros(6))
p.data.renorm_(2, 0, 1.0)
p.data.renorm_(p=1, dim=1, maxnorm=2.0)
p.data.triu_()
p.data.tril_(-1)
p.data.cumsum_(0)
p.data.cumprod_(dim=1)
p.data.clamp_(0, 1)
p.data.clamp_min_(0).clamp_max_(2)
p.data.lerp_(s.zeros(2, 3), 0.5)
p.data.addcmul_(s.ones(2, 3), p.detach(), value=2)
p.data.addcdiv_(s.ones(2, 3), s.ones(2, 3) * 4, value=2)
p.data.addmm_(s.ones(2, 2), s.ones(2, 3))
p.data.sub_(s.ones(2, 3), alpha=2).add_(1, alpha=3)
p.data.eq_(1.0)
p.data.gt_(0)
p.data.logical_not_()
p.data.floor_divide_(2)
p.data.remainder_(2)
p.data.div_(2, rounding_mode="floor")
p.data.erfinv_().nan_to_num_(0.0)
p.data.fill_diagonal_(9)
p.requires_grad_(False).t_()
p.requires_grad_(False).transpose_(0, 1)
p.requires_grad_(False).swapaxes_(0, 1).unsqueeze_(-1)
p.data.unsqueeze_(0)
p.data.unsqueeze_(-1)
p.data.squeeze_(0)
p.data.apply_(lambda x: 2 * x)
p.data.set_(s.ones(4))
p.requires_grad_(False).set_(s.ones(4))
p.requires_grad_(False).resize_(1, 2)
p.requires_grad_(False).resize_as_(s.ones(3)).unsqueeze_(-1).squeeze_(1)
p.data.resize_(1, 2)
p.data.resize_as_(s.ones(3))
p.requires_grad_(False); p.mul_(2).exp_().round_()
p.requires_grad_(False); p.detach_().add_(1)
r = p.data; r.mul_(1 / p.data.norm(2, dim=1, keepdim=True))
""".strip().splitlines()

REFUSED = """
p.unsqueeze(4)
p.squeeze(3)
p.sum(5)
p.max(7)
p.softmax(2)
p.transpose(0, 3)
p.flatten(3)
p.select(0, 9)
p.index_select(0, s.array([7]))
p.argmax(3)
p.size(2)
p.gather(1, s.array([[9]]))
p.expand(4, 3)
p.expand(-1, 2, 3)
p.view(7)
p.view(-1, -1)
p.reshape(4)
p.repeat(2)
p.split([1, 1], 1)
p.chunk(0)
p.permute(0)
p.mm(p)
p.matmul(p)
p.bmm(p)
p.add(s.ones(4))
p.topk(9)
p.narrow(0, 1, 5)
p.clamp()
p.masked_fill(s.ones(2, 3), 1.0)
p.div(2, rounding_mode="up")
p.kthvalue(0)
c.t()
p.unsqueeze()
p.sum(dims=1)
p.data.add_(s.ones(4, 2, 3))
p.data.exponential_(-1.0)
p.data.geometric_(2.0)
p.data.cauchy_(0.0, -1.0)
p.data.random_(5, 5)
p.data.masked_scatter_(p > 0, s.ones(1))
n.data.add_(0.5)
n.data.div_(2)
n.data.exponential_()
p.nothing_of_this_name()
""".strip().splitlines()


def zeros(array: Callable[..., Any], fill: float) -> Callable[..., Any]:
    return lambda *shape: array(np.full(shape, fill, np.float32))


class Scope(dict[str, Any]):
    """What a statement sees: parameters of several shapes and dtypes, and indices."""

    def __init__(self, library: Any) -> None:
        array = library.array
        parameters = {
            "p": VALUES,
            "q": np.exp(VALUES),
            "c": [VALUES],
            "v": VALUES[0],
            "m": [[2.0, 1.0], [1.0, 3.0]],
            "k": 2.0,
        }
        boxes = {name: library.Parameter(array(np.asarray(value, np.float32))) for name, value in parameters.items()}
        boxes["h"] = library.Parameter(array(np.asarray(VALUES, np.float16)))
        integers = library.Parameter(array(np.array([1, 2], np.int32)), requires_grad=False)
        maker = Maker(array, zeros(array, 0.0), zeros(array, 1.0), library.dtypes)
        indices = np.array([0, 1]), np.array([[2, 1, 0], [0, 0, 1]])
        i, j = (torch.tensor(x) if library.dtypes is torch else jnp.asarray(x) for x in indices)
        super().__init__(boxes, n=integers, s=maker, i=i, j=j)


class Maker:
    """The few functions of a library that the statements use."""

    def __init__(self, array: Any, zeros: Any, ones: Any, dtypes: Any) -> None:
        self.array, self.zeros, self.ones, self.dtypes = array, zeros, ones, dtypes


def evaluate(expression: str) -> Check:
    return lambda library: eval(f"[{expression}]", Scope(library))


def perform(statement: str) -> Check:
    def script(library: Any) -> Any:
        scope = Scope(library)
        exec(statement, scope)
        return scope["p"]

    return script


@pytest.mark.parametrize("expression", [*SHAPES, *TYPES, *REDUCTIONS, *ELEMENTS])
def test_method_gives_what_torch_gives(both: Check, expression: str) -> None:
    both(evaluate(expression))


@pytest.mark.parametrize("statement", WRITES)
def test_write_does_what_torch_does(both: Check, statement: str) -> None:
    both(perform(statement))


@pytest.mark.parametrize("statement", REFUSED)
def test_refusal_has_the_class_of_torchs(libraries: Any, statement: str) -> None:
    theirs, ours = libraries
    with pytest.raises(Exception, match=".") as refusal:
        exec(statement, Scope(theirs))
    scope = Scope(ours)
    with pytest.raises(refusal.type, match="."):
        exec(statement, scope)
    assert scope["p"].tolist() == VALUES


JAX_CALLS = """
p.sum(axis=0), p.max(axis=1, keepdims=True), p.std(ddof=0), p.repeat(2, axis=0), p.sort(axis=0), p.argmax(axis=1)
p.reshape(3, 2, order="F"), p.transpose((1, 0)), p.transpose(), p.T, p.astype(int), p.at[0].set(1), p.nonzero(size=3)
p.mean(axis=0, keepdims=True), p.diagonal(axis1=0, axis2=1), p.real, p.imag, p.dot(p.T), p.ravel("F"), p.view(jnp.int32)
np.sum(p), np.std(p), np.reshape(p, (3, 2)), np.argsort(p), np.repeat(p, 2), np.cumsum(p)
np.transpose(p), np.max(p, axis=1)
p.size + 0, p.size * 1.5, p.nbytes, p.itemsize, jnp.size(p), np.zeros(p.size)
""".strip().splitlines()


@pytest.mark.parametrize("expression", JAX_CALLS)
def test_what_jax_arrays_have_stays(expression: str) -> None:
    array = jnp.asarray(VALUES)
    names = {"jnp": jnp, "np": np}
    got = eval(f"[{expression}]", names, {"p": nn.Parameter(array)})
    want = eval(f"[{expression}]", names, {"p": array})
    for ours, plain in zip(got, want, strict=True):
        np.testing.assert_array_equal(ours, plain)


def test_gradients_flow_through_methods_but_not_through_data() -> None:
    net = nn.ParameterList([jnp.asarray(VALUES)])

    def loss(net: Any) -> Any:
        return (net[0].unsqueeze(0) * net[0].view(1, 2, 3)).sum() + net[0].data.norm()

    want = 2 * np.asarray(VALUES)
    np.testing.assert_allclose(jm.grad(loss)(net)["0"], want)
    np.testing.assert_allclose(jm.jit(jm.grad(loss))(net)["0"], want)


def test_writes_under_jit_are_state() -> None:
    net = nn.ParameterList([jnp.asarray(VALUES)])
    jm.jit(lambda net: net[0].data.clamp_(0, 1).mul_(2).index_fill_(1, jnp.array([0]), 5).sum())(net)
    assert net[0].tolist() == [[5.0, 0.0, 2.0], [5.0, 1.0, 0.0]]


@pytest.mark.parametrize("draw", ["exponential_()", "geometric_(0.5)", "cauchy_()", "log_normal_()", "random_(5)"])
def test_draws_under_jit_come_from_the_key(draw: str) -> None:
    net = nn.ParameterList([jnp.asarray(VALUES)])
    step = jm.jit(lambda net: eval(f"p.data.{draw}.sum()", {"p": net[0]}))
    step(net)
    first = net[0].value
    step(net)
    assert np.isfinite(first).all() and not np.array_equal(first, net[0].value)


@pytest.mark.parametrize("value", ["data", "detach()", "data.clone()"])
def test_what_a_parameter_gives_can_be_registered(both: Check, value: str) -> None:
    def script(s: Any) -> Any:
        net = s.Linear(2, 2)
        given = eval(f"weight.{value}", {"weight": net.weight})
        net.register_buffer("copy", given)
        net.list = s.ParameterList([given])
        return net

    both(script)


def test_a_factor_may_be_traced() -> None:
    net = nn.ParameterList([jnp.asarray(VALUES)])
    jm.jit(lambda net, alpha: net[0].data.add_(net[0], alpha=alpha).sum())(net, 2.0)
    np.testing.assert_array_equal(net[0].value, 3 * np.asarray(VALUES, np.float32))
