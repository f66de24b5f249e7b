"""A notice is a flag and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.trainer.ranks import ROOT
from trainer import signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the test process its own handlers back."""
    before = {number: signal.getsignal(number) for number in signals.NOTICES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.NOTICES)
def test_install_a_signal_sets_the_flag_and_the_process_goes_on(number: signal.Signals) -> None:
    notice = signals.install()
    assert not notice.given

    os.kill(os.getpid(), number)

    assert notice.given
    assert notice.signal is number


def test_install_repeated_signals_change_nothing() -> None:
    notice = signals.install()

    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
        os.kill(os.getpid(), number)

    assert notice.signal is signal.SIGUSR2


def test_ignore_makes_a_worker_deaf() -> None:
    script = """
import os, signal
from trainer import signals
signals.install()
signals.ignore()
for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
    os.kill(os.getpid(), number)
print("still here")
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)

    assert done.stdout == "still here\n"
