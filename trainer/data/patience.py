"""When does a server that does not answer get another try, and what is said when it gets none?"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from conf.locations import masked
from trainer.failure import UserError

T = TypeVar("T")

log = logging.getLogger(__name__)

TRIES = 6
FIRST_PAUSE_S = 0.5
"""Before the second try; each pause after it is twice as long, give or take half."""
CONNECT_S, SILENT_S = 20.0, 60.0
"""How long a server may take to answer a connection, and may say nothing in the middle of a transfer."""
STRANGERS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError",
    "ClientAuthenticationError",
}  # fmt: skip
"""Errors, and those derived from them, of libraries that found no credentials, or none that can be used."""
FORBIDDEN = "Forbidden: "
"""How gcsfs begins an error of status 403, which it keeps to itself."""
TRY_AGAIN = (408, 425, 429)
"""Statuses below 500 by which a server asks for patience."""


class Broken(Exception):
    """A transfer that ended early or brought something else; another may go better."""


class Changed(Exception):
    """A file is another than when it was listed: no other try brings that one."""


def patiently(place: str, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
    """What `action` returns, in one of TRIES tries; they are counted anew whenever there was `progress`.

    Raises UserError saying why `place` cannot be read; a full disk, and a mistake that is told already, as they are.
    """
    tried, reached = 0, progress()
    while True:
        try:
            return action()
        except (UserError, Changed):
            raise
        except Exception as e:
            if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            tried, reached = (1 if progress() > reached else tried + 1), progress()
            why = reason(e)
            if (final := _final(e, place)) or tried >= TRIES:
                raise final or _unreachable(place, why) from None
            pause_s = FIRST_PAUSE_S * 2 ** (tried - 1) * random.uniform(0.5, 1.5)
            log.warning("%s: %s; another try in %.1f s", place, why, pause_s)
            time.sleep(pause_s)


def _final(error: Exception, place: str) -> UserError | None:
    """What no other try would change."""
    chain = list(_chain(error))
    status = next((number for e in chain if (number := _status(e))), 0)
    kinds = {kind.__name__ for e in chain for kind in type(e).__mro__}
    stranger = isinstance(error, PermissionError) or kinds & STRANGERS
    if stranger or status in (401, 403, 407):
        do = "check the credentials in the environment where you launch, and what they allow"
        return UserError(f"{place} may not be read: {reason(error)}", "data.path", do)
    hides_http = any(type(e).__module__.startswith("aiohttp") for e in chain)
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and not hides_http):
        return UserError(f"there is nothing at {place}", "data.path", "check data.path")
    if 400 <= status < 500 and status not in TRY_AGAIN:
        return UserError(f"{place} cannot be read: {reason(error)}", "data.path", "check data.path")
    return None


def _status(error: BaseException) -> int:
    """What the server answered, as the libraries call it; 0 where it did not."""
    if type(error).__module__ == "aiohttp.http_exceptions":  # a broken answer bears a code of aiohttp's own
        return 0
    said = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return next((number for number in said if isinstance(number, int)), 403 if str(error).startswith(FORBIDDEN) else 0)


def _unreachable(place: str, why: str) -> UserError:
    what = f"{place} could not be read in {TRIES} tries: {why}"
    do = "see that the nodes can reach it; `fairlead retry JOB` goes on with what has arrived"
    return UserError(what, "data.path", do)


def reason(error: Exception) -> str:
    """Why, in a line, without secrets. fsspec says of HTTP that nothing was found, whatever the cause was."""
    last = list(_chain(error))[-1]
    text = " ".join(str(last).split())
    return masked(f"{type(last).__name__}: {text}" if text else type(last).__name__)[:300]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
