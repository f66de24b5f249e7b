"""A model that was registered predicts where our code is not, and refuses what its card does not describe."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.delivery.finish import finish
from launchers.delivery.predictor import _load_pyfunc
from launchers.run_folder.record import write_json
from tests.launchers.tracked import card, end, make_run

TRAIN = """
import hashlib, sys, torch
from pathlib import Path
from safetensors.torch import save_file
torch.manual_seed(0)
folder = Path(sys.argv[1])
folder.mkdir(parents=True)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
example = torch.rand(2, 1, 4, 4)
exported = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
torch.export.save(exported, folder / "model.pt2")
save_file(model.state_dict(), folder / "model.safetensors")
x = torch.rand(5, 1, 4, 4)
save_file({"x": x, "y": model(x).detach()}, folder.parent / "expected.safetensors")
"""
PREDICT = """
import hashlib, sys
def watch(event, arguments):
    if event == "pickle.find_class" and not arguments[0].startswith(("torch", "collections")):
        print("unpickled", *arguments)
sys.addaudithook(watch)
import mlflow, numpy
from safetensors.numpy import load_file
expected = load_file(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@newest")
assert numpy.allclose(model.predict(expected["x"]), expected["y"], atol=1e-6)
assert model.predict(expected["x"][:1]).shape == (1, 3)
assert "launchers" not in sys.modules and "conf" not in sys.modules
try:
    model.predict(expected["x"][:, :, :2])
except Exception as e:
    print(type(e).__name__)
print(model.metadata.signature.inputs.inputs[0].shape)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of torch's with a dynamic batch; made in a process of its own, as torch is slow to fork."""
    folder = tmp_path_factory.mktemp("export") / "model"
    subprocess.run([sys.executable, "-c", TRAIN, str(folder)], check=True, capture_output=True)
    digests = {
        name: "sha256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.pt2", "model.safetensors")
    }
    example = [[[[0.0] * 4] * 4]] * 2
    write_json(folder / "card.json", {**card(digests, (-1, 1, 4, 4)), "input_example": example})
    return folder


def test_registered_model_predicts_in_a_process_without_our_code(tmp_path: Path, exported: Path) -> None:
    run = make_run(tmp_path, register="digits")
    end(run, **{"val/accuracy": 0.7})
    run.member(0).model.symlink_to(exported)
    result = finish(run)
    env = {**os.environ, "MLFLOW_TRACKING_URI": result["mlflow"]["uri"], "MLFLOW_DISABLE_TELEMETRY": "true"}
    env.pop("PYTHONPATH", None)

    done = subprocess.run(
        [sys.executable, "-P", "-c", PREDICT, str(exported.parent / "expected.safetensors")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=env,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["MlflowException", "(-1, 1, 4, 4)"]


def test_predictor_refuses_an_export_that_is_not_the_cards(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"other")
    (tmp_path / "card.json").write_text(json.dumps(card({"model.pt2": "sha256:" + "0" * 64})))

    with pytest.raises(ValueError, match="is not the file that was exported"):
        _load_pyfunc(str(tmp_path))
