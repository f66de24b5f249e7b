"""One asker of ask.py: a process of its own, as a member's supervisor is.

    python -m tests.benchmarks.asker fairlead RUN INDEX READY GO     prints seconds as JSON
    python -m tests.benchmarks.asker optuna JOURNAL 0 READY GO

With READY and GO it imports everything, says so with a file, and begins when GO is there; with `-` for both it
begins at once, and the imports count.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    kind, where, index, ready, go = sys.argv[1:]
    if go != "-":
        _imports(kind)
        Path(ready).touch()
        while not Path(go).exists():
            time.sleep(0.002)
    begun, cpu = time.monotonic(), time.process_time()
    (_fairlead if kind == "fairlead" else _optuna)(where, int(index))
    print(json.dumps({"wall_s": time.monotonic() - begun, "cpu_s": time.process_time() - cpu, "ended": time.time()}))


def _imports(kind: str) -> None:
    if kind == "fairlead":
        from launchers.search import ask, points  # noqa: F401
        from sweeps import learning, told  # noqa: F401

        learning.load("tpe")
    from optuna.samplers import TPESampler  # noqa: F401
    from optuna.storages import JournalStorage  # noqa: F401


def _fairlead(where: str, index: int) -> None:
    """As supervise.py asks."""
    from launchers.plan import plans_from
    from launchers.run_folder.record import Run, make_private, read_json
    from launchers.search.ask import ask

    run = Run(Path(where))
    make_private(run.member(index).path)
    why = ask(run, plans_from(read_json(run.plan))[0], index)
    assert why is None, why


def _optuna(where: str, _index: int) -> None:
    """Optuna's own way for many processes on a shared file system, with the same sampler."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(n_startup_trials=6, multivariate=True, constant_liar=True)
    storage = JournalStorage(JournalFileBackend(where))
    trial = optuna.load_study(study_name="bench", storage=storage, sampler=sampler).ask()
    trial.suggest_float("optimizer.lr", 1e-4, 3e-2, log=True)
    trial.suggest_int("model.width", 0, 3)
    trial.suggest_float("model.dropout", 0.0, 0.6)


if __name__ == "__main__":
    main()
