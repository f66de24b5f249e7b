"""Where ranks meet: ports that are free, beside those of the kernel's own choice, and different for different jobs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from launchers.errors import SiteError
from launchers.host import place
from tests.launchers.planned import TWO_BY_TWO, composed, planned


def test_candidates_are_all_blocks_once_and_begin_elsewhere_for_each_attempt() -> None:
    room = range(10000, 10100)
    found = [list(place.candidates("d-1.0", attempt, 7, room)) for attempt in (0, 1)]

    assert sorted(found[0]) == sorted(found[1]) == list(range(10000, 10098, 7))
    assert found[0][0] != found[1][0]
    assert len({next(place.candidates(f"d-{i}.0", 0, 7, range(10240, 32768))) for i in range(50)}) > 45


@pytest.mark.parametrize(
    ("taken", "room"),
    [
        (range(32768, 61000), range(10240, 32768)),
        (range(1024, 60000), range(60000, 65536)),
        (range(1024, 65536), range(10240, 65536)),
    ],
)
def test_room_is_beside_the_kernels_own_ports_where_there_is_enough(taken: range, room: range) -> None:
    assert place.room_beside(taken) == room


def test_free_ports_pass_over_a_block_in_which_one_is_taken() -> None:
    first = place.free_ports("d-1.0", 0, 4)
    with socket.socket() as taken:
        taken.bind(("", first + 2))
        second = place.free_ports("d-1.0", 0, 4)

    assert first not in place.ephemeral()
    assert second not in range(first - 3, first + 4)


def test_free_ports_that_are_not_there_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_is_free", lambda port: False)

    with pytest.raises(SiteError, match="no 4 consecutive ports from"):
        place.free_ports("d-1.0", 0, 4)


def test_ephemeral_range_that_cannot_be_read_is_the_usual_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(place, "EPHEMERAL", tmp_path / "none")

    assert place.ephemeral() == range(32768, 61000)


def test_located_hosts_are_slurms_and_the_first_is_this_one(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.put("scontrol", "print('n3\\nn4')")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[3-4]")

    found = place.located(planned(composed(*TWO_BY_TWO)), 0, 0)

    assert found.hosts == ((socket.gethostname(), "n4"),)
    assert fakes.calls("scontrol")[0]["argv"] == ["show", "hostnames", "n[3-4]"]


def test_located_other_hosts_than_asked_for_are_an_error(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.put("scontrol", "print('n3')")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n3")

    with pytest.raises(SiteError, match=r"Slurm gave 1 hosts \(n3\), but the job's pools need 2"):
        place.located(planned(composed(*TWO_BY_TWO)), 0, 0)


def test_located_on_one_machine_is_the_loopback_address() -> None:
    assert place.located(planned(composed("machine.ranks_per_node=2")), 0, 0).hosts == (("127.0.0.1",),)
