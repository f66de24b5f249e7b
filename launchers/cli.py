"""The command `fairlead`: finds the verb, catches what went wrong, exits with a code that means something.

What each verb takes is arguments.py's, what it does verbs/'s. Nothing heavy is imported here: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from launchers.errors import EXIT_DONE, EXIT_INTERNAL, EXIT_USER, FairleadError, Problem, SiteError, SpecError
from launchers.verbs import VERBS
from sweeps.names import nearest

STORAGE = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
"""What a file system says that takes or gives nothing: no fault of ours, wherever we meet it."""
USAGE = """\
usage: fairlead VERB ...

  launch [OVERRIDES] [-m]     submit and return (launcher=local: run here, with progress)
  plan   [OVERRIDES] [-m]     what would run, exactly; submits nothing
  check  [OVERRIDES] [-m]     plan, then ask the real cluster
  explain [KEY ...]           what a key means and may be: machine.mem_gb, train, data.images
  status [JOB]                what state a job is in          list            all jobs
  logs   [JOB]                what its ranks said             wait [JOB]      until it ends
  best   [JOB]                what a sweep found, to rerun    report [JOB]    where time and money went
  cancel JOB                  end it                          retry JOB       run again what failed
  extend JOB                  give a search more trials       sync [JOB]      deliver to the tracking store
  prove  [OVERRIDES]          that a job ends with the same bits however often it is killed
  image  ...                  build, pull, list, verify, prune
  shell  JOB [-- COMMAND]     a shell beside a running rank, in its container
  notebook [OVERRIDES]        JupyterLab as a job, and how to reach it
  pool   up|down|list NAME    hold an allocation that jobs run in without queueing

OVERRIDES are Hydra's: group=option (experiment=digits machine=cpu-small) and key=value (train.epochs=3).
JOB is an id, the beginning of one, or a run folder; without it, the newest. --json works everywhere.
Exit codes: 0 done, 1 the job failed, 2 your YAML or command line, 3 the site, 4 a fault of ours.
`fairlead VERB --help` says more; `fairlead --version` which Fairlead this is.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code says whose turn it is."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return EXIT_DONE if words else EXIT_USER
    if words[0] == "--version":
        print(_version())
        return EXIT_DONE
    as_json = "--json" in words
    try:
        code = _run(words)
        sys.stdout.flush()  # here, where a reader that has left is no error
        return code
    except FairleadError as e:
        _complain(e, as_json)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception as e:
        if isinstance(e, OSError) and e.errno in STORAGE:
            do = "see that it can be written and has room, then give the same command again"
            _complain(SiteError(f"{e.strerror}", where=str(e.filename or "(not said)"), do=do), as_json)
            return SiteError.exit_code
        traceback.print_exc()
        print(
            "fairlead: this is a fault of Fairlead's own; please report it with the lines above",
            file=sys.stderr,
        )
        return EXIT_INTERNAL


def _run(words: list[str]) -> int:
    os.umask(0o077)
    _ours()
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise SpecError([Problem(f"there is no verb {verb!r}", "the command line", nearest(verb, sorted(VERBS)))])
    declare, function = VERBS[verb]
    parser = _Parser(
        prog=f"fairlead {verb}", description=function.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of text")
    declare(parser)
    arguments = parser.parse_intermixed_args(rest)
    arguments.words = words
    return function(arguments)


def _version() -> str:
    """Ours, and the folder that it runs from: for a report of a fault. A checkout that is not installed has none."""
    from importlib.metadata import PackageNotFoundError, version

    home = Path(__file__).parents[1]
    try:
        return f"fairlead {version('fairlead')} ({home})"
    except PackageNotFoundError:
        return f"fairlead, a checkout ({home})"


def _ours() -> None:
    """Our packages have common names: refuse to go on with a stranger's (see README, limits)."""
    import conf

    home, theirs = Path(__file__).parents[1], Path(str(conf.__file__)).parents[1]
    if theirs != home:
        do = "uninstall that package, or install Fairlead into an environment of its own"
        raise SiteError(f"a package named conf hides Fairlead's own in {home}", where=str(theirs), do=do)


class _Parser(argparse.ArgumentParser):
    """argparse whose complaint has the form of all our errors."""

    def error(self, message: str) -> NoReturn:
        raise SpecError([Problem(message, "the command line", f"see: {self.prog} --help")])


def _complain(error: FairleadError, as_json: bool) -> None:
    if as_json:
        problems = [vars(p) for p in error.problems] if isinstance(error, SpecError) else [{"what": str(error)}]
        print(json.dumps({"error": type(error).__name__, "problems": problems}, ensure_ascii=False))
        return
    print(error, file=sys.stderr)
    if isinstance(error, SpecError) and len(error.problems) > 1:
        print(f"{len(error.problems)} problems", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
