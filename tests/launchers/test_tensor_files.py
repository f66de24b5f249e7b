"""Two sets of safetensors compared without torch, against files that safetensors wrote."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launchers.proof import tensor_files
from launchers.proof.tensor_files import Difference, differences, tensors_of

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]


def saved(folder: Path, **tensors: torch.Tensor) -> dict[str, tensor_files.Place]:
    folder.mkdir()
    save_file(tensors, folder / "a.safetensors", metadata={"format": "pt"})
    return tensors_of([folder / "a.safetensors"])


@pytest.mark.parametrize("dtype", TYPES)
def test_differences_names_the_tensor_and_the_largest_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(tensor_files, "AT_ONCE", 16)  # so that a tensor is read in pieces
    ours = torch.arange(24).reshape(4, 6).to(dtype)
    theirs = ours.clone()
    theirs[0, 1] += 1
    theirs[3, 5] += 4

    (found,) = differences(
        saved(tmp_path / "a", same=ours.clone(), w=ours), saved(tmp_path / "b", same=ours.clone(), w=theirs)
    )

    assert found.name == "a.safetensors: w"
    assert found.what.endswith(" [4, 6]")
    assert found.largest == 4.0


def test_differences_sees_bits_that_numbers_hide(tmp_path: Path) -> None:
    ours = {"zero": torch.tensor([0.0]), "nan": torch.tensor([float("nan")]), "same": torch.tensor([float("nan")])}
    theirs = {"zero": torch.tensor([-0.0]), "nan": torch.tensor([1.0]), "same": torch.tensor([float("nan")])}

    found = list(differences(saved(tmp_path / "a", **ours), saved(tmp_path / "b", **theirs)))

    assert [(each.name.split()[-1], each.largest) for each in found] == [("nan", math.inf), ("zero", 0.0)]


def test_differences_names_what_one_lacks_and_other_shapes(tmp_path: Path) -> None:
    ours = saved(tmp_path / "a", only=torch.zeros(1), w=torch.zeros(2, 2))
    theirs = saved(tmp_path / "b", w=torch.zeros(4))

    assert list(differences(ours, theirs)) == [
        Difference("a.safetensors: only", "only in one of them"),
        Difference("a.safetensors: w", "F32 [2, 2] and F32 [4]"),
    ]
