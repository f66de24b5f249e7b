"""Why did a rank die? The error of a user's mistake, and the file that every dying rank leaves behind.

Deciding what happens next (again, requeue, give up) is the supervisor's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from conf.masking import here, masked
from trainer.durable import write_json

# Messages of gloo, NCCL and the TCP store when a peer cannot be reached any more (torch 2.6 to 2.13).
PEER_LOST = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "timed out", "ncclRemoteError")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
# safetensors says it in words alone, as does an error that another rank passed on; torch's own writer, for a disk
# that is full, says only that it is not where it should be in the file (measured with torch 2.13).
DISK_WORDS = (*(os.strerror(number) for number in DISK_ERRORS), "unexpected pos", "iostream error")

# torch's, of a data loader process that was killed; on a busy machine somebody else may hear of its end first (seen),
# and then only the second words are said. They stand above those of one that ends itself, too (2.13).
LOADER_KILLED = re.compile(
    r"^DataLoader worker \((?:pid \d+\) is killed by signal|pid\(s\) [\d, ]+\) exited unexpectedly$)"
)
LOADER_LEFT = "exited unexpectedly with exit code"

# Of what drives a card, in words alone: torch's own types tell no cause (torch 2.13, and CUDA's, cuDNN's and cuBLAS's
# names of their errors, which ROCm's libraries take over).
CARD_FULL = re.compile(r"(?:CUDA|HIP)(?: driver)? error: out of memory|ALLOC(?:ATION)?_FAILED")
CARD_FAILED = re.compile(
    r"\b(?:CUDA|HIP)(?: driver)? error: |STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)"
    r"|cudaGetDeviceCount\(\)|CUDA unknown error|CUDA driver initialization failed"
)
CARD_MISUSED = re.compile(
    r"device-side assert triggered|no kernel image|invalid[ _]|not[ _]supported|bad[ _]param", re.IGNORECASE
)

LEFT = "left.json"
"""Of an attempt: what rank 0 says of how it left, where it left with less than it had."""


class UserError(Exception):
    """A mistake in what the user wrote, in three lines: what is wrong, where it was said, what to do."""

    def __init__(self, what: str, where: str, do: str) -> None:
        lines = [what] + [f"  where  {where}"] * bool(where) + [f"  do     {do}"] * bool(do)
        super().__init__("\n".join(lines))
        self.what, self.where, self.do = what, where, do


class RendezvousError(Exception):
    """The ranks did not find each other in time."""


class CardLost(Exception):
    """The card that Slurm gave is not there."""


def cause(error: BaseException) -> str:
    """Whose turn it is: `rendezvous` when ranks did not meet or lost each other, `out_of_memory`, `site` when the
    disk is full or broken, `crash` when a process that reads data was killed or a card failed, or `user_error`."""
    text, kinds = str(error), _kinds(error)
    if isinstance(error, UserError):
        return "user_error"
    if kinds & {"OutOfMemoryError", "MemoryError"} or "can't allocate memory" in text or CARD_FULL.search(text):
        return "out_of_memory"
    if kinds & {"RendezvousError", "_DistError", "DistError"}:
        return "rendezvous"
    if any(_is_of_the_disk(e) for e in _chain(error)):
        return "site"
    if _is_of_the_card(error):
        return "crash"
    if "RuntimeError" in kinds and any(words in text for words in PEER_LOST):
        return "rendezvous"
    said = [str(e) for e in _chain(error) if isinstance(e, RuntimeError)]
    if any(map(LOADER_KILLED.match, said)) and not any(LOADER_LEFT in words for words in said):
        return "crash"
    return "user_error"


def _kinds(error: BaseException) -> set[str]:
    """Names, because torch and safetensors are not imported here."""
    return {kind.__name__ for kind in type(error).__mro__}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_of_the_disk(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRORS and not (error.errno == errno.EROFS and _is_elsewhere(error.filename))
    return bool(_kinds(error) & {"OSError", "SafetensorError", "RuntimeError"}) and any(
        w in str(error) for w in DISK_WORDS
    )


def _is_of_the_card(error: BaseException) -> bool:
    """The card's own failing or its driver's, not what a program did wrong; who cannot be told apart is tried again."""
    lines = [line for line in str(error).splitlines() if CARD_FAILED.search(line)]  # advice stands below them
    failed = isinstance(error, RuntimeError) and lines and not any(CARD_MISUSED.search(line) for line in lines)
    return bool(failed) or isinstance(error, CardLost)


def _is_elsewhere(path: object) -> bool:
    """Not where a member writes: a container's own files, and the run's code, are read-only on purpose."""
    mine = os.environ.get("FAIRLEAD_MEMBER_DIR")
    return isinstance(path, str) and mine is not None and not Path(path).absolute().is_relative_to(mine)


def write(attempt: Path, rank: int, error: BaseException) -> None:
    """Leave rank-<r>.error.json, where the disk still takes it: when, where and of what this rank died."""
    secrets = here()
    document = {
        "t": time.time(),
        "rank": rank,
        "host": socket.gethostname(),
        "type": type(error).__name__,
        "message": masked(str(error), secrets),
        "traceback": masked("".join(traceback.format_exception(error)), secrets),
        "cause": cause(error),
    }
    with contextlib.suppress(OSError):
        write_json(attempt / f"rank-{rank}.error.json", document)
