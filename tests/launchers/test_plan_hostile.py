"""The worst text in every place that takes text: it survives its file and arrives, and nothing runs."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf import machine_schema, schema
from conf.document import from_document, to_document
from launchers.plan import Plan
from launchers.step import step_of
from tests.launchers.planned import COMMAND, TWO_BY_TWO, boxed, changed, composed, planned, with_our_code
from tests.launchers.rank_scripts import DUMP, project_of, run_rank

HOSTILE = (
    "it's",
    'a "b" c',
    "$(touch canary)",
    "`touch canary`",
    "a\nb",
    "a\ntouch canary\n",
    "100%",
    "%j%t",
    "ünïcode ☃",
    "a=b,c=d",
    "  spaces  ",
    "; touch canary",
    "&& touch canary",
    "$HOME",
    "${HOME}",
    "\\",
    "\\n",
    "a\tb",
    "!!",
    "*",
    "~",
    "-x",
    "--nv",
    "",
    "'",
    '"',
    "$'\\x41'",
    "#",
    "a\rb",
    "<x>|y",
    "\x1b[31m",
    "%%",
    "\u2028",
    "'\"'\"'",
)
TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30),
    st.lists(st.sampled_from([*"\"'`$(){}\\;&|<>*?[]#~%=, \n\t!-", "touch canary"]), max_size=8).map("".join),
)
NAMES = st.from_regex(r"\A[A-Z_][A-Z0-9_]{0,8}\Z").map(lambda n: f"X_{n}")
PATHS = TEXT.map(lambda t: "/p/" + t.replace("\n", " "))


@st.composite
def hostile_specs(draw: st.DrawFn) -> schema.Spec:
    """A spec that the check would take, with the worst text in every place that takes text."""
    base = boxed(composed(*TWO_BY_TWO))
    bind = st.builds(machine_schema.Bind, source=PATHS, target=st.none() | PATHS)
    binds = draw(st.lists(bind, max_size=2))
    spec = changed(base, env=draw(st.dictionaries(NAMES, TEXT, max_size=3)), binds=tuple(binds), image=draw(PATHS))
    target = schema.Component(kind="_target_", options={"_target_": draw(TEXT), "a": {draw(TEXT): [draw(TEXT)]}})
    return dataclasses.replace(
        spec,
        model=target,
        data=schema.Component(kind="bytes", options={"path": draw(PATHS)}),
        tracking=schema.Tracking(kind="mlflow", experiment=draw(TEXT), register="x", uri=draw(TEXT)),
        objective=schema.Objective(metric=draw(TEXT), goal="minimize"),
        site=dataclasses.replace(spec.site, env=draw(st.dictionaries(NAMES, TEXT, max_size=2))),
    )


@given(hostile_specs())
@settings(max_examples=60, deadline=None)
def test_spec_hostile_text_survives_its_file(spec: schema.Spec) -> None:
    assert from_document(schema.Spec, json.loads(json.dumps(to_document(spec), ensure_ascii=False))) == spec


@given(hostile_specs())
@settings(max_examples=40, deadline=None)
def test_plan_hostile_text_survives_its_file(spec: schema.Spec) -> None:
    plan = planned(spec)

    assert from_document(Plan, json.loads(json.dumps(to_document(plan), ensure_ascii=False))) == plan


@given(spec=hostile_specs(), part=TEXT)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_rank_script_hostile_text_arrives_and_nothing_runs(
    workdir: Path, fakes: Any, spec: schema.Spec, part: str
) -> None:
    fakes.put("apptainer", DUMP)
    part = part.replace("\n", " ").replace("/", "")
    spec = dataclasses.replace(spec, site=dataclasses.replace(spec.site, scratch_dir=str(workdir / "scratch")))
    plan = planned(spec, f"/runs/{part}x/digits-1")
    (pool,) = plan.pools
    assert pool.container is not None
    there = dataclasses.replace(pool.container, needs=())  # as if this host had the paths (test_container.py)
    plan = dataclasses.replace(plan, pools=(dataclasses.replace(pool, container=there),))
    step = step_of(plan, 0, 0)

    got = run_rank(step, workdir, step.env)

    inside = {k.removeprefix("APPTAINERENV_"): v for k, v in got["env"].items() if k.startswith("APPTAINERENV_")}
    assert all(inside[k] == v for k, v in step.env.items())
    assert got["argv"][-3:] == list(plan.pools[0].program)
    box = plan.pools[0].container
    assert box is not None
    mounted = [got["argv"][i + 1] for i, word in enumerate(got["argv"]) if word == "--mount"]
    for mount, text in zip(box.mounts, mounted, strict=False):
        assert f"src={mount.source}".replace('"', '""') in text
    assert not (workdir / "canary").exists()


@pytest.mark.parametrize("value", HOSTILE)
def test_rank_script_without_a_container_hands_values_on(workdir: Path, value: str) -> None:
    code = (
        "import json,os,sys;json.dump({'argv': sys.argv[1:], 'env': dict(os.environ)}, open(os.environ['DUMP'], 'w'))"
    )
    plan = planned(changed(composed(), env={"X_A": value}))
    (pool,) = plan.pools
    program = (sys.executable, "-ISc", code, value)
    plan = dataclasses.replace(plan, pools=(dataclasses.replace(pool, program=program),))
    step = step_of(plan, 0, 0)

    got = run_rank(step, workdir, step.env)

    assert (got["argv"], got["env"]["X_A"]) == ([value], value)
    assert not (workdir / "canary").exists()


@pytest.mark.parametrize("way", ["arguments", "environment"])
@pytest.mark.parametrize("value", HOSTILE)
def test_rank_script_hands_hostile_parameters_on(workdir: Path, way: str, value: str) -> None:
    code = "import json,os,sys;json.dump([sys.argv[1:], dict(os.environ)], open(os.environ['DUMP'], 'w'))"
    spec = composed(*COMMAND, f"job.parameters={way}")
    job = dataclasses.replace(spec.job, command=(sys.executable, "-ISc", code))
    plan = planned(dataclasses.replace(spec, job=job), str(workdir / f"r{value}".replace("/", "").replace("\n", " ")))
    project_of(plan)
    plan = with_our_code(plan)

    argv, environ = run_rank(step_of(plan, 0, 0, {"some": {"key": value}}), workdir, {})

    assert (argv == [f"--some.key={value}"]) == (way == "arguments")
    assert (environ.get("SOME_KEY") == value) == (way == "environment")
    assert not (workdir / "canary").exists()
