"""What of a grid or a search does not fit the schema, the program or what it reports, by its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.errors import SpecError
from launchers.search.expand import expand
from tests.launchers.checked import BY_PATTERN, COMMAND, SEARCH, problems, sound, write


@pytest.mark.parametrize("metric", ["train/tokens_per_s", "train/mfu", "train/memory_gb", "train/data_wait"])
def test_check_search_may_constrain_what_its_data_and_cards_report(metric: str) -> None:
    on_cards = ("launcher=slurm", "machine=gpu-1", "accelerator=h100")
    constraint = f"sweep.constraints=[{{metric: {metric}, max: 1}}]"

    assert sound(*SEARCH, *on_cards, "data=stdlib", "model=gpt", constraint)


@pytest.mark.parametrize("shape", [("machine.ranks_per_node=2",), ("machine.nodes=2", "launcher=slurm")])
def test_check_search_may_constrain_how_much_ranks_differ_where_there_are_several(shape: tuple[str, ...]) -> None:
    assert sound(*SEARCH, *shape, "sweep.constraints=[{metric: train/rank_spread, max: 2}]")


def test_check_search_may_constrain_the_norm_of_gradients_that_are_not_clipped() -> None:
    assert sound(*SEARCH, "sweep.constraints=[{metric: train/grad_norm, max: 2}]")


SPACES = {
    "optimizer.lrr: {type: double, min: 0.1, max: 1}": "lrr",
    "optimizer.lr: {type: double, min: -1, max: 1}": "optimizer.lr",
    "train.batch_size: {type: double, min: 8.5, max: 9.5}": "train.batch_size",
    "model.width: {type: categorical, values: [wide]}": "model.width",
    "model: {type: categorical, values: [cnn, cnnn]}": "cnnn",
    "model.dropout: {type: double, min: 0, max: 0.5, when: {model.kindd: [cnn]}}": "model.kindd",
    "machine.nodes: {type: integer, min: 1, max: 2}": "machine.nodes",
    "seed: {type: integer, min: 9, max: 1}": "seed",
}
"""A line of a space, and a word of what is wrong with it."""


@pytest.mark.parametrize("line", SPACES)
def test_check_space_that_does_not_fit_the_schema_is_told_by_its_line(tmp_path: Path, line: str) -> None:
    head = "kind: search\nalgorithm: random\ntrials: 3\nparameters:\n"
    text = f"{head}  optimizer.eps: {{type: double, min: 1.0e-9, max: 1.0e-6}}\n  {line}\n"
    folder = write(tmp_path, "sweep/mine.yaml", text)

    with pytest.raises(SpecError) as refused:
        expand(["sweep=mine"], [folder])
    found = refused.value.problems

    assert found and all(p.do for p in found)
    assert any(f"{folder}/sweep/mine.yaml:6" in p.where and SPACES[line] in f"{p.what} {p.where}" for p in found), found


def test_check_value_of_a_block_that_does_not_fit_is_told_by_its_line(tmp_path: Path) -> None:
    text = "kind: grid\nblocks:\n  - product: {seed: [1, 2]}\n  - zip:\n      train.batch_size: [8, many]\n"
    folder = write(tmp_path, "sweep/mine.yaml", text)

    with pytest.raises(SpecError) as refused:
        expand(["sweep=mine"], [folder])

    assert any(p.where.startswith(f"{folder}/sweep/mine.yaml:5 ") for p in refused.value.problems), refused.value


def test_check_more_choices_of_groups_than_are_composed_is_told(tmp_path: Path) -> None:
    files = {f"optimizer/o{i}.yaml": "kind: adamw\n" for i in range(60)}
    for name, text in files.items():
        write(tmp_path, name, text)
    values = ", ".join(f"o{i}" for i in range(60))
    space = (
        f"  optimizer: {{type: categorical, values: [{values}]}}\n  model: {{type: categorical, values: [cnn, mlp]}}\n"
    )
    folder = write(tmp_path, "sweep/mine.yaml", f"kind: search\nalgorithm: random\ntrials: 3\nparameters:\n{space}")

    with pytest.raises(SpecError, match="more than 100 combinations"):
        expand(["sweep=mine"], [folder])


SWEPT = {
    "grid": ("kind: grid\nproduct:\n  {key}: [1, 2]\n", "sweep.product.{key}"),
    "block": ("kind: grid\nblocks:\n  - zip:\n      {key}: [1, 2]\n", "sweep.blocks.0.zip.{key}"),
    "search": (
        "kind: search\nalgorithm: random\ntrials: 3\nparameters:\n  {key}: {{type: integer, min: 1, max: 9}}\n",
        "sweep.parameters.{key}",
    ),
}


@pytest.mark.parametrize("kind", SWEPT)
def test_check_sweep_of_a_command_that_does_not_reach_it_is_told(tmp_path: Path, kind: str) -> None:
    text, place = SWEPT[kind]
    folder = write(tmp_path, "sweep/mine.yaml", text.format(key="model.width"))

    (found,) = problems("sweep=mine", *COMMAND, folder=folder)

    assert found.what == "model.width is swept, but it does not reach a command"
    assert place.format(key="model.width") in found.where
    assert sound("sweep=mine", *COMMAND, "job.parameters=none", folder=folder)


@pytest.mark.parametrize("kind", SWEPT)
def test_check_sweep_of_a_commands_own_parameters_is_sound(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path, "sweep/mine.yaml", SWEPT[kind][0].format(key="params.width"))

    assert sound("sweep=mine", *COMMAND, folder=folder)


def test_check_search_over_a_command_that_reports_nothing_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path, "sweep/mine.yaml", SWEPT["search"][0].format(key="params.width"))

    (found,) = problems("sweep=mine", *COMMAND, "job.metrics.kind=none", folder=folder)

    assert found.what.startswith("job.metrics.kind is 'none', but a search")


def test_check_search_by_a_metric_that_no_pattern_finds_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path, "sweep/mine.yaml", SWEPT["search"][0].format(key="params.width"))
    words = ("sweep=mine", *BY_PATTERN, "job.metrics.pattern='a=(?P<a>x) b=(?P<value>y)'", "job.metrics.metric=b")

    (found,) = problems(*words, "objective.metric=c", folder=folder)

    assert found.what == "members are compared by 'c', but job.metrics.pattern finds a, b"
    assert sound(*words, "objective.metric=b", folder=folder)
    free = ("sweep=mine", *BY_PATTERN, "job.metrics.pattern='(?P<metric>x)=(?P<value>y)'", "objective.metric=c")
    assert sound(*free, folder=folder)


def test_check_search_may_name_all_that_a_trial_reports() -> None:
    assert sound(*SEARCH, "sweep.constraints=[{metric: train/samples_per_s, min: 1}]")
