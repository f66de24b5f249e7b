"""What every engine must do, tried on each file in the folder with one rank."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from conf.schema import Component
from tests.trainer.ranks import ROOT, free_port
from trainer.checkpoints.state import read, rest, write
from trainer.components import kinds, part
from trainer.engines import Engine, Place
from trainer.failure import CardLost, UserError, cause
from trainer.parallel.group import GIVEN, Group, device
from trainer.rank import Rank

ALL = Group(0, 1)
ALONE = Rank(0, 0, 1, 1, 0, ("127.0.0.1", 1))
ADVICE = """
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
"""What torch adds to each error of a card."""
INPUTS, TARGETS = torch.randn(32, 6), torch.randint(3, (32,))


def start(kind: str, precision: str = "fp32", seed: int = 1) -> Engine:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    module, options = part("engine", Component(kind=kind))
    place = Place(ALONE, torch.device("cpu"), precision)
    return module.start(options, place, model, lambda m: torch.optim.AdamW(m.parameters(), lr=0.05))


def train(engine: Engine, steps: int = 8, clip_norm: float | None = None) -> list[float]:
    losses = []
    for _ in range(steps):
        with engine.micro_batch(last=True):
            loss = nn.functional.cross_entropy(engine.forward(INPUTS).float(), TARGETS)
            engine.backward(loss)
        engine.step(1.0, clip_norm)
        losses.append(loss.item())
    return losses


def has_fp16(kind: str) -> bool:
    """Not every CPU has the instructions that DeepSpeed asks for."""
    return kind != "deepspeed" or torch.ops.mkldnn._is_mkldnn_fp16_supported()


@pytest.mark.parametrize("kind", kinds("engine"))
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_engine_learns_in_its_precisions(kind: str, precision: str) -> None:
    if precision == "fp16" and not has_fp16(kind):
        with pytest.raises(UserError, match=r"DeepSpeed does not compute in fp16 on this cpu[\s\S]*engine=ddp"):
            start(kind, precision)
        return

    losses = train(start(kind, precision))

    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("kind", kinds("engine"))
def test_engine_precision_decides_what_forward_computes_in(kind: str) -> None:
    assert start(kind, "bf16").forward(INPUTS).dtype == torch.bfloat16
    assert not start(kind, "bf16").predict(INPUTS).requires_grad


@pytest.mark.parametrize("kind", kinds("engine"))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engine_goes_on_exactly_from_what_it_saved(kind: str, precision: str, tmp_path: Path) -> None:
    precision = precision if has_fp16(kind) else "fp32"
    engine = start(kind, precision)
    train(engine)
    files = write(tmp_path, engine.state(), ALL)
    expected = train(engine)

    again = start(kind, precision, seed=2)
    again.restore(partial(read, tmp_path, group=ALL), rest(tmp_path))

    assert train(again) == expected
    assert sorted(files) == sorted((tmp_path / "state").iterdir())


@pytest.mark.parametrize("kind", kinds("engine"))
def test_engine_micro_batches_add_up(kind: str) -> None:
    whole, parts = start(kind), start(kind)
    train(whole, steps=1)
    for half in (slice(0, 10), slice(10, 32)):
        with parts.micro_batch(last=half.stop == 32):
            losses = nn.functional.cross_entropy(parts.forward(INPUTS[half]), TARGETS[half], reduction="sum")
            parts.backward(losses / 32)
    parts.step(1.0, None)

    ours, theirs = whole.weights(), parts.weights()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)


@pytest.mark.parametrize("kind", kinds("engine"))
def test_engine_step_clips_and_tells_the_norm_before(kind: str) -> None:
    engine = start(kind)
    engine.backward(nn.functional.cross_entropy(engine.forward(1000 * INPUTS), TARGETS))

    norm = engine.step(0.5, clip_norm=1.0)

    assert norm is not None and norm.item() > 1
    assert engine.learning_rate() == pytest.approx(0.025)


@pytest.mark.parametrize("kind", kinds("engine"))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engine_tells_the_norm_where_it_is_wanted_and_no_weight_changes_for_it(kind: str, precision: str) -> None:
    """Of gradients that are not scaled."""
    precision = precision if has_fp16(kind) else "fp32"
    asked, clipped, alone = (start(kind, precision) for _ in range(3))
    for _ in range(3):
        for engine in (asked, clipped, alone):
            engine.backward(nn.functional.cross_entropy(engine.forward(INPUTS).float(), TARGETS))

        norm, theirs = asked.step(1.0, None, norm_wanted=True), clipped.step(1.0, 1e6)

        assert alone.step(1.0, None) is None
        assert norm is not None and theirs is not None
        assert norm.item() == pytest.approx(theirs.item(), rel=1e-6) and 0 < norm.item() < 10

    ours, plain = asked.weights(), alone.weights()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, UserError),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_JOB_GPUS": ""}, UserError),
        ({"CUDA_VISIBLE_DEVICES": "0"}, UserError),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_GPUS": "0,1"}, CardLost),
        ({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "0"}, CardLost),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_GPUS": "0", "ROCR_VISIBLE_DEVICES": "0"}, UserError),
    ],
)
def test_device_that_slurm_gave_and_torch_does_not_see_is_the_nodes_fault(
    environ: dict[str, str], expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", *GIVEN):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)

    with pytest.raises(expected, match="torch sees no card"):
        device("cuda", ALONE)

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(UserError, match="built for this accelerator"):
        device("cuda", ALONE)


@pytest.mark.parametrize("kind", kinds("engine"))
def test_engine_precision_it_does_not_have_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match="cannot compute in fp8"):
        start(kind, "fp8")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_deepspeed_a_norm_for_which_there_is_no_kernel_is_refused_by_name(precision: str) -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    module, options = part("engine", Component(kind="deepspeed"))

    with pytest.raises(UserError, match=rf"narrows all weights to {precision}[\s\S]*model: 1[\s\S]*GroupNorm"):
        module.start(options, Place(ALONE, torch.device("cpu"), precision), model, lambda m: torch.optim.AdamW)


def test_join_a_rank_that_never_comes_is_a_rendezvous_error() -> None:
    script = f"""
from trainer.parallel.group import join
from trainer.rank import Rank
from trainer.checkpoints.state import read, rest, write
from trainer.failure import RendezvousError
try:
    join(Rank(0, 0, 2, 2, 0, ("127.0.0.1", {free_port()})), "gloo", meeting_s=1)
except RendezvousError as e:
    print(e)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)

    assert "rank 0 of 2 did not meet the others" in done.stdout


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("x"), "user_error"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "user_error"),
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (torch.distributed.DistNetworkError("x"), "rendezvous"),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [10.0.0.1]"), "rendezvous"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (torch.AcceleratorError(f"CUDA error: uncorrectable ECC error encountered{ADVICE}"), "crash"),
        (torch.AcceleratorError(f"HIP error: the launch timed out and was terminated{ADVICE}"), "crash"),
        (RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"), "crash"),
        (RuntimeError("CUDA driver error: out of memory"), "out_of_memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "crash"),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "crash"),
        (torch.AcceleratorError(f"CUDA error: device-side assert triggered{ADVICE}"), "user_error"),
        (RuntimeError(f"CUDA error: no kernel image is available for execution on the device{ADVICE}"), "user_error"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"), "user_error"),
        (CardLost("torch sees no card"), "crash"),
    ],
)
def test_cause_of_a_death(error: Exception, expected: str) -> None:
    assert cause(error) == expected


def test_engines_package_names_what_the_loop_calls() -> None:
    callers = "".join(
        (ROOT / "trainer" / name).read_text() for name in ("loop.py", "checkpoints/keeping.py", "assemble.py")
    )
    methods = [name for name in vars(Engine) if not name.startswith("_")]

    assert methods
    assert all(re.search(rf"engine\.{name}\b", callers) for name in methods)
    assert importlib.import_module("trainer.engines").__doc__
