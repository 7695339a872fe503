"""Weights on their way from PyTorch's files into the models, and back."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import jaxmodules as jm
from tests.models.cases import CASES, Case
from tests.models.test_models import assert_close, batch_of, build_theirs, predict, their_predictions

pytestmark = pytest.mark.xdist_group("models")
every_model = pytest.mark.parametrize("case", CASES, ids=str)
CASE = {case.name: case for case in CASES}
HUGGING_FACE = [case for case in CASES if case.name not in ("ResNet-50", "AlexNet")]

# what save_pretrained writes keeps the names of the first checkpoints, also where the attributes have others by now
OF_FOLDERS = {
    "ViT": [
        (r"encoder\.layer\.", "layers."),
        (r"attention\.attention\.(.)\w+", r"attention.\1_proj"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"output\.dense", "mlp.fc2"),
    ]
}


def on_meta(case: Case) -> Any:
    with jm.device("meta"):
        return case.ours(**case.settings)


@every_model
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_file_of_torch_save_loads_as_it_is(case: Case, is_zip: bool, tmp_path: Path) -> None:
    theirs, net = build_theirs(case), case.ours(**case.settings)
    torch.save(theirs.state_dict(), tmp_path / "model.pt", _use_new_zipfile_serialization=is_zip)
    assert str(net.load_state_dict(jm.load(tmp_path / "model.pt"), strict=True)) == "<All keys matched successfully>"
    assert_close(net.state_dict(), theirs.state_dict(), 0)


@pytest.mark.parametrize("size", ["1GB", "20KB"], ids=["one file", "shards"])
@pytest.mark.parametrize("case", HUGGING_FACE, ids=str)
def test_folder_of_save_pretrained_loads_in_one_call(case: Case, size: str, tmp_path: Path) -> None:
    theirs, net = build_theirs(case), on_meta(case)
    theirs.save_pretrained(tmp_path, max_shard_size=size)
    jm.from_pretrained_files(net, tmp_path, rename=OF_FOLDERS.get(case.name))
    assert_close(net.state_dict(), theirs.state_dict(), 0)
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in theirs.named_parameters()]


@pytest.mark.parametrize("case", HUGGING_FACE, ids=str)
def test_model_built_without_memory_predicts(case: Case, tmp_path: Path) -> None:
    theirs, net = build_theirs(case), on_meta(case)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    jm.from_pretrained_files(net, tmp_path)
    inputs, _ = batch_of(case)
    for one, other in zip(predict(net.eval(), inputs), their_predictions(theirs, inputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def of_old_bert(name: str) -> str:
    return re.sub("LayerNorm.bias", "LayerNorm.beta", re.sub("LayerNorm.weight", "LayerNorm.gamma", name))


# the published files: how their names come about, what more they hold, and the renaming that takes them
PUBLISHED = {
    "bert-base-uncased": (
        "BERT",
        of_old_bert,
        {"bert.embeddings.position_ids": torch.arange(16)[None]},
        [(r"gamma$", "weight"), (r"beta$", "bias"), (r"position_ids$", None)],
    ),
    "gpt2": (
        "GPT-2",
        lambda name: name.removeprefix("transformer."),
        {f"h.{i}.attn.bias": torch.ones(1, 1, 16, 16).tril() for i in range(2)},
        [(r"\.attn\.(masked_)?bias$", None), (r"^", "transformer.")],
    ),
}


@pytest.mark.parametrize("published", PUBLISHED)
def test_published_files_load_by_renaming(published: str, tmp_path: Path) -> None:
    name, spell, more, rename = PUBLISHED[published]
    theirs, net = build_theirs(CASE[name]), CASE[name].ours(**CASE[name].settings)
    tied = {key for key in theirs.state_dict() if key not in dict(theirs.named_parameters())}
    state = {spell(key): value for key, value in theirs.state_dict().items() if key not in tied}
    safetensors.torch.save_file(state | more, tmp_path / "model.safetensors")
    assert not any(jm.from_pretrained_files(net, tmp_path, rename=rename))
    assert_close(net.state_dict(), theirs.state_dict(), 0)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        jm.from_pretrained_files(net, tmp_path)


@every_model
def test_pytorch_loads_what_is_saved_here(case: Case, tmp_path: Path) -> None:
    net, theirs = case.ours(**case.settings), build_theirs(case)
    jm.save(net.state_dict(), tmp_path / "model.pt", format="torch")
    theirs.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    assert_close(net.state_dict(), theirs.state_dict(), 0)


@pytest.mark.parametrize("case", [case for case in HUGGING_FACE if case.name not in OF_FOLDERS], ids=str)
def test_from_pretrained_loads_what_is_saved_here(case: Case, tmp_path: Path) -> None:
    net, theirs = case.ours(**case.settings), build_theirs(case)
    jm.checkpoint.save_pretrained_files(net, tmp_path, max_shard_size="20KB")
    theirs.config.save_pretrained(tmp_path)
    assert_close(net.state_dict(), type(theirs).from_pretrained(tmp_path).state_dict(), 0)
