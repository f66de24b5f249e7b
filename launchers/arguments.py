"""What each verb takes on its command line. What it does with it is verbs/'s."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path


def overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="group=option or key=value, Hydra's grammar")
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep: values with commas make several members")
    parser.add_argument("--config-dir", action="append", default=[], type=Path, metavar="DIR",
                        help="a folder of your own groups and options (also FAIRLEAD_CONFIG_DIR)")  # fmt: skip


def launch_options(parser: argparse.ArgumentParser) -> None:
    overrides(parser)
    parser.add_argument("--wait", action="store_true", help="stay until the job has ended")
    parser.add_argument("--follow", action="store_true", help="stay, and print what the ranks say")


def launch_words(command: Sequence[str]) -> argparse.Namespace:
    """The options of a command that launched something. Of one that was not the verb `launch` nothing is known."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", action="store_true")
    launch_options(parser)
    words = list(command[2:]) if "launch" in command[1:2] else []
    return parser.parse_known_intermixed_args(words)[0]


def plan_options(parser: argparse.ArgumentParser) -> None:
    overrides(parser)
    parser.add_argument("--member", type=_number, default=0, help="whose step is shown (default 0)")
    parser.add_argument("--rank", type=_number, default=0, help="whose environment is shown (default 0)")


def explained(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", nargs="*", metavar="KEY", help="such as train, machine.mem_gb, data.images, engine")


def nothing(parser: argparse.ArgumentParser) -> None:
    """The verb takes no more than --json."""


def job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", nargs="?", help="job id, the beginning of one, or a run folder (default: the newest)")


def named_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="job id, the beginning of one, or a run folder")


def wait_options(parser: argparse.ArgumentParser) -> None:
    job(parser)
    parser.add_argument("--timeout-s", type=_amount, default=None, help="give up after so many seconds (exit code 3)")


def logs_options(parser: argparse.ArgumentParser) -> None:
    job(parser)
    parser.add_argument("--member", type=_number, help="only this member's")
    parser.add_argument("--rank", type=_number, help="only this rank's")
    parser.add_argument("--follow", action="store_true", help="go on until the job ends")
    parser.add_argument("--errors", action="store_true", help="only why members failed")


def retry_options(parser: argparse.ArgumentParser) -> None:
    named_job(parser)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE",
                        help="with another machine, accelerator, container, launcher.sbatch or guard of job:\n"
                             "machine.nodes=1 machine.ranks_per_node=1 job.restarts.crash=2")  # fmt: skip
    parser.add_argument("--config-dir", action="append", default=[], type=Path, metavar="DIR",
                        help="a folder of your own groups and options, besides those of the launch")  # fmt: skip
    parser.add_argument("--failed", action="store_true", help="every member that failed (the default)")
    parser.add_argument("--member", type=_number, action="append", help="this member (may be given again)")


def best_options(parser: argparse.ArgumentParser) -> None:
    job(parser)
    parser.add_argument("--member", type=_number, help="this one's values instead, such as another of the Pareto set")


def extend_options(parser: argparse.ArgumentParser) -> None:
    named_job(parser)
    parser.add_argument("--trials", type=_number, metavar="N", help="trials in all, more than now")
    parser.add_argument("--wall-min", type=_number, metavar="N", help="minutes since the first trial (limits.wall_min)")
    parser.add_argument("--gpu-hours", type=_amount, metavar="X", help="GPU-hours of all trials (limits.gpu_hours)")
    parser.add_argument("--max-failed", type=_number, metavar="N", help="trials that may fail (limits.max_failed)")
    what = "go on, though the target was reached, nothing got better, or trials failed alike"
    parser.add_argument("--again", action="store_true", help=what)


def report_options(parser: argparse.ArgumentParser) -> None:
    job(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to (default: report.html in the run folder)")


def prove_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="the job, as for launch")
    parser.add_argument("--config-dir", action="append", default=[], type=Path, metavar="DIR")
    parser.add_argument("--kills", type=_number, default=4, metavar="N", help="how often it is stopped (default 4)")
    parser.add_argument("--seed", type=_number, default=1, help="draws when and how (default 1)")
    parser.add_argument("--keep", action="store_true", help="keep both runs; otherwise only when they differ")


def image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("build", "pull", "list", "verify", "prune"))
    what = "option of the container group, such as pytorch-cpu; or docker://host/name:tag, oras://...; or a Dockerfile"
    parser.add_argument("name", nargs="?", help=what)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as site=mine")
    parser.add_argument("--config-dir", action="append", default=[], type=Path, metavar="DIR")
    parser.add_argument("--yes", action="store_true", help="prune: remove what it otherwise only lists")
    layers = "prune: of what was installed for jobs,"
    parser.add_argument(
        "--days", type=_amount, default=30.0, help=f"{layers} keep what was used so lately (default: 30)"
    )
    parser.add_argument("--gb", type=_amount, help=f"{layers} keep at most so much; what was not used longest goes")


def pool_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("up", "down", "list"))
    parser.add_argument("name", nargs="?", help="what it is called: launcher=pool launcher.pool=NAME")
    what = "up: what it holds (machine=cpu-small machine.nodes=2 accelerator=h100 machine.time_limit_min=240)"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=what)
    parser.add_argument("--config-dir", action="append", default=[], type=Path, metavar="DIR")
    parser.add_argument("--wait", action="store_true", help="up: stay until it runs")
    parser.add_argument("--force", action="store_true", help="down: also when jobs are in it, which end with it")


def shell_options(parser: argparse.ArgumentParser) -> None:
    named_job(parser)
    parser.add_argument("--member", type=_number, help="beside this member (default: the first that runs)")
    parser.add_argument("--rank", type=_number, default=0, help="on this rank's node (default 0)")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="run this and return, in place of a shell")


def notebook_options(parser: argparse.ArgumentParser) -> None:
    what = "where and in what: launcher=slurm machine=gpu-1 container=mine; or a notebook's JOB, to see it again"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=what)
    parser.add_argument("--config-dir", action="append", default=[], type=Path, metavar="DIR")


def _number(text: str) -> int:
    """A whole number, 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _amount(text: str) -> float:
    """A number, 0 or more."""
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 0 or more")
    return amount
