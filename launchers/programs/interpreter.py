"""The Python that a job's program will run on, asked and used where the job is launched: an image's, or the host's.

Nothing of the caller's home or environment reaches an image's but what pip is told: its configuration, proxies and
certificates.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.apptainer.container import HOME, PREFIX, Mount, words_of
from launchers.command import output_of
from launchers.errors import CommandError, SiteError

ASK_S = 120
CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
PIPS = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL")
BROKEN = ("while mounting image", "could not open image")
"""What Apptainer says of a SIF whose file system is damaged."""
ABOUT = """\
import importlib.metadata as m, json, sys
have = sorted({f"{d.metadata['Name']}=={d.version}" for d in m.distributions() if d.metadata['Name']})
print(json.dumps({"version": sys.version.split()[0], "have": have}))
"""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python, and what it runs in."""

    python: str
    image: Path | None = None
    """None is the host itself."""
    apptainer: str = "apptainer"

    @property
    def name(self) -> str:
        return self.python if self.image is None else f"{self.python} of {self.image.name}"

    def argv(self, words: Sequence[str], bench: Path, mounts: Sequence[Mount] = ()) -> list[str]:
        """Python with these words; `bench` is a folder that it may write to, which is the same path inside."""
        if self.image is None:
            return [self.python, *words]
        shown = words_of([Mount(source=str(bench), target=str(bench), writable=True), *mounts])
        contained = ["--contain", "--cleanenv", "--no-eval", "--home", f"{bench / 'home'}:{HOME}"]
        contained += ["--workdir", str(bench / "scratch"), *shown, "--pwd", str(bench)]
        return [self.apptainer, "--silent", "exec", *contained, str(self.image), self.python, *words]

    def environment(self, names: Mapping[str, str]) -> dict[str, str]:
        """What a command of `argv` gets, with these variables inside."""
        if self.image is None:
            kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
            return {**kept, **names}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("APPTAINER", "SINGULARITY"))}
        kept |= {k: os.environ[k] for k in ("APPTAINER_CACHEDIR", "APPTAINER_TMPDIR") if k in os.environ}
        return {**kept, **{f"{PREFIX}{name}": value for name, value in names.items()}}

    def about(self, bench: Path) -> Mapping[str, Any]:
        """Its version and what is installed for it. Raises SiteError where there is none."""
        make_bench(bench)
        argv = self.argv(["-c", ABOUT], bench)
        do = "choose another image, or name its interpreter in container.python"
        try:
            said = output_of(argv, timeout_s=ASK_S, env=self.environment({}), cwd=bench)
            known: Mapping[str, Any] = json.loads(said.splitlines()[-1])
        except (CommandError, ValueError, IndexError) as e:
            if self.image is not None and shutil.which(self.apptainer) is None:
                do = "install Apptainer here, load the module that brings it, or name its path in site.apptainer"
                what = f"{self.apptainer} was not found on this host, where packages of a job are installed"
                raise SiteError(what, f"site.apptainer={self.apptainer}", do) from None
            if isinstance(e, CommandError) and self.image is not None and any(word in e.output for word in BROKEN):
                said = e.output.strip().splitlines()[-1].rpartition(": ")[2]
                do = "copy, pull or build it again; `fairlead image verify` reads every byte"
                raise SiteError(f"image {self.image.name} cannot be started: {said}", str(self.image), do) from None
            why = e.output.strip().splitlines()[-1:] if isinstance(e, CommandError) else ["no answer"]
            what = f"there is no Python {self.name} that answers: {' '.join(why) or 'it printed nothing'}"
            raise SiteError(what, "container.python" if self.image else "site.python", do) from None
        return known


def make_bench(bench: Path) -> None:
    """The folders that a container of `argv` writes to."""
    for folder in ("home", "scratch"):
        (bench / folder).mkdir(mode=0o700, parents=True, exist_ok=True)


def pips_own(bench: Path) -> tuple[dict[str, str], list[Mount]]:
    """What pip inside is told of how pip is set up here: variables, and host files they name; its configuration files
    are copied into the home inside, which is private and vanishes."""
    names = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k.lower() in PROXIES or k in CERTIFICATES}
    named = {word for k in (*CERTIFICATES, *PIPS) for word in names.get(k, "").split() if word.startswith("/")}
    for name, place in (("/etc/pip.conf", ".pip"), ("~/.config/pip/pip.conf", ".config/pip")):
        path = Path(name).expanduser()
        if path.is_file():
            target = bench / "home" / place
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(path, target / "pip.conf")
    return names, [Mount(source=path, target=path) for path in sorted(named) if Path(path).exists()]


def run_logged(argv: Sequence[str], log: Path, env: Mapping[str, str], limit_s: float) -> str:
    """Run a command that may take long, with all it says at the end of `log`. Returns why it failed, or nothing."""
    with log.open("ab") as out:
        begin = out.tell()
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
        try:
            done = subprocess.run(argv, env=dict(env), cwd=log.parent, timeout=limit_s, check=False, **streams)
        except subprocess.TimeoutExpired:
            return f"it did not end within {limit_s:g} s"
        except OSError as e:
            return f"{argv[0]} could not be started: {e.strerror}"
    if done.returncode == 0:
        return ""
    with log.open("rb") as said:
        said.seek(begin)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return "\n".join(f"  {line[:300]}" for line in lines[-12:]) or f"exit status {done.returncode}"
