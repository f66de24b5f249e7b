"""rank.sh by the real /bin/sh: where a program starts, what is handed on to it, and what stays private."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.run_folder.record import make_private
from launchers.step import step_of
from tests.launchers.planned import A100, COMMAND, TWO_BY_TWO, boxed, changed, composed, planned, with_our_code
from tests.launchers.rank_scripts import DUMP, project_of, run_rank

EARLY = """
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
from trainer import signals
notice = signals.install()
assert not notice.given
signals.listen()
print(notice.signal.name)
"""


@pytest.mark.parametrize(("before", "code", "said"), [("", 0, "SIGTERM"), ("kill -USR2 $$", 75, "")])
def test_rank_script_holds_back_what_comes_before_the_trainer_listens(
    workdir: Path, root: Path, before: str, code: int, said: str
) -> None:
    """Told by then, it begins nothing."""
    plan = planned(composed("machine=cpu-small"), run_dir=str(workdir / "d-1"))
    pool = dataclasses.replace(plan.pools[0], program=(sys.executable, "-c", EARLY), env={"PYTHONPATH": str(root)})
    step = step_of(dataclasses.replace(plan, pools=(pool,)), 0, 0)
    (workdir / "d-1" / "members" / "0" / "attempt-0").mkdir(parents=True)
    script = step.rank_script.replace('[ -z "$told" ]', f'{before}\n[ -z "$told" ]')

    done = subprocess.run(
        ["sh", "-c", script], env={**os.environ, "RANK": "0"}, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stdout.strip()) == (code, said), done.stderr


def test_rank_script_credentials_of_an_address_are_handed_on_and_written_nowhere(tmp_path: Path, fakes: Any) -> None:
    fakes.put("apptainer")
    spec = boxed(composed("data=tokens", "model=gpt", "data.path=s3://bucket/x"))
    site = dataclasses.replace(spec.site, scratch_dir=str(tmp_path))
    step = step_of(planned(dataclasses.replace(spec, site=site)), 0, 0)
    script = tmp_path / "rank.sh"
    script.write_text(step.rank_script.replace("/runs/digits-1/members/0/attempt-0/", f"{tmp_path}/"))
    env = {"PATH": os.environ["PATH"], "RANK": "0", "AWS_SECRET_ACCESS_KEY": "it's $x", "AWS_PROFILE": ""}

    subprocess.run(["sh", str(script)], env=env, check=True, timeout=60)

    (call,) = fakes.calls("apptainer")
    assert call["env"]["APPTAINERENV_AWS_SECRET_ACCESS_KEY"] == "it's $x"
    assert call["env"]["APPTAINERENV_AWS_PROFILE"] == ""
    assert "APPTAINERENV_AWS_ACCESS_KEY_ID" not in call["env"]
    assert (tmp_path / "fairlead-data-0").stat().st_mode & 0o777 == 0o700


def test_rank_script_of_a_command_starts_where_its_script_is(workdir: Path) -> None:
    plan = planned(composed("job=command", "job.command=[sh,hello.sh]"), str(workdir / "a b"))
    folder = project_of(plan)
    plan = with_our_code(plan)
    (folder / "hello.sh").write_text('echo "{\\"cwd\\": \\"$PWD\\"}" > "$DUMP"')

    assert run_rank(step_of(plan, 0, 0), workdir, {}) == {"cwd": str(folder)}


def test_rank_script_ranks_but_the_first_report_elsewhere(workdir: Path, fakes: Any) -> None:
    """A program whose ranks all report would otherwise write over what counts."""
    fakes.put("apptainer", DUMP)
    spec = boxed(composed(*TWO_BY_TWO, *COMMAND))
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir / "scratch")))
    step = step_of(with_our_code(planned(spec, str(workdir / "run"))), 0, 0)
    make_private(workdir / "run/members/0/attempt-0")

    names = ("CLOUD_ML_HP_METRIC_FILE", "FAIRLEAD_REPORTS")
    seen = [
        [run_rank(step, workdir, {"RANK": rank})["env"][f"APPTAINERENV_{name}"] for name in names]
        for rank in ("0", "3")
    ]

    assert seen[0] == [step.env[name] for name in names]
    assert seen[1] == [f"{step.env[name]}.rank-3" for name in names]


def test_rank_script_path_for_the_image_does_not_hide_the_hosts_commands(workdir: Path, fakes: Any) -> None:
    """PATH and LD_LIBRARY_PATH that a user sets are the program's, not of the apptainer that starts it."""
    fakes.put("apptainer", DUMP)
    env = {"PATH": "/inside/bin", "LD_LIBRARY_PATH": "/inside/lib"}
    spec = changed(boxed(composed(*TWO_BY_TWO)), env=env)
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir / "scratch")))
    step = step_of(planned(spec), 0, 0)

    got = run_rank(step, workdir, {})

    assert got["env"]["APPTAINERENV_PATH"] == "/inside/bin"
    assert got["env"]["APPTAINERENV_LD_LIBRARY_PATH"] == "/inside/lib"
    assert "LD_LIBRARY_PATH" not in got["env"]


def test_rank_script_names_come_from_slurm_where_it_is() -> None:
    step = step_of(planned(composed(*TWO_BY_TWO)), 0, 0)
    head = step.rank_script.split("exec ")[0]
    env = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NODEID": "1", "RANK": "9"}
    script = head + 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $NODE_RANK $LOCAL_WORLD_SIZE"'

    said = subprocess.run(["/bin/sh", "-c", script], env=env, capture_output=True, text=True, check=True).stdout

    assert said == "3 1 4 1 2\n"


def test_rank_script_refuses_a_scratch_folder_of_somebody_else(workdir: Path, fakes: Any) -> None:
    fakes.put("apptainer", DUMP)
    spec = boxed(composed(*TWO_BY_TWO))
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir)))
    (workdir / "fairlead-digits-1-0").write_text("a file is in the way")
    step = step_of(planned(spec), 0, 0)

    with pytest.raises(AssertionError):
        run_rank(step, workdir, step.env)

    assert fakes.calls("apptainer") == []


def test_rank_script_scratch_folder_is_private(workdir: Path, fakes: Any) -> None:
    fakes.put("apptainer", DUMP)
    spec = boxed(composed(*TWO_BY_TWO))
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir / "s p")))
    step = step_of(planned(spec), 0, 0)

    run_rank(step, workdir, step.env)

    assert (workdir / "s p" / "fairlead-digits-1-0").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_rank_script_hands_on_the_cards_that_slurm_gave(workdir: Path, fakes: Any, name: str) -> None:
    fakes.put("apptainer", DUMP)
    spec = boxed(composed(*A100))
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir)))
    step = step_of(planned(spec), 0, 0)

    got = run_rank(step, workdir, {**step.env, name: "2,3"})
    without = run_rank(step, workdir, step.env)

    assert got["env"][f"APPTAINERENV_{name}"] == "2,3"
    assert f"APPTAINERENV_{name}" not in without["env"]


def test_last_rank_of_a_node_removes_what_its_containers_had_there(tmp_path: Path, fakes: Any) -> None:
    """And nobody as long as ranks of another node run there, where nodes have a disk in common."""
    fakes.put("apptainer")
    spec = boxed(composed(*TWO_BY_TWO, *COMMAND))
    site = dataclasses.replace(spec.site, scratch_dir=str(tmp_path / "disk"))
    step = step_of(planned(dataclasses.replace(spec, site=site)), 0, 0)
    begin, end = (text.replace("/opt/python", "true") for text in (step.rank_script, step.rank_end))
    begin = begin.replace(">> /runs/digits-1/members/0/attempt-0/", f">> {tmp_path}/")

    def run(text: str, rank: int) -> list[str]:
        """What there is after it."""
        names = {"SLURM_STEP_ID": "3", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % 2)}
        env = {"PATH": os.environ["PATH"], "WORLD_SIZE": "4", "NODE_RANK": "0", **names}
        done = subprocess.run(["sh", "-c", text], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [folder for folder in step.folders if Path(folder).exists()]

    for rank in range(4):
        assert run(begin, rank) == list(step.folders)
    assert [len(run(end, rank)) for rank in (2, 3, 0, 1)] == [2, 2, 2, 0]
    assert run(begin, 0) == list(step.folders) and len(run(end, 0)) == 2, "its neighbour has not begun"
    assert run(begin, 1) == list(step.folders) and run(end, 1) == []
    assert len(step.folders) == 2
