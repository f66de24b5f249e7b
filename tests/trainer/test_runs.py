"""Real ranks in processes of their own: accuracy, layouts, notices, resumes, and how a run dies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conf.schema import Component, Objective
from tests.trainer.ranks import FRESH, ROOT, Member, own
from trainer.assemble import build_model
from trainer.checkpoints.checkpoint import committed, damage
from trainer.data.datasets import must_be_the_same
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Shape
from trainer.sources.sklearn import Options, load

Make = Callable[..., Member]
STEPS = 50
STOPPED = 75
DIGITS = Component(kind="sklearn", options={"set": "digits"})


def weights(member: Member) -> dict[str, torch.Tensor]:
    return load_file(member.path / "model" / "model.safetensors")


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=tolerance)


def events(member: Member) -> list[str]:
    return [line["event"] for line in member.lines("ledger.jsonl")]


def test_digits_one_rank_reaches_the_accuracy_and_leaves_every_file(member: Make) -> None:
    train = {"max_steps": None, "epochs": 8, "schedule": "cosine", "warmup_steps": 10, "log_every_steps": 20}
    run = member(data=DIGITS, model=Component(kind="cnn"), train={**train, "batch_size": 64})

    assert run.run() == [0], run.log()

    result = run.result()
    assert result["metrics"]["val/accuracy"] >= 0.975
    assert result["steps"] == 8 * 23
    assert result["best"]["metric"] == "val/accuracy"
    assert result["best"]["value"] >= result["metrics"]["val/accuracy"]
    assert "Warning" not in run.log()
    assert "step 20/184 epoch 1 train/loss" in run.log()
    assert [path.name for path in committed(run.path / "checkpoints")] == ["step-184", "step-161"]
    spool = run.lines("metrics.jsonl")
    assert [line["dataset"]["context"] for line in spool[:2]] == ["train", "validation"]
    assert [line["step"] for line in spool if "val/loss" in line.get("metrics", {})] == list(range(23, 185, 23))
    beside = {"train/lr", "train/samples_per_s", "train/data_wait", "train/grad_norm"}
    assert set(spool[2]["metrics"]) == {"train/loss", *beside}
    assert spool[2]["epoch"] == 1 and "ranks" not in spool[2]
    assert run.lines("system-0.jsonl")
    starting = ["process_start", "imports_done", "rendezvous_done", "data_ready", "model_ready"]
    assert events(run)[:7] == [*starting, "restore_done", "first_step"]
    assert events(run)[-3:] == ["training_done", "export_done", "exit"]

    card = json.loads((run.path / "model" / "card.json").read_text())
    alone = """
import json, sys, torch
from safetensors.torch import load_file
card = json.load(open("card.json"))
example = torch.tensor(card["input_example"], dtype=getattr(torch, card["inputs"][0]["dtype"]))
program = torch.export.load("model.pt2").module()
print(json.dumps(program(torch.cat([example, example[:1]])).tolist()))
assert not {"trainer", "launchers", "conf"} & {name.partition(".")[0] for name in sys.modules}
"""
    done = subprocess.run([sys.executable, "-I", "-c", alone], cwd=run.path / "model", capture_output=True, check=True)
    model = build_model(Component(kind="cnn"), Shape("classification", (1, 8, 8), "float32", 10)).eval()
    model.load_state_dict(weights(run))
    example = torch.tensor(card["input_example"])
    expected = model(torch.cat([example, example[:1]]))
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-4, atol=1e-4)


def test_two_ranks_to_the_end_are_as_one(member: Make) -> None:
    changes = {"model": Component(kind="cnn", options={"width": 4, "dropout": 0.0}), "data": DIGITS}
    train = {"max_steps": 25, "batch_size": 64}  # the 23rd has 30 samples
    alone, shared = member("alone", **changes, train=train), member("shared", ranks=2, **changes, train=train)
    for run in (alone, shared):
        run.start()

    assert alone.wait() == [0], alone.log()
    assert shared.wait() == [0, 0], shared.log()

    assert_same(weights(shared), weights(alone), tolerance=1e-3)
    ours, theirs = shared.result()["metrics"], alone.result()["metrics"]
    assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-3)
    assert ours["val/loss"] == pytest.approx(theirs["val/loss"], rel=1e-3)
    assert shared.log(1) == ""


def test_three_ranks_that_do_not_divide_the_batch_are_as_one(member: Make) -> None:
    """As where one of four nodes is lost."""
    alone, shared = member("alone", train={"max_steps": 25}), member("shared", ranks=3, train={"max_steps": 25})
    for run in (alone, shared):
        run.start()

    assert alone.wait() == [0], alone.log()
    assert shared.wait() == [0, 0, 0], shared.log()

    assert_same(weights(shared), weights(alone), tolerance=1e-4)
    assert shared.result()["metrics"]["val/loss"] == pytest.approx(alone.result()["metrics"]["val/loss"], rel=1e-3)


def test_a_run_that_changes_its_layout_ends_with_the_same_model(member: Make) -> None:
    train = {"max_steps": STEPS, "clip_norm": 1.0}
    alone, shared = member("alone", train=train), member("shared", ranks=2, train={**train, "accumulate": 2})
    alone.start()

    # Two ranks in two micro-batches; then the second rank alone is told to stop, and one rank goes on.
    shared.env = {"OWN_RANK": "1", "OWN_TRAINING": "55:SIGUSR2"}
    assert shared.run() == [STOPPED, STOPPED], shared.log()
    (stopped_at,) = {line["step"] for line in shared.lines("ledger.jsonl") if line["event"] == "signal"}
    shared.ranks, shared.env = 1, {}
    assert shared.run() == [0], shared.log()
    assert alone.wait() == [0], alone.log()

    assert stopped_at == 28  # 54 passes are 27 steps; the notice came in the first of the 28th, which was finished
    assert "goes on from step 28" in shared.log()
    assert_same(weights(shared), weights(alone), tolerance=1e-4)
    ours, theirs = shared.result()["metrics"], alone.result()["metrics"]
    assert ours["val/loss"] == pytest.approx(theirs["val/loss"], abs=1e-4)
    assert ours["val/accuracy"] == theirs["val/accuracy"]


def test_notices_in_training_and_in_evaluation_cost_nothing_but_time(member: Make) -> None:
    train = {"max_steps": STEPS, "eval_every_steps": 20}
    changes = {"model": own("own.Net", dropout=0.5), "train": train}
    whole, broken = member("whole", **changes), member("broken", **changes)
    whole.start()

    stops = []
    for env in ({"OWN_TRAINING": "7:SIGTERM"}, {"OWN_EVALUATION": "2:SIGUSR2"}, {}):
        broken.env = env
        codes = broken.run()
        stops += [(codes, line["step"]) for line in broken.lines("ledger.jsonl") if line["event"] == "signal"]

    assert whole.wait() == [0], whole.log()
    assert stops == [([STOPPED], 7), ([STOPPED], 20)]
    assert codes == [0], broken.log()
    assert "step 20/50 val/loss" in broken.log()  # the evaluation that was broken off
    assert_same(weights(broken), weights(whole), tolerance=0)
    assert broken.result()["metrics"] == whole.result()["metrics"]
    assert broken.result()["best"] == whole.result()["best"]
    assert broken.result()["steps"] == STEPS


def reported(run: Member) -> list[tuple[int, dict[str, float]]]:
    """What an attempt said of loss and accuracy, by step."""
    found = [(line["step"], line["metrics"]) for line in run.lines("metrics.jsonl") if "metrics" in line]
    names = ("train/loss", "val/loss", "val/accuracy")
    kept = [(step, {name: said[name] for name in names if name in said}) for step, said in found]
    return [one for one in kept if one[1]]


def test_run_that_is_broken_off_reports_what_one_does_that_never_was(member: Make) -> None:
    """Between two reports, and in an evaluation of a model that counts: each rank counts other samples."""
    train = {"max_steps": 30, "log_every_steps": 10, "eval_every_steps": 20}
    changes = {"model": own("own.Net", norm=True), "train": train}
    whole, broken = member("whole", ranks=2, **changes), member("broken", ranks=2, **changes)
    whole.start()

    said, codes = [], []
    for env in ({"OWN_TRAINING": "13:SIGTERM"}, {"OWN_EVALUATION": "2:SIGUSR2"}, {}):
        broken.env = {**env, "OWN_RANK": "1"}
        codes.append(broken.run())
        said += reported(broken)

    assert whole.wait() == [0, 0], whole.log()
    assert codes == [[STOPPED] * 2, [STOPPED] * 2, [0, 0]], broken.log()
    assert said == reported(whole) and [step for step, _ in said] == [10, 20, 20, 30, 30]
    assert broken.result()["best"] == whole.result()["best"]


@pytest.mark.parametrize("what", ["rows", "values"])
def test_run_does_not_go_on_with_other_data_than_it_began_with(member: Make, tmp_path: Path, what: str) -> None:
    table = tmp_path / "rows.csv"
    rows = [f"{i % 7},{i % 2},{'ab'[i % 2]}" for i in range(60)]
    table.write_text("\n".join(["x,y,kind", *rows]) + "\n")
    data = Component(kind="table", options={"path": str(table), "target": "kind"})
    run = member(data=data, model=own("own.Net", inputs=2), train={"max_steps": 20})
    run.env = {"OWN_TRAINING": "7:SIGTERM"}
    assert run.run() == [STOPPED], run.log()
    before, run.env = table.read_text(), {}

    table.write_text(before + "3,1,b\n" if what == "rows" else before.replace("5,1,b", "50,1,b", 1))

    assert run.run() == [1]
    assert "the data have changed since this run began: samples" in run.log() and "train.start_from" in run.log()
    assert "Traceback" not in run.log()
    table.write_text(before)
    assert run.run() == [0], run.log()
    assert "goes on from step 7" in run.log()


def test_ranks_that_see_different_data_are_told_whose_differ() -> None:
    with pytest.raises(UserError, match=r"rank 0 samples 9 for train \(aa\), and rank 2 9 for train \(bb\)"):
        must_be_the_same(["9 for train (aa)", "9 for train (aa)", "9 for train (bb)"], before="")


def test_data_loader_processes_ignore_a_notice_that_all_of_them_get(member: Make) -> None:
    changes = {
        "optimizer": own("torch.optim.RMSprop", lr=0.01),
        "train": {"max_steps": 40, "workers": 2},
    }
    run = member(**changes)
    run.env = {"OWN_TRAINING": "5:SIGTERM"}  # to the whole process group

    assert run.run() == [STOPPED], run.log()
    run.env = {}
    assert run.run() == [0], run.log()

    assert "goes on from step 5" in run.log()
    assert run.result()["metrics"]["val/accuracy"] == 1.0
    assert "Traceback" not in run.log()


@pytest.mark.parametrize(("level", "shown"), [(None, False), ("WARNING", True)])
def test_warnings_of_torchs_inside_are_shown_to_those_who_ask(member: Make, level: str | None, shown: bool) -> None:
    """DDP's advice stands for the one about hosts without a name, which comes where no DNS answers."""
    run = member(
        ranks=2, engine=Component(kind="ddp", options={"find_unused_parameters": True}), train={"max_steps": 2}
    )
    run.env, run.program = {"TORCH_CPP_LOG_LEVEL": level} if level else {}, FRESH

    assert run.run() == [0, 0]

    assert ("[W" in run.log()) == shown


def test_a_loop_that_waits_for_data_says_what_helps_and_that_helps(member: Make) -> None:
    slow = {"data": own("own.blobs", rows=64, pause_s=0.004)}
    train = {"max_steps": 12, "log_every_steps": 3}
    alone, helped = member("alone", **slow, train={**train, "workers": 0}), member("helped", **slow, train=train)
    for run in (alone, helped):
        run.start()

    assert alone.wait() == [0] and helped.wait() == [0]

    assert alone.log().count("training waits for data for") == 1
    assert "raise train.workers (now 0)" in alone.log()
    seen = [line.get("metrics", {}) for line in alone.lines("metrics.jsonl")]
    waits = [metrics["train/data_wait"] for metrics in seen if "train/data_wait" in metrics]
    assert min(waits) > 0.5
    assert_same(weights(helped), weights(alone), tolerance=0)


def test_damaged_newest_checkpoint_is_passed_over(member: Make) -> None:
    run = member(train={"max_steps": 8, "checkpoint_every_steps": 2, "keep_checkpoints": 3})
    assert run.run() == [0], run.log()
    newest, before, _ = committed(run.path / "checkpoints")
    with next((newest / "state").glob("shard-*")).open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"\0")

    assert run.run() == [0], run.log()

    assert "checkpoint step-8 skipped: state/shard-00001-model-00001-of-00001.safetensors has another" in run.log()
    assert f"goes on from step 6 ({before.name})" in run.log()
    assert damage(newest) is None
    assert run.log().endswith("own.py has tidied up\n")


def test_run_whose_checkpoints_are_all_damaged_begins_anew_and_says_so(member: Make) -> None:
    run = member(train={"max_steps": 4, "checkpoint_every_steps": 2, "keep_checkpoints": 2})
    assert run.run() == [0], run.log()
    for path in committed(run.path / "checkpoints"):
        (path / "state.json").write_text("{}")

    assert run.run() == [0], run.log()

    begun = next(line for line in run.lines("ledger.jsonl") if line["event"] == "restore_done")
    assert (begun["step"], begun["lost"]) == (0, ["step-4.lost", "step-2.lost"])
    assert "begins anew: all checkpoints were damaged; they are kept as step-4.lost, step-2.lost" in run.log()
    assert {"step-4", "step-4.lost", "step-2.lost"} <= {path.name for path in (run.path / "checkpoints").iterdir()}


def test_user_mistake_on_one_rank_ends_all_and_is_told_apart(member: Make) -> None:
    run = member(ranks=2)
    run.env = {"OWN_RANK": "1", "OWN_TRAINING": "3:fail"}

    assert run.run() == [1, 1]

    first = json.loads((run.attempt / "rank-1.error.json").read_text())
    other = json.loads((run.attempt / "rank-0.error.json").read_text())
    assert (first["cause"], first["type"], first["rank"]) == ("user_error", "RuntimeError", 1)
    assert first["message"] == "the user's own mistake"
    assert "own.py" in first["traceback"]
    assert other["cause"] == "rendezvous"
    assert first["t"] < other["t"]
    assert "the user's own mistake" in run.log(1)
    assert not (run.attempt / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": Objective(metric="val/acc", goal="maximize")}, ["objective.metric is val/acc", "val/accuracy"]),
        ({"model": own("own.not_a_model")}, ["the model is a str", "own.not_a_model"]),
    ],
)
def test_mistake_in_the_spec_is_three_lines_and_no_traceback(member: Make, changes: Any, words: list[str]) -> None:
    run = member(**changes)

    assert run.run() == [1]

    assert all(word in run.log() for word in words)
    assert "Traceback" not in run.log()
    assert json.loads((run.attempt / "rank-0.error.json").read_text())["type"] == "UserError"
    assert run.lines("ledger.jsonl")[-1]["code"] == 1


def test_missing_variables_are_all_named(tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(ROOT), "RANK": "0", "FAIRLEAD_ATTEMPT_DIR": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-m", "trainer"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, NODE_RANK, MASTER_PORT, MASTER_ADDR" in done.stdout
    assert (tmp_path / "rank-0.error.json").exists()


def test_final_test_is_measured_once_of_the_exported_weights_over_all_ranks(member: Make) -> None:
    split = {"by": "stratified", "fraction": 0.2, "test_fraction": 0.1, "seed": 0}
    data = Component(kind="sklearn", options={"set": "iris", "split": split})
    train = {"max_steps": 12, "batch_size": 20, "eval_every_steps": 4, "export": "best"}
    objective = Objective(metric="val/loss", goal="maximize")  # the best weights are those of the first evaluation
    run = member(ranks=2, data=data, model=Component(kind="mlp"), train=train, objective=objective)

    assert run.run() == [0, 0], run.log()

    spool = run.lines("metrics.jsonl")
    assert [line["dataset"]["context"] for line in spool if "dataset" in line] == ["train", "validation", "test"]
    (tested,) = (line["metrics"] for line in spool if "test/loss" in line.get("metrics", {}))
    assert {name: run.result()["metrics"][name] for name in tested} == tested and len(tested) == 2
    ours = load(Options(set="iris", split=Split(**split)))
    assert ours.test is not None
    inputs, targets = ours.test.batch(np.arange(15))
    model = build_model(Component(kind="mlp"), ours.shape)
    model.load_state_dict(weights(run))
    outputs = model.eval()(inputs)
    assert tested["test/loss"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, targets).item(), rel=1e-5)
    assert tested["test/accuracy"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())
