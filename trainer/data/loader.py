"""How do processes that read ahead begin, and hand over what they read? Torch's, made fit to be told to stop.

How many there are is readers.py's; what they read and in which order is feed.py's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import util
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch

from trainer import signals
from trainer.data.readers import Readers
from trainer.failure import UserError

Asked = TypeVar("Asked")
Read = TypeVar("Read")
LONGEST_TEMPORARY = 70
"""Workers hand batches over by a socket in the temporary folder, whose path may have 107 bytes (unix(7)): beyond, a
worker dies of it and the loop waits for ever."""


def results(read: Callable[[Asked], Read], asked: Iterable[Asked], readers: Readers, *, pinned: bool) -> Iterator[Read]:
    """What `read` returns for each that is asked, in order, read by processes.

    Raises UserError as `read` does, and may be broken off at any moment.
    """
    from torch.utils.data import DataLoader

    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_TEMPORARY:
        tempfile.tempdir = "/tmp"
    util.get_temp_dir()  # one for all of them, which this process removes: its workers may be killed
    loader: Iterable[Read | Mistake] = DataLoader(
        Remote(read),  # type: ignore[arg-type]
        batch_size=None,
        sampler=asked,
        num_workers=readers.workers,
        prefetch_factor=readers.ahead,
        collate_fn=_as_it_is,
        pin_memory=pinned,
        worker_init_fn=begin,
        # Its own random numbers, so that the number of workers does not change the model's.
        generator=torch.Generator(),
    )
    with signals.held_back():  # torch's worker begins with a handler of its own, which ends it at SIGTERM
        ahead = iter(loader)
    for result in ahead:
        if isinstance(result, Mistake):
            raise UserError(result.text, "", "")
        yield result


@dataclass(frozen=True)
class Mistake:
    """A user's, as its text: torch would make a traceback of it."""

    text: str


@dataclass(frozen=True)
class Remote(Generic[Asked, Read]):
    """What is read, as a worker reads it."""

    read: Callable[[Asked], Read]

    def __getitem__(self, asked: Asked) -> Read | Mistake:
        try:
            return self.read(asked)
        except UserError as mistake:
            return Mistake(str(mistake))


def begin(worker: int = 0) -> None:
    """Make a process a worker: deaf to notices, and not surprised by a rank that leaves while it takes a batch."""
    signals.ignore(worker)
    sys.excepthook = _unless_left


def _unless_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Called by the thread that hands tensors over (multiprocessing.resource_sharer) where that fails. All other
    errors of a worker go to its rank."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _as_it_is(result: Any) -> Any:
    return result
