"""A callback of Hydra's that runs with a member: tells Fairlead what the application's function returned or raised.

A number is the metric `objective`, several are objective_0, objective_1, ...; numbers with names keep them.
It needs nothing but Hydra, so that it runs in any container that an application runs in.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


class Returned(Callback):
    """Chosen by launchers/hydra_app/application.py."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """To the application it is a job of a sweep, which is what it is, with a number that needs no environment."""
        hydra = config.hydra
        with read_write(hydra), open_dict(hydra):
            hydra.mode = RunMode.MULTIRUN
            hydra.job.num, hydra.job.id, hydra.sweep.dir = hydra.job.num, hydra.job.id, hydra.sweep.dir

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        rank, value = os.environ.get("RANK", "0"), None
        if job_return.status == JobStatus.COMPLETED:
            value = _plain(job_return.return_value)
        else:
            _write("rank-" + rank + ".error.json", _error(job_return._return_value, int(rank)))
        if rank == "0":
            self._report(value)
            self._write_down(config, job_return, value)

    def _report(self, value: Any) -> None:
        metrics = _metrics(value)
        if metrics and (path := os.environ.get("FAIRLEAD_REPORTS")):
            with Path(path).open("a", encoding="utf-8") as reports:
                reports.write(json.dumps({"metrics": metrics}) + "\n")
        elif value is not None:
            print(f"fairlead: {type(value).__name__} is no number, so it is not reported", file=sys.stderr)

    def _write_down(self, config: DictConfig, job_return: Any, value: Any) -> None:
        hydra = config.hydra
        subdir = hydra.output_subdir
        document = {
            "value": value,
            "is_tuple": isinstance(value, tuple),
            "overrides": OmegaConf.to_container(hydra.overrides.task),
            "working_dir": job_return.working_dir,
            "task_name": job_return.task_name,
            "config_dir": str(Path(hydra.runtime.output_dir) / subdir) if subdir is not None else None,
        }
        _write("returned.json", document)


def _error(error: BaseException, rank: int) -> dict[str, Any]:
    """As launchers/outcome.py reads it."""
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return {
        "t": time.time(),
        "rank": rank,
        "host": socket.gethostname(),
        "type": type(error).__name__,
        "message": str(error)[:2000],
        "traceback": "".join(traceback.format_exception(error))[-20_000:],
        "cause": "out_of_memory" if is_memory else "user_error",
    }


def _write(name: str, document: Mapping[str, Any]) -> None:
    """Into the folder of the attempt, whole or not at all."""
    folder = Path(os.environ["FAIRLEAD_ATTEMPT_DIR"])
    aside = folder / f".{name}.{os.getpid()}"
    aside.write_text(json.dumps(document), encoding="utf-8")
    aside.replace(folder / name)


def _plain(value: Any) -> Any:
    """As JSON can hold it: a number for what has one (`item()` of NumPy and torch), None for what it cannot."""
    if isinstance(value, str | int | float) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each) for each in value) if type(value) in (list, tuple) else [*map(_plain, value)]
    try:
        return _plain(value.item())
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None


def _metrics(value: Any) -> dict[str, float | str]:
    named: Mapping[str, Any] = {"objective": value}
    if isinstance(value, Mapping):
        named = value
    elif isinstance(value, list | tuple):
        named = {f"objective_{i}": each for i, each in enumerate(value)}
    numbers = {k: v for k, v in named.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {name: _word(float(number)) for name, number in numbers.items()}


def _word(number: float) -> float | str:
    """NaN and infinities as words: JSON has none."""
    return number if number - number == 0 else str(number)
