"""A program's own MLflow client writes into the run folder (client_store.py), and no filter stands between: what it
wrote is looked through for secrets here, by the supervisor, which knows them, while the program runs and at its end.

Text and names lose them in place. A parameter that holds one is moved out of the store, since the client refuses one
that it logged once more with another value than is there, and a program that goes on would die of that. Only what was
looked through is delivered (delivery/checked.py), so that a supervisor which is killed lets nothing out: the next
attempt begins where it ended. Files that are no text are left as they are: half a model is none.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Collection
from pathlib import Path

from conf.masking import MASK, spellings
from launchers.host.output import Mask
from launchers.run_folder import client_store
from launchers.run_folder.record import Attempt, Member, clock_of, make_private

SETTLED_S = 2.0
"""So long a file has been left alone before it is touched while the program runs: its writer may not be done."""
PAUSE_S, SHARE = 1.0, 0.02
"""Between two looks, which take at most so much of the time."""
JOIN_S = 60.0
PIECE, BEGINNING = 1 << 20, 8192
IN_NAMES = b"___"
"""What MLflow takes in a name, and YAML anywhere: `***` would be an alias there."""
YAML = (".yaml", ".yml")


class ClientMasking:
    """One attempt's. Does nothing where there are no secrets."""

    def __init__(self, attempt: Attempt, secrets: Collection[str]) -> None:
        self._attempt, self._member = attempt, Member(attempt.path.parent)
        self._spellings = spellings(secrets)
        self._pattern = re.compile(b"|".join(map(re.escape, self._spellings)))
        self._seen: dict[Path, int] = {}
        """Files that hold none, and when each was changed last."""
        self._until = 0.0
        """All that was changed before was looked at."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="client-masking", daemon=True)
        self._said: set[str] = set()

    def start(self) -> None:
        """The ranks are about to run: what an earlier attempt left is looked through first."""
        if self._spellings and self._stores():
            self._look(settled_s=0.0)
            self._thread.start()

    def finish(self) -> None:
        """All ranks have left: the rest."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        if self._spellings and self._stores():
            self._look(settled_s=0.0)

    def _watch(self) -> None:
        took_s = 0.0
        while not self._over.wait(max(PAUSE_S, took_s / SHARE)):
            began = time.monotonic()
            self._look(SETTLED_S)
            took_s = time.monotonic() - began

    def _look(self, settled_s: float) -> None:
        """At everything that was changed before so many seconds ago. What cannot be looked at stays here."""
        try:
            if settled_s and self._last_change() <= self._until:
                return
            until = clock_of(self._attempt.path) - settled_s
            for store in self._stores():
                for path in client_store.files(store):
                    with contextlib.suppress(FileNotFoundError):  # the program took it away meanwhile
                        self._file(path, store, until if settled_s else float("inf"))
            if not settled_s:
                until = clock_of(self._attempt.path)  # after our own changes: there is nobody else
            client_store.note_checked(self._member, until)
            self._until = until
        except OSError as e:
            self._say(f"what its MLflow client wrote could not be looked through for secrets: {e}")

    def _last_change(self) -> float:
        """Of a file's content, or of names: not of metrics that grow, which many do all the time."""
        newest = 0.0
        for store in self._stores():
            for place, _, names in os.walk(store):
                folder = Path(place)
                grow = client_store.is_metric(folder, store)
                for path in (folder, *(() if grow else (folder / name for name in names))):
                    with contextlib.suppress(FileNotFoundError):
                        newest = max(newest, path.lstat().st_ctime)
        return newest

    def _stores(self) -> list[Path]:
        """Rank 0's, which is delivered, and those of the others."""
        found = (self._member.path / client_store.FOLDER, *self._attempt.path.glob(f"{client_store.FOLDER}.rank-*"))
        return [path for path in found if path.is_dir()]

    def _file(self, path: Path, store: Path, until: float) -> None:
        before = path.stat()
        is_metric = client_store.is_metric(path, store)  # only its name is free: its lines are numbers
        if self._seen.get(path) == before.st_ctime_ns or (before.st_ctime > until and not is_metric):
            return
        parts = path.relative_to(store).parts
        named = len(parts) - _depth(parts)
        name = "/".join(parts[-named:]) if named > 0 else ""
        if parts[2:3] == ("params",):
            self._param(path, store.joinpath(*parts[:2]), name)
        elif not is_metric and self._holds(path) and not self._replaced(path, before):
            return
        if path.exists() and (hidden := self._hidden(name)) != name:
            _rename(path, Path(*path.parts[: len(path.parts) - named]) / hidden, is_metric)
        elif path.exists():
            self._seen[path] = before.st_ctime_ns
            return
        with contextlib.suppress(OSError):  # up to the first folder that is not empty
            for folder in path.parents[: max(0, named - 1)]:
                folder.rmdir()

    def _hidden(self, name: str) -> str:
        return os.fsdecode(self._pattern.sub(IN_NAMES, os.fsencode(name)))

    def _param(self, path: Path, run: Path, name: str) -> None:
        value = path.read_bytes()
        hidden = self._pattern.sub(MASK.encode(), value)
        if hidden != value or self._hidden(name) != name:
            text = hidden.decode("utf-8", "replace").strip()
            client_store.keep_masked(run, {self._hidden(name): text})
            path.unlink(missing_ok=True)

    def _holds(self, path: Path) -> bool:
        """Whether a text does. One that comes in two pieces is found, as the pieces overlap."""
        longest = len(self._spellings[0]) - 1
        with path.open("rb") as f:
            if b"\0" in f.read(BEGINNING):
                return False
            f.seek(0)
            rest = b""
            while data := f.read(PIECE):
                data = rest + data
                if any(spelt in data for spelt in self._spellings):
                    return True
                rest = data[-longest:]
        return False

    def _replaced(self, path: Path, before: os.stat_result) -> bool:
        """The same text without them, whole or not at all; False where its program has written it anew meanwhile."""
        is_yaml = path.suffix in YAML or path.name == "MLmodel"
        mask, aside = Mask(self._spellings, IN_NAMES if is_yaml else MASK.encode()), self._attempt.path / ".masking"
        with path.open("rb") as f, aside.open("wb") as out:
            while data := f.read(PIECE):
                out.write(mask.feed(data))
            out.write(mask.feed(b"", last=True))
        same = path.stat().st_ctime_ns == before.st_ctime_ns
        if same:
            aside.replace(path)
        aside.unlink(missing_ok=True)
        return same

    def _say(self, text: str) -> None:
        """On the supervisor's own output, and each thing once."""
        if text not in self._said:
            self._said.add(text)
            print(f"fairlead: member={self._member.index} attempt={self._attempt.number} {text}", flush=True)


def _depth(parts: tuple[str, ...]) -> int:
    """How many of a path's parts, from the store down, are MLflow's own words: the rest is the program's.

    <experiment>/<run>/tags/NAME, <experiment>/models/<model>/tags/NAME, models/NAME.
    """
    if parts[0] == client_store.MODELS:
        return 1
    return 4 if parts[1:2] == (client_store.MODELS,) else 3


def _rename(path: Path, to: Path, grows: bool) -> None:
    """Under another name. What is there already under that gets it added where it grows, and is replaced elsewhere."""
    make_private(to.parent)
    if grows and to.exists():
        with to.open("ab") as f:
            f.write(path.read_bytes())
        path.unlink()
    else:
        path.rename(to)
