"""The verb `best`: who won, and a file and a command that run the very same thing again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.document import to_document
from conf.sweep_schema import Constraint, Goal
from launchers.errors import SpecError
from launchers.run_folder.record import Run
from launchers.search.best import Best, best
from launchers.search.expand import expand
from launchers.search.rerun import TRAINED
from launchers.show_search import best_text
from tests.launchers.tracked import end, make_run
from tests.launchers.tried import accuracies, asked_late, ended, frozen, make_search, member_document, search_of, tried

Command = Callable[..., "subprocess.CompletedProcess[str]"]
POINT = {"optimizer.lr": 0.01, "model.width": 8}
ODD = [
    "1e-2",
    "null",
    "yes",
    "it's",
    'say "x", then',
    "a: b # c",
    "ünï 🤖",
    " led by a space",
    "two\nlines",
    "-1",
    "0x10",
    "1_000",
    ".inf",
    "2001-01-01",
    "[1, 2]",
    "{a: 1}",
    "12:30",
    "*all",
    "&x",
    "!t",
    "%d",
    "~",
    "\\d+",
]
"""Words that a careless YAML file would make something else of."""


def composed(found: Best) -> list[dict[str, Any]]:
    """The specs of the command that was written."""
    words = list(found.command[2:])
    dirs = [Path(words[i + 1]) for i, word in enumerate(words) if word == "--config-dir"]
    overrides = [w for i, w in enumerate(words) if w != "--config-dir" and words[i - 1 if i else 0] != "--config-dir"]
    return [to_document(spec) for spec in expand(overrides, dirs).specs]


def assert_same(found: Best, wanted: Mapping[str, Any], *more: str) -> None:
    (document,) = composed(found)
    for section in (*TRAINED, *more):
        assert document.get(section) == wanted.get(section), section
    assert found.differences == ()


# --- who won ------------------------------------------------------------------------------------------


def test_best_of_a_search_is_the_best_report_of_what_succeeded(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of(5))
    accuracies(run, [0.5, None])
    tried(run, 2, POINT, {"val/accuracy": 0.9}, {"val/accuracy": 0.7})
    tried(run, 3, POINT, {"val/accuracy": 0.99}, state="PRUNED")

    found = best(run).document()

    assert found["best"] == {"trial": 2, "state": "SUCCEEDED", "values": {"val/accuracy": 0.9}, "point": POINT}
    assert (found["trials"], found["measurement"]) == (4, "best")


def test_best_of_a_search_measured_last_is_another(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of(measurement="last"))
    tried(run, 0, POINT, {"val/accuracy": 0.9}, {"val/accuracy": 0.1})
    tried(run, 1, POINT, {"val/accuracy": 0.2}, {"val/accuracy": 0.3})

    assert best(run).trial.number == 1


def test_best_of_a_search_keeps_its_constraints(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of(constraints=(Constraint(metric="seconds", max=10),)))
    tried(run, 0, POINT, {"val/accuracy": 0.9, "seconds": 20})
    tried(run, 1, POINT, {"val/accuracy": 0.8, "seconds": 10})
    tried(run, 2, POINT, {"val/accuracy": 0.99})

    assert best(run).trial.number == 1


def test_best_with_several_goals_is_a_pareto_set_and_any_of_it_can_be_written(tmp_path: Path) -> None:
    goals = (Goal(metric="val/accuracy", goal="maximize"), Goal(metric="seconds", goal="minimize"))
    run = make_search(tmp_path, search_of(objectives=goals))
    for i, (accuracy, seconds) in enumerate([(0.9, 30), (0.8, 10), (0.7, 20), (0.95, 90)]):
        tried(run, i, {"optimizer.lr": 0.1, "model.width": i + 4}, {"val/accuracy": accuracy, "seconds": seconds})

    found, other = best(run), best(run, member=1)

    lines = list(best_text(found.document()))
    assert [trial["trial"] for trial in found.document()["pareto"]] == [0, 1, 3]
    assert lines[:5] == [
        "digits-1   maximize val/accuracy, minimize seconds",
        "  Pareto set: 3 of 4 trials",
        "    trial  val/accuracy  seconds  point",
        "        0           0.9       30  optimizer.lr=0.1 model.width=4",
        "        1           0.8       10  optimizer.lr=0.1 model.width=5",
    ]
    assert (found.trial.number, found.file.name) == (3, "digits-1_best.yaml")
    assert (other.trial.number, other.file.name) == (1, "digits-1_1.yaml")


def test_best_of_a_grid_is_the_best_objective_at_the_end(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"model.width": width} for width in (1, 2, 3, 4)])
    end(run, 0, **{"val/accuracy": 0.8})
    end(run, 1, state="FAILED")
    end(run, 2, **{"val/accuracy": 0.9})
    end(run, 3, **{"val/accuracy": "nan"})

    found = best(run)

    assert (found.trial.number, found.trial.point, found.of.values(found.trial)) == (
        2,
        {"model.width": 3},
        {"val/accuracy": 0.9},
    )


def test_best_of_a_grid_of_programs_that_report_is_their_last_word(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"model.width": width} for width in (1, 2)])
    for member, values in enumerate(([0.9, 0.3], [0.4, 0.5])):
        end(run, member)
        attempt = run.member(member).path / "attempt-1"
        (attempt / "result.json").unlink()
        rows = [{"t": 5.0 + i, "step": i, "metrics": {"val/accuracy": v}} for i, v in enumerate(values)]
        (attempt / "reports.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert best(run).trial.number == 1


@pytest.mark.parametrize("states", [[], [None], [None, None]])
def test_best_without_any_value_says_so(tmp_path: Path, states: list[None]) -> None:
    run = make_search(tmp_path, search_of())
    accuracies(run, states)

    with pytest.raises(SpecError, match="no member of digits-1 has ended with a value of val/accuracy"):
        best(run)


def test_best_of_programs_that_reported_nothing_says_how_to(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of())
    tried(run, 0, {"optimizer.lr": 0.1, "model.width": 4})

    with pytest.raises(SpecError) as refused:
        best(run)

    assert "let its program report val/accuracy" in refused.value.problems[0].do


def test_best_of_a_single_run_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    end(run, **{"val/accuracy": 0.8})

    with pytest.raises(SpecError, match="digits-1 is a single run"):
        best(run)


def test_best_member_that_never_started_says_so(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of())
    accuracies(run, [0.5])

    with pytest.raises(SpecError, match="member 3 of digits-1 has no values yet"):
        best(run, member=3)


def test_best_while_nothing_succeeded_is_one_that_was_cut_short(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of())
    tried(run, 0, POINT, {"val/accuracy": 0.6}, state="PRUNED")

    document = best(run).document()

    assert document["best"]["state"] == "PRUNED"
    assert "  trial 0 of 1, PRUNED   val/accuracy 0.6" in list(best_text(document))


# --- the same again -----------------------------------------------------------------------------------


def test_best_of_a_search_composes_to_the_very_same(workdir: Path) -> None:
    run = frozen(workdir / "runs", "experiment=digits", "sweep=digits_tpe", "train.epochs=2", "machine=cpu-small")
    point = {"optimizer.lr": 1.2345678901234567e-05, "model.width": 16, "model.dropout": 0.0}
    asked_late(run, 3, point)
    ended(run, 3)

    found = best(run, member=3)

    assert_same(found, member_document(run, 3), "pools", "objective", "tracking")
    assert found.command == (
        "fairlead",
        "launch",
        "--config-dir",
        "runs/digits-1/best",
        "experiment=digits-1_3",
        "machine=cpu-small",
    )
    assert found.file.read_text().startswith("# @package _global_\n# trial 3 of digits-1: ")


SEARCH = """
kind: search
algorithm: tpe
trials: 4
parameters:
  optimizer: {type: categorical, values: [adamw, sgd]}
  optimizer.momentum: {type: double, min: 0.8, max: 0.99, when: {optimizer: [sgd]}}
  optimizer.nesterov: {type: categorical, values: [true, false], when: {optimizer: [sgd]}}
  optimizer.betas: {type: categorical, values: [[0.9, 0.95], [0.8, 0.999]], when: {optimizer: [adamw]}}
  train.precision: {type: categorical, values: [null, fp32]}
  seed: {type: integer, min: 1, max: 9}
"""


@pytest.mark.parametrize(
    "point",
    [
        {
            "optimizer": "sgd",
            "optimizer.momentum": 0.9,
            "optimizer.nesterov": False,
            "train.precision": None,
            "seed": 3,
        },
        {"optimizer": "adamw", "optimizer.betas": [0.8, 0.999], "train.precision": "fp32", "seed": 9},
    ],
)
def test_best_of_a_search_over_groups_composes_to_the_very_same(workdir: Path, point: dict[str, Any]) -> None:
    (workdir / "mine" / "sweep").mkdir(parents=True)
    (workdir / "mine" / "sweep" / "groups.yaml").write_text(SEARCH)
    run = frozen(workdir / "runs", "experiment=digits", "sweep=groups", config_dirs=[workdir / "mine"])
    asked_late(run, 0, point)
    ended(run, 0)

    assert_same(best(run, member=0), member_document(run, 0))


GRIDS: list[tuple[str, ...]] = [
    ("experiment=digits", "model.width=8,16", "optimizer.lr=1e-3,1e-05"),
    ("model=cnn,mlp", "optimizer=sgd,adamw", "++optimizer.weight_decay=0.5"),
    ("experiment=digits", "model=mlp", "model.depth=1,2", "optimizer={lr: 0.5, eps: 1e-9}", "optimizer.lr=0.1,0.2"),
    ("experiment=digits,bytes_gpt", "train.epochs=null", "train.max_steps=3", "name=x", "tracking.register=null"),
    ("experiment=digits", "optimizer.betas.1=0.9,0.99"),
    ("optimizer.betas=[0.5,0.6],[0.7,0.8]", "train.clip_norm=null,1.0"),
    ("experiment=digits", "seed=1,2", "train={epochs: 3}", "train.batch_size=range(8,33,8)"),
    ("machine=cpu-small,cpu-large", "machine.nodes=1,2", "launcher=slurm", "name=other", "tracking=none"),
    ("model.width=${train.batch_size},16", "++train.batch_size=32"),
    ("model.width=8,16", "~data.split"),
]


@pytest.mark.parametrize("words", GRIDS, ids=[words[0].partition("=")[0] + str(i) for i, words in enumerate(GRIDS)])
def test_best_of_a_grid_composes_to_the_very_same(workdir: Path, words: tuple[str, ...]) -> None:
    run = frozen(workdir / "runs", "-m", *words)
    last = sum(1 for _ in run.members()) - 1
    for member in (0, last):
        ended(run, member, {"val/loss": 0.5, "val/accuracy": 0.5})

    for member in (0, last):
        assert_same(best(run, member=member), member_document(run, member), "pools", "objective", "tracking", "name")


def test_best_keeps_the_type_of_every_value(workdir: Path) -> None:
    mine = workdir / "mine"
    (mine / "model").mkdir(parents=True)
    (mine / "sweep").mkdir()
    (mine / "model" / "own.yaml").write_text(
        "_target_: my_package.Net\nnote: x\nsizes: [1, 2]\nnested: {a: 1, b: {c: 2}}\n"
    )
    values = [*ODD, "", None, True, 0, 1.0, 1e-05, 1e22, -0.0, 10**20, [1, "2", None, [0.5]], {"a": "1e-2"}, []]
    (mine / "sweep" / "odd.yaml").write_text(
        yaml.safe_dump({"kind": "grid", "zip": {"model.note": values, "model.nested.b.c": values}}, allow_unicode=True)
    )
    run = frozen(workdir / "runs", "model=own", "sweep=odd", config_dirs=[mine])
    for member in range(len(values)):
        ended(run, member, {"val/loss": 0.5})

    for member in range(len(values)):
        found = best(run, member=member)
        assert_same(found, member_document(run, member))
        (document,) = composed(found)
        assert repr(document["model"]) == repr(member_document(run, member)["model"])


@pytest.mark.parametrize("inline", [True, False])
def test_best_of_a_search_that_the_experiment_chose_is_one_run(workdir: Path, inline: bool) -> None:
    (workdir / "mine" / "experiment").mkdir(parents=True)
    if inline:
        text = f"# @package _global_\ndefaults:\n- override /model: cnn\nsweep: {json.dumps(yaml.safe_load(SEARCH))}\n"
    else:
        text = "# @package _global_\ndefaults:\n- override /sweep: digits_tpe\n"
    (workdir / "mine" / "experiment" / "mine.yaml").write_text(text)
    run = frozen(workdir / "runs", "experiment=mine", config_dirs=[workdir / "mine"])
    point = {"optimizer.lr": 0.01, "model.width": 8, "model.dropout": 0.1}
    if inline:
        point = {"optimizer": "adamw", "optimizer.betas": [0.9, 0.95], "train.precision": None, "seed": 1}
    asked_late(run, 0, point)
    ended(run, 0)

    found = best(run, member=0)

    assert_same(found, member_document(run, 0))
    assert composed(found)[0]["sweep"] is None


def test_best_keeps_where_it_ran_and_drops_the_sweep(workdir: Path) -> None:
    run = frozen(workdir / "runs", "-m", "--wait", "launcher=slurm", "machine=cpu-small", "site.default_account=ab c",
                 "model.width=8,16", "optimizer.lr=0.5", "container.env={MY_TOKENS: x}")  # fmt: skip
    command = json.loads(run.provenance.read_text())["command"]
    masked = [word if "TOKEN" not in word else "container.env=***" for word in command]
    run.provenance.write_text(json.dumps({"command": masked, "cwd": str(workdir)}))
    ended(run, 1, {"val/loss": 0.5})

    found = best(run)

    assert found.command[5:] == (
        "launcher=slurm",
        "machine=cpu-small",
        "site.default_account=ab c",
        "container.env=***",
    )
    assert yaml.safe_load(found.file.read_text())["optimizer"] == {"lr": 0.5}
    assert list(best_text(found.document()))[-1].endswith("'site.default_account=ab c' 'container.env=***'")


def test_best_says_when_the_yaml_has_changed_since(workdir: Path) -> None:
    (workdir / "mine" / "model").mkdir(parents=True)
    own = workdir / "mine" / "model" / "own.yaml"
    own.write_text("kind: cnn\nwidth: 8\ndropout: 0.1\n")
    run = frozen(workdir / "runs", "-m", "model=own", "optimizer.lr=0.1,0.2", config_dirs=[workdir / "mine"])
    ended(run, 0, {"val/loss": 0.5})
    own.write_text("kind: cnn\nwidth: 9\ndropout: 0.1\n")

    changed = best(run)
    own.unlink()
    gone = best(run)

    assert changed.differences == ("model.width is now 9, and was 8",)
    assert "model has no option 'own'" in gone.differences[0]
    assert "  note: model.width is now 9, and was 8" in list(best_text(changed.document()))


def test_best_command_is_taken_by_the_real_command(workdir: Path, fairlead: Command) -> None:
    run = frozen(
        workdir / "runs",
        "experiment=digits",
        "sweep=digits_tpe",
        "launcher=slurm",
        "machine=cpu-small",
        job="digits.v1",
    )
    asked_late(run, 0, {"optimizer.lr": 0.0123, "model.width": 32, "model.dropout": 0.25})
    ended(run, 0, {"val/accuracy": 0.5})
    attempt = run.member(0).path / "attempt-0"
    (attempt / "metrics.jsonl").write_text('{"t": 1, "step": 1, "metrics": {"val/accuracy": 0.5}}\n')

    said = fairlead("best", "digits.v1")
    document = json.loads(fairlead("best", "digits.v1", "--json").stdout)
    planned = fairlead("plan", "--json", *document["command"][2:])

    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines()[:5] == [
        "digits.v1   maximize val/accuracy",
        "  trial 0 of 1   val/accuracy 0.5",
        "    optimizer.lr   0.0123",
        "    model.width    32",
        "    model.dropout  0.25",
    ]
    spec = json.loads(planned.stdout)["spec"]
    assert (spec["optimizer"]["options"]["lr"], spec["model"]["options"]["width"]) == (0.0123, 32)
    assert spec["launcher"]["kind"] == "slurm"
    assert Run(workdir / "runs" / "digits.v1").path.joinpath("best", "experiment", "digits.v1_best.yaml").exists()
