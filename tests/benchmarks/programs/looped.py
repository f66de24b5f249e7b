"""One of several processes that share an Optuna study: ask, run, tell, until all trials were asked for."""

import os
import sys
import time
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def main() -> None:
    folder, journal = Path(os.environ["BENCH_TRIALS"]), sys.argv[1]
    durations = [float(d) for d in (folder / "durations").read_text().split()]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(journal))
    study = optuna.create_study(study_name="bench", storage=storage, load_if_exists=True)
    while (trial := study.ask()).number < len(durations):
        x = trial.suggest_float("x", 0, 1)
        (folder / f"{trial.number}.begun").write_text(str(time.time()))
        time.sleep(durations[trial.number])
        (folder / f"{trial.number}.ended").write_text(str(time.time()))
        study.tell(trial, (x - 0.3) ** 2)


if __name__ == "__main__":
    main()
