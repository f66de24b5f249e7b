"""Overrides and YAML become members: which, how many, in what order, with which values."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from launchers.config.compose import Composition
from launchers.errors import SpecError
from launchers.search.expand import compose_all


def values(composition: Composition, *keys: str) -> list[tuple[Any, ...]]:
    """Dotted keys of every member."""
    found = []
    for member in composition.members:
        row = []
        for key in keys:
            value: Any = member.config
            for part in key.split("."):
                value = value[part]
            row.append(value)
        found.append(tuple(row))
    return found


def overlay(folder: Path, **files: str) -> Path:
    """A config folder; `machine__big="..."` is machine/big.yaml."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_compose_nothing_given_is_one_member_without_a_point() -> None:
    composed = compose_all([])

    assert len(composed.members) == 1
    assert composed.members[0].point == {}
    assert "hydra" not in composed.members[0].config


def test_compose_leaf_override_wins_over_the_file() -> None:
    assert values(compose_all(["train.batch_size=7"]), "train.batch_size") == [(7,)]


def test_compose_group_override_takes_that_file() -> None:
    composed = compose_all(["machine=cpu-small"])

    assert composed.members[0].choices["machine"] == "cpu-small"
    assert values(composed, "machine.mem_gb") == [(2,)]


def test_compose_leaf_sweep_makes_a_member_for_each_value_with_its_type() -> None:
    composed = compose_all(["seed=1,2", "optimizer.lr=0.1,1e-2"])

    assert [m.point for m in composed.members] == [
        {"seed": 1, "optimizer.lr": 0.1},
        {"seed": 1, "optimizer.lr": 0.01},
        {"seed": 2, "optimizer.lr": 0.1},
        {"seed": 2, "optimizer.lr": 0.01},
    ]
    assert values(composed, "seed", "optimizer.lr") == [(1, 0.1), (1, 0.01), (2, 0.1), (2, 0.01)]


def test_compose_group_sweep_composes_each_option() -> None:
    composed = compose_all(["machine=cpu-small,cpu-large", "seed=1,2"])

    assert values(composed, "machine.mem_gb", "seed") == [(2, 1), (2, 2), (16, 1), (16, 2)]
    assert [m.choices["machine"] for m in composed.members] == ["cpu-small", "cpu-small", "cpu-large", "cpu-large"]
    assert composed.members[2].point == {"machine": "cpu-large", "seed": 1}


def test_compose_range_sweep_makes_its_members() -> None:
    assert values(compose_all(["seed=range(0,3)"]), "seed") == [(0,), (1,), (2,)]


def test_compose_quoted_commas_are_one_value() -> None:
    assert values(compose_all(["name='\"a, b\"'"]), "name") == [('"a, b"',)]


@pytest.mark.parametrize("prefix", ["+", "++"])
def test_compose_sweep_with_plus_sweeps_the_key_itself(prefix: str) -> None:
    composed = compose_all([f"{prefix}optimizer.lr=0.1,0.2"])

    assert [m.point for m in composed.members] == [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}]
    assert values(composed, "optimizer.lr") == [(0.1,), (0.2,)]


def test_compose_sweep_reaches_what_interpolates_it(tmp_path: Path) -> None:
    folder = overlay(tmp_path, experiment__linked="# @package _global_\nname: run-${seed}\n")

    composed = compose_all(["experiment=linked", "seed=3,4"], [folder])

    assert values(composed, "name") == [("run-3",), ("run-4",)]


def test_compose_members_do_not_share_what_a_sweep_patches() -> None:
    composed = compose_all(["train.batch_size=1,2,3"])

    assert values(composed, "train.batch_size") == [(1,), (2,), (3,)]


def test_compose_deleted_key_is_gone() -> None:
    assert "epochs" not in compose_all(["~train.epochs"]).members[0].config["train"]


def test_compose_overlay_option_is_found_and_named_by_its_folder(tmp_path: Path) -> None:
    folder = overlay(tmp_path, site__mine="name: mine\n")

    composed = compose_all(["site=mine"], [folder])

    assert values(composed, "site.name") == [("mine",)]
    assert folder in composed.search_path


def test_compose_overlay_cannot_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SpecError, match="is not a folder"):
        compose_all([], [tmp_path / "file"])


def test_compose_unknown_key_passes_so_that_check_can_name_it() -> None:
    assert compose_all(["train.epoch=3"]).members[0].config["train"]["epoch"] == 3


def test_compose_second_time_is_not_changed_by_the_first() -> None:
    compose_all(["train.batch_size=999", "machine=cpu-small"])

    assert values(compose_all([]), "train.batch_size", "machine.mem_gb") == [(64, 1024)]


def test_compose_several_bad_overrides_are_told_together() -> None:
    with pytest.raises(SpecError) as caught:
        compose_all(["seed=${", "", "train.epochs=[1"])

    assert [p.where for p in caught.value.problems] == ["override seed=${", "override ", "override train.epochs=[1"]


@pytest.mark.parametrize(
    ("word", "do"),
    [
        ("digits", "did you mean experiment=digits? (or data=digits)"),
        ("digts", "did you mean experiment=digits? (or data=digits)"),
        ("cpu-small", "did you mean machine=cpu-small?"),
        ("machine/cpu-small", "did you mean machine=cpu-small?"),
        ("engine", "choose one of its options: engine=ddp"),
        ("nothing-like-it", "write group=option or key=value"),
    ],
)
def test_compose_bare_word_says_what_was_meant(word: str, do: str) -> None:
    with pytest.raises(SpecError) as caught:
        compose_all([word])

    (problem,) = caught.value.problems
    assert problem.what == f"{word!r} is neither group=option nor key=value"
    assert problem.do.startswith(do)


@pytest.mark.parametrize(
    ("override", "what", "do"),
    [
        ("model=null", "model is null, which is no option", "choose one of: cnn, gpt, mlp"),
        ("+experiment=digits", "experiment is chosen twice", "write experiment=... without the +"),
        ("~foo", "~foo would remove a key that is not there", "leave that override out"),
        ("train.schedule=${oc.env:NO_SUCH}", "the environment variable NO_SUCH is not set", "set NO_SUCH"),
    ],
)
def test_compose_refused_override_is_told_in_words(override: str, what: str, do: str) -> None:
    with pytest.raises(SpecError) as caught:
        compose_all([override])

    (problem,) = caught.value.problems
    assert (problem.what, problem.where) == (what, f"override {override}")
    assert problem.do.startswith(do)


def test_compose_several_unknown_options_are_told_together() -> None:
    with pytest.raises(SpecError) as caught:
        compose_all(["machine=cpu_small", "accelerator=a1000", "model=cnn,cnnn"])

    assert [p.what for p in caught.value.problems] == [
        "machine has no option 'cpu_small'",
        "accelerator has no option 'a1000'",
        "model has no option 'cnnn'",
    ]
    assert "did you mean cpu-small?" in caught.value.problems[0].do


@pytest.mark.parametrize("override", ["optimizer.lr=interval(0,1)", "model=glob(*)", "machine=glob(cpu*)"])
def test_compose_sweep_that_cannot_be_enumerated_is_a_problem_or_works(override: str) -> None:
    """Hydra's grammar has sweeps for optimizers; a grid cannot take them, and must say so."""
    try:
        composed = compose_all([override])
    except SpecError as e:
        assert override in e.problems[0].where
    else:
        assert composed.members


@pytest.mark.parametrize(
    ("text", "what", "do"),
    [
        ("", "the first line of this experiment is not `# @package _global_`", "write # @package _global_"),
        ("\ufeff# @package _global_\nname: x\n", "begins with a byte order mark", "without a byte order mark"),
        (
            "# @package _global_\ndefaults:\n  - /data: digits\n",
            "data has a choice before this file",
            "write `- override /data: digits`",
        ),
    ],
    ids=["empty", "byte_order_mark", "no_override"],
)
def test_compose_file_that_hydra_misreads_is_told_by_its_own_line(
    tmp_path: Path, text: str, what: str, do: str
) -> None:
    folder = overlay(tmp_path, experiment__mine=text)

    with pytest.raises(SpecError) as e:
        compose_all(["experiment=mine"], [folder])

    (problem,) = e.value.problems
    assert what in problem.what and do in problem.do
    assert "experiment/mine.yaml:" in problem.where


@pytest.mark.filterwarnings("error")
def test_compose_file_with_another_ending_is_told_to_be_renamed(tmp_path: Path) -> None:
    folder = overlay(tmp_path, experiment__mine="# @package _global_\nname: x\n")
    (folder / "experiment/mine.yaml").rename(folder / "experiment/mine.yml")

    with pytest.raises(SpecError) as e:
        compose_all(["experiment=mine"], [folder])

    assert [(p.what, p.do) for p in e.value.problems] == [
        ("experiment has no option 'mine': only files that end in .yaml are read", "rename it to mine.yaml")
    ]


@pytest.mark.parametrize(
    ("said", "do"),
    [
        ("optimizer.lr.min=1e-3", "write 'sweep.parameters={optimizer.lr: {min: 1e-3}}'"),
        ("optimizer.lr={min: 1e-3}", "write 'sweep.parameters={optimizer.lr: {min: 1e-3}}'"),
    ],
)
def test_compose_range_of_a_search_is_told_how_it_is_overridden(said: str, do: str) -> None:
    with pytest.raises(SpecError) as e:
        compose_all(["sweep=digits_tpe", f"sweep.parameters.{said}"])

    assert [p.do for p in e.value.problems] == [do]
    told = do.removeprefix("write '").removesuffix("'")
    parameter = compose_all(["sweep=digits_tpe", told]).members[0].config["sweep"]["parameters"]["optimizer.lr"]
    assert parameter == {"type": "double", "min": 0.001, "max": 0.03, "scale": "log"}


# --- all of Hydra's sweep grammar -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("train.batch_size=8,16", [8, 16]),
        ("train.batch_size=range(8,33,8)", [8, 16, 24, 32]),
        ("optimizer.lr=choice(0.1,0.2)", [0.1, 0.2]),
        ("train.schedule=choice(constant,cosine)", ["constant", "cosine"]),
        ("model=glob(*)", ["cnn", "gpt", "mlp"]),
        ("model=glob(*,exclude=g*)", ["cnn", "mlp"]),
        ("machine=glob(cpu*)", ["cpu-large", "cpu-small"]),
        ("train.batch_size=sort(32,8,16)", [8, 16, 32]),
        ("train.batch_size=sort(8,32,16,reverse=true)", [32, 16, 8]),
        ("train.batch_size=sort(range(8,25,8))", [8, 16, 24]),
    ],
)
def test_compose_every_sweep_of_hydras_grammar_is_enumerated(override: str, values: list[Any]) -> None:
    members = compose_all([override]).members

    assert [next(iter(member.point.values())) for member in members] == values


def test_compose_shuffled_sweep_has_every_value_once() -> None:
    orders = {tuple(m.point["seed"] for m in compose_all(["seed=shuffle(range(0,6))"]).members) for _ in range(6)}

    assert {tuple(sorted(order)) for order in orders} == {tuple(range(6))}
    assert len(orders) > 1, "six times the same of 720 orders"


KEYS: dict[str, list[str]] = {
    "optimizer.lr": ["0.1", "1e-3", "null", "${train.batch_size}", "'${oc.env:HOME}'"],
    "train.batch_size": ["8", "64", "${seed}"],
    "train.clip_norm": ["null", "1.5", "'1.5'"],
    "optimizer.betas": ["[0.8,0.9]", "[0.5,${optimizer.lr}]"],
    "seed": ["1", "7"],
    "name": ["a", "'b c'", "'x${seed}'"],
    "++params.deep.er": ["1", "{a: 1}", "[1,2]"],
    "objective": ["{metric: a, goal: minimize}"],
    "model": ["cnn", "mlp"],
    "machine": ["cpu-small", "cpu-large"],
}
"""Plain values, lists and mappings that are merged, words that spell numbers, interpolations, groups."""


@pytest.mark.parametrize("seed", range(12))
def test_compose_patched_member_is_what_hydra_composes_of_its_values_alone(seed: int) -> None:
    """Leaf values are set in a composition that is made once for each choice of groups: on random cases the same comes
    out as of a composition of its own."""
    chance = random.Random(seed)
    chosen = {key: chance.sample(KEYS[key], min(2, len(KEYS[key]))) for key in chance.sample(list(KEYS), 3)}
    fixed = [f"{key}={chance.choice(KEYS[key])}" for key in chance.sample(sorted(KEYS.keys() - chosen.keys()), 2)]

    together = compose_all([*fixed, *(f"{key}={','.join(values)}" for key, values in chosen.items())])

    points = list(itertools.product(*chosen.values()))
    assert len(together.members) == len(points)
    for member, point in zip(together.members, points, strict=True):
        alone = compose_all([*fixed, *(f"{key}={value}" for key, value in zip(chosen, point, strict=True))])
        assert member.config == alone.members[0].config, (fixed, point)
