"""Where a run comes from; and what of it must not be written down."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from conf.schema import Component
from launchers.run_folder import provenance
from launchers.run_folder.fingerprint import fingerprint_of
from launchers.run_folder.snapshot import Snapshot

NOTHING = Snapshot("/", 0, ())
"""Of a project that is in no repository."""


def said(*words: str, cwd: Path = Path("/")) -> str:
    return json.dumps(provenance.gather(("fairlead", "launch", *words), cwd, NOTHING))


@pytest.mark.parametrize(
    "word",
    [
        "container.env.WANDB_API_KEY=hunter2",
        "container.env.MY_TOKEN=hunter2",
        "++container.env.DB_PASSWORD=hunter2",
        "+site.env.SECRET_THING=hunter2",
        "container.env.AWS_CREDENTIAL=hunter2",
        "container.env={HF_TOKEN: hunter2}",
        "container.env={A: b, HF_TOKEN: hunter2}",
        "container={env: {password: 'hunter2'}}",
        "container.env.MY_TOKEN=hunter2=hunter2",
        "'container.env.MY_TOKEN'=hunter2",
    ],
)
def test_provenance_secret_of_the_command_line_is_masked(word: str) -> None:
    assert "hunter2" not in said(word)


@pytest.mark.parametrize("word", ["train.epochs=3", "-m", "data.path=/a=b"])
def test_provenance_other_words_are_as_they_were(word: str) -> None:
    found = provenance.gather(("fairlead", "launch", word), Path("/"), NOTHING)["command"]

    assert found[:2] == ["fairlead", "launch"]
    assert found[2] == word


def test_provenance_environment_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")

    assert "hunter2" not in said()


def test_provenance_names_packages_and_host(workdir: Path) -> None:
    found = provenance.gather(("x",), workdir, NOTHING)

    assert {"hydra-core", "omegaconf", "submitit"} <= set(found["packages"])
    assert set(found["host"]) == {"name", "system", "python", "cpus"}
    assert found["cwd"] == str(workdir)


def test_provenance_git_says_what_was_edited(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "net.py").write_text("width = 8\n")
    git = ["git", "-C", str(project), "-c", "user.name=ada", "-c", "user.email=ada@x"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = provenance.gather(("x",), project, Snapshot(str(project), 1, ()))["git"]
    (project / "net.py").write_text("width = 16\n")
    edited = provenance.gather(("x",), project, Snapshot(str(project), 1, ()))["git"]
    (project / "new.py").touch()
    unknown = provenance.gather(("x",), project, Snapshot(str(project), 1, ()))["git"]

    assert re.fullmatch("[0-9a-f]{40}", clean["revision"])
    assert (clean["dirty"], clean["diff"], clean["diff_sha256"]) == (False, "", None)
    assert edited["revision"] == clean["revision"] and edited["dirty"]
    assert "-width = 8\n+width = 16\n" in edited["diff"]
    assert edited["diff_sha256"] == hashlib.sha256(edited["diff"].encode()).hexdigest()
    assert unknown["dirty"], "a file that git does not know may be the one that matters"


def test_fingerprint_of_files_changes_with_a_name_a_size_or_a_time(tmp_path: Path) -> None:
    data = Component(kind="table", options={"path": str(tmp_path), "target": "y"})
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")

    def now() -> str:
        return str(fingerprint_of(data)["digest"])

    digests = [now(), now()]
    (tmp_path / "a.csv").write_text("x,y\n1,22\n")
    digests.append(now())
    os.utime(tmp_path / "a.csv", (1, 1))
    digests.append(now())
    (tmp_path / "a.csv").rename(tmp_path / "b.csv")
    digests.append(now())

    assert digests[0] == digests[1] and len(set(digests)) == 4
    assert fingerprint_of(data)["of"] == f"names, sizes and times of 1 file(s) below {tmp_path}"
    assert fingerprint_of(Component(kind="table", options={"path": "s3://b/x"}))["of"] == "the source and its options"


def test_fingerprint_of_a_built_in_set_is_its_name_and_options() -> None:
    digits, iris = (fingerprint_of(Component(kind="sklearn", options={"set": name})) for name in ("digits", "iris"))

    assert digits["digest"] != iris["digest"] and digits["digest"].startswith("sha256:")
