"""Become a rank's program, with its image and installed source on this node's own disk first:
`python -IS nearby.py SETTINGS PROGRAM ...`.

The program is this very process (exec), so that signals reach it and the locks of copies.py end with it. Where there
can be no copy it runs from the shared storage, and that is said: in the rank's log, and with how long all of it took
in near-<node>.json of the attempt. What SETTINGS are is near.py's. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


def main(argv: Sequence[str]) -> NoReturn:
    from launchers.host.copies import Told

    settings, words, begun = json.loads(argv[1]), list(argv[2:]), time.time()
    _event(settings, "copy_begin")
    told = Told()
    found, warnings = _found(settings, told)
    seconds, host = round(time.time() - begun, 3), socket.gethostname()
    if told.copied:
        size = f"{told.copied_bytes / 1e6:.0f} MB, in {seconds:.1f} s"
        _say(f"copied {', '.join(told.copied)} to {settings['folder']} of {host}: {size}")
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for warning in warnings:
            _say(f"warning: {warning}")
        document = {"host": host, "seconds": seconds, "copied_bytes": told.copied_bytes, "warnings": warnings}
        _write(Path(settings["attempt"], f"near-{os.environ.get('NODE_RANK', '0')}.json"), document)
    _event(settings, settings["begin"])
    environment = _initial_environment()
    if not settings["boxed"]:
        for name in (n for n in (b"PYTHONPATH", b"PATH") if n in environment):
            parts = os.fsdecode(environment[name]).split(":")
            environment[name] = os.fsencode(":".join(_moved(part, found) for part in parts))
    words = moved(words, found, boxed=settings["boxed"])
    try:
        os.execvpe(words[0], words, environment)
    except OSError as e:
        _say(f"{words[0]}: {e.strerror}")
        os._exit(127 if e.errno == errno.ENOENT else 126)


def moved(words: Sequence[str], found: Mapping[str, str], *, boxed: bool) -> list[str]:
    """The program's words with copies in place of what they name. A container sees a copy where the original was, so
    that its image and its mounts are what changes, once each; without one it is every path. Pure."""
    from launchers.apptainer.container import Mount, words_of

    words = list(words)
    for path, copy in found.items():
        if not boxed:
            words = [_moved(word, {path: copy}) for word in words]
            continue
        mount = words_of([Mount(source=path, target=path)])[1]
        for old, new in ((mount, words_of([Mount(source=copy, target=path)])[1]), (path, copy)):
            if old in words:
                words[words.index(old)] = new
    return words


def _moved(word: str, found: Mapping[str, str]) -> str:
    """A path that is copied, or below one that is, in its copy."""
    here = ((path, copy) for path, copy in found.items() if word == path or word.startswith(f"{path}/"))
    return next((copy + word[len(path) :] for path, copy in here), word)


def _found(settings: Mapping[str, Any], told: Any) -> tuple[dict[str, str], list[str]]:
    """Paths and their copies, and of those that have none why."""
    from launchers.errors import FairleadError
    from launchers.host.copies import Copies, NotNear, Origin

    found, warnings = {}, []
    for each in settings["origins"]:
        origin = Origin(each["kind"], Path(each["path"]), each["digest"])
        try:
            copies = Copies(Path(settings["folder"]), settings["most_gb"])
            found[each["path"]] = str(copies.have(origin, told))
        except (NotNear, OSError, FairleadError) as e:
            why = f"{e.strerror} ({e.filename})" if isinstance(e, OSError) else str(e).splitlines()[0]
            here = f"{socket.gethostname()} has no copy of {origin.whole.name} in {settings['folder']}"
            warnings.append(f"{here}, and runs the shared one: {why}")
    return found, warnings


def _event(settings: Mapping[str, Any], name: str) -> None:
    """In the ledger, by rank 0: nobody else writes there before the program has begun."""
    if os.environ.get("RANK", "0") == "0":
        try:
            with open(f"{settings['attempt']}/ledger.jsonl", "a", encoding="utf-8") as f:  # noqa: PTH123
                f.write(json.dumps({"t": time.time(), "event": name}) + "\n")
        except OSError as e:
            _say(f"the ledger cannot be written: {e.strerror}")


def _write(path: Path, document: Mapping[str, Any]) -> None:
    from launchers.run_folder.record import write_json

    try:
        write_json(path, document)
    except OSError as e:
        _say(f"{path.name} cannot be written: {e.strerror}")


def _say(text: str) -> None:
    print(f"fairlead: {text}", file=sys.stderr, flush=True)


def _initial_environment() -> dict[bytes, bytes]:
    """As the kernel has it: Python itself may have changed LC_CTYPE (PEP 538)."""
    with open("/proc/self/environ", "rb") as f:  # noqa: PTH123
        pairs = (line.partition(b"=") for line in f.read().split(b"\0") if line)
        return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120
    main(sys.argv)
