"""What can go wrong, as a tree, and the exit code of each branch.

    FairleadError
      SpecError        2  the user's YAML or command line: a list of problems, all at once
      SiteError        3  the site: cluster, image, quota, tracking store
        CommandError   3  an external command failed: its argv, exit status and last lines
      JobFailed        1  the job itself failed (its outcome says why)

Anything else that escapes is ours: exit code 4, with a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_DONE, EXIT_JOB_FAILED, EXIT_USER, EXIT_SITE, EXIT_INTERNAL = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Problem:
    """One mistake in three lines: what is wrong (with both values), where it was said, what to do."""

    what: str
    where: str
    do: str

    def __str__(self) -> str:
        what, where, do = (" ".join(text.split("\n")) for text in (self.what, self.where, self.do))
        return f"{what}\n  where  {where}\n  do     {do}"


class FairleadError(Exception):
    """Base of every error that is shown without a traceback."""

    exit_code = EXIT_INTERNAL


class SpecError(FairleadError):
    """The YAML or the command line is wrong; `problems` holds every one that was found."""

    exit_code = EXIT_USER

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n\n".join(str(p) for p in self.problems))


class SiteError(FairleadError):
    """The cluster, an image, a quota or a store is not as it must be."""

    exit_code = EXIT_SITE

    def __init__(self, what: str, where: str = "", do: str = "") -> None:
        lines = [what] + [f"  where  {where}"] * bool(where) + [f"  do     {do}"] * bool(do)
        super().__init__("\n".join(lines))


class CommandError(SiteError):
    """An external command failed, or did not answer in time."""

    def __init__(self, argv: Sequence[str], status: str, output: str, do: str = "") -> None:
        self.argv, self.status, self.output = tuple(argv), status, output
        tail = "\n".join(output.strip().splitlines()[-10:]) or "(it printed nothing)"
        super().__init__(f"{argv[0]} {status}: {tail}", where=" ".join(argv), do=do)


class NoAnswer(CommandError):
    """An external command did not answer in time."""


class JobFailed(FairleadError):
    """The job ended, and not well."""

    exit_code = EXIT_JOB_FAILED
