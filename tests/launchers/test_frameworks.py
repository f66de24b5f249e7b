"""Programs of other frameworks, unchanged and for real: what each finds where it is told to look, on two ranks."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from launchers.run_folder.record import read_lines
from tests.cluster.harness import ROOT, Cluster
from tests.launchers.test_programs import IN_IMAGE


@pytest.fixture
def here(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=("tracking=none",))


def log(run: Path, rank: int, attempt: int = 0) -> str:
    return (run / f"members/0/attempt-{attempt}/rank-{rank}.log").read_text()


@pytest.mark.timeout(900)
def test_tensorflow_installed_apart_trains_on_workers_that_meet_and_with_a_parameter_server(here: Cluster) -> None:
    """TensorFlow is in none of the environments of Fairlead: a launch installs it for this program alone, once."""
    try:
        run = here.launch("experiment=tensorflow_digits", "params.epochs=4")
        end = here.wait(run)
        served = here.launch("experiment=tensorflow_servers", "params.epochs=4")
        served_end = here.wait(served)
    finally:
        shutil.rmtree(here.work / "runs/.layers", ignore_errors=True)  # larger than all else that tests keep

    assert end["state"] == "SUCCEEDED", log(run, 0)
    assert importlib.util.find_spec("tensorflow") is None
    assert [line for rank in (0, 1) for line in log(run, rank).splitlines() if line.endswith(" of 2")] == [
        "chief 0 of 2",
        "worker 0 of 2",
    ]
    assert end["result"]["metrics"]["val/accuracy"] > 0.9
    assert [row["step"] for row in read_lines(run / "members/0/attempt-0/reports.jsonl")] == [1, 2, 3, 4]
    assert (run / "members/0/model/model.keras").stat().st_size > 0
    installed = json.loads((run / "provenance.json").read_text())["installed"][0]["packages"]
    assert any(package.startswith("tensorflow_cpu==") for package in installed)
    assert served_end["state"] == "SUCCEEDED", log(served, 0)
    assert served_end["result"]["metrics"]["val/accuracy"] > 0.8
    roles = ("worker 0", "worker 1", "ps 0")
    assert [f"{role} serves" in log(served, rank) for rank, role in enumerate(roles, 1)] == [True] * 3
    assert (served / "members/0/model/weights.npz").stat().st_size > 0


def test_r_program_reports_and_leaves_a_model_and_a_grid_of_it_finds_the_best(here: Cluster) -> None:
    if shutil.which("Rscript") is None:
        pytest.skip("needs R: the package r-base-core")

    run = here.launch("-m", "experiment=r_iris", "container=none", "params.degree=1,3")
    end = here.wait(run)

    assert end["state"] == "SUCCEEDED", log(run, 0)
    assert end["result"]["metrics"]["val/r2"] > 0.9
    assert [len(list(run.glob(f"members/{member}/model/model.rds"))) for member in (0, 1)] == [1, 1]


LOOPS = """
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "loops"
version = "1.0"
dependencies = ["accelerate==1.15.0", "pytorch-lightning==2.6.6"]

[tool.hatch.build.targets.wheel]
packages = ["loops"]
"""
BY_LIGHTNING = """
import os
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        loss = torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3)

x = torch.linspace(-1, 1, 64)[:, None]
trainer = lightning.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=5, log_every_n_steps=1,
    logger=TensorBoardLogger(os.environ["AIP_TENSORBOARD_LOG_DIR"]),
    callbacks=[lightning.callbacks.ModelCheckpoint(os.environ["AIP_CHECKPOINT_DIR"], save_last=True)],
    enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(Line(), DataLoader(TensorDataset(x, 2 * x), batch_size=8))
print(f"rank {trainer.global_rank} of {trainer.world_size}", flush=True)
os._exit(0)
"""
BY_ACCELERATE = """
import os
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

accelerator = Accelerator(cpu=True)
x, model = torch.linspace(-1, 1, 64)[:, None], torch.nn.Linear(1, 1)
loader = DataLoader(TensorDataset(x, 2 * x), batch_size=8)
model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.3), loader)
for epoch in range(5):
    for inputs, targets in loader:
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.print(f"epoch={epoch + 1} loss={accelerator.gather(loss.detach()[None]).mean().item():.6f}")
print(f"rank {accelerator.process_index} of {accelerator.num_processes}", flush=True)
accelerator.end_training()
os._exit(0)
"""


@pytest.mark.timeout(900)
def test_lightning_and_accelerate_installed_beside_torch_meet_on_two_ranks_and_report(here: Cluster) -> None:
    """Lightning finds the ranks that are there; Accelerate is started by torchrun, which is its own way.

    Both end without the interpreter's shutdown, in which torch's gloo aborts a rank that is done now and then
    (trainer/leave.py): seen here once with Accelerate, `terminate called without an active exception`.
    """
    (here.work / "mine/loops").mkdir(parents=True)
    (here.work / "mine/pyproject.toml").write_text(LOOPS)
    for name, text in (("__init__", ""), ("by_lightning", BY_LIGHTNING), ("by_accelerate", BY_ACCELERATE)):
        (here.work / f"mine/loops/{name}.py").write_text(text)
    mine = Cluster(here.work, (*here.first, "job=module", "job.source=mine", "objective.metric=loss"))
    events = ("job.metrics.kind=tensorboard", "job.metrics.path='logs/lightning_logs/version_*'")
    lines = ("job.metrics.kind=pattern", "job.metrics.pattern='epoch=(?P<step>[0-9]+) loss=(?P<loss>[0-9.]+)'")
    torchrun = "job.arguments=['--standalone','--nproc-per-node=2','-m',loops.by_accelerate]"

    lightning = mine.launch("job.module=loops.by_lightning", "machine.ranks_per_node=2", *events, "name=lightning")
    accelerate = mine.launch("job.module=torch.distributed.run", torchrun, *lines, "name=accelerate")

    ends = {run: mine.wait(run) for run in (lightning, accelerate)}
    assert [end["state"] for end in ends.values()] == ["SUCCEEDED"] * 2, [log(run, 0) for run in ends]
    said = {run: "\n".join(path.read_text() for path in run.glob("members/0/attempt-0/rank-*.log")) for run in ends}
    # What torchrun starts shares one output: a line of one may begin in that of another.
    ranks = [sorted(re.findall(r"rank \d of \d", text)) for text in said.values()]
    assert ranks == [["rank 0 of 2", "rank 1 of 2"]] * 2
    assert all(end["result"]["metrics"]["loss"] < 0.1 for end in ends.values())
    assert (lightning / "members/0/checkpoints/last.ckpt").exists()
    (layer,) = (here.work / "runs/.layers").glob("*/modules")
    assert (layer / "pytorch_lightning").is_dir() and not (layer / "torch").exists()


UNDER_TORCHRUN = """
import os, pathlib
import torch, torch.distributed as dist

dist.init_process_group("gloo")
total = torch.ones(1) + dist.get_rank()
dist.all_reduce(total)
said = f"{dist.get_rank()} of {dist.get_world_size()}: {total.item():g}, local {os.environ['LOCAL_RANK']}"
pathlib.Path(os.environ["AIP_MODEL_DIR"], f"worker-{dist.get_rank()}").write_text(said)
dist.barrier()
os._exit(0)
"""
MEETS = "exec torchrun --nnodes=$NNODES --node-rank=$NODE_RANK --rdzv-endpoint=$MASTER_ADDR:$MASTER_PORT train.py\n"


@pytest.mark.apptainer
@pytest.mark.parametrize(
    ("command", "pools", "local"),
    [
        ("[torchrun,--nproc-per-node,'2',--standalone,train.py]", (), "01"),
        ("[sh,meets.sh]", ("pools=[{},{job: {command: [sh,meets.sh]}}]",), "00"),
    ],
    ids=["standalone", "where the job says"],
)
def test_torchrun_in_an_image_starts_workers_that_meet(
    here: Cluster, command: str, pools: tuple[str, ...], local: str
) -> None:
    """By itself in one container, or from two, each with a worker, at the address that the environment names."""
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    (here.work / "train.py").write_text(UNDER_TORCHRUN)
    (here.work / "meets.sh").write_text(MEETS)

    run = here.launch("job=command", f"job.command={command}", "job.metrics.kind=none", *pools, *IN_IMAGE)

    assert here.wait(run)["state"] == "SUCCEEDED", here.fairlead("logs", str(run)).stdout
    said = [(run / f"members/0/model/worker-{rank}").read_text() for rank in (0, 1)]
    assert said == [f"{rank} of 2: 3, local {local[rank]}" for rank in (0, 1)]
