"""Scalars in TensorBoard's event files, read while a program writes them (torch, TensorFlow, tensorboardX and others).

Each record becomes a line as reports.py takes it. A file is records of 8 bytes length, 4 of a checksum of it, the
event and 4 more; an event is decoded by TensorBoard's own classes, of which the protocol alone is imported (30 ms;
its readers take ten times as long, and numpy). Source: tensorflow/core/util/event.proto, summary.proto, and
tensorboard's backend/event_processing (what a tag's numbers are, and what a session log takes back).
"""

from __future__ import annotations

import json
import math
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from launchers.errors import SiteError
from launchers.host.growing import Growing
from launchers.run_folder.record import Attempt

HEAD = struct.Struct("<QI")
FOOT = 4
LONGEST = 4 * 1024 * 1024
"""Records with pictures and graphs are longer, and passed over unread."""
BUSY_S = 0.2
"""CPU that one look may take."""
NUMBERS = {1: "f", 2: "d", 3: "i", 9: "q", 19: "e"}
"""TensorFlow's types (types.proto) as struct knows them: float, double, int32, int64, half."""
VALUES = {1: "float_val", 2: "double_val", 3: "int_val", 9: "int64_val"}


class EventFiles:
    """The scalars of one attempt."""

    def __init__(self, attempt: Attempt, pattern: str = "logs") -> None:
        """`pattern` names folders below the member's. Raises SiteError where there is nothing to decode events by."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        except ImportError as e:
            do = "pip install 'fairlead[tensorboard]' where the supervisor runs"
            raise SiteError(f"event files cannot be read: {e}", where="job.metrics.kind=tensorboard", do=do) from None
        self._event, self._start = Event, SessionLog.START
        self._attempt = attempt
        self._growing = Growing(attempt, pattern, "tfevents")
        self._read: dict[Path, int] = {}
        """Where the next record of a file begins."""
        self._damaged = ""

    @property
    def trouble(self) -> str:
        """What a person should know; empty where there is nothing."""
        return self._damaged or self._growing.trouble

    def lines(self, last: bool = False, torn: bool = False) -> Iterator[bytes]:
        """What was said since: all of it with `last`, and else as much as a short look finds. A record that is not
        whole waits for its rest."""
        begun = time.thread_time()
        for path, prefix, size in self._growing.files():
            offset = self._read.get(path, self._growing.begin(path))
            if size <= offset:
                continue
            with path.open("rb") as f:
                f.seek(offset)
                while (record := self._record(f, size, path)) is not None:
                    self._read[path] = f.tell()
                    yield from self._lines(record, prefix)
                    if not last and time.thread_time() - begun > BUSY_S:
                        return

    def _record(self, f: BinaryIO, size: int, path: Path) -> bytes | None:
        """The next event; empty for one that is too long, None where there is no whole one."""
        begin = f.tell()
        head = f.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        length, checksum = HEAD.unpack(head)
        if checksum != _masked_crc(head[:8]):
            self._damaged = f"{path} is no event file from byte {begin} on"
            return None
        if begin + HEAD.size + length + FOOT > size:
            return None
        if length > LONGEST:
            f.seek(length + FOOT, os.SEEK_CUR)
            return b""
        return f.read(length + FOOT)[:length]

    def _lines(self, record: bytes, prefix: str) -> Iterator[bytes]:
        from google.protobuf.message import DecodeError

        try:
            event = self._event.FromString(record)
        except DecodeError:
            return
        if event.HasField("session_log") and event.session_log.status == self._start and event.step > 0:
            self._went_on(event.step - 1, event.wall_time)
        named = ((prefix + value.tag, _number(value)) for value in event.summary.value)
        metrics = {name: number for name, number in named if number is not None}
        if metrics:
            said = {k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}
            t = event.wall_time if event.wall_time > 0 else time.time()
            yield json.dumps({"t": t, "step": event.step, "metrics": said}).encode()

    def _went_on(self, step: int, t: float) -> None:
        """A program that takes back later steps went on from a checkpoint: what our trainer says in its ledger."""
        said = json.dumps({"t": t, "event": "restore_done", "step": step}) + "\n"
        ledger = self._attempt.path / "ledger.jsonl"
        if not ledger.exists() or said not in ledger.read_text(errors="replace"):
            with ledger.open("a") as f:
                f.write(said)


def _number(value: Any) -> float | None:
    """A summary's value, if it is one number: written the old way, or as a tensor of one element."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.metadata.plugin_data.plugin_name not in ("", "scalars"):
        return None
    tensor = value.tensor
    if tensor.dtype not in NUMBERS or any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    kind = NUMBERS[tensor.dtype]
    if len(tensor.tensor_content) == struct.calcsize(f"<{kind}"):
        return float(struct.unpack(f"<{kind}", tensor.tensor_content)[0])
    if kind == "e" and tensor.half_val:  # the bits, as whole numbers
        return float(struct.unpack("<e", struct.pack("<H", tensor.half_val[0] & 0xFFFF))[0])
    listed = getattr(tensor, VALUES.get(tensor.dtype, ""), ())
    return float(listed[0]) if listed else None


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC32C = _table()


def _masked_crc(data: bytes) -> int:
    """CRC-32C as record files mask it (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
