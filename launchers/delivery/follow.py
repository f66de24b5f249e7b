"""A job's numbers on their way while it runs here, and its finish step: `python -m launchers.delivery.follow RUN`.

One process for both, as what they import takes longer than what they do. What one delivery is says forward.py, what the
finish step is finish.py; the queue of this machine (queue/local.py) starts this and says by a signal how it ends.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from launchers.delivery import finish
from launchers.delivery.forward import forward
from launchers.errors import EXIT_DONE, EXIT_SITE, SiteError
from launchers.process import start_of
from launchers.queue.local import ENDED
from launchers.run_folder.record import Run

EVERY_S, LONGEST_PAUSE_S = 5.0, 120.0
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Follower:
    """Delivers every few seconds for as long as a job runs, and waits longer while the store is away."""

    def __init__(self, run: Run, every_s: float, watched: int) -> None:
        self.run, self.every_s, self.watched = run, every_s, watched
        self.born = start_of(watched)
        self.trouble = ""
        # Blocked, and taken up by sigtimedwait: a delivery is never cut in two, a pause ends at once. Threads that are
        # there already (numpy's, where this module imported it) would take them and die: all others begin after this.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPS, ENDED))

    def work(self) -> int:
        """Until the watched process is gone, we are told to stop or the job has ended; then once more, or to its end.

        The exit status is the finish step's where that was taken.
        """
        pause_s, told = self.every_s, 0
        while not told and self._is_watched():
            pause_s = self.every_s if self.deliver() else min(2 * pause_s, LONGEST_PAUSE_S)
            told = self._told(pause_s)
        if told == ENDED:
            return finish.complete(self.run)
        return EXIT_DONE if self.deliver() else EXIT_SITE

    def deliver(self) -> bool:
        """Whether everything is in the store. Says so once when it is away, and once when it is back."""
        try:
            forward(self.run)
        except (SiteError, OSError) as e:
            trouble = " ".join(str(e).splitlines()[:1])
        else:
            trouble = ""
        if trouble != self.trouble:
            print(f"{time.strftime('%FT%T')} forward: {trouble or 'delivering again'}", file=sys.stderr, flush=True)
        self.trouble = trouble
        return not trouble

    def _is_watched(self) -> bool:
        return self.born is not None and start_of(self.watched) == self.born

    def _told(self, pause_s: float) -> int:
        """The signal that came; 0 for none. Waits in pieces: a watched process that is gone is noticed soon."""
        end = time.monotonic() + pause_s
        while (left := end - time.monotonic()) > 0 and self._is_watched():
            if (said := signal.sigtimedwait((*STOPS, ENDED), min(left, self.every_s))) is not None:
                return said.si_signo
        return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launchers.delivery.follow", description="Deliver while a job runs here.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--watch-pid", type=int, required=True, help="until this process is gone")
    parser.add_argument("--every-s", type=float, default=EVERY_S)
    arguments = parser.parse_args(argv)
    return Follower(Run(arguments.run.resolve()), arguments.every_s, arguments.watch_pid).work()


if __name__ == "__main__":
    sys.exit(main())
