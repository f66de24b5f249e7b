"""Jobs and searches of a Hydra application in Fairlead's words."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from launchers.errors import SpecError
from launchers.hydra_app.application_space import in_hydras_words, search_words, shown, varying


def search(**more: Any) -> dict[str, Any]:
    return {"sweep": None, "trials": 9, "algorithm": None, "goals": [], "swept": [], **more}


def sweep_of(**more: Any) -> Any:
    """What the first override says of the group sweep."""
    word = search_words(search(**more))[0]
    assert word.startswith("sweep=")
    return OverridesParser.create().parse_override(word).value()


def test_varying_overrides_of_all_jobs_stay_words_and_others_become_values() -> None:
    common, points = varying([["a=x,y", "lr=1e-3", "~db"], ["a=x,y", "lr=0.1", "~db"]])

    assert common == ("a=x,y", "~db")
    assert points == [{"lr": 0.001}, {"lr": 0.1}]


def test_varying_job_that_has_a_key_that_others_lack_keeps_it() -> None:
    common, points = varying([["lr=1"], ["lr=1", "+model/head=big", "name='a, b'", "x=null"]])

    assert common == ("lr=1",)
    assert points == [{}, {"+model/head": "big", "name": "a, b", "x": None}]


def test_varying_batch_that_does_not_begin_at_zero_tells_each_its_number() -> None:
    assert varying([["x=1"], ["x=2"]], first=5)[1] == [{"x": 1, "hydra.job.num": 5}, {"x": 2, "hydra.job.num": 6}]


def test_varying_override_that_would_change_is_refused() -> None:
    with pytest.raises(SpecError, match="cannot be handed"):
        varying([["x={a:1}"], ["x={a:2,b:3}"]])


@pytest.mark.parametrize(
    ("swept", "dimension"),
    [
        ("lr=interval(0.1,0.5)", {"type": "double", "min": 0.1, "max": 0.5}),
        ("lr=tag(log,interval(1e-3,1e-1))", {"type": "double", "min": 1e-3, "max": 1e-1, "scale": "log"}),
        ("n=int(interval(1,8))", {"type": "integer", "min": 1, "max": 8}),
        ("n=range(1,9,2)", {"type": "integer", "min": 1, "max": 7, "step": 2}),
        ("n=4,2", {"type": "discrete", "values": [2, 4]}),
        ("o=choice(sgd,'a b')", {"type": "categorical", "values": ["sgd", "a b"]}),
    ],
)
def test_search_sweep_of_the_command_line_is_a_parameter(swept: str, dimension: dict[str, Any]) -> None:
    found = sweep_of(swept=[swept])

    assert found["parameters"] == {f"params.{swept[: swept.index('=')]}": dimension}
    assert (found["kind"], found["algorithm"], found["trials"]) == ("search", "tpe", 9)


def test_search_option_of_a_group_stands_beside_keys_of_the_option() -> None:
    lr = {"type": "double", "min": 0, "max": 1, "when": {"optimizer": ["sgd"]}}
    sweep = {"parameters": {"optimizer.lr": lr}, "start_points": [{"optimizer": "sgd", "optimizer.lr": 0.5}]}

    found = sweep_of(sweep=sweep, swept=["optimizer=sgd,adam"])

    own = "params.optimizer._self_"
    assert set(found["parameters"]) == {own, "params.optimizer.lr"}
    assert found["parameters"]["params.optimizer.lr"]["when"] == {own: ["sgd"]}
    assert found["start_points"] == [{own: "sgd", "params.optimizer.lr": 0.5}]
    assert shown(found["start_points"][0]) == {"optimizer": "sgd", "optimizer.lr": 0.5}


def test_search_goals_of_a_tuple_are_numbered() -> None:
    found = sweep_of(goals=["minimize", "maximize"])

    assert found["objectives"] == [
        {"metric": "objective_0", "goal": "minimize"},
        {"metric": "objective_1", "goal": "maximize"},
    ]
    assert "objective.goal=maximize" in search_words(search(goals=["maximize"]))


def test_search_by_the_name_of_an_option_adds_to_it() -> None:
    words = search_words(search(sweep="mine", trials=None, swept=["lr=int(interval(0,1))"]))

    assert words == ["sweep=mine", "sweep.parameters={params.lr:{type:integer,min:0,max:1}}"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"trials": None}, "hydra.sweeper.trials=20"),
        ({"sweep": {"kind": "grid"}}, "Hydra's grammar"),
        ({"swept": ["+lr=interval(0,1)"]}, "give lr a value"),
    ],
)
def test_search_that_cannot_be_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        search_words(search(**more))


def test_error_is_told_in_the_keys_of_the_application() -> None:
    said = "params.optimizer._self_ is away\n  where  override sweep={kind:search}\n  do     sweep.new_version=true"

    assert in_hydras_words(said) == (
        "optimizer is away\n  where  hydra.sweeper.sweep, and what the command line searches\n"
        "  do     +hydra.sweeper.sweep.new_version=true"
    )
