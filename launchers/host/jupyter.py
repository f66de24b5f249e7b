"""Starts JupyterLab where a notebook's job runs, for `fairlead notebook`: `python jupyter.py node|loopback FOLDER`.

Run as a file by the container's own interpreter, so nothing of ours is imported. Address, port and token are in a
configuration file that only its owner reads: they stand on no command line, in no variable and in no log. It becomes
the server by exec, which so gets the signals that end the job.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import sys
from pathlib import Path

MISSING = """\
JupyterLab is not installed for {python}: use an image that has it (container.image=PATH.sif), or add \
jupyterlab to the image's recipe; without a container: pip install jupyterlab"""


def main() -> int:
    where, root = sys.argv[1:3]
    if importlib.util.find_spec("jupyterlab") is None:
        print(MISSING.format(python=sys.executable), flush=True)
        return 1
    os.umask(0o077)
    folder = Path(os.environ["FAIRLEAD_ATTEMPT_DIR"], "notebook")
    folder.mkdir(mode=0o700)
    address = socket.gethostbyname(socket.gethostname()) if where == "node" else "127.0.0.1"
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    token = secrets.token_urlsafe(32)
    server = {"ip": address, "port": port, "port_retries": 0, "open_browser": False, "root_dir": root}
    server |= {"allow_root": os.geteuid() == 0}
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"ServerApp": server, "IdentityProvider": {"token": token}}))
    place = {"host": socket.gethostname(), "address": address, "port": port, "token": token}
    (folder / "place.json").write_text(json.dumps(place))
    os.environ["JUPYTER_RUNTIME_DIR"] = str(folder / "runtime")
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", f"--config={settings}"])


if __name__ == "__main__":
    sys.exit(main())
