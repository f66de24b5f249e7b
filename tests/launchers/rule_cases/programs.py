"""Command lines that break a rule of the program, its data, its site, or what it reports."""

from __future__ import annotations

from tests.launchers.checked import BY_PATTERN, COMMAND, SEARCH, Cases

IN_VARIABLES = ("job.parameters=environment",)
ENTRY = ("job=command", "job.command=[]", "container.runtime=apptainer", "container.image=x.sif")
IMAGES = ("data=images", "data.path=conf")
NUMBERS = ("data=diabetes", "model=mlp")
BY_LOSS = ("objective.metric=train/loss", "objective.goal=minimize")
OF_PROGRAMS: Cases = {
    "data_is_there": [
        (("data={kind: bytes, path: /nowhere/at/all}",), (), ""),
    ],
    "tracking_is_sound": [
        (("tracking.uri=ftp://x",), ("'ftp://x'",), "tracking.uri=ftp://x"),
        (("tracking.uri=http://me:pw@host:5000",), ("password",), "tracking.uri"),
        (("tracking=none", "+tracking.register=digits"), ("'digits'", "'none'"), "+tracking.register=digits"),
    ],
    "targets_are_names": [
        (("model={_target_: 3}",), ("3", "dotted path"), "model={_target_: 3}"),
        (("model={_target_: Net}",), ("'Net'", "dotted path"), "model={_target_: Net}"),
        (("train.loss={_target_: huber}",), ("'huber'", "dotted path"), "train.loss={_target_: huber}"),
        (("train.loss={delta: 1.0}",), ("None", "dotted path"), "train.loss={delta: 1.0}"),
    ],
    "folders_can_be_named": [((r'site.scratch_dir="/a\nb"',), (), "")],
    "program_is_said_by_its_kind": [
        (("job.command=[a,b]",), ("'a b'", "'trainer'"), "job.command=[a,b]"),
        (("job.arguments=[a,b]",), ("'a b'", "'trainer'"), "job.arguments=[a,b]"),
        ((*COMMAND, "job.script=x.py"), ("'x.py'", "'command'"), "job.script=x.py"),
        (("job=script", "job.script=x.py", "job.source=x"), ("job.source is 'x'", "'script'"), "job.source=x"),
        (("job=command", "job.command=[]"), ("no program", "without a container"), "job.command=[]"),
        (("job=command", "job.command=['',x]"), ("['', 'x']",), "job.command=['',x]"),
        (("job=script", "job.script=null"), ("names no file",), "job.script=null"),
        (("job=module",), ("neither job.module nor job.source",), "job/module.yaml:"),
        (("job=module", "job.module=m", "job.wheelhouse=w"), ("'w'", "no job.source"), "job.wheelhouse=w"),
        (("job.requirements=r.txt",), ("'r.txt'", "'trainer'"), "job.requirements=r.txt"),
        ((*COMMAND, "job.wheelhouse=w"), ("'w'", "no job.source and no job.requirements"), "job.wheelhouse=w"),
        ((*ENTRY, "job.requirements=pyproject.toml"), ("own entry point", "whatever Python"), "job.requirements="),
    ],
    "words_can_be_arguments": [
        ((*COMMAND, f"job.arguments=[{'x' * 131072}]"), ("131072 bytes", "131071"), "job.arguments"),
    ],
    "at_launch_script_is_frozen_with_the_job": [
        (("job=script", "job.script=trian.py"), ("'trian.py'", "not among the files"), "job.script=trian.py"),
        (("job=script", "job.script=/x/train.py"), ("'/x/train.py'", "the copy of your project"), "job.script="),
        (("job=script", "job.script='pkg://conf/x.py'"), ("does not have",), "job.script="),
    ],
    "at_launch_source_can_be_installed": [
        (("job=module", "job.source=nowhere"), ("'nowhere'", "no such file or folder"), "job.source=nowhere"),
        (("job=module", "job.source=/etc"), ("'/etc'", "neither pyproject.toml nor setup.py"), "job.source=/etc"),
        (("job=module", "job.source=/etc/passwd"), ("no wheel and no source distribution",), "job.source=/etc/passwd"),
    ],
    "at_launch_requirements_can_be_installed": [  # and tests/launchers/test_requirements.py
        ((*COMMAND, "job.requirements=nowhere.txt"), ("nowhere.txt cannot be read",), "job.requirements=nowhere.txt"),
        ((*COMMAND, "job.requirements=pyproject.toml"), ("pyproject.toml:1 is", "[build-system]"), "job.requirements="),
        (("job=module", "job.source=.", "job.wheelhouse=x"), ("'x'", "no wheel"), "job.wheelhouse=x"),
    ],
    "parameters_reach_a_command": [
        (("params.lr=1",), ("lr", "'trainer'"), "params.lr=1"),
        ((*COMMAND, *IN_VARIABLES, "params.a-b=1", "params.a_b=2"), ("params.a-b", "A_B"), "params.a_b=2"),
        ((*COMMAND, *IN_VARIABLES, "params.a.b=1", "params.a_b=2"), ("params.a.b", "A_B"), "params.a_b=2"),
        ((*COMMAND, *IN_VARIABLES, "params.path=1"), ("variable PATH",), "params.path=1"),
        ((*COMMAND, *IN_VARIABLES, "params.fairlead.spec=1"), ("FAIRLEAD_SPEC",), "params.fairlead.spec=1"),
        ((*COMMAND, *IN_VARIABLES, "params.pythonpath=1"), ("PYTHONPATH",), "params.pythonpath=1"),
    ],
    "reports_can_be_read": [
        (("job.metrics.kind=jsonl",), ("'jsonl'", "'trainer'"), "job.metrics.kind=jsonl"),
        ((*COMMAND, "job.metrics.kind=pattern"), ("'pattern'", "None"), "job.metrics.kind=pattern"),
        ((*COMMAND, "job.metrics.pattern=x"), ("'hypertune'", "'x'"), "job.metrics.pattern=x"),
        ((*BY_PATTERN, "job.metrics.pattern='(?P<value>x'"), ("no regular expression",), "job.metrics.pattern"),
        ((*BY_PATTERN, "job.metrics.pattern=loss"), ("'loss'", "no group"), "job.metrics.pattern=loss"),
        ((*BY_PATTERN, "job.metrics.pattern='(?P<step>x)'"), ("no group",), "job.metrics.pattern"),
        ((*BY_PATTERN, "job.metrics.pattern='(?P<metric>x)(?P<a>x)'"), ("none named value",), "job.metrics.pattern"),
        ((*BY_PATTERN, "job.metrics.pattern='(?P<value>x)'"), ("None",), "job.metrics.pattern"),
        ((*COMMAND, "job.metrics.path=/tmp/x"), ("'/tmp/x'",), "job.metrics.path=/tmp/x"),
        ((*COMMAND, "job.metrics.path=../x"), ("'../x'",), "job.metrics.path=../x"),
    ],
    "sweep_is_of_a_command": [
        ((*COMMAND, "sweep={kind: grid, product: {model.width: [1, 2]}}"), (), ""),
    ],
    "folders_are_no_files": [
        (("site.runs_dir=/etc/passwd",), ("'/etc/passwd'", "is a file, not a folder"), "site.runs_dir=/etc/passwd"),
        (("site.images_dir=/etc/passwd/a/b",), ("/etc/passwd is a file",), "site.images_dir=/etc/passwd/a/b"),
    ],
    "registries_are_told": [
        (("site.registry_auth=/nowhere/auth.json",), ("'/nowhere/auth.json'", "no such file"), "site.registry_auth="),
        (("site.image_keys=[/nowhere/key.pub]",), ("'/nowhere/key.pub'", "no such file"), "site.image_keys="),
        (("site.registry_http=['http://h:1']",), ("'http://h:1'", "no host"), "site.registry_http="),
    ],
    "cards_are_here": [
        (("machine=gpu-8", "accelerator=a100"), ("'cuda'", "launcher=local"), "accelerator/a100.yaml:"),
        (("machine=gpu-8", "accelerator=mi300x"), ("'rocm'", "launcher=local"), "accelerator/mi300x.yaml:"),
    ],
    "model_takes_the_data": [
        (("model=gpt",), ("gpt takes tokens", "sklearn gives images"), "model/gpt.yaml:"),
        (("data=stdlib",), ("cnn takes images", "bytes gives tokens"), "(chosen by: model=cnn)"),
        (("data=stdlib", "model=mlp"), ("mlp takes images or numbers", "gives tokens"), "(chosen by: model=mlp)"),
        (("data.set=wine",), ("cnn takes images", "sklearn gives numbers"), "model.kind"),
    ],
    "data_options_go_together": [
        (("data.split.by=time",), ("data.split.by is time", "cannot do"), "data.split.by=time"),
        ((*NUMBERS, "data.split.by=stratified"), ("is stratified", "goes by classes"), "data.split.by=stratified"),
        (
            ("data=huggingface", "data.path=conf", "data.task=regression"),
            ("data.task is regression", "data.form is images"),
            "data.task=regression",
        ),
    ],
    "data_can_be_exported": [
        (("job.data_format=csv",), ("'csv'", "'trainer'"), "job.data_format=csv"),
        (
            (*COMMAND, "data=stdlib", "job.data_format=jsonl"),
            ("'jsonl'", "bytes are neither rows with columns nor files of images"),
            "job.data_format=jsonl",
        ),
        ((*COMMAND, *IMAGES, "job.data_format=csv"), ("'csv'", "'images'", "JSON lines"), "job.data_format=csv"),
        ((*COMMAND, *IMAGES, "job.data_format=jsonl", "data.split.by=time"), ("is time",), "data.split.column"),
    ],
    "exported_files_stay_where_they_are": [
        (
            (*COMMAND, *IMAGES, "job.data_format=jsonl", "staging.copy=true"),
            ("staging.copy is true", "job.data_format=jsonl", "images"),
            "staging.copy=true",
        ),
    ],
    "at_launch_exported_data_are_as_said": [  # and tests/launchers/test_exported.py
        (
            (*COMMAND, "job.data_format=csv", "data=table", "data.path=pyproject.toml", "data.target=kind"),
            ("pyproject.toml", "does not end in"),
            "data.path",
        ),
        ((*COMMAND, "job.data_format=jsonl", *IMAGES), ("no file matches */*",), "data.path"),
    ],
    "objective_is_measured": [
        (("objective.metric=val/f1",), ("'val/f1'", "does not measure"), "objective.metric=val/f1"),
        ((*NUMBERS, "objective.metric=val/accuracy"), ("'val/accuracy'", "does not measure"), "objective.metric"),
        (("objective.metric=val/r2",), ("'val/r2'", "does not measure"), "objective.metric=val/r2"),
        (("data.split.fraction=0",), ("'val/loss'", "nothing is kept for validation"), "objective.metric"),
    ],
    "end_is_evaluated": [
        ((*BY_LOSS, "train.stop_after={evaluations: 3}"), ("train.stop_after", "'train/loss'"), "train.stop_after="),
        ((*BY_LOSS, "train.export=best"), ("train.export", "'train/loss'"), "train.export=best"),
    ],
    "search_is_measured": [
        (
            (*SEARCH, "sweep.objectives=[{metric: val/f1, goal: maximize}]"),
            ("sweep.objectives.0.metric", "'val/f1'"),
            "sweep.objectives",
        ),
        (
            (*SEARCH, *NUMBERS, "sweep.constraints=[{metric: val/accuracy, min: 1}]"),
            ("sweep.constraints.0.metric", "'val/accuracy'"),
            "sweep.constraints",
        ),
        (
            (*SEARCH, "sweep.constraints=[{metric: memory, max: 1}]"),
            ("sweep.constraints.0.metric", "'memory'"),
            "sweep.constraints",
        ),
        *(
            ((*SEARCH, f"sweep.constraints=[{{metric: {name}, max: 1}}]"), (f"'{name}'",), "sweep.constraints")
            for name in ("train/tokens_per_s", "train/mfu", "train/memory_gb")  # of images, on a CPU
        ),
        *(
            ((*SEARCH, f"sweep.constraints=[{{metric: {name}, max: 1}}]"), (f"'{name}'",), "sweep.constraints")
            for name in ("train/rank_spread", "train/slowest_rank")  # of one rank
        ),
    ],
}
