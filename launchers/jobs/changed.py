"""Members that are tried again on another machine, with other limits or in another container: their new plan.

The spec stays what was frozen at the launch, but for the overrides given now; all rules of a launch are kept, and what
the program computes is not changed. Plans are added to plan.json, never replaced, and a member names its own in
members.jsonl, which is written last and at once: a kill before that leaves everything as it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import schema
from conf.document import from_document, to_document
from launchers.apptainer import suited
from launchers.arguments import launch_words
from launchers.config.check import Checker
from launchers.config.compose import Composer, Composition, composer
from launchers.config.patch import Base, Composed
from launchers.config.where import Places
from launchers.errors import Problem, SpecError
from launchers.folders import config_dirs
from launchers.jobs import changed_pools
from launchers.parts import ranges
from launchers.plan import Plan, plans_document, plans_from
from launchers.planning import Facts, plan_of
from launchers.run_folder import provenance
from launchers.run_folder.changes import Change, write_change
from launchers.run_folder.record import PROJECT, Run, read_json, read_lines, with_point, write_json, write_text
from sweeps.names import nearest

MAY_CHANGE = (
    *schema.POOL_GROUPS,
    *("launcher.sbatch", "job.notice_s", "job.max_requeues", "job.restarts", "job.hang", "job.silent_min"),
)
"""Where a member runs and how its life is guarded. All else decides what it computes, or belongs to the whole job."""
SECTIONS = ("pools", "job", "launcher")
"""Those of a spec that these keys are in."""
NEEDS_ESCAPE = re.compile(r"(\\*)\$\{")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What was typed."""

    overrides: tuple[str, ...] = ()
    config_dirs: tuple[Path, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Members that had one plan, with what they ask for now."""

    plan: Plan
    """The one they had."""
    was: Mapping[str, Any]
    """Document of the first one's spec."""
    specs: Mapping[int, schema.Spec]
    """By member; their `sweep` is left out."""

    @property
    def spec(self) -> schema.Spec:
        return next(iter(self.specs.values()))


def change(run: Run, members: Sequence[int], wish: Wish, say: Callable[[str], None]) -> None:
    """Give members the plan that the wish makes of theirs. The caller holds the run's change lock; none of them runs.

    Raises SpecError with all problems, when a key may not be changed or a rule is broken; SiteError when an image
    cannot be had. Then nothing was changed.
    """
    groups = [_with_image(group, say) for group in _asked(run, members, wish)]
    plans, rows = list(plans_from(read_json(run.plan))), read_lines(run.members_file)
    sections = dict[int, tuple[int, dict[str, Any]]]()
    for group in groups:
        number = len(plans)
        plan = _plan(group, number)
        now = {name: to_document(getattr(group.spec, name)) for name in SECTIONS}
        differ = [name for name in SECTIONS if now[name] != group.was[name]]
        if not differ and dataclasses.replace(plan, shape=group.plan.shape) == group.plan:
            continue
        write_change(run, _change(run, group, number, wish, {name: now[name] for name in differ}))
        plans.append(plan)
        sections |= {index: (number, {name: now[name] for name in differ}) for index in group.specs}
    if not sections:
        return
    base = read_json(run.spec)
    write_json(run.plan, plans_document(plans))
    write_text(run.members_file, "".join(_line(_changed(row, base, *sections.get(row["index"], ()))) for row in rows))


def _asked(run: Run, members: Sequence[int], wish: Wish) -> list[Asked]:
    """The members by the plan they had. Raises SpecError with all problems of all of them."""
    plans, base = plans_from(read_json(run.plan)), read_json(run.spec)
    rows = {row["index"]: row for row in read_lines(run.members_file)}
    by_shape: dict[int, list[int]] = {}
    for index in members:
        by_shape.setdefault(rows[index].get("shape", 0), []).append(index)
    found, problems = list[Asked](), dict[tuple[str, str], Problem]()
    with composer(wish.overrides, _folders(run, wish)) as typed:
        _refuse_others(typed, base["pools"])
        for shape, indices in by_shape.items():
            frozen = {i: {**base, **with_point(run, rows[i])["sections"]} for i in indices}
            reader = _Reader(run, typed, frozen[indices[0]])
            specs = {i: spec for i in indices if (spec := reader.spec(frozen[i])) is not None}
            problems |= reader.problems
            if not reader.problems:
                found.append(Asked(plan=plans[shape], was=frozen[indices[0]], specs=specs))
    if problems:
        raise SpecError(list(problems.values()))
    return found


def _folders(run: Run, wish: Wish) -> list[Path]:
    """Of the user's own groups: those of the launch, too, as far as they are there yet."""
    origin = read_json(run.provenance) or {}
    cwd = Path(origin.get("cwd") or Path.cwd())
    launched = [cwd / folder for folder in launch_words(origin.get("command") or []).config_dir]
    return [*(folder for folder in launched if folder.is_dir()), *config_dirs(), *wish.config_dirs]


def _refuse_others(typed: Composer, frozen: Sequence[Mapping[str, Any]]) -> None:
    """Raises SpecError with every override that may not be given to `retry`, for a job with these pools."""
    problems = list(changed_pools.refusals([o.key_or_group for o in typed.said], frozen))
    for text, override in zip(typed.overrides, typed.said, strict=True):
        key = override.key_or_group
        if override.is_sweep_override():
            do = "give one value; members that shall differ are retried one by one: --member K"
            problems.append(Problem(f"{key} has several values", f"override {text}", do))
        elif override.is_delete() or override.package:
            problems.append(Problem("retry takes key=value and group=option", f"override {text}", "give the new value"))
        elif not _may_change(key):
            do = f"{nearest(key, MAY_CHANGE)}; for another training, launch anew (train.start_from=JOB)"
            problems.append(Problem(f"{key} cannot be changed by retry", f"override {text}", do))
    if problems:
        raise SpecError(problems)


def _may_change(key: str) -> bool:
    return changed_pools.is_of_a_pool(key) or any(key == may or key.startswith(f"{may}.") for may in MAY_CHANGE)


class _Reader:
    """Reads the specs of members that had one plan, with the overrides in them."""

    def __init__(self, run: Run, typed: Composer, first: Mapping[str, Any]) -> None:
        self.run, self.typed, self.checker = run, typed, Checker()
        self.chosen = {o.key_or_group: str(o.value()) for o in typed.said if isinstance(o.value(), str)
                       and typed.is_group(o.key_or_group)}  # fmt: skip
        self.findings = list[tuple[str, str, str]]()
        """What is wrong with what was said of pools."""
        self.changed = self._changed(_as_config(first))
        self.problems = dict[tuple[str, str], Problem]()

    def spec(self, frozen: Mapping[str, Any]) -> schema.Spec | None:
        """None where something is wrong, which is added to the problems."""
        config = {**_as_config(frozen), **self.changed}
        spec, findings = self.checker.spec(config)
        findings = [*self.findings, *findings, *(_other_kind(frozen, spec) if spec else ())]
        found = (self._problem(*finding) for finding in findings)
        self.problems.update({(p.what, p.where): p for p in found})
        return None if findings else spec

    def _changed(self, frozen: Mapping[str, Any]) -> dict[str, Any]:
        """The sections that may change: a chosen option as its YAML says it, then single values."""
        composed = self.typed.base().document()["config"]
        config = {**_literal(frozen), **{group: composed[group] for group in self.chosen}}
        said = {o.key_or_group: o.value() for o in self.typed.said if o.key_or_group not in self.chosen}
        leaves = {key: value for key, value in said.items() if not changed_pools.is_of_a_pool(key)}
        now = Base(config, self.chosen).member({}, leaves).config
        sections = {name: now[name] for name in (*schema.POOL_GROUPS, "job", "launcher")}
        if "pools" in frozen:
            of_pools = [(key, value) for key, value in said.items() if key not in leaves]
            sections["pools"] = self._pools(frozen["pools"], of_pools, now["job"])
        return {**sections, "container": _box(frozen["container"], now["container"])}

    def _pools(self, before: Sequence[Any], values: changed_pools.Values, job: Mapping[str, Any]) -> list[Any]:
        found, findings = changed_pools.changed(_literal(before), values, job, self.typed)
        self.findings += findings
        now = Base({"pools": found}, self.chosen).member({}, {}).config["pools"]
        return [{**p, "container": _box(before[i]["container"], p["container"])} if p else p for i, p in enumerate(now)]

    def _problem(self, what: str, key: str, do: str) -> Problem:
        """With its place: the override, or the file of a chosen option; all else was said at the launch."""
        if not _may_change(key):
            do = f"{key} stays as launched: give retry something else"
        group = key.partition(".")[0]
        folders = self.typed.search_path if group in self.chosen else ()
        composition = Composition((), self.typed.overrides, folders)
        said = Places(composition, Composed({}, {}, self.chosen)).of(key)
        return Problem(what, f"{self.run.id}, as launched: {key}" if said.startswith("config.yaml ") else said, do)


def _as_config(document: Mapping[str, Any]) -> dict[str, Any]:
    """A frozen spec in the form it was composed in. Its sweep has done its work."""
    flat = {name: {**document[name]["options"], "kind": document[name]["kind"]} for name in schema.COMPONENTS}
    rest = {name: value for name, value in document.items() if name != "pools"}
    chief = {name: document["pools"][0][name] for name in schema.POOL_GROUPS}
    several = {"pools": changed_pools.as_launched(document)} if len(document["pools"]) > 1 else {}
    return {**rest, **flat, **chief, **several, "sweep": {"kind": "none"}}


def _literal(value: Any) -> Any:
    """Frozen values, whose `${` is text and no interpolation."""
    if isinstance(value, str):
        return NEEDS_ESCAPE.sub(lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {key: _literal(below) for key, below in value.items()}
    return [_literal(below) for below in value] if isinstance(value, list) else value


def _box(was: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """The container without the image and digest of the launch, where it is another one."""
    if now["recipe"] != was["recipe"] and now["image"] == was["image"]:
        now = {**now, "image": None}
    if (now["recipe"], now["image"]) != (was["recipe"], was["image"]) and now["digest"] == was["digest"]:
        now = {**now, "digest": None}
    return now


def _other_kind(frozen: Mapping[str, Any], spec: schema.Spec) -> Iterator[tuple[str, str, str]]:
    """What a checkpoint of the launch's accelerator cannot go on with."""
    for was, pool in zip((pool["accelerator"] for pool in frozen["pools"]), spec.pools, strict=False):
        now, place = pool.accelerator, f"pools.{pool.number}." if len(spec.pools) > 1 else ""
        if now.kind != was["kind"]:
            what = f"{place}accelerator.kind would be {now.kind!r}, but the job was launched with {was['kind']!r}"
            do = "choose an accelerator of that kind, or launch anew with train.start_from=JOB"
            yield what, f"{place}accelerator.kind", do
        elif spec.job.kind == "trainer" and spec.train.precision is None and now.precision != was["precision"]:
            what = f"the run would go on in {now.precision!r}, but was launched in {was['precision']!r}"
            yield what, f"{place}accelerator.precision", f"add {place}accelerator.precision={was['precision']}"


def _with_image(group: Asked, say: Callable[[str], None]) -> Asked:
    """With the image in the specs, as a launch has it; another one than the launch's is built if it is not there."""
    site = group.spec.site

    def whole(pool: schema.Pool) -> schema.Pool:
        box = pool.container
        if box.runtime == "none" or (box.image is not None and box.digest is not None):
            return pool
        image = suited.ensure_suited(pool, site, say)
        box = dataclasses.replace(box, image=str(image.path), digest=image.digest or None, source=image.source)
        return dataclasses.replace(pool, container=box)

    pools = tuple(whole(pool) for pool in group.spec.pools)
    if pools == group.spec.pools:
        return group
    return dataclasses.replace(group, specs={i: dataclasses.replace(s, pools=pools) for i, s in group.specs.items()})


def _plan(group: Asked, number: int) -> Plan:
    """As the launch made it, of what is asked for now."""
    plan = group.plan
    facts = Facts(
        job=plan.job,
        run_dir=Path(plan.run_dir),
        python=plan.python,
        members=plan.members,
        shape=number,
        max_array=plan.max_array,
        user=os.getuid(),
        below=_below(plan),
        installed=tuple(pool.installed for pool in plan.pools),
        kept=plan.kept,
    )
    sweep = from_document(schema.Spec, group.was).sweep
    return plan_of(dataclasses.replace(group.spec, sweep=sweep), facts)


def _below(plan: Plan) -> str:
    """Where in the snapshot of the project the launch was given."""
    folders = [Path(pool.cwd) for pool in plan.pools if pool.cwd and Path(pool.cwd).parts[0] == PROJECT]
    return "/".join(folders[0].parts[1:]) if folders else ""


def _change(run: Run, group: Asked, number: int, wish: Wish, now: Mapping[str, Any]) -> Change:
    tried = {str(i): len(run.member(i).attempts()) for i in group.specs}
    return Change(
        shape=number,
        before=group.plan.shape,
        t=time.time(),
        command=tuple(provenance.masked(word) for word in wish.command),
        overrides=tuple(provenance.masked(word) for word in wish.overrides),
        members=ranges(list(group.specs)),
        tried=tried,
        was={name: group.was[name] for name in now},
        now=now,
    )


def _changed(row: dict[str, Any], base: Mapping[str, Any], *to: Any) -> dict[str, Any]:
    """A line of members.jsonl with another plan and other sections; those of the first member's spec are left out."""
    if not to:
        return row
    shape, now = to
    sections = {name: value for name, value in {**row["sections"], **now}.items() if value != base.get(name)}
    return {**row, "sections": sections, "shape": shape}


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
