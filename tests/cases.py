"""The table of layers: a row per constructor configuration, and every property is tested over all rows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import jaxmodules as jm
from jaxmodules import nn

Recipe = tuple[int, ...] | Callable[[np.random.Generator], np.ndarray]


def ints(high: int, *shape: int) -> Recipe:
    """Draw integers below ``high``: indices and labels."""
    return lambda rng: rng.integers(0, high, shape)


def shares(*shape: int) -> Recipe:
    """Draw probabilities over axis 1."""
    n, c, *rest = shape
    return lambda rng: np.moveaxis(rng.dirichlet(np.ones(c), (n, *rest)), -1, 1).astype(np.float32)


def array(*values: float) -> np.ndarray:
    """Write an array argument of a constructor; torch gets it as a tensor."""
    return np.array(values, np.float32)


@dataclass(frozen=True, eq=False)
class Case:
    """One layer in one configuration.

    ``inputs`` are shapes (drawn from a normal distribution) or recipes; ``modes`` are those to test, in which the
    output must not be a matter of chance.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Recipe, ...] = ((2, 3),)
    modes: tuple[str, ...] = ("train",)
    tolerance: float = 2e-5

    def make(self, library: Any) -> Any:
        """Build the layer of either library."""
        convert = torch.tensor if library is torch.nn else lambda value: value
        kwargs = {k: convert(v) if isinstance(v, np.ndarray) else v for k, v in self.kwargs.items()}
        return getattr(library, self.name)(*self.args, **kwargs)

    def make_inputs(self, seed: int = 0) -> list[np.ndarray]:
        """Draw inputs; the same seed gives the same ones."""
        rng = np.random.default_rng(seed)
        return [r(rng) if callable(r) else rng.standard_normal(r).astype(np.float32) for r in self.inputs]

    def __str__(self) -> str:
        options = [f"{k}={'array' if isinstance(v, np.ndarray) else v}" for k, v in self.kwargs.items()]
        shapes = "x".join(str(list(x.shape)) for x in self.make_inputs())
        return f"{self.name}({','.join([*map(str, self.args), *options])}){shapes}".replace(" ", "")


def build_pair(case: Case) -> tuple[nn.Module, torch.nn.Module]:
    """Build the layer in both libraries with the same, thoroughly random, parameters and buffers."""
    torch.manual_seed(0)
    theirs = case.make(torch.nn)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in theirs.named_buffers():
            if name.startswith("running"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    ours = case.make(nn)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def build_seeded(case: Case, seed: int) -> tuple[nn.Module, torch.nn.Module]:
    """Build the layer in both libraries from the same seed."""
    torch.manual_seed(seed)
    jm.manual_seed(seed)
    return case.make(nn), case.make(torch.nn)


BOTH = ("train", "eval")
IMAGES = (2, 4, 7, 8)
LABELS = ints(5, 4)

CASES = [
    Case("Identity", (54,), dict(unused=True)),
    Case("Linear", (3, 5)),
    Case("Linear", (3, 5), dict(bias=False), ((2, 4, 3),)),
    Case("Linear", (3, 5), inputs=((3,),)),
    Case("Bilinear", (3, 4, 5), inputs=((2, 3), (2, 4))),
    Case("Bilinear", (3, 4, 5), dict(bias=False), ((2, 6, 3), (2, 6, 4))),
    Case("Conv1d", (4, 6, 3), dict(stride=2, padding=1), ((2, 4, 9),)),
    Case("Conv1d", (4, 6, 3), dict(padding="same", padding_mode="reflect", bias=False), ((2, 4, 9),)),
    Case("Conv1d", (4, 6, 2), dict(padding=(2,), padding_mode="circular", groups=2), ((4, 9),)),
    Case("Conv2d", (4, 6, 3), inputs=(IMAGES,)),
    Case("Conv2d", (4, 6, (3, 2)), dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (IMAGES,)),
    Case("Conv2d", (4, 4, 3), dict(padding="same", groups=4, bias=False), (IMAGES,)),
    Case("Conv2d", (4, 6, 3), dict(padding="valid", dilation=2), (IMAGES[1:],)),
    *[
        Case("Conv2d", (4, 6, 3), dict(padding=(1, 2), padding_mode=mode), (IMAGES,))
        for mode in ("reflect", "replicate", "circular")
    ],
    Case("Conv3d", (2, 4, (2, 3, 2)), dict(padding=(1, 0, 1)), ((1, 2, 3, 4, 5),)),
    Case("Conv3d", (2, 2, 3), dict(padding=1, padding_mode="replicate", groups=2), ((2, 3, 4, 5),)),
    Case("MaxPool2d", (2,), inputs=(IMAGES,)),
    Case("MaxPool2d", (3,), dict(stride=2, padding=1, ceil_mode=True), (IMAGES,)),
    Case("MaxPool2d", ((3, 2),), dict(stride=1, dilation=2), (IMAGES,)),
    Case("MaxPool2d", (2,), dict(return_indices=True), (IMAGES[1:],)),
    Case("AvgPool2d", (2,), inputs=(IMAGES,)),
    Case("AvgPool2d", (3,), dict(stride=2, padding=1, ceil_mode=True), (IMAGES,)),
    Case("AvgPool2d", ((3, 2),), dict(padding=1, count_include_pad=False), (IMAGES[1:],)),
    Case("AvgPool2d", (2,), dict(divisor_override=3), (IMAGES,)),
    Case("AdaptiveAvgPool2d", (1,), inputs=(IMAGES,)),
    Case("AdaptiveAvgPool2d", ((5, None),), inputs=(IMAGES,)),
    Case("AdaptiveAvgPool2d", ((3, 4),), inputs=(IMAGES[1:],)),
    Case("BatchNorm1d", (3,), inputs=((4, 3),), modes=BOTH),
    Case("BatchNorm1d", (3,), dict(eps=0.1, momentum=0.3, bias=False), ((4, 3, 5),), BOTH),
    Case("BatchNorm1d", (3,), dict(momentum=None), ((4, 3),), BOTH),
    Case("BatchNorm2d", (4,), inputs=(IMAGES,), modes=BOTH),
    Case("BatchNorm2d", (4,), dict(affine=False), (IMAGES,), BOTH),
    Case("BatchNorm2d", (4,), dict(track_running_stats=False), (IMAGES,), BOTH),
    Case("Dropout", (), {}, ((4, 5),), ("eval",)),
    Case("Dropout", (0.0,), dict(inplace=False), ((4, 5),)),
    Case("Dropout", (1.0,), {}, ((4, 5),)),
    Case("Flatten", (), {}, ((2, 3, 4),)),
    Case("Flatten", (0, 1), {}, ((2, 3, 4),)),
    Case("Unflatten", (1, (2, -1)), {}, ((3, 4),)),
    Case("Unflatten", (-2, [3, 1]), {}, ((3, 4),)),
    Case("ReLU"),
    Case("Sigmoid"),
    Case("Tanh"),
    Case("LeakyReLU"),
    Case("LeakyReLU", (0.3,)),
    Case("PReLU"),
    Case("PReLU", (3,), dict(init=0.1), ((2, 3, 4),)),
    Case("Softmax", (), dict(dim=1)),
    Case("LogSoftmax", (-1,), {}, ((2, 3, 4),)),
    Case("CrossEntropyLoss", (), {}, ((4, 5), LABELS)),
    Case("CrossEntropyLoss", (), dict(weight=array(1, 2, 3, 4, 5), ignore_index=1), ((4, 5), LABELS)),
    Case("CrossEntropyLoss", (), dict(label_smoothing=0.1, reduction="sum"), ((2, 5, 3), ints(5, 2, 3))),
    Case("CrossEntropyLoss", (), dict(reduction="none"), ((2, 5, 3), shares(2, 5, 3))),
    Case("CrossEntropyLoss", (), {}, ((5,), ints(5))),
    Case("NLLLoss", (), {}, ((4, 5), LABELS)),
    Case("NLLLoss", (), dict(weight=array(1, 2, 3, 4, 5), reduction="none"), ((2, 5, 3, 2), ints(5, 2, 3, 2))),
    Case("MSELoss", (), {}, ((3, 4), (3, 4))),
    Case("MSELoss", (), dict(reduction="sum"), ((3, 4), (3, 4))),
    Case("Embedding", (5, 3), {}, (ints(5, 2, 4),)),
    Case("Embedding", (5, 3), dict(padding_idx=-2), (ints(5, 2, 4),)),
    Case("Embedding", (5, 3), dict(scale_grad_by_freq=True), (ints(5, 2, 4),)),
    Case("Embedding", (5, 3), dict(max_norm=1.0, norm_type=1.0), (ints(5, 6),)),
    Case("LayerNorm", (4,), {}, ((2, 3, 4),)),
    Case("LayerNorm", ([3, 4],), dict(eps=0.1, bias=False), ((2, 3, 4),)),
    Case("LayerNorm", (4,), dict(elementwise_affine=False), ((3, 4),)),
]
