"""One rank, from its environment to its exit code: 0 done, 75 told to stop and saved, 1 failed.

Start-up counts: what is imported here before the work begins is the standard library alone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import NoReturn

from conf.document import from_document
from conf.schema import Spec
from trainer import failure, heap, leave, signals
from trainer.checkpoints import deadline, limits
from trainer.durable import write_json
from trainer.insight.heartbeat import Beat
from trainer.insight.spool import Ledger
from trainer.rank import Folders, Rank, from_environment, threads

EXIT_DONE, EXIT_FAILED = 0, 1
EXIT_STOPPED = os.EX_TEMPFAIL
"""75: it wants to go on later."""
LAST_WORDS_S = 0.3
LEFT = "left-"
"""Of an attempt: a file for each rank that was told to leave where it could not agree with the others on it."""

log = logging.getLogger("trainer")


def main() -> int:
    """Run this rank; whatever goes wrong is in its log and in rank-<r>.error.json."""
    notice = signals.install()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
    ledger = Ledger(None, Beat(None))
    try:
        rank, folders = from_environment(os.environ)
        log.setLevel(logging.INFO if rank.first else logging.WARNING)
        beat = Beat(folders.attempt / f"beat-{rank.number}")
        ledger = Ledger(folders.attempt / "ledger.jsonl" if rank.first else None, beat)
        ledger.mark("process_start")
        end = partial(quit, ledger, rank, folders)
        deadline.watch(notice, lambda number: limits.read(folders.attempt).grace_s(number), end)
        signals.listen()
        code = work(rank, folders, notice, ledger)
    except signals.Left:
        code = EXIT_STOPPED
    except Exception as error:
        give_up(error)
        code = EXIT_STOPPED if _left_by_a_peer(error, notice) else EXIT_FAILED
    ledger.mark("exit", code=code)
    ledger.close()
    return code


def work(rank: Rank, folders: Folders, notice: signals.Notice, ledger: Ledger) -> int:
    """Train, export, and leave the group. Returns the exit code."""
    spec = from_document(Spec, json.loads(folders.spec.read_text()))
    # Before torch and numpy are imported: their thread pools read it once.
    os.environ["OMP_NUM_THREADS"] = str(threads(os.environ, rank))
    # Threads that spin while they wait slow small models down 20 times on a node that others use too
    # (digits on two shared cores: 33 s against 2.7 s for 150 steps); asleep they cost little.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if spec.train.deterministic:  # cuBLAS reads it once: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # torch's C++ side warns of every peer whose address has no name (`[W...] [c10d] The hostname of the client
    # socket cannot be retrieved`: the node's DNS does not answer). Errors stay, those of a failed meeting too;
    # what goes besides is DDP's advice that find_unused_parameters was not needed.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Start-up makes millions of objects that stay: looking for garbage among them costs a fifth of it.
    gc.disable()
    heap.keep_freed()

    from trainer import assemble, loop
    from trainer.insight import system
    from trainer.parallel import group

    ledger.mark("imports_done")
    with system.sampled(folders.attempt, rank):
        run, data = assemble.prepare(spec, rank, folders, notice, ledger)
        gc.freeze()
        gc.enable()
        try:
            done = loop.train(run)
            if run.profiler:
                run.profiler.end(run)
            done = done and assemble.finish(run, data, folders)
        finally:
            run.spool.close()
    group.leave()
    return EXIT_DONE if done else EXIT_STOPPED


def quit(ledger: Ledger, rank: Rank, folders: Folders, why: str) -> NoReturn:
    """End this process where a notice could not be answered. By a thread: the others may be anywhere, also in the
    middle of a write that does not end."""
    with contextlib.suppress(OSError):
        (folders.attempt / f"{LEFT}{rank.number}").touch()
    if rank.first:
        last = threading.Thread(target=_last_words, args=(ledger, folders, why), daemon=True)
        last.start()
        last.join(LAST_WORDS_S)
    os._exit(EXIT_STOPPED)


def _last_words(ledger: Ledger, folders: Folders, why: str) -> None:
    """To people, to the supervisor (as keeping.py's), and to the ledger."""
    text = f"{why}: it goes on later from the newest checkpoint"
    os.write(1, f"{text}\n".encode())
    with contextlib.suppress(OSError):
        write_json(folders.attempt / failure.LEFT, {"message": text})
    ledger.mark("exit", code=EXIT_STOPPED, why=why)


def _left_by_a_peer(error: Exception, notice: signals.Notice) -> bool:
    """Whether this rank lost one that was told to leave: before the first step each ends by itself, as soon as it is
    told, and not all need to be."""
    if failure.cause(error) != "rendezvous":
        return False
    attempt = os.environ.get("FAIRLEAD_ATTEMPT_DIR")
    return notice.given or (attempt is not None and any(Path(attempt).glob(f"{LEFT}*")))


def give_up(error: Exception) -> None:
    """Say why, to people and to the supervisor."""
    if isinstance(error, failure.UserError):
        log.error("%s", error)
    else:
        log.error("this rank failed", exc_info=error)
    attempt, rank = os.environ.get("FAIRLEAD_ATTEMPT_DIR"), os.environ.get("RANK", "0")
    if attempt and rank.isdigit():
        failure.write(Path(attempt), int(rank), error)


if __name__ == "__main__":
    code = main()
    leave.now(code, run_exit_functions=code != EXIT_FAILED)
