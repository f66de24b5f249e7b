"""A registered model, loaded in a process that knows nothing of Fairlead, says what the last evaluation said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from conf.schema import Component, Objective
from launchers.delivery.finish import finish
from launchers.delivery.predictor import Predictor
from launchers.run_folder.record import Run, read_json, write_json
from tests.launchers.tracked import T0_MS, card, make_run
from tests.trainer.ranks import ROOT, Member, make_spec
from trainer.assemble import load_data

CLASSES = ("eel", "cat", "owl")
MODELS = {
    "cnn": (Component(kind="sklearn", options={"set": "digits"}), Component(kind="cnn", options={"width": 8})),
    "mlp": (Component(kind="table"), Component(kind="mlp", options={"width": 16})),
    "gpt": (
        Component(kind="bytes", options={"path": str(ROOT / "trainer" / "engines"), "context_length": 32}),
        Component(kind="gpt", options={"n_layer": 1, "width": 16, "n_head": 2}),
    ),
}
MODELS["numbers"] = (Component(kind="table"), Component(kind="mlp", options={"width": 16}))
MODELS["cnn-bf16"] = MODELS["cnn"]
"""Evaluated in bf16, as it is trained, and exported in fp32."""
ALONE = """
import json, sys, mlflow, numpy as np, onnxruntime
from pathlib import Path

def measured(outputs, targets):
    # What an evaluation says: the mean absolute error of numbers, the accuracy of classes.
    if targets.dtype.kind == "f":
        return float(np.abs(outputs[:, 0].astype(np.float64) - targets).mean())
    hits = (outputs.argmax(-1) == targets).reshape(len(targets), -1)
    return float(hits.astype(np.float32).mean(1).astype(np.float64).mean())

def undecided(outputs):
    # The share whose two best scores bf16 may not tell apart: it rounds each by 2**-8.
    second, best = np.sort(outputs, -1)[:, -2:].T
    return float((best - second <= 2 * 2**-8 * np.abs(outputs).max(-1)).mean())

found = {}
for name in sys.argv[2:]:
    model = mlflow.pyfunc.load_model(f"models:/{name}@newest")
    kept = np.load(Path(sys.argv[1], f"{name}.npz"))
    outputs = model.predict(kept["inputs"])
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}@newest"), "data", "model")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    by_onnx = session.run(None, {"input": kept["inputs"]})[0]
    np.testing.assert_allclose(by_onnx, outputs, rtol=1e-4, atol=1e-4)
    found[name] = {"measured": measured(outputs, kept["targets"]), "onnx": measured(by_onnx, kept["targets"])}
    if name.endswith("bf16"):
        found[name]["undecided"] = undecided(outputs)
    if "rows" in kept:
        card = json.loads((folder / "card.json").read_text())
        said = model.predict(kept["rows"], params={"raw": True})
        classes = card["outputs"][0].get("classes")
        found[name]["said"] = [classes[i] for i in said.argmax(-1)] if classes else measured(said, kept["targets"])
assert not {"launchers", "trainer", "conf"} & {name.partition(".")[0] for name in sys.modules}
print(json.dumps(found))
"""


def table(path: Path) -> tuple[np.ndarray, list[str]]:
    """Columns that need each other, on scales of their own, with gaps; what is written and its classes."""
    random = np.random.default_rng(3)
    codes = np.arange(240) % 3
    rows = (random.normal(size=(240, 2)) + codes[:, None] * [4.0, -4.0]) * [1000, 0.01] + [5e4, 0]
    rows[::17, 1] = np.nan
    names = [CLASSES[code] for code in codes]
    lines = [f"{a!r},{'' if b != b else repr(b)},{name}" for (a, b), name in zip(rows.tolist(), names, strict=True)]
    path.write_text("\n".join(["large,small,animal", *lines]) + "\n")
    return rows.astype(np.float32), names


def priced(path: Path) -> np.ndarray:
    """Two columns, one with gaps, and a number that hangs on both and is far from 0; what is written."""
    random = np.random.default_rng(4)
    rows = random.normal(size=(240, 2)) * [1000, 0.01] + [5e4, 0]
    price = 2e6 + 300 * (rows[:, 0] - 5e4) + 5e6 * rows[:, 1] + random.normal(size=240)
    rows[::17, 1] = np.nan
    both = zip(rows.tolist(), price.tolist(), strict=True)
    lines = [f"{a!r},{'' if b != b else repr(b)},{c!r}" for (a, b), c in both]
    path.write_text("\n".join(["large,small,price", *lines]) + "\n")
    return rows.astype(np.float32)


def trained(folder: Path, name: str, data: Component) -> tuple[Run, Member]:
    """A run whose only member is being trained, with the model's name in the registry."""
    run = make_run(folder, job=f"{name}-1", register=name)
    precision = "bf16" if name.endswith("bf16") else "fp32"
    train = {"max_steps": 40, "batch_size": 32, "onnx": True, "log_every_steps": 40, "precision": precision}
    optimizer = Component(kind="adamw", options={"lr": 0.03})
    goal = Objective(metric="val/mae", goal="minimize") if name == "numbers" else make_spec().objective
    spec = make_spec(data=data, model=MODELS[name][1], optimizer=optimizer, train=train, objective=goal)
    member = Member(run.member(0).path, spec)
    member.start()
    return run, member


def test_registered_models_predict_what_the_last_evaluation_said(tmp_path: Path) -> None:
    rows, names = table(tmp_path / "animals.csv")
    options = {"path": str(tmp_path / "animals.csv"), "target": "animal", "missing": "mean", "standardise": True}
    sources = {name: data for name, (data, _) in MODELS.items()}
    by_end = {"split": {"by": "end", "fraction": 0.25}}
    sources["mlp"] = Component(kind="table", options={**options, **by_end})
    raw = {"mlp": rows, "numbers": priced(tmp_path / "prices.csv")}
    changed = {"path": str(tmp_path / "prices.csv"), "target": "price", "task": "regression", **by_end}
    sources["numbers"] = Component(kind="table", options={**options, **changed})
    made = {name: trained(tmp_path, name, data) for name, data in sources.items()}
    reported, uri = {}, ""
    for name, (run, member) in made.items():
        assert member.wait() == [0], member.log()
        reported[name] = member.result()["metrics"]["val/mae" if name == "numbers" else "val/accuracy"]
        write_json(member.attempt / "outcome.json", {"state": "SUCCEEDED", "cause": "", "message": "", "ended": T0_MS})
        uri = finish(run)["mlflow"]["uri"]
        data = load_data(sources[name])
        kept = data.validation
        inputs, targets = (side.numpy() for side in kept.batch(np.arange(len(kept))))
        if name == "numbers":
            targets = targets.astype(np.float64) * data.shape.target_scale + data.shape.target_offset
        beside = {"rows": raw[name][-len(kept) :]} if name in raw else {}
        np.savez(tmp_path / f"{name}.npz", inputs=inputs, targets=targets, **beside)

    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"MLFLOW_TRACKING_URI": uri}
    argv = [sys.executable, "-P", "-c", ALONE, str(tmp_path), *made]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)

    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    for name, said in found.items():
        far = said.get("undecided", 1e-9)
        near = {"rel": 1e-4} if name == "numbers" else {"abs": far}
        assert [said["measured"], said["onnx"]] == pytest.approx([reported[name]] * 2, **near), name
    assert found["cnn-bf16"]["undecided"] < 0.1, "it would show nothing"
    right = [a == b for a, b in zip(found["mlp"]["said"], names[-60:], strict=True)]
    assert sum(right) / len(right) == pytest.approx(reported["mlp"], abs=1e-9)
    assert reported["mlp"] > 0.8  # three classes: what is not prepared is guessed
    assert found["numbers"]["said"] == pytest.approx(reported["numbers"], rel=1e-3)  # rows in fp32, too
    assert reported["numbers"] < 1e5  # prices differ by 3e5 in the mean: what is not prepared is guessed
    cards = {name: read_json(run.member(0).model / "card.json") for name, (run, _) in made.items()}
    assert cards["cnn"]["outputs"][0]["classes"] == [str(digit) for digit in range(10)]
    assert cards["cnn"]["inputs"][0]["scale"] == [16.0]
    assert cards["mlp"]["inputs"][0]["columns"] == ["large", "small"]
    assert cards["mlp"]["data"]["options"]["missing"] == "mean"
    assert "classes" not in cards["gpt"]["outputs"][0]


class Says:
    """In place of torch's module: gives back what it gets."""

    def __call__(self, given: Any) -> Any:
        return given


def predictor(**prepared: Any) -> Predictor:
    made = Predictor.__new__(Predictor)
    described = card({}, shape=(-1, 2))
    made.inputs, made.outputs = [{**described["inputs"][0], **prepared}], described["outputs"]
    made.module = Says()
    return made


def test_predict_raw_fills_gaps_then_shifts_and_scales() -> None:
    made = predictor(columns=["a", "b"], fill=[0.0, 4.0], offset=[1.0, 2.0], scale=[2.0, 4.0])
    rows = np.array([[5, np.nan], [1, 10]], dtype=np.float32)

    assert_array_equal(made.predict(rows, {"raw": True}), [[2, 0.5], [0, 2]])
    assert_array_equal(made.predict(rows), rows)


def test_predict_takes_the_columns_of_a_data_frame_by_name() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"b": [1.0], "other": [9.0], "a": [2.0]})

    assert_array_equal(predictor(columns=["a", "b"]).predict(frame), [[2, 1]])
    with pytest.raises(ValueError, match=r"has shape \(1, 3\)"):
        predictor(columns=["a", "c"]).predict(frame)
