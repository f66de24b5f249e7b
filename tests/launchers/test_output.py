"""What a rank prints on its way to its log: no secret in any piece, no control characters, no endless lines."""

from __future__ import annotations

import base64
import json
import random
from urllib.parse import quote

import pytest

from conf.masking import here, masked, spellings
from launchers.host.output import LONGEST_LINE, Cleaned, Mask

VALUES = ["hunter2-and-more", 'a "quoted" one/with+marks', "-----BEGIN KEY-----\nabcdefgh12345678\n-----END KEY-----"]


@pytest.mark.parametrize("value", VALUES)
def test_masked_finds_the_usual_spellings_of_a_value(value: str) -> None:
    encoded = [base64.b64encode(f"{before}{value}".encode()).decode() for before in ("", "u", "us", "use")]
    said = "\n".join(["x" + value + "y", json.dumps({"k": value}), quote(value), quote(value, safe=""), *encoded])

    shown = masked(said, [value])

    core = base64.b64encode(value.encode()).decode()[4:-6]
    assert value not in shown and quote(value, safe="") not in shown and json.dumps(value)[1:-1] not in shown
    assert core not in shown
    assert shown.startswith("x***y\n")


def test_masked_leaves_everything_else() -> None:
    assert masked("nothing to see: hunter", VALUES) == "nothing to see: hunter"
    assert masked("abc", ["abc"]) == "abc", "too short to be looked for"


def test_here_knows_values_of_variables_and_of_files(tmp_path: object) -> None:
    path = f"{tmp_path}/key"
    with open(path, "w", encoding="utf-8") as f:  # noqa: PTH123
        f.write("in a file")

    assert here({"FAIRLEAD_SECRETS": "A,B,C", "A": "in a variable", "B_FILE": path}) == ["in a variable", "in a file"]
    assert here({}) == []


def test_mask_over_any_cut_is_that_of_the_whole() -> None:
    chance = random.Random(7)
    secrets = spellings(["canary-1", "canary-123456", "aaab"])
    data = b" ".join(
        chance.choice([b"canary-1", b"canary-12345", b"canary-123456", b"aaaab", b"can", b"x"]) for _ in range(400)
    )
    whole = Mask(secrets).feed(data, last=True)
    for _ in range(30):
        mask, out, rest = Mask(secrets), b"", data
        while rest:
            size = chance.randint(1, 20)
            out, rest = out + mask.feed(rest[:size]), rest[size:]
        assert out + mask.feed(b"", last=True) == whole
    assert b"canary-1" not in whole and b"aaab" not in whole


def test_mask_shows_at_once_what_cannot_begin_a_secret() -> None:
    mask = Mask([b"hunter2"])

    assert mask.feed(b"password: ") == b"password: "
    assert [mask.feed(b"hunt"), mask.feed(b"er"), mask.feed(b"2!"), mask.feed(b"hun", last=True)] == [
        b"",
        b"",
        b"***!",
        b"hun",
    ]


def test_cleaned_text_is_as_it_was() -> None:
    text = "step 1\tloss 0.5\n\x1b[31mrot\x1b[0m \u2028 é 漢\n\nno end".encode()
    cleaned = Cleaned(1.0)

    assert b"".join(cleaned.feed(text[i : i + 1]) for i in range(len(text))) + cleaned.feed(b"", last=True) == text


def test_cleaned_binary_becomes_readable() -> None:
    assert Cleaned(1.0).feed(b"\x00\x01\xff\xfe ok\x7f\n") == b"\\x00\\x01\\xff\\xfe ok\\x7f\n"


def test_cleaned_ends_of_lines_of_other_systems_are_ends_of_lines() -> None:
    cleaned = Cleaned(1.0)

    assert cleaned.feed(b"a\r\nb\r") + cleaned.feed(b"\nc\n") == b"a\nb\nc\n"


def test_cleaned_endless_line_is_cut_and_the_next_one_whole() -> None:
    cleaned = Cleaned(1.0)

    said = b"".join(cleaned.feed(b"x" * 65536) for _ in range(50)) + cleaned.feed(b"end\nnext\n")

    first, second, rest = said.split(b"\n")
    left_out = 50 * 65536 + 3 - LONGEST_LINE
    assert first == b"x" * LONGEST_LINE + f" [fairlead: {left_out} more characters of this line are left out]".encode()
    assert (second, rest) == (b"next", b"")


@pytest.mark.parametrize("bar", [b"\r%d%%", b"%d%%\r"])
def test_cleaned_progress_bar_leaves_its_last_state_and_few_others(bar: bytes) -> None:
    cleaned = Cleaned(1e9)

    said = b"".join(cleaned.feed(bar % i) for i in range(101)) + cleaned.feed(b"\ndone\n")

    assert said in (b"100%\ndone\n", b"0%\n100%\ndone\n")


def test_cleaned_progress_bar_where_reports_are_in_it_keeps_every_state() -> None:
    cleaned = Cleaned(0.0)

    said = b"".join(cleaned.feed(b"%d%%\r" % i) for i in range(50)) + cleaned.feed(b"", last=True)

    assert said.split() == [b"%d%%" % i for i in range(50)]


def test_cleaned_progress_bar_that_stands_still_is_shown() -> None:
    cleaned = Cleaned(1e9)
    cleaned.feed(b"\r1%\r2%\r3")

    assert (cleaned.feed(b"0%"), cleaned.rest(), cleaned.rest()) == (b"", b"30%\n", b"")
