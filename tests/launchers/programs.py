"""Small projects and wheels, written here, so that pip needs no package index: also what a project is built with."""

from __future__ import annotations

import zipfile
from pathlib import Path

BACKEND = '''
import pathlib, tomllib, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Everything below src/, by a name and version from pyproject.toml."""
    told = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    name = told["name"].replace("-", "_")
    info, file = f"{name}-{told['version']}.dist-info", f"{name}-{told['version']}-py3-none-any.whl"
    needs = "".join(f"Requires-Dist: {need}\\n" for need in told.get("dependencies", []))
    about = f"Metadata-Version: 2.1\\nName: {told['name']}\\nVersion: {told['version']}\\n{needs}"
    scripts = "".join(f"{k} = {v}\\n" for k, v in told.get("scripts", {}).items())
    with zipfile.ZipFile(pathlib.Path(wheel_directory, file), "w") as wheel:
        for path in sorted(pathlib.Path("src").rglob("*.py")):
            wheel.writestr(str(path.relative_to("src")), path.read_text())
        wheel.writestr(f"{info}/METADATA", about)
        tag = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        if scripts:
            wheel.writestr(f"{info}/entry_points.txt", f"[console_scripts]\\n{scripts}")
        wheel.writestr(f"{info}/RECORD", "")
    return file
'''
"""A build backend of a few lines."""


def wheel(folder: Path, name: str, files: dict[str, str], version: str = "1.0") -> Path:
    """A wheel with these modules."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as made:
        for file, text in files.items():
            made.writestr(file, text)
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", "")
    return path


def project(folder: Path, files: dict[str, str], more: str = "", name: str = "my-project") -> Path:
    """A project that needs the package `greeting` and is built with `tinybuild`; what it is made of below src/."""
    for file, text in files.items():
        path = folder / "src" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["tinybuild"]\nbuild-backend = "tinybuild"\n'
        f'[project]\nname = "{name}"\nversion = "0.1"\ndependencies = ["greeting"]\n{more}'
    )
    return folder


def wheelhouse(folder: Path) -> Path:
    """All that `project` needs."""
    wheel(folder, "tinybuild", {"tinybuild.py": BACKEND})
    wheel(folder, "greeting", {"greeting.py": "TEXT = 'hello'\n"})
    return folder
