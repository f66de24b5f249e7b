"""What the verbs print, to any terminal and to none, of what is there and of what is not; and their exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers import cli
from tests.conftest import Command
from tests.launchers.over import ended_run
from tests.launchers.tried import accuracies, make_search, search_of


@pytest.mark.parametrize("words", [["status"], ["list"], ["logs", "--errors"], ["plan"], ["plan", "launcher=slurm"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_cli_reader_that_leaves_early_is_no_error(workdir: Path, root: Path, words: list[str], unbuffered: str) -> None:
    """`fairlead plan | head -1`"""
    ended_run(workdir, state="FAILED")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "launchers.cli", *words],
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": unbuffered},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_cli_terminal_that_knows_few_letters_is_no_error(workdir: Path, fairlead: Command, encoding: str) -> None:
    ended_run(workdir, state="FAILED")

    for words in (["status"], ["logs"], ["logs", "--errors"], ["list"], ["status", "--json"]):
        done = fairlead(*words, env={"PYTHONIOENCODING": encoding})

        assert (done.returncode, done.stderr) == (0, ""), words
        assert done.stdout


def test_cli_run_folder_that_is_not_utf8_is_shown(workdir: Path, fairlead: Command) -> None:
    inside = os.fsencode(workdir) + b"/\xff"
    Path(os.fsdecode(inside)).mkdir()
    ended_run(Path(os.fsdecode(inside)))

    for words in (["status"], ["status", "--json"], ["list"], ["logs"]):
        done = fairlead(*words, cwd=inside)

        assert (done.returncode, done.stderr) == (0, ""), words


def test_list_one_broken_run_does_not_hide_the_others(workdir: Path, capsys: Any) -> None:
    ended_run(workdir, "a-1")
    broken = ended_run(workdir, "b-1")
    broken.plan.write_text("{")

    cli.main(["list"])

    assert "a-1" in capsys.readouterr().out


def test_list_without_runs_is_empty_and_fine(workdir: Path, capsys: Any) -> None:
    assert cli.main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_logs_of_a_failed_run_say_why(workdir: Path, capsys: Any) -> None:
    ended_run(workdir, state="FAILED")

    assert cli.main(["logs", "--errors"]) == 0

    assert "    boom" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--member", "2"], "nothing was said yet: fairlead status digits-1"),
        (["--errors"], "no member has failed: fairlead status digits-1"),
    ],
)
def test_logs_that_are_empty_say_so(workdir: Path, capsys: Any, words: list[str], said: str) -> None:
    run = make_search(workdir / "runs", search_of(3), fresh=True, kind="none")
    accuracies(run, [0.5, 0.7])

    assert cli.main(["logs", *words]) == 0

    assert capsys.readouterr() == ("", f"{said}\n")


def test_logs_of_what_is_not_there_are_a_mistake(workdir: Path, capsys: Any) -> None:
    run = make_search(workdir / "runs", search_of(3), fresh=True, kind="none")

    for words in (["--rank", "9"], ["--member", "99"], ["--errors", "--member", "99"], ["--follow", "--rank", "9"]):
        assert cli.main(["logs", run.id, *words]) == 2

        assert "there is no " in capsys.readouterr().err


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_wait_for_an_ended_job_exits_as_it_ended(workdir: Path, capsys: Any, state: str, code: int) -> None:
    ended_run(workdir, state=state, launcher="local")

    assert cli.main(["wait"]) == code


def test_cancel_of_an_ended_job_says_so(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir)

    assert cli.main(["cancel", "d-1", "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {"job": "d-1", "cancelled": False}
    assert not run.cancelled.exists()


def test_config_dir_may_come_from_the_environment(workdir: Path, fairlead: Command) -> None:
    (workdir / "mine" / "site").mkdir(parents=True)
    (workdir / "mine" / "site" / "mine.yaml").write_text("name: mine\npython: /my/python\n")

    done = fairlead("plan", "site=mine", "--json", env={"FAIRLEAD_CONFIG_DIR": str(workdir / "mine")})

    assert json.loads(done.stdout)["plan"]["python"] == "/my/python"


@pytest.mark.parametrize("words", [["launch", "launcher=slurm"], ["pool", "up", "mine"]])
def test_cli_job_for_slurm_where_there_is_none_leaves_no_run_behind(
    workdir: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("PATH", str(workdir))

    code = cli.main([*words, "machine=cpu-small"])

    said = capsys.readouterr().err
    assert code == 3 and "Slurm's commands are not on PATH: sbatch" in said and "login node" in said
    assert not list(workdir.rglob("*"))


def test_cli_version_names_the_folder_it_runs_from(capsys: Any, root: Path) -> None:
    assert cli.main(["--version"]) == 0

    said = capsys.readouterr().out
    assert said.startswith("fairlead") and str(root) in said


def test_report_of_a_job_that_took_no_time_says_so(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir)

    assert cli.main(["report", str(run.path)]) == 0

    assert "nothing has run yet" in capsys.readouterr().err


def test_status_of_a_member_without_a_cause_is_its_message_alone(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir)
    shutil.rmtree(run.member(0).path)

    assert cli.main(["status", str(run.path)]) == 0

    assert "FAILED      the launch was interrupted" in capsys.readouterr().out
