"""Files of requirements: read as pip reads them, with what they include, without what must not travel."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.errors import Problem, SpecError
from launchers.programs.requirements import Requirements, beside, read

HASH = f"--hash=sha256:{'0' * 64}"


def told(folder: Path, text: str, **others: str) -> Requirements:
    """What requirements.txt says, beside other files."""
    for name, other in others.items():
        (folder / f"{name}.txt").write_text(other)
    (folder / "requirements.txt").write_text(text)
    return read(folder / "requirements.txt", offline=False)


def refused(folder: Path, text: str, *, offline: bool = False) -> list[Problem]:
    (folder / "requirements.txt").write_text(text)
    with pytest.raises(SpecError) as caught:
        read(folder / "requirements.txt", offline=offline)
    assert {problem.where for problem in caught.value.problems} == {"job.requirements"}
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\nb == 1.0  # why\n\n# c\n", ("a", "b == 1.0")),
        ("\ufeffa[x,y]>=1 ; python_version > '3'\r\nb\n", ("a[x,y]>=1 ; python_version > '3'", "b")),
        (f"a==1 \\\n  {HASH}\nb \\\n# no more\nc \\", (f"a==1   {HASH}", "b", "c")),
        ("a[x, y] ~=1.0\nb<2,>1\nc (>1)\nd; sys_platform == 'linux'\ne===1\nf_g.h-i != 2", None),
        ("a @ https://h/a-1.whl#sha256=0\nhttps://h/b-1.0.tar.gz\n", None),
        ("a @ git+ssh://git@h/x.git@v1\nb @ git+https://git@h/x.git\n", None),
    ],
)
def test_requirements_are_lines_without_comments(workdir: Path, text: str, lines: tuple[str, ...] | None) -> None:
    assert told(workdir, text).lines == (lines or tuple(text.splitlines()))


def test_requirements_that_others_are_included_by_are_one_text_and_one_digest(workdir: Path) -> None:
    whole = told(workdir, "a\nb\n-i https://h/simple\n-c c.txt\n", c="n<2\n")
    parts = told(
        workdir,
        "-r one.txt\n--constraint=bounds.txt  # below\n",
        one="a\n-r two.txt\n--index-url https://h/simple",
        two="b\n-rone.txt",
        bounds="n<2",
    )

    assert parts == whole and parts.digest == whole.digest
    assert (parts.lines, parts.constraints, parts.options) == (
        ("a", "b"),
        ("n<2",),
        (("--index-url", "https://h/simple"),),
    )
    assert told(workdir, "a\nb\n-c c.txt\n").digest != whole.digest
    assert told(workdir, "a\n-r c.txt\n").digest != told(workdir, "a\n-c c.txt\n").digest
    assert parts.text(parts.lines, offline=False) == "--index-url https://h/simple\na\nb\n"
    assert parts.text(parts.lines, offline=True) == "a\nb\n", "a wheelhouse is all that is asked"


def test_requirements_know_whether_hashes_are_asked_for(workdir: Path) -> None:
    assert told(workdir, f"a==1 {HASH}").hashed and told(workdir, "a\n--require-hashes").hashed
    assert told(workdir, "a\n-c c.txt\n", c=f"a==1 --hash sha256:{'0' * 64}").hashed
    assert not told(workdir, "a==1\n--pre --no-binary :all:").hashed


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-e .", "requirements.txt:1 is '-e .', an editable package"),
        ("a\n--editable=git+https://h/x#egg=x", "requirements.txt:2 is"),
        (".", "'.', a file or folder of this host"),
        ("./lib[x]", "a file or folder of this host"),
        ("lib/a-1.0-py3-none-any.whl", "a file or folder of this host"),
        ("a-1.0.tar.gz", "a file or folder of this host"),
        ("a @ file:///x/a.whl", "a file or folder of this host"),
        ("a @ ./a.whl", "a file or folder of this host"),
        ("[build-system]", "is '[build-system]', no requirement"),
        ("a 1.0", "no requirement"),
        ("--find-links ./wheels", "--find-links './wheels', a folder of this host"),
        ("--find-links=file:///wheels", "a folder of this host"),
        ("a --config-settings=x=y", "with an option that is not --hash"),
        ("--index https://h", "unrecognized arguments: --index https://h"),
        ("--no-such", "unrecognized arguments"),
        ("-r", "expected one argument"),
        ("-i 'https://h", "No closing quotation"),
        ("-r ../other.txt", "includes '../other.txt', which is not in the project"),
        ("-c https://h/bounds.txt", "includes 'https://h/bounds.txt', which is not in"),
        ("-r nowhere.txt", "nowhere.txt cannot be read: No such file"),
        ("# nothing\n", "requirements.txt names no package"),
        ("a==${VERSION_NOT_SET}", "requirements.txt:1 names ${VERSION_NOT_SET}, which is not set here"),
    ],
)
def test_requirements_that_pip_cannot_be_handed_are_told_with_their_line(workdir: Path, text: str, what: str) -> None:
    (problem,) = refused(workdir, text)

    assert what in problem.what and problem.do


@pytest.mark.parametrize(
    "text",
    [
        "--index-url https://me:canary@h/simple\na",
        "--extra-index-url=https://canary@h/simple\na",
        "--find-links https://h/wheels?sig=canary\na",
        "a @ git+https://canary@h/a.git",
        "a @ https://${TOKEN}:canary@h/a-1.whl",
        "https://me:canary@h/a-1.whl",
    ],
)
def test_requirements_with_a_password_are_refused_and_it_is_not_shown(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("TOKEN", "x")

    (problem,) = refused(workdir, text)

    assert "password or signature would travel with your code" in problem.what and "${NAME}" in problem.do
    assert "canary" not in str(problem)


@pytest.mark.parametrize(
    "text",
    [
        "--index-url https://me:${TOKEN}@h/simple\na",
        "--extra-index-url https://${TOKEN}@h/simple\na",
        "a @ git+https://${TOKEN}@h/a.git@v1",
        "a @ https://h/a-1.whl?token=${TOKEN}",
    ],
)
def test_requirements_may_have_a_password_in_a_variable_and_keep_its_name_alone(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("TOKEN", "canary")

    found = told(workdir, text)

    assert found.variables == {"TOKEN": "canary"} and "canary" not in repr(found)
    monkeypatch.setenv("TOKEN", "another")
    assert told(workdir, text).digest == found.digest


def test_requirements_at_an_address_are_refused_where_a_wheelhouse_is_all_that_is_asked(workdir: Path) -> None:
    (problem,) = refused(workdir, "--index-url https://h/simple\na @ https://h/a-1.whl", offline=True)

    assert problem.what.startswith("requirements.txt:2") and "job.wheelhouse" in problem.what


def test_requirements_beside_a_script_are_found_or_else_where_the_job_is_launched(tmp_path: Path) -> None:
    assert beside("sub/train.py", tmp_path) is None
    (tmp_path / "requirements.txt").write_text("")
    assert beside("sub/train.py", tmp_path) == beside("train.py", tmp_path) == "requirements.txt"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/requirements.txt").write_text("")
    assert beside("sub/train.py", tmp_path) == "sub/requirements.txt"
    assert beside("pkg://conf/experiment/x.py", tmp_path) is None
