"""The verb `best`: the winning values of a search or a grid, and a file and a command that run them again.

Which member won is sweeps/best.py's, what the file says rerun.py's, how it looks show_search.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.errors import Problem, SpecError
from launchers.folders import config_dirs
from launchers.run_folder.record import Run, make_private, read_json, rows_of, write_text
from launchers.search import rerun
from launchers.search.compared import Compared, compared
from launchers.search.standing import trial_document
from sweeps.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Best:
    """What won, and how to run it again."""

    of: Compared
    trial: Trial
    """The best one, or the one that was asked for."""
    file: Path
    """An experiment of Hydra's."""
    command: tuple[str, ...]
    """Runs it, as the launch did what is not swept."""
    differences: tuple[str, ...]
    """In what that command would not repeat the member, as for a YAML file that was changed since."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        of = self.of
        return {
            "job": of.run.id,
            "goals": [{"metric": goal.metric, "goal": goal.goal} for goal in of.goals],
            "measurement": of.search.measurement,
            "trials": len(of.trials),
            "best": trial_document(of, self.trial),
            **({"pareto": [trial_document(of, trial) for trial in of.front]} if len(of.goals) > 1 else {}),
            "experiment": str(self.file),
            "command": list(self.command),
            "differences": list(self.differences),
        }


def best(run: Run, member: int | None = None) -> Best:
    """The winner (or this member) of what has ended so far, written down as an experiment in the run folder.

    Raises SpecError for a job with nothing to compare, and when no feasible member has a value yet.
    """
    of = compared(run)
    trial = _chosen(of, member)
    (row,) = rows_of(run, {trial.number})
    spec = {**read_json(run.spec), **row["sections"]}
    origin = read_json(run.provenance) or {}
    said = rerun.said_by(origin.get("command") or [], Path(origin.get("cwd") or Path.cwd()), trial.point)
    name = f"{run.id}_best" if trial is of.best else f"{run.id}_{trial.number}"
    folder = run.path / "best"
    overrides = [f"experiment={name}", *said.rest]
    command = ["fairlead", "launch", *_options([folder, *said.config_dirs]), *overrides]
    file = make_private(folder / "experiment") / f"{name}.yaml"
    head = [f"trial {trial.number} of {run.id}: {_values(of, trial)}", "made by `fairlead best`"]
    write_text(file, rerun.experiment_text(said, trial.point, spec, head))
    differences = rerun.differences(overrides, [*config_dirs(), folder, *said.config_dirs], spec)
    if trial.parent is not None:
        differences.append(f"it begins from nothing, and trial {trial.number} went on from trial {trial.parent}")
    return Best(of=of, trial=trial, file=file, command=tuple(command), differences=tuple(differences))


def _chosen(of: Compared, member: int | None) -> Trial:
    """Raises SpecError where there is none."""
    if member is None:
        if of.best is None:
            kept = " and keeps the constraints" if of.search.constraints else ""
            metrics = ", ".join(goal.metric for goal in of.goals)
            what = f"no member of {of.run.id} has ended with a value of {metrics}{kept}"
            do = f"look at it: fairlead status {of.run.id}"
            if any(trial.state == "SUCCEEDED" for trial in of.trials) or _never_reported(of):
                do = f"let its program report {metrics}, and job.metrics say how (hypertune, jsonl, pattern, ...)"
            raise SpecError([Problem(what, f"job {of.run.id}", do)])
        return of.best
    for trial in of.trials:
        if trial.number == member:
            return trial
    what = f"member {member} of {of.run.id} has no values yet"
    raise SpecError([Problem(what, f"--member {member}", "name one that has started")])


def _never_reported(of: Compared) -> bool:
    """Whether trials ran to their end and said nothing of what counts, which a search takes for failures."""
    return any(trial.error.startswith("it never reported") for trial in of.trials)


def _options(folders: Sequence[Path]) -> list[str]:
    return [word for folder in folders for word in ("--config-dir", _short(folder))]


def _short(folder: Path) -> str:
    """Relative to where the user stands, when it is below; else whole."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def _values(of: Compared, trial: Trial) -> str:
    return ", ".join(f"{metric} {value:.6g}" for metric, value in of.values(trial).items()) or trial.state
