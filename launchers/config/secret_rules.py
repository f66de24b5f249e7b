"""The rules of secrets: where they come from, and which variables they may be.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it. Whether a source has a value
is asked when something is launched (run_folder/kept.py, host/secret_values.py), not here: nodes check points, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from conf.job_schema import Job
from conf.machine_schema import Container
from conf.schema import Secret, Site
from launchers.config import parameters
from launchers.config.command_rules import TAKEN

Finding = tuple[str, str, str]
PLAIN = re.compile(
    r"(?i)(?:^|_)(?:secret|passwd|password|(?:api|access|private|secret|account|encryption)_?key"
    r"|(?:api|auth|access|bearer|hf|hub|github|gitlab|refresh|session|personal|wandb|comet|neptune)_?token)$"
)
"""Names whose values nobody should read. PAD_TOKEN is none of them."""
SOURCES = ("env", "file", "command")


def secrets_have_one_source(secrets: Mapping[str, Secret]) -> Iterator[Finding]:
    for name, secret in secrets.items():
        named = [source for source in SOURCES if getattr(secret, source) is not None]
        if len(named) != 1:
            what = f"secrets.{name} has {' and '.join(named) or 'none'} of env, file and command, and must have one"
            yield what, f"secrets.{name}", "say where its value comes from: .env=VARIABLE, .file=PATH or .command=[...]"
        if secret.command is not None and not (secret.command and secret.command[0].strip()):
            what = f"secrets.{name}.command names no program"
            yield what, f"secrets.{name}.command", "write the program and its arguments: [pass,show,hf]"


def secrets_have_names_of_their_own(
    secrets: Mapping[str, Secret], job: Job, params: Mapping[str, Any], container: Container, site: Site
) -> Iterator[Finding]:
    by_params = [parameters.variable(name) for name, _ in parameters.flat(params)] if _as_variables(job) else []
    others = {"params": by_params, "container.env": list(container.env), "site.env": list(site.env)}
    variables = [variable_of(name, secret) for name, secret in secrets.items()]
    for name, secret in secrets.items():
        variable = variable_of(name, secret)
        if TAKEN.fullmatch(name) or TAKEN.fullmatch(variable):
            what = f"secrets.{name} would be the variable {variable}, which tells programs where they run"
            yield what, f"secrets.{name}", "choose another name"
        for place, names in others.items():
            if variable in names:
                what = f"secrets.{name} would be the variable {variable}, and {place} sets that, too"
                yield what, f"secrets.{name}", "rename one of them"
        if variables.count(variable) > 1 and variable != name:
            what = f"secrets.{name} would be the variable {variable}, and there is a secret of that name"
            yield what, f"secrets.{name}", "rename one of them"


def secrets_are_not_said_in_plain_words(container: Container, site: Site) -> Iterator[Finding]:
    for place, values in (("container.env", container.env), ("site.env", site.env)):
        for name, value in values.items():
            if PLAIN.search(name) and value and not value.startswith("/"):
                what = f"{place}.{name} looks like a secret, and would stand in the run's files and in MLflow"
                do = f"secrets.{name}.env={name}, and export {name} where you launch; or .file=PATH, .command=[...]"
                yield what, f"{place}.{name}", do


def variable_of(name: str, secret: Secret) -> str:
    """The variable in which a program finds it, or the file with it."""
    return f"{name}_FILE" if secret.through == "file" else name


def _as_variables(job: Job) -> bool:
    return job.kind != "trainer" and job.parameters == "environment"
