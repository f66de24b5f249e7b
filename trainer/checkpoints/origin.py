"""With which weights does a run begin, if not with random ones? Those of a file or folder that something vouches for.

    a model folder     card.json has the digest of model.safetensors (trainer/export.py)
    a checkpoint       manifest.json has the digests of all its files (trainer/checkpoints/checkpoint.py); of one that
                       is not as it says the weights alone, and only where the user trusts them
    a member's folder  its model, or its newest checkpoint that is whole; a run of one member likewise
    any other file     .safetensors alone, and only where the user trusts it (train.trust_unverified)

Nothing pickled is ever read: it can run code.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from trainer.checkpoints.checkpoint import MANIFEST, committed, why_not_whole
from trainer.data import files
from trainer.data.splits import few
from trainer.failure import UserError

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

log = logging.getLogger(__name__)

CARD, WEIGHTS = "card.json", "model.safetensors"
KEY = "train.start_from"


@dataclass(frozen=True)
class Origin:
    """Where weights come from."""

    path: Path
    vouched: str
    """What says that they are whole: the name of a file, or nothing but the user's word."""


def begin_with(model: nn.Module, said: str, trusted: bool) -> Origin:
    """Give a model the weights that `train.start_from` names.

    Raises UserError when there are none, nothing vouches for them, or they are another model's.
    """
    with files.readable(Path(said)):
        origin = _origin(Path(said), trusted)
        weights = _checkpoint(origin, model) if origin.path.is_dir() else _file(origin.path)
    _must_fit(weights, model, origin.path)
    model.load_state_dict(weights)
    by = f"as {origin.vouched} says" if origin.vouched else "which nothing vouches for"
    log.info("begins with the weights of %s, %s", files.shown(origin.path), by)
    return origin


def _origin(path: Path, trusted: bool) -> Origin:
    """The file of weights, or the folder of the checkpoint."""
    if (path / MANIFEST).exists():
        return _whole(path, trusted)
    for inside in (path / "model" / CARD, path / CARD):
        if inside.exists():
            return _vouched(inside.parent / WEIGHTS, trusted)
    for folder in (path, path / "checkpoints"):
        if checkpoints := committed(folder):
            whole = next((each for each in checkpoints if why_not_whole(each) is None), checkpoints[0])
            return _origin(whole, trusted)
    members = sorted((path / "members").glob("*"))
    if len(members) == 1:
        return _origin(members[0], trusted)
    if members:
        what = f"{files.shown(path)} is a run of {len(members)} members"
        raise UserError(what, KEY, f"name one of them: {files.shown(members[0])}")
    return _vouched(path / WEIGHTS if path.is_dir() else path, trusted)


def _whole(path: Path, trusted: bool) -> Origin:
    """The folder of a checkpoint that is as its manifest says, or else has the user's word."""
    if (why := why_not_whole(path)) is None:
        return Origin(path, MANIFEST)
    if not trusted:
        do = "choose another, or take what its files hold of the weights: train.trust_unverified=true"
        raise UserError(f"the checkpoint {files.shown(path)} is damaged: {why}", KEY, do)
    said = "; ".join(_unlike(path) or [why])
    log.warning("the checkpoint %s is damaged, and its weights are read all the same: %s", files.shown(path), said)
    return Origin(path, "")


def _unlike(path: Path) -> list[str]:
    """What is not as the manifest says, file by file; nothing where the manifest itself is what is wrong."""
    try:
        known = {name: said["sha256"] for name, said in json.loads((path / MANIFEST).read_bytes())["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    there = {found.relative_to(path).as_posix() for found in path.rglob("*.safetensors")}
    said = [f"{name} is not in its {MANIFEST}" for name in sorted(there - {*known})]
    for name, digest in sorted(known.items()):
        if not (path / name).exists():
            said.append(f"{name} is missing")
        elif files.sha256(path / name) != digest:
            said.append(f"{name} has another digest than when it was written")
    return said


def _vouched(path: Path, trusted: bool) -> Origin:
    """A file, whose digest the card beside it has, or else the user's word."""
    digest = f"sha256:{files.sha256(path)}"
    card = path.parent / CARD
    known = _card(card).get(path.name) if card.exists() else None
    if known == digest:
        return Origin(path, CARD)
    if trusted:
        return Origin(path, "")
    what = (
        f"{files.shown(path)} has the digest {digest}, and {CARD} beside it says {known}"
        if known
        else f"nothing vouches for {files.shown(path)}: no {CARD} beside it has its digest"
    )
    raise UserError(what, KEY, "if you know where it comes from: train.trust_unverified=true")


def _card(path: Path) -> Mapping[str, Any]:
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{files.shown(path)} is no card of a model", KEY, "write the model anew") from None
    return document


def _file(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as e:
        what = f"{files.shown(path)} is no safetensors file: {e}"
        do = "convert it: safetensors.torch.save_file(weights, path); pickled files can run code and are not read"
        raise UserError(what, KEY, do) from None


def _checkpoint(origin: Origin, model: nn.Module) -> dict[str, Tensor]:
    """The weights in a checkpoint, whatever engine and number of ranks wrote it. Each rank reads them for itself."""
    from torch.distributed.checkpoint.api import CheckpointException  # which is no Exception

    try:
        return _read(origin.path, model)
    except (Exception, CheckpointException) as error:  # torch says in many ways that a file is not as it was
        if origin.vouched or isinstance(error, OSError | MemoryError):
            raise
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        what = f"no weights can be read from the damaged checkpoint {files.shown(origin.path)} ({why})"
        raise UserError(what, KEY, "choose another") from None


def _read(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    from torch.distributed.checkpoint import hf_storage

    from trainer.checkpoints import state
    from trainer.parallel.group import Group

    there: Metadata = hf_storage.HuggingFaceStorageReader(str(folder / state.FOLDER)).read_metadata()
    found: dict[str, Any] = {n: m for n, m in there.state_dict_metadata.items() if n.startswith("model.")}
    tensors = {name: torch.empty(m.size, dtype=m.properties.dtype) for name, m in found.items()}
    state.read(folder, tensors, Group(0, 1))
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {**weights, **{name: weights[first] for name, first in state.ties(model).items() if first in weights}}


def _must_fit(weights: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    mine = model.state_dict()
    other = [name for name in mine if name in weights and weights[name].shape != mine[name].shape]
    told = [
        f"it lacks {few(absent)}" if (absent := [name for name in mine if name not in weights]) else "",
        f"it has {few(extra)} besides" if (extra := [name for name in weights if name not in mine]) else "",
        *(f"{name} is {list(weights[name].shape)} and not {list(mine[name].shape)}" for name in other[:3]),
    ]
    if any(told):
        what = f"{files.shown(path)} has the weights of another model: {'; '.join(filter(None, told))}"
        raise UserError(what, KEY, "choose the model that it was saved of, with the same options")
