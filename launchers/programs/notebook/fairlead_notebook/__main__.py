"""Starts JupyterLab where a notebook's job runs: `python -m fairlead_notebook node|loopback FOLDER`.

Address, port and token are in a configuration file that only its owner reads: they stand on no command line, in no
variable and in no log. It becomes the server by exec, which so gets the signals that end the job.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import sys
from pathlib import Path


def main() -> None:
    where, root = sys.argv[1:3]
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
    os.environ |= {"JUPYTER_RUNTIME_DIR": str(folder / "runtime"), **assets()}
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", f"--config={settings}"])


def assets() -> dict[str, str]:
    """Where JupyterLab's own files are if it was installed beside what Python has: it looks below Python's prefix
    (https://jupyterlab.readthedocs.io/en/stable/user/directories.html)."""
    found = importlib.util.find_spec("jupyterlab")
    assert found is not None and found.origin is not None, "pip has installed what this package needs"
    beside = Path(found.origin).parents[1]
    if not (beside / "share/jupyter/lab").is_dir():
        return {}
    return {
        "JUPYTERLAB_DIR": str(beside / "share/jupyter/lab"),
        "JUPYTER_PATH": str(beside / "share/jupyter"),
        "JUPYTER_CONFIG_PATH": str(beside / "etc/jupyter"),
    }


if __name__ == "__main__":
    main()
