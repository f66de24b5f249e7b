"""What names an image in a registry."""

from __future__ import annotations

import re

import pytest

from conf.reference import parse

PIN = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "host", "name", "tag", "digest"),
    [
        ("docker://python", "docker.io", "library/python", "latest", None),
        ("docker://python:3.11", "docker.io", "library/python", "3.11", None),
        ("docker://pytorch/pytorch:2.9", "docker.io", "pytorch/pytorch", "2.9", None),
        ("docker://index.docker.io/pytorch/pytorch", "docker.io", "pytorch/pytorch", "latest", None),
        ("docker://localhost/a/b", "localhost", "a/b", "latest", None),
        ("docker://127.0.0.1:5000/a:1", "127.0.0.1:5000", "a", "1", None),
        ("oras://nvcr.io/nvidia/pytorch:25.10-py3", "nvcr.io", "nvidia/pytorch", "25.10-py3", None),
        (f"docker://h.org/a/b@{PIN}", "h.org", "a/b", "latest", PIN),
        (f"docker://h.org/a_b/c-d:1@{PIN}", "h.org", "a_b/c-d", "1", PIN),
    ],
)
def test_reference_is_read_as_docker_reads_it(text: str, host: str, name: str, tag: str, digest: str | None) -> None:
    ref = parse(text)

    assert (ref.host, ref.name, ref.tag, ref.digest) == (host, name, tag, digest)
    assert ref.by(PIN) == f"{ref.scheme}://{host}/{name}@{PIN}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("library://a/b/c", "library:// images are not pulled at launch; docker:// and oras:// are"),
        ("docker://me:secret@h.org/a", "a name or password must not stand in a reference"),
        ("docker://h.org/Upper", "'Upper' is no name of an image"),
        ("docker://h.org/a:", "'' is no tag"),
        ("docker://h.org/a:-x", "'-x' is no tag"),
        ("docker://h.org/a@sha256:12", "'sha256:12' is no digest"),
        ("docker://", "'library/' is no name"),
        ("docker://h.org/../a", "'../a' is no name"),
        ("docker://-o.org/a", "'-o.org' is no host"),
        ("docker://h.org/a b", "'a b' is no name"),
    ],
)
def test_reference_that_is_none_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as e:
        parse(text)

    assert "secret" not in str(e.value)
