"""Sources and requirements, installed: folders of modules that stand in front of what an image (or the host's Python)
has.

    RUNS/.layers/<name>-<key>/modules/     what PYTHONPATH names; mounted read-only where there is a container
    RUNS/.layers/<name>-<key>/modules/bin/ console scripts, which PATH names
    RUNS/.layers/<name>-<key>/layer.json   digest, files and packages; both are there only when they are whole
                                           (the folder's time is when a launch last used it: layer_pruning.py)
    RUNS/.layers/<name>-<key>.log          what pip said
    RUNS/.layers/<name>-<key>.lock         held by the one who installs

The key is a hash over the source, the requirements, the image (or what the host's Python has) and the wheelhouse, so
the same source is installed once, whoever launches how many jobs with it; and what it needs keeps the versions of that
day. What the image has already is not installed again. Installed at launch, so that a source that cannot be is told
before anything queues.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.errors import SiteError
from launchers.programs import source
from launchers.programs.interpreter import Interpreter, make_bench
from launchers.programs.pip import INSTALL_S, Asked, Pip, lacking
from launchers.programs.requirements import Requirements
from launchers.run_folder import record

STORE = ".layers"
DESCRIPTION = "layer.json"
PIPS_OWN = ("direct_url.json", "RECORD")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be installed, and where it shall run."""

    source: Path | None
    requirements: Requirements | None = None
    wheelhouse: Path | None
    interpreter: Interpreter
    image_digest: str
    """Empty on the host."""

    @property
    def names(self) -> tuple[str, ...]:
        """Short ones of what is to be installed."""
        return tuple(source.name_of(path) for path in (self.source, self._file) if path is not None)

    @property
    def asked(self) -> tuple[str, str]:
        """What is to be installed, and the keys that say so."""
        said = ((self.source, "job.source"), (self._file, "job.requirements"))
        given = [(str(path), key) for path, key in said if path is not None]
        return " and ".join(path for path, _ in given), " and ".join(key for _, key in given)

    @property
    def _file(self) -> Path | None:
        return self.requirements.path if self.requirements else None

    def digest(self) -> str:
        """Of all that is given: the source's files are read."""
        own = [source.digest_of(source.files_of(self.source))] if self.source else []
        return " ".join([*own, *([f"requirements {self.requirements.digest}"] if self.requirements else [])])


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An installed source, or installed requirements."""

    modules: Path
    digest: str
    own: tuple[str, ...]
    """Files of the source's own distribution; none where there is no source."""
    packages: tuple[str, ...]
    """name==version of all that was installed."""
    source_digest: str
    """Of all that was given."""


def ensure_installed(wanted: Wanted, runs_dir: Path, say: Say) -> Layer:
    """The layer of a source, installed first where it is not there, or no longer whole.

    However many ask at once, one installs and the others wait; one killed at any moment leaves nothing that the next
    would take for a layer. Raises SiteError with pip's last lines where it cannot be installed.
    """
    record.make_private(runs_dir)
    store = record.make_private(runs_dir / STORE)
    names = wanted.names
    with tempfile.TemporaryDirectory(prefix="fairlead-asks-") as bench:
        about = wanted.interpreter.about(Path(bench))
    digest = wanted.digest()
    layer = store / f"{names[0]}-{_key(wanted, digest, about)[:12]}"
    with _only_installer(layer, say):
        if (known := _known(layer)) is None:
            say(f"installing {' and '.join(names)} for Python {about['version']} (log: {layer}.log)")
            with tempfile.TemporaryDirectory(prefix=f".{layer.name}.", dir=store) as bench:
                _install(wanted, Path(bench).resolve(), layer, digest)
            known = _known(layer)
        if known is not None:
            os.utime(layer)
    if known is None:
        raise SiteError("it was installed, and is not whole", str(layer), "see whether its disk is full, or broken")
    return known


def lock_of(layer: Path) -> Path:
    """Held by the one who installs or removes a layer."""
    return layer.with_name(f"{layer.name}.lock")


def digest_of_modules(modules: Path) -> str:
    """Of what is in a layer: every file of it is read."""
    return source.digest_of(_lasting(modules))


def why_broken(folder: Path, digest: str) -> str:
    """What is wrong with a layer that a job was frozen with, for the node that is about to run it; by names and sizes,
    as every start of every rank reads the files themselves."""
    known = _known(folder.parent)
    if known is None:
        return "it is gone, or files of it are"
    return "" if known.digest == digest else f"its digest is {known.digest}, expected {digest}"


def _known(layer: Path) -> Layer | None:
    """A layer, if it is there and every file has its size."""
    try:
        told = record.read_json(layer / DESCRIPTION)
        sizes = {name: (layer / "modules" / name).lstat().st_size for name in told["sizes"]}
    except (OSError, SiteError, TypeError, KeyError):
        return None
    if sizes != told["sizes"]:
        return None
    own, packages = tuple(told["own"]), tuple(told["packages"])
    shown = {"digest": told["digest"], "source_digest": told["source"]}
    return Layer(modules=layer / "modules", own=own, packages=packages, **shown)


def _key(wanted: Wanted, source_digest: str, about: Mapping[str, Any]) -> str:
    house = source.digest_of((p.name, p) for p in source.wheels(wanted.wheelhouse)) if wanted.wheelhouse else None
    base = [wanted.interpreter.python, wanted.image_digest or about["have"]]
    text = json.dumps([source_digest, base, about["version"], house])
    return hashlib.sha256(text.encode()).hexdigest()


def _install(wanted: Wanted, bench: Path, layer: Path, digest: str) -> None:
    """Build the source's wheel, ask pip what it and the requirements lack, install all beside; then the name.

    In three steps, because `pip install --target` alone would install anew what the image has.
    """
    make_bench(bench)
    modules = bench / "whole" / "modules"
    modules.mkdir(parents=True)
    asked, log = wanted.requirements, layer.with_name(f"{layer.name}.log")
    log.write_bytes(b"")
    passed = asked.variables if asked else {}
    pip = Pip(wanted.interpreter, wanted.wheelhouse, bench, log, Asked(*wanted.asked, passed))
    wheel = _built(wanted.source, pip) if wanted.source else None
    made = [_address(wheel)] if wheel else []
    report = bench / "report.json"
    pip("install", "--dry-run", "--report", str(report), *made, *_written(wanted, bench))
    said = json.loads(report.read_text(encoding="utf-8"))
    lines = list(lacking(said, wheel.as_uri() if wheel else "", asked))
    given = [*made, *_file(bench / "lacking.txt", lines, wanted)]
    if given:
        pip("install", "--no-deps", "--ignore-installed", "--target", str(modules), *given)
    _describe(modules, wheel, digest)
    if layer.exists():  # no longer whole
        layer.rename(bench / "broken")
    (bench / "whole").rename(layer)


def _built(path: Path, pip: Pip) -> Path:
    given = source.copy_to(path, pip.bench / "source")
    pip("wheel", "--no-deps", "--wheel-dir", str(pip.bench / "made"), str(given))
    (wheel,) = (pip.bench / "made").iterdir()
    return wheel


def _address(wheel: Path) -> str:
    """With its hash, for which pip asks where requirements have theirs."""
    return f"{wheel.as_uri()}#sha256={hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def _written(wanted: Wanted, bench: Path) -> list[str]:
    """Words that give pip the requirements."""
    asked = wanted.requirements
    if asked is None:
        return []
    bounds = _file(bench / "constraints.txt", asked.constraints, wanted)
    return [*_file(bench / "requirements.txt", asked.lines, wanted), *(["-c", bounds[1]] if bounds else [])]


def _file(path: Path, lines: Sequence[str], wanted: Wanted) -> list[str]:
    """Words that give pip these lines, with the options that the requirements have; none for no lines."""
    asked = wanted.requirements or Requirements(path=path)
    path.write_text(asked.text(lines, offline=wanted.wheelhouse is not None), encoding="utf-8")
    return ["-r", str(path)] if lines else []


def _describe(modules: Path, wheel: Path | None, source_digest: str) -> None:
    """Write layer.json. The same packages installed again have the same digest, so what differs each time is not in it:
    what Python compiled, and what pip says of where it built them."""
    files = _lasting(modules)
    document = {
        "digest": source.digest_of(files),
        "source": source_digest,
        "own": zipfile.ZipFile(wheel).namelist() if wheel else [],
        "packages": sorted(_title(p) for p in modules.glob("*.dist-info")),
        "sizes": {name: path.lstat().st_size for name, path in files},
    }
    record.write_json(modules.parent / DESCRIPTION, document)


def _lasting(modules: Path) -> list[tuple[str, Path]]:
    names = [p for p in modules.rglob("*") if p.is_file() and not {"__pycache__", *PIPS_OWN} & set(p.parts)]
    return [(str(p.relative_to(modules)), p) for p in names]


def _title(info: Path) -> str:
    name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
    return f"{name}=={version}"


@contextlib.contextmanager
def _only_installer(layer: Path, say: Say) -> Iterator[None]:
    """Hold the layer's lock, and remove what one who was killed left."""
    with contextlib.ExitStack() as held:
        lock = lock_of(layer)
        try:
            held.enter_context(record.locked(lock, timeout_s=0))
        except record.LockBusy:
            say(f"{layer.name} is being installed by another launch; waiting")
            held.enter_context(record.locked(lock, timeout_s=INSTALL_S))
        for left in layer.parent.glob(f".{layer.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
