"""Every file of the catalogue, because it is there: it composes, is sound, can be planned, and reads well."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf import schema
from launchers.config.check import SECTIONS, check_all
from launchers.config.options import options_of
from launchers.config.section import SWEEPS
from launchers.parts import Part
from launchers.planning import Facts, plan_of
from launchers.queue.slurm import member_script
from launchers.search.expand import compose_all
from launchers.step import step_of
from tests.launchers.pooled import make_pool

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "conf").glob("*/*.yaml"))
IDS = [f"{p.parent.name}/{p.stem}" for p in FILES]
OF_KIND = {
    "command": ["job.command=[program]"],
    "script": ["job.script='pkg://conf/experiment/sklearn_digits.py'"],
    "module": ["job.module=package.task"],
}
"""What a kind of program has to be told."""
CARDS = {"cuda": ("machine=gpu-8", "accelerator=a100"), "rocm": ("machine=gpu-8", "accelerator=mi300x")}
"""What an image is for that is for no CPU."""
every_file = pytest.mark.parametrize("path", FILES, ids=IDS)


def companions(path: Path, sif: Path) -> list[str]:
    """Overrides that make an option sound: what its own comment says it goes with."""
    text = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    group, option = path.parent.name, path.stem
    found = [f"{group}={option}", "launcher=slurm"] if group != "launcher" else [f"{group}={option}"]
    if group == "machine" and text["max_accelerators"] and option != "local":
        found += ["accelerator=a100", f"accelerator.count={8 if 'gpu-8' in option else 1}"]
    if group == "accelerator" and option != "none":
        found += ["machine=gpu-8"]
    if group == "container" and text["runtime"] == "apptainer":
        found += [f"++container.image={sif}", *CARDS.get(text["accelerators"][0], ())]
    if (group, option) == ("launcher", "pool"):
        found += ["launcher.pool=small", "machine.mem_gb=0.5", "machine.time_limit_min=5"]
    if group == "job":
        found += OF_KIND.get(text["kind"], [])
    if (group, option) in (("data", "stdlib"), ("data", "tokens"), ("model", "gpt")):
        found += ["model=gpt" if group == "data" else "data=stdlib"]
    if group == "data" and option in ("iris", "diabetes", "table", "sql", "arrays"):
        found += ["model=mlp"]
    if group == "data":
        found += [f"data.{key}={sif.parent if key == 'path' else 'x'}" for key, said in text.items() if said == "???"]
    if group == "machine" and option == "gpu-8x4":
        found += ["train.batch_size=64"]
    return found


def composed(path: Path, sif: Path) -> schema.Spec:
    return check_all(compose_all(companions(path, sif)))[0]


def test_conf_every_group_of_the_schema_has_files() -> None:
    groups = {p.parent.name for p in FILES}

    assert {name for name in SECTIONS if name not in ("train", "objective", "params", "secrets", "staging")} <= groups


@every_file
def test_conf_option_composes_is_sound_and_can_be_planned(path: Path, sif: Path, workdir: Path) -> None:
    make_pool(workdir / "small", cpus=8)
    spec = composed(path, sif)
    plan = plan_of(spec, Facts(job="d-1", run_dir=Path("/runs/d-1"), python="/opt/python", members=1, image=str(sif)))

    assert step_of(plan, 0, 0).rank_script.startswith("#!/bin/sh\n")
    assert plan.pools[0].ranks >= 1
    if plan.launcher == "slurm":
        assert "#SBATCH --time=" in member_script(plan, Part.whole(0), "d-1")


@every_file
def test_conf_file_begins_with_why_one_would_choose_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))  # Hydra wants that one on top

    assert re.match(r"# \S.{20,}", first)


@every_file
def test_conf_file_is_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()

    assert 2 <= len(lines) <= 30
    assert max(map(len, lines)) <= 140


@every_file
def test_conf_file_says_only_what_the_schema_knows(path: Path) -> None:
    document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    group = path.parent.name
    if group == "experiment":
        known = {*SECTIONS, "pools", "name", "seed", "defaults"}
        assert set(document) <= known
        return
    document.pop("defaults", None)
    if group in schema.COMPONENTS:
        if "_target_" in document:
            return
        known = {"kind", *(f.name for f in dataclasses.fields(options_of(group, document["kind"], ROOT)))}
    elif group == "sweep":
        kind = SWEEPS[document["kind"]]
        known = {f.name for f in dataclasses.fields(kind)} if kind else {"kind"}
    else:
        known = {f.name for f in dataclasses.fields(getattr(schema, group.capitalize()))}
    assert set(document) <= known


@every_file
def test_conf_file_names_no_place_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert not re.search(r"/(home|work|root|Users)/", text)


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent.name == "accelerator" and p.stem != "none"], ids=lambda p: p.stem
)
def test_conf_accelerator_is_consistent(path: Path) -> None:
    card: Any = yaml.safe_load(path.read_text(encoding="utf-8"))

    assert set(card["peak_tflops"]) == set(card["precisions"])
    assert card["precision"] in card["precisions"]
    assert card["container_flag"] == {"cuda": "nv", "rocm": "rocm"}[card["kind"]]
    assert "http" in path.read_text(encoding="utf-8").partition("kind:")[0]
    peaks = card["peak_tflops"]
    assert peaks["fp32"] < peaks["fp16"] <= peaks.get("fp8", peaks["fp16"])


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "accelerator"], ids=lambda p: p.stem)
def test_conf_accelerator_default_precision_is_one_the_trainer_computes(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["precision"] in ("fp32", "bf16")


def test_conf_root_file_names_an_option_of_every_group() -> None:
    root = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text(encoding="utf-8"))
    named = {k: v for entry in root["defaults"] if isinstance(entry, dict) for k, v in entry.items()}

    assert set(named) == {p.parent.name for p in FILES}
    assert all(v is None or (ROOT / "conf" / k / f"{v}.yaml").is_file() for k, v in named.items())


def test_conf_without_any_override_runs_here() -> None:
    spec = check_all(compose_all([]))[0]

    assert (spec.launcher.kind, spec.pools[0].container.runtime) == ("local", "none")
