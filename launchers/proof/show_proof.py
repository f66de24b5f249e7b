"""What `prove` prints: the kills and what each cost, and whether both runs ended alike."""

from __future__ import annotations

from collections.abc import Iterator

from launchers.proof.prove import Proof

SHOWN = 5


def proof_text(found: Proof) -> Iterator[str]:
    """A table of the kills, then the verdict with what speaks against it."""
    rows = [("", "KILL", "AT STEP", "WENT ON FROM", "STEPS LOST")]
    rows += [
        (str(i), each.signal, f"{each.reached}/{found.total_steps}", str(each.resumed), str(each.lost))
        for i, each in enumerate(found.struck, start=1)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    if found.missed:
        yield f"{found.missed} more came too late: the run had ended (train longer: train.epochs, train.max_steps)"
    yield from _verdict(found)
    if found.folder:
        yield f"  folder  {found.folder}"


def _verdict(found: Proof) -> Iterator[str]:
    if found.holds:
        what = "weights, optimizer, random numbers"
        yield f"bit-identical: {found.tensors} tensors ({what}), the metrics, and the samples of each step"
    elif not found.struck:
        yield "nothing is proven: no kill came in time"
    else:
        yield f"NOT the same: {len(found.differences)} of {found.tensors} tensors differ, {len(found.metrics)} metrics"
    for each in found.differences[:SHOWN]:
        apart = "" if each.largest is None else f", by {each.largest:.3g} at most"
        yield f"  {each.name}  {each.what}{apart}"
    if len(found.differences) > SHOWN:
        yield f"  ... and {len(found.differences) - SHOWN} more (--json shows all)"
    if found.samples:
        yield f"  samples  of {len(found.samples)} steps, first of step {found.samples[0]}"
    for name, values in found.metrics.items():
        yield f"  {name}  {values[0]} undisturbed, {values[1]} with kills"
