"""A chief and workers that meet by a socket: different programs, as another framework might have them.

`chief MESSAGES` serves until it has heard that many words and writes them into the model folder; `worker` says its
name, as often as it is told by the file `plan.txt` in the member's folder it then dies, and waits for its end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

MEMBER = Path(os.environ["FAIRLEAD_MEMBER_DIR"])
ME = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "NODE_RANK", "FAIRLEAD_POOL", "FAIRLEAD_REPLICA")}


def chief(words: int) -> None:
    with socket.create_server(("", int(os.environ["MASTER_PORT"]))) as server:
        heard = [{**ME, "host": socket.gethostname()}]
        while len(heard) <= words:
            with server.accept()[0] as peer:
                heard.append(json.loads(peer.makefile().readline()))
    Path(os.environ["AIP_MODEL_DIR"], "heard.json").write_text(json.dumps(heard))
    time.sleep(float(os.environ.get("LINGER_S", "0")))
    sys.exit(int(os.environ.get("CHIEF_EXIT", "0")))


def worker(deaths: int) -> None:
    signal.signal(signal.SIGTERM, _told)
    mark = MEMBER / f"begun-{ME['RANK']}"
    with mark.open("a") as f:
        f.write("x")
    print(ME, flush=True)
    _say({**ME, "host": socket.gethostname(), "cpus": os.environ["OMP_NUM_THREADS"]})
    if ME["RANK"] == "1" and mark.stat().st_size <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(120)


def _told(_number: int, _frame: FrameType | None) -> None:
    (MEMBER / f"told-{ME['RANK']}").touch()
    sys.exit(3)


def _say(word: dict[str, str]) -> None:
    place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    for _ in range(600):
        try:
            with socket.create_connection(place) as peer:
                peer.sendall(f"{json.dumps(word)}\n".encode())
            return
        except OSError:
            time.sleep(0.1)


if __name__ == "__main__":
    {"chief": chief, "worker": worker}[sys.argv[1]](int(sys.argv[2]))
