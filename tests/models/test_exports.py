"""The models as programs for other runtimes."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import jaxmodules as jm
from tests.models.test_models import batch_of, build_theirs, changed, their_predictions

pytestmark = pytest.mark.xdist_group("models")


def test_bert_runs_in_onnxruntime(tmp_path: Path) -> None:
    case = changed("BERT", {"num_hidden_layers": 1})
    theirs, net = build_theirs(case), case.ours(**case.settings)
    net.load_state_dict(theirs.state_dict())
    inputs = {name: value.astype(np.int32) for name, value in batch_of(case)[0].items()}
    open_sizes = {name: {0: "batch", 1: "length"} for name in inputs}
    file = str(tmp_path / "bert.onnx")
    jm.export.to_onnx(net.eval(), (), file, kwargs=inputs, dynamic_shapes=open_sizes, verify=False)
    fewer = {name: value[:2, :5] for name, value in inputs.items()}
    found = onnxruntime.InferenceSession(file).run(None, fewer)
    for one, other in zip(found, their_predictions(theirs, fewer), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
