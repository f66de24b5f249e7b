"""The verbs of the command: which function each calls. What it takes is arguments.py's.

Imports stand inside these functions, so that a verb pays only for what it needs (`status` loads neither Hydra nor
MLflow). What a verb does is in the file of its name; how it looks is show.py's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from launchers import arguments as takes
from launchers.verbs import looking, providing, starting, steering

Verb = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]
VERBS: dict[str, Verb] = {
    "launch": (takes.launch_options, starting.launch),
    "plan": (takes.plan_options, starting.plan),
    "check": (takes.overrides, starting.check),
    "explain": (takes.explained, looking.explain),
    "status": (takes.job, looking.status),
    "list": (takes.nothing, looking.list_jobs),
    "logs": (takes.logs_options, looking.logs),
    "wait": (takes.wait_options, steering.wait),
    "best": (takes.best_options, looking.best),
    "report": (takes.report_options, looking.report),
    "extend": (takes.extend_options, steering.extend),
    "cancel": (takes.named_job, steering.cancel),
    "retry": (takes.retry_options, steering.retry),
    "sync": (takes.job, steering.sync),
    "prove": (takes.prove_options, starting.prove),
    "image": (takes.image_options, providing.image),
    "pool": (takes.pool_options, providing.pool),
    "shell": (takes.shell_options, providing.shell),
    "notebook": (takes.notebook_options, starting.notebook),
}
