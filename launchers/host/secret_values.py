"""The values of a job's secrets, asked for where and when an attempt starts: on the node, by its supervisor.

What goes wrong is said without a word of what a file holds or a command prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from conf.masking import SHORTEST
from conf.schema import Secret
from launchers.command import output_of
from launchers.errors import CommandError, SiteError
from launchers.host.piped import PASSED
from launchers.plan import Plan
from launchers.run_folder import kept

COMMAND_S = 60.0
MOST_BYTES = 100_000
"""The system takes 131072 bytes for one variable (execve(2))."""


def values_of(plan: Plan) -> dict[str, str]:
    """Each secret's. Raises SiteError for the first that cannot be had."""
    waiting = kept.values_in(Path(plan.kept)) if plan.kept else {}
    return {name: value_of(name, secret, waiting) for name, secret in plan.secrets.items()}


def variables_of(values: Mapping[str, str]) -> dict[str, str]:
    """As piped.py wants them."""
    return {f"{PASSED}{name}": value for name, value in values.items()}


def value_of(name: str, secret: Secret, waiting: Mapping[str, str]) -> str:
    """One secret's; `waiting` are those that come from the environment. Raises SiteError."""
    if secret.env is not None:
        source, value = f"the variable {secret.env}", waiting.get(name, "")
    elif secret.file is not None:
        source, value = f"the file {secret.file}", _of_file(name, secret.file)
    else:
        source, value = f"the command {(secret.command or ('?',))[0]}", _of_command(name, secret.command or ())
    value = value.removesuffix("\n").removesuffix("\r")
    size = len(value.encode("utf-8", "surrogateescape"))
    if size < SHORTEST or size > MOST_BYTES or "\0" in value:
        what = f"the value of the secret {name}, from {source}, has {size} bytes" + " and null bytes" * ("\0" in value)
        do = f"give one of {SHORTEST} to {MOST_BYTES} bytes of text: a shorter one cannot be masked in a log"
        raise SiteError(what, where=f"secrets.{name}", do=do)
    return value


def _of_file(name: str, path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as e:
        what = f"the secret {name} cannot be read from {path}: {e.strerror}"
        raise SiteError(what, where=f"secrets.{name}.file", do="name a file that you can read on every node") from None


def _of_command(name: str, command: tuple[str, ...]) -> str:
    try:
        return output_of(command, timeout_s=COMMAND_S)
    except CommandError as e:
        what = f"the command of the secret {name} ({command[0]}) {e.status}; what it said is not shown"
        do = "try it on a node, where it has to work without a terminal"
        raise SiteError(what, where=f"secrets.{name}.command", do=do) from None
