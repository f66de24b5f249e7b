"""A Dockerfile as a definition: what it becomes, what is refused, and one that is really built."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from conf import machine_schema, schema
from launchers.apptainer import dockerfile, image, image_build
from launchers.errors import SpecError
from tests.launchers.registries import Registry

TEXT = """\
# syntax=docker/dockerfile:1
ARG BASE={base}
FROM ${{BASE}}
LABEL title="a b" by=us
ENV GREETING="it's \\"$HOME\\"" OTHER=two
WORKDIR /opt/app
RUN test ! -e seen.txt && \\
    echo "$OTHER" > made.txt  # not yet copied
COPY seen.txt ./
COPY folder /data/
RUN ["cp", "seen.txt", "/opt/app/again $x.txt"]
USER root
EXPOSE 80
ENTRYPOINT ["cat"]
CMD ["/opt/app/seen.txt", "/data/deep/file"]
"""


def test_dockerfile_keeps_the_order_of_copies_and_commands() -> None:
    made = dockerfile.definition_of(TEXT.format(base="python:3.11"), "Dockerfile")

    assert made.base == "python:3.11" and made.files == ("seen.txt", "folder")
    signs = ["/.copied/0", "/.copied/1", "again", "echo", "mkdir -p"]
    kinds = [next((sign for sign in signs if sign in line), "export") for line in made.post]
    assert kinds == ["export", "export", "mkdir -p", "echo", "/.copied/0", "/.copied/1", "again"]
    assert made.text().startswith("Bootstrap: docker\nFrom: python:3.11\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("FROM other", "a second FROM"),
        ("ADD http://x/y /y", "ADD has no counterpart"),
        ("HEALTHCHECK CMD true", "HEALTHCHECK has no counterpart"),
        ('SHELL ["bash"]', "SHELL has no counterpart"),
        ("RUN --mount=type=cache,target=/x true", "RUN --mount=type=cache,target=/x: mounts"),
        ("COPY --from=build /a /b", "without --from"),
        ("COPY *.py /b/", "COPY *.py: patterns"),
        ("COPY ../secret /b", "COPY ../secret"),
        ("COPY a b /c", "need a target that ends in /"),
        ("COPY a", "sources and a target"),
        ("USER nobody", "USER nobody: Apptainer runs a program as whoever starts it"),
        ("ARG TOKEN", "so that it needs a value"),
        ("ENV NAME", "NAME=value is expected"),
        ("RUN echo {{ x }}", "{{ stands for a build argument"),
    ],
)
def test_dockerfile_what_has_no_counterpart_is_named_with_its_line(line: str, reason: str) -> None:
    with pytest.raises(SpecError) as e:
        dockerfile.definition_of(f"FROM a\nRUN true\n{line}\nVOLUME /x\n", "/p/Dockerfile")

    first, volume = e.value.problems
    assert reason in first.what and first.where == "/p/Dockerfile:3"
    assert "VOLUME has no counterpart" in volume.what and volume.where == "/p/Dockerfile:4"


@pytest.mark.parametrize(
    "text", ["", "RUN true\n", "FROM $BASE\n", "FROM --platform=linux/arm64 a\n", "FROM scratch\n"]
)
def test_dockerfile_without_a_plain_base_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="FROM"):
        dockerfile.definition_of(text, "Dockerfile")


def test_dockerfile_image_is_another_when_what_it_copies_changes(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "Dockerfile").write_text("FROM a\nCOPY x /x\n")
    box = machine_schema.Container(runtime="apptainer", dockerfile=str(tmp_path / "app" / "Dockerfile"))
    with pytest.raises(SpecError, match=r"app/x cannot be read: No such file"):
        image.recipe_of(box, tmp_path)
    paths = set()
    for word in ("one", "two", "one"):
        (tmp_path / "app" / "x").write_text(word)
        paths.add(image.image_path(image.recipe_of(box, tmp_path), schema.ImageBuild(), tmp_path))

    assert len(paths) == 2 and all(path.name.startswith("app-") for path in paths)


def _base_layer() -> bytes:
    """A shell and the few commands the Dockerfile runs, with their libraries, from this machine."""
    found: dict[str, Path] = {}
    for name in ("sh", "cp", "cat", "mkdir", "dirname", "rm", "echo", "test", "true", "sed", "grep", "chmod"):
        place = Path(str(shutil.which(name)))
        found[f"bin/{name}"] = place
        said = subprocess.run(["ldd", str(place)], capture_output=True, text=True, timeout=20, check=False).stdout
        found.update({word.lstrip("/"): Path(word) for word in said.split() if word.startswith("/")})
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("tmp", "etc", "dev", "proc", "sys", "root", "var"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, path in found.items():
            data = path.resolve().read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.apptainer
def test_dockerfile_is_really_built_and_runs(registry: Registry, tmp_path: Path) -> None:
    registry.push_layer("lab/base", "1", _base_layer())
    folder = tmp_path / "app"
    (folder / "folder" / "deep").mkdir(parents=True)
    (folder / "seen.txt").write_text("seen\n")
    (folder / "folder" / "deep" / "file").write_text("deep\n")
    (folder / "Dockerfile").write_text(TEXT.format(base=f"{registry.host}/lab/base:1"))
    build = schema.ImageBuild(options=("--fakeroot",))
    site = schema.Site(name="here", image_build=build, registry_http=(registry.host,))
    box = machine_schema.Container(runtime="apptainer", dockerfile=str(folder / "Dockerfile"))

    built = image_build.ensure_built(box, site, tmp_path, tmp_path / "images")

    def said(*argv: str) -> str:
        words = ["apptainer", "--silent", argv[0], "--contain", "--cleanenv", str(built.path), *argv[1:]]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout

    assert said("run") == "seen\ndeep\n"
    assert said("run", "/opt/app/again $x.txt") == "seen\n"
    assert said("exec", "sh", "-c", 'echo "$GREETING"; cat /opt/app/made.txt').startswith("it's \"")
    assert said("exec", "cat", "/opt/app/made.txt") == "two\n"
    assert os.access(built.path, os.R_OK) and image.list_images(tmp_path / "images")[0]["recipe"] == "app"
