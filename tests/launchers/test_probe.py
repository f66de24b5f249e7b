"""`fairlead check`: each question put to a fake site, the good answers and the bad ones."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from launchers.config.check import check_all
from launchers.planning import Facts, plan_of
from launchers.probe import Finding, probe
from launchers.search.expand import compose_all

PARTITION = "PartitionName=batch State=UP MaxTime=1-00:00:00"


@functools.cache
def composed(*overrides: str) -> schema.Spec:
    return check_all(compose_all(overrides))[0]


def findings(*overrides: str, members: int = 1) -> list[Finding]:
    spec = composed(*overrides)
    return list(
        probe(spec, plan_of(spec, Facts(job="d-1", run_dir=Path("/runs/d-1"), python="python", members=members)))
    )


def bad(*overrides: str, members: int = 1) -> list[str]:
    return [f.text for f in findings(*overrides, members=members) if not f.good]


SLURM = ("launcher=slurm", "machine=cpu-small", "tracking=none")


@pytest.fixture
def site(fakes: Any, workdir: Path) -> Any:
    """A Slurm that is content with everything."""
    fakes.put("sinfo", "print('batch*')")
    fakes.put("scontrol", f"print('MaxArraySize = 1001' if 'config' in sys.argv else {PARTITION!r})")
    fakes.put(
        "sbatch", "sys.stderr.write('sbatch: Job 5 to start at 2026-01-01T00:00:00 using 1 processors on nodes n1\\n')"
    )
    for name in ("squeue", "scancel", "srun"):
        fakes.put(name)
    return fakes


@pytest.mark.parametrize(("words", "count"), [(("tracking=none", "machine.time_limit_min=3"), 1), (SLURM, 0)])
def test_probe_says_to_what_a_program_is_held_here(site: Any, words: tuple[str, ...], count: int) -> None:
    said = [f for f in findings("experiment=digits", "tracking.register=null", *words) if "is held to" in f.text]

    assert len(said) == count
    assert all(f.good and "machine.time_limit_min (3)" in f.text for f in said)


def test_probe_content_site_has_no_bad_finding(site: Any) -> None:
    found = findings(*SLURM)

    assert [f.text for f in found if not f.good] == []
    assert any("to start at 2026-01-01" in f.text for f in found)


def test_probe_changes_nothing(site: Any, workdir: Path) -> None:
    findings(*SLURM)

    assert list(workdir.iterdir()) == []
    assert [c["argv"][0] for c in site.calls("sbatch")] == ["--test-only"]


def test_probe_local_asks_no_slurm(site: Any) -> None:
    findings("tracking=none")

    assert site.calls("sbatch") == site.calls("scontrol") == []


def test_probe_controllers_refusal_is_told_in_its_words(site: Any) -> None:
    site.put("sbatch", "sys.exit('sbatch: error: Requested node configuration is not available')")

    (text,) = bad(*SLURM, "machine.nodes=2", "machine.max_accelerators=4", "accelerator=a100", "train.batch_size=64")

    assert "Requested node configuration is not available" in text
    assert len(text.splitlines()) == 3
    asked = text.splitlines()[1]
    for words in ("the default partition", "machine.nodes=2", "cpus_per_rank=1", "2048M", "60 min", "gres gpu:a100:1"):
        assert words in asked
    assert "sinfo --format" in text


def test_probe_time_limit_above_the_partitions_is_told_with_both(site: Any) -> None:
    site.put("scontrol", "print('MaxArraySize = 1001' if 'config' in sys.argv else 'State=UP MaxTime=00:30:00')")

    (text,) = bad(*SLURM)

    assert "60" in text
    assert "30" in text


@pytest.mark.parametrize(("members", "said"), [(1001, []), (1002, ["2 arrays"]), (10_000, ["10 arrays"])])
def test_probe_job_longer_than_an_array_says_how_many_it_gets(site: Any, members: int, said: list[str]) -> None:
    texts = [f.text for f in findings(*SLURM, members=members)]

    assert [word for text in texts for word in re.findall(r"gets (\d+ arrays)", text)] == said


def test_probe_no_default_partition_is_told(site: Any) -> None:
    site.put("sinfo", "print('batch')")

    assert any("no default partition" in text for text in bad(*SLURM))


def test_probe_controller_that_is_down_is_told_and_the_rest_still_asked(site: Any) -> None:
    site.put("scontrol", "sys.exit('Unable to contact slurm controller')")

    found = findings(*SLURM)

    assert any("Unable to contact slurm controller" in f.text for f in found if not f.good)
    assert any("to start at" in f.text for f in found)


def test_probe_without_slurm_names_what_is_missing(fakes: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.alone(monkeypatch)

    found = bad(*SLURM)

    assert len(found) == 2
    assert found[0].startswith("Slurm's commands are not on PATH: sbatch, srun, squeue")
    assert "login node" in found[0]
    assert found[1].startswith("not on PATH: flock, timeout")
    assert "util-linux" in found[1]


def test_probe_without_slurm_alone_is_one_finding(fakes: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.alone(monkeypatch, "flock", "timeout")

    (text,) = bad(*SLURM)

    assert text.startswith("Slurm's commands are not on PATH")


def test_probe_without_apptainer_says_what_to_install(
    fakes: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.alone(monkeypatch, "setpriv")

    (text,) = bad("container=pytorch-cpu", "tracking=none")

    assert text.startswith("apptainer was not found on this host, ")
    assert "site.apptainer=apptainer" in text
    assert "install Apptainer" in text


@pytest.fixture
def image(site: Any, sif: Path) -> tuple[str, ...]:
    """Words that choose an image which has `sh` and `python3`, as an Apptainer says that it is."""
    site.put(
        "apptainer",
        """
program = sys.argv[sys.argv.index(next(w for w in sys.argv if w.endswith(".sif"))) + 1:]
if program == ["python3", "--version"]:
    print("Python 3.13.5")
elif program[:2] == ["sh", "-c"] and "no-shell" not in os.environ.get("IMAGE", ""):
    print({"sh": "/bin/sh", "python3": "/usr/bin/python3"}.get(program[-1], ""))
else:
    sys.exit(f'FATAL:   "{program[0]}": executable file not found in $PATH')
""",
    )
    return ("container=pytorch-cpu", f"container.image={sif}", "tracking=none")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "the image runs: image.sif, Python 3.13.5"),
        (("job=command", "job.command=[python3,train.py]"), "the image runs: image.sif, with /usr/bin/python3"),
        (("job=command", "job.command=[./train.sh]"), "the image runs: image.sif"),
    ],
)
def test_probe_image_is_asked_for_what_the_job_needs(image: tuple[str, ...], words: tuple[str, ...], said: str) -> None:
    assert said in [f.text for f in findings(*image, *words) if f.good]


def test_probe_image_without_the_program_of_a_command_is_told(image: tuple[str, ...]) -> None:
    (text,) = bad(*image, "job=command", "job.command=[trian,--fast]")

    assert text.startswith("the image has no program 'trian'")
    assert len(text.splitlines()) == 3


def test_probe_image_without_a_shell_is_no_problem_of_a_command(
    image: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE", "no-shell")

    found = findings(*image, "job=command", "job.command=[serve]")

    assert [f.text for f in found if not f.good] == []
    assert "the image runs: image.sif; it has no shell to ask for serve" in [f.text for f in found]


def test_probe_devices_are_asked_of_this_host_where_it_can_know(image: tuple[str, ...], workdir: Path) -> None:
    words = (*image, f"site.cdi_dirs=[{workdir}/none,{workdir}/cdi]", 'accelerator.cdi=["a.org/b=0"]')
    (lacking,) = bad(*words)
    assert lacking.startswith(f"{socket.gethostname()} has no device a.org/b=0 by CDI; it has no devices")
    elsewhere = findings(*words, *SLURM)
    assert [f.good for f in elsewhere if "a.org/b=0: only the nodes know" in f.text] == [True]

    (workdir / "cdi").mkdir()
    device = {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/full"}]}}
    (workdir / "cdi/a.json").write_text(json.dumps({"cdiVersion": "0.5.0", "kind": "a.org/b", "devices": [device]}))

    assert any("a.org/b=0: this host has" in f.text for f in findings(*words) if f.good)
    (other,) = bad(*words, *SLURM, 'accelerator.cdi=["a.org/b=1"]')
    assert "it has a.org/b=0" in other and len(other.splitlines()) == 3


def test_probe_image_that_does_not_start_is_told(image: tuple[str, ...], site: Any) -> None:
    site.put("apptainer", "sys.exit('FATAL:   while loading: not a SIF image')")

    for words in ((), ("job=command", "job.command=[serve]")):
        (text,) = bad(*image, *words)

        assert "not a SIF image" in text


def test_probe_sbatch_that_hangs_is_told(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    from launchers import probe as module

    real = subprocess.run

    def impatient(*words: Any, **more: Any) -> Any:
        return real(*words, **{**more, "timeout": 0.3})

    site.put("sbatch", "import time; time.sleep(5)")
    monkeypatch.setattr(module.subprocess, "run", impatient)

    assert any("sbatch" in text for text in bad(*SLURM))


def test_probe_folder_that_cannot_be_written_is_told(site: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = workdir / "closed"
    closed.mkdir()
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and may(path, mode))  # root may write anywhere

    (text,) = bad("tracking=none", f"site.runs_dir={closed}/runs")

    assert text.startswith(f"{closed} cannot be written")
    assert f"site.runs_dir={closed}/runs" in text


def test_probe_sqlite_store_is_named(site: Any) -> None:
    assert any("database" in f.text for f in findings())


def test_probe_sqlite_store_that_cannot_be_written_is_told(
    site: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = workdir / "closed"
    closed.mkdir()
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and may(path, mode))  # root may write anywhere

    (text,) = bad(f"tracking.uri=sqlite:///{closed}/mlflow.db")

    assert text.startswith(f"{closed} cannot be written")


def test_probe_database_is_asked_whether_it_listens(site: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        uri = f"postgresql://127.0.0.1:{listening.getsockname()[1]}/mlflow"
        good = [finding for finding in findings(f"tracking.uri={uri}") if "tracking store" in finding.text]
    (gone,) = bad(f"tracking.uri={uri}")

    assert [finding.good for finding in good] == [True] and "answers" in good[0].text
    assert "does not answer" in gone


@pytest.fixture
def server() -> Iterator[Callable[[int], str]]:
    """A tracking server that answers with a status."""
    started = []

    def start(status: int) -> str:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"OK")

            def log_message(self, *_: Any) -> None:
                return

        found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        started.append(found)
        return f"http://127.0.0.1:{found.server_address[1]}"

    yield start
    for found in started:
        found.shutdown()
        found.server_close()


def test_probe_store_that_answers_is_good(site: Any, server: Callable[[int], str]) -> None:
    assert bad(f"tracking.uri={server(200)}") == []


@pytest.mark.parametrize("status", [401, 503])
def test_probe_store_that_refuses_is_told(site: Any, server: Callable[[int], str], status: int) -> None:
    (text,) = bad(f"tracking.uri={server(status)}")

    assert str(status) in text


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://[nonsense", "http://nowhere.invalid:5000", "http://"])
def test_probe_store_that_is_not_there_is_told(site: Any, uri: str) -> None:
    try:
        found = bad(f"tracking.uri='{uri}'")
    except Exception as e:
        assert type(e).__name__ == "SpecError"
        return

    assert len(found) == 1
    assert len(found[0].splitlines()) == 3


def test_check_command_exits_with_3_and_shows_all_answers(site: Any, fairlead: Any) -> None:
    site.put("sbatch", "sys.exit('sbatch: error: no')")

    done = fairlead("check", *SLURM)

    assert done.returncode == 3
    assert {line[:4] for line in done.stdout.splitlines() if not line.startswith("  ")} == {"ok  ", "BAD "}


def test_check_command_as_json_is_a_document(site: Any, fairlead: Any) -> None:
    done = fairlead("check", *SLURM, "--json")

    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert all(set(row) == {"good", "text"} for row in document)


AT_ADDRESS = ("data=tokens", "model=gpt", "data.path=s3://bucket/x", "tracking=none")


@pytest.mark.parametrize("there", [True, False])
def test_probe_package_for_an_address_is_asked_of_the_python_that_trains(site: Any, there: bool) -> None:
    site.put("python", f"print({there})")

    (found,) = [f for f in findings(*AT_ADDRESS) if "s3fs" in f.text]

    assert found.good is there
    assert "data at s3://bucket/x" in found.text
    assert there or "pip install 'fairlead[s3]'" in found.text
    assert site.calls("python")[-1]["argv"][-1] == "s3fs"


def test_probe_package_that_is_not_installed_is_told(site: Any) -> None:
    spec = composed(*AT_ADDRESS)
    elsewhere = {"s3": "fairlead_has_no_such_package"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conf.locations.PACKAGES", elsewhere)
        patch.setattr("conf.locations.EXTRAS", {"fairlead_has_no_such_package": "s3"})
        patch.setattr("conf.locations.VARIABLES", {"fairlead_has_no_such_package": ()})
        plan = plan_of(spec, Facts(job="d-1", run_dir=Path("/runs/d-1"), python=sys.executable, members=1))
        found = [f.text for f in probe(spec, plan) if not f.good]

    assert any("need the Python package fairlead_has_no_such_package" in text for text in found)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("job.command=[pyton3,train.py]",), "no program 'pyton3' on this machine's PATH"),
        (("job.command=[python3,trian.py]",), "script is 'trian.py', which is not among the files that are frozen"),
        (("job.command=[python3,trian.py]", "launcher=slurm"), "did you mean train.py?"),
        (("job=module", "job.module=trian"), "job.module is 'trian', but there is no such module"),
    ],
)
def test_probe_program_that_launch_refuses_is_told(site: Any, workdir: Path, words: tuple[str, ...], told: str) -> None:
    (workdir / "train.py").write_text("")

    assert told in "".join(bad("job=command", "tracking=none", "machine=cpu-small", *words))


def test_probe_program_of_ones_own_that_is_there_is_no_problem(site: Any, workdir: Path) -> None:
    (workdir / "train.py").write_text("")

    assert bad("job=command", "job.command=[python3,./train.py]", "tracking=none") == []
