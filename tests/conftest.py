"""What all tests stand on: a private folder to work in, the real command, fake executables, golden files.

`--update-golden` rewrites tests/golden; the review is the diff. FAIRLEAD_STRICT=1 turns a skipped test into
a failure, for a machine that is supposed to have everything.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A test run in the background of a shell ignores a terminal's keys, and so would all that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# How long an example takes is the machine's, which others use too.
hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared")

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"

RECORDER = """\
#!{python} -IS
import json, os, sys
with open({log!r}, "a", encoding="utf-8", errors="surrogateescape") as f:
    f.write(json.dumps({{"name": {name!r}, "argv": sys.argv[1:], "env": dict(os.environ)}}) + "\\n")
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew instead of comparing")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    return _strict(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    return _strict(report)


def _strict(report: Any) -> Any:
    """The report, failed instead of skipped where everything is supposed to run."""
    if os.environ.get("FAIRLEAD_STRICT") == "1" and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and FAIRLEAD_STRICT=1 allows no skipping: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of the fault campaign (tests/chaos), if it ran: printed, and kept in the cache folder of the tests."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    rows = [value for report in reports for name, value in report.user_properties if name == "chaos"]
    if rows:
        from tests.chaos.table import text

        said = text(sorted(rows, key=lambda row: row["case"]))
        terminalreporter.section("faults")
        terminalreporter.write_line(said)
        if cache := getattr(config, "cache", None):
            where = "-".join(sorted({row["launcher"] for row in rows}))
            (cache.mkdir("chaos") / f"{where}.txt").write_text(f"{said}\n")


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, with a home and a state folder that are nobody's."""
    work = tmp_path / "work"
    for folder in (work, tmp_path / "home", tmp_path / "state"):
        folder.mkdir()
    for name in [n for n in os.environ if n.startswith(("SLURM", "SBATCH", "FAIRLEAD_CONFIG", "MLFLOW", "GIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(work)
    return work


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fairlead(workdir: Path) -> Command:
    """The real command in a process of its own: `fairlead("plan", "experiment=digits")`."""

    def run(*words: str, env: Mapping[str, str] | None = None, timeout_s: float = 60, **more: Any) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "launchers.cli", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            **more,
        )

    return run


@dataclass(frozen=True)
class Fakes:
    """Executables of ours that stand first on PATH and write down how they were called."""

    folder: Path
    log: Path
    texts: dict[str, str] = field(default_factory=dict)
    """Python bodies that a test may vary."""

    def put(self, name: str, python: str = "") -> Path:
        """An executable with this Python body, which sees `sys`, `os` and `json`."""
        path = self.folder / name
        text = RECORDER.format(python=sys.executable, log=str(self.log), name=name) + python
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def calls(self, name: str) -> list[dict[str, Any]]:
        """`argv` and `env` of every call so far."""
        text = self.log.read_text(encoding="utf-8", errors="surrogateescape") if self.log.exists() else ""
        whole = text.split("\n")[:-1]  # another may be written just now
        return [row for line in whole if (row := json.loads(line))["name"] == name]

    def alone(self, monkeypatch: pytest.MonkeyPatch, *real: str) -> None:
        """Nothing but the fakes is on PATH, and these real commands."""
        for name in real:
            found = shutil.which(name)
            assert found, f"{name} is not on this machine"
            (self.folder / name).symlink_to(found)
        monkeypatch.setenv("PATH", str(self.folder))


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """An empty folder of fakes, first on PATH."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Fakes(folder, tmp_path / "fakes.jsonl")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with tests/golden/<name>."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        wanted = path.read_text(encoding="utf-8") if path.exists() else ""
        if text != wanted:
            sides = (wanted.splitlines(), text.splitlines())
            diff = "\n".join(difflib.unified_diff(*sides, f"golden/{name}", "now", lineterm=""))
            pytest.fail(f"{diff}\n(--update-golden writes it anew)", pytrace=False)

    return compare


@pytest.fixture
def sif(tmp_path: Path) -> Path:
    """A file that begins as a SIF does."""
    path = tmp_path / "image.sif"
    path.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + b"01\0" + bytes(64))
    return path


# --- a Slurm that queues and never starts -------------------------------------------------------------

SBATCH = """
import re, time
if sys.argv[1:2] == ["--version"]:
    print("slurm-wlm 22.05.8"); sys.exit()
time.sleep(float(os.environ.get("FAKE_BEFORE", 0)))
text = open(sys.argv[1]).read()
name = re.search("#SBATCH --job-name=(.*)", text)[1]
queue = os.environ["FAKE_QUEUE"]
number = 100 + sum(1 for _ in open(queue)) if os.path.exists(queue) else 100
with open(queue, "a") as f:
    f.write(json.dumps({"id": number, "name": name, "array": (re.search("#SBATCH --array=(.*)", text) or [0, ""])[1],
                        "after": (re.search("afterany:(.*)", text) or [0, ""])[1]}) + "\\n")
time.sleep(float(os.environ.get("FAKE_AFTER", 0)))
print("Submitted batch job", number)
"""
SQUEUE = """
queue = os.environ["FAKE_QUEUE"]
jobs = [json.loads(line) for line in open(queue)] if os.path.exists(queue) else []
names = sys.argv[sys.argv.index("--name") + 1].split(",")
for j in jobs:
    if j["name"] in names:
        print(j["id"], j["array"] or "N/A", j["name"], "PENDING", "Priority", sep="|")
"""
SACCT = """
queue = os.environ["FAKE_QUEUE"]
jobs = [json.loads(line) for line in open(queue)] if os.path.exists(queue) else []
names = sys.argv[sys.argv.index("--name") + 1].split(",")
for j in jobs:
    if j["name"] in names:
        print(j["id"], j["name"], "COMPLETED", sep="|")
"""


@pytest.fixture
def cluster(fakes: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fake sbatch, squeue, sacct and scancel. What was queued stands in queue.jsonl of the work folder."""
    monkeypatch.setenv("FAKE_QUEUE", str(workdir / "queue.jsonl"))
    fakes.put("sbatch", SBATCH)
    fakes.put("squeue", SQUEUE)
    fakes.put("sacct", "pass")
    fakes.put("scancel")
    fakes.texts.update(sbatch=SBATCH, sacct=SACCT)
    return fakes


@pytest.fixture
def slurm_run(workdir: Path) -> Callable[..., Any]:
    """A frozen run with launcher slurm, not submitted: `run, plan = slurm_run(members=4)`."""
    from launchers.plan import plans_document
    from launchers.run_folder.record import Run, append_line, write_json
    from tests.plans import plan_of_run, pool_plan

    def make(members: int = 1, name: str = "d-1") -> tuple[Any, Any]:
        run = Run(workdir / "runs" / name)
        run.path.mkdir(parents=True)
        run.logs.mkdir()
        more: dict[str, Any] = {"launcher": "slurm", "members": members, "max_requeues": 1}
        plan = plan_of_run(run, pool_plan(("true",)), sbatch={"time": 5, "nodes": 1}, **more)
        write_json(run.plan, plans_document([plan]))
        write_json(run.spec, {"name": "d"})
        for index in range(members):
            append_line(run.members_file, {"index": index, "point": {}, "sections": {}})
        return run, plan

    return make
