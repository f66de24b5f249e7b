"""Sources, installed: folders of modules that stand in front of what an image (or the host's Python) has.

    RUNS/.layers/<name>-<key>/modules/     what PYTHONPATH names; mounted read-only where there is a container
    RUNS/.layers/<name>-<key>/layer.json   digest, files and packages; both are there only when they are whole
                                           (the folder's time is when a launch last used it: layer_pruning.py)
    RUNS/.layers/<name>-<key>.log          what pip said
    RUNS/.layers/<name>-<key>.lock         held by the one who installs

The key is a hash over the source, the image (or what the host's Python has) and the wheelhouse, so the same source is
installed once, whoever launches how many jobs with it; and what it needs keeps the versions of that day. What the image
has already is not installed again. Installed at launch, so that a source that cannot be is told before anything queues.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.apptainer.container import Mount
from launchers.errors import SiteError
from launchers.programs import source
from launchers.programs.interpreter import Interpreter, make_bench, pips_own, run_logged
from launchers.run_folder import record

INSTALL_S = 3600
STORE = ".layers"
DESCRIPTION = "layer.json"
PIPS_OWN = ("direct_url.json", "RECORD")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be installed, and where it shall run."""

    source: Path
    wheelhouse: Path | None
    interpreter: Interpreter
    image_digest: str
    """Empty on the host."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An installed source."""

    modules: Path
    digest: str
    own: tuple[str, ...]
    """Files of the source's own distribution."""
    packages: tuple[str, ...]
    """name==version of all that was installed."""
    source_digest: str


def ensure_installed(wanted: Wanted, runs_dir: Path, say: Say) -> Layer:
    """The layer of a source, installed first where it is not there, or no longer whole.

    However many ask at once, one installs and the others wait; one killed at any moment leaves nothing that the next
    would take for a layer. Raises SiteError with pip's last lines where it cannot be installed.
    """
    record.make_private(runs_dir)
    store = record.make_private(runs_dir / STORE)
    name = source.name_of(wanted.source)
    with tempfile.TemporaryDirectory(prefix="fairlead-asks-") as bench:
        about = wanted.interpreter.about(Path(bench))
    digest = source.digest_of(source.files_of(wanted.source))
    layer = store / f"{name}-{_key(wanted, digest, about)[:12]}"
    with _only_installer(layer, say):
        if (known := _known(layer)) is None:
            say(f"installing {name} for Python {about['version']} (log: {layer}.log)")
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
    base = wanted.image_digest or [wanted.interpreter.python, about["have"]]
    text = json.dumps([source_digest, base, about["version"], house])
    return hashlib.sha256(text.encode()).hexdigest()


def _install(wanted: Wanted, bench: Path, layer: Path, source_digest: str) -> None:
    """Build the source's wheel, ask pip what it lacks, install both beside; then the name.

    In three steps, because `pip install --target` alone would install anew what the image has.
    """
    make_bench(bench)
    made, modules = bench / "made", bench / "whole" / "modules"
    modules.mkdir(parents=True)
    pip = _Pip(wanted, bench, layer.with_name(f"{layer.name}.log"))
    pip.log.write_bytes(b"")
    given = source.copy_to(wanted.source, bench / "source")
    pip("wheel", "--no-deps", "--wheel-dir", str(made), str(given))
    (wheel,) = made.iterdir()
    report = bench / "report.json"
    pip("install", "--dry-run", "--report", str(report), str(wheel))
    lacking = _lacking(json.loads(report.read_text(encoding="utf-8")), wheel)
    pip("install", "--no-deps", "--ignore-installed", "--target", str(modules), str(wheel), *lacking)
    _describe(modules, wheel, source_digest)
    if layer.exists():  # no longer whole
        layer.rename(bench / "broken")
    (bench / "whole").rename(layer)


class _Pip:
    """pip of a job's Python, with its log; raises SiteError with its last lines when it fails."""

    def __init__(self, wanted: Wanted, bench: Path, log: Path) -> None:
        self.wanted, self.bench, self.log = wanted, bench, log
        self.offline = wanted.wheelhouse is not None
        names, mounts = ({}, []) if self.offline else pips_own(bench) if wanted.interpreter.image else ({}, [])
        house = wanted.wheelhouse.resolve() if wanted.wheelhouse else None
        self.mounts = [*mounts, *([Mount(source=str(house), target=str(house))] if house else [])]
        self.names = {**names, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        self.names |= {"PIP_ROOT_USER_ACTION": "ignore", "PIP_BREAK_SYSTEM_PACKAGES": "1"}
        if house is not None:
            self.names |= {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": house.as_uri()}

    def __call__(self, *words: str) -> None:
        interpreter = self.wanted.interpreter
        argv = interpreter.argv(["-m", "pip", *words], self.bench, self.mounts)
        why = run_logged(argv, self.log, interpreter.environment(self.names), INSTALL_S)
        if why:
            do = "see its last lines above; "
            do += (
                f"everything that it needs, and is built with, has to be in {self.wanted.wheelhouse}"
                if self.offline
                else "where no package index can be reached from here, give a folder of wheels: job.wheelhouse=DIR"
            )
            what = f"{self.wanted.source} cannot be installed for {interpreter.name}: pip {words[0]} said\n{why}"
            raise SiteError(what, f"job.source; the whole log: {self.log}", do)


def _lacking(report: Mapping[str, Any], wheel: Path) -> Iterator[str]:
    """Requirements, as exactly as pip resolved them, of what is not there yet and is not the source itself."""
    for item in report["install"]:
        info, url = item["metadata"], item["download_info"]["url"]
        if url != wheel.as_uri():
            yield f"{info['name']} @ {url}" if item.get("is_direct") else f"{info['name']}=={info['version']}"


def _describe(modules: Path, wheel: Path, source_digest: str) -> None:
    """Write layer.json. The same packages installed again have the same digest, so what differs each time is not in it:
    what Python compiled, and what pip says of where it built them."""
    files = _lasting(modules)
    document = {
        "digest": source.digest_of(files),
        "source": source_digest,
        "own": zipfile.ZipFile(wheel).namelist(),
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
