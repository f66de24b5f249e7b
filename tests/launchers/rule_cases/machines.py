"""Command lines that break a rule of the machine, the engine, the launcher or the container."""

from __future__ import annotations

from tests.launchers.checked import SEARCH, Cases

OF_MACHINES: Cases = {
    "accelerators_fit_the_machine": [
        (
            ("machine=gpu-8", "accelerator=a100", "accelerator.count=9", "train.batch_size=72"),
            ("9", "8"),
            "accelerator.count",
        ),
        (("machine=cpu-small", "accelerator=a100", "launcher=slurm"), ("1", "0"), "accelerator/a100.yaml:"),
        (("machine=gpu-8", "accelerator=a100", "accelerator.count=0"), ("'cuda'", "0"), "accelerator.count=0"),
    ],
    "ranks_fit_the_machine": [
        (("machine=cpu-small", "machine.cpus_per_rank=9"), ("9", "8"), "machine.cpus_per_rank=9"),
        (("machine=gpu-8", "accelerator=a100", "machine.ranks_per_node=2"), ("2", "1"), "machine.ranks_per_node=2"),
    ],
    "container_drives_the_accelerator": [
        (("container.accelerators=[cuda]",), ("'none'", "drive: cuda"), "container.accelerators=[cuda]"),
        (("container=pytorch-cuda", "launcher=slurm"), ("'none'", "drive: cuda"), "container/pytorch-cuda.yaml:"),
        (("container=pytorch-rocm", "launcher=slurm"), ("'none'", "drive: rocm"), "container/pytorch-rocm.yaml:"),
        (
            ("machine=gpu-8", "accelerator=a100", "container.accelerators=[none,rocm]"),
            ("'cuda'", "none, rocm"),
            "container.accelerators=[none,rocm]",
        ),
    ],
    "precision_is_native": [
        (
            ("machine=gpu-1", "accelerator=v100", "train.precision=bf16"),
            ("'bf16'", "fp32, fp16"),
            "train.precision=bf16",
        ),
        (
            ("machine=gpu-1", "accelerator=h100", "train.precision=fp8", "engine=deepspeed"),
            ("'fp8'", "'deepspeed'"),
            "engine=deepspeed",
        ),
        (("accelerator.precision=fp8",), ("'fp8'", "fp32, bf16"), "accelerator.precision=fp8"),
    ],
    "engine_can_do_as_told": [
        (
            ("engine=deepspeed", "engine.offload_weights=true"),
            ("stage 3", "engine.stage is 2"),
            "engine.offload_weights=true",
        ),
        (("engine.compression=bf16",), ("'bf16'", "'cpu'"), "engine.compression=bf16"),
    ],
    "shards_share_out_the_ranks": [
        (
            ("engine=fsdp", "engine.shard_ranks=3", "machine.ranks_per_node=4"),
            ("shard_ranks is 3", "4 ranks"),
            "engine.shard_ranks=3",
        ),
        (
            (
                "engine=fsdp",
                "engine.shard_ranks=8",
                "machine=gpu-8x4",
                "launcher=slurm",
                "machine.nodes=3",
                "machine.ranks_per_node=4",
                "train.batch_size=96",
            ),
            ("shard_ranks is 8", "12 ranks"),
            "engine.shard_ranks=8",
        ),
    ],
    "recompute_has_blocks": [
        (("train.recompute=true", "model=cnn"), ("model cnn", "no blocks"), "train.recompute=true"),
        (("train.recompute=true", "model=mlp"), ("model mlp", "no blocks"), "train.recompute=true"),
    ],
    "batch_has_a_sample_for_each_rank": [
        (("machine.ranks_per_node=3", "train.batch_size=2"), ("2", "3 ranks"), "train.batch_size=2"),
        (("train.accumulate=65", "train.batch_size=64"), ("64", "65"), "train.batch_size=64"),
    ],
    "training_ends": [(("train.epochs=null",), ("train.epochs", "train.max_steps"), "train.epochs=null")],
    "launcher_has_the_nodes": [(("machine.nodes=2",), ("2", "local"), "machine.nodes=2")],
    "notice_fits_the_limit": [
        (("machine.time_limit_min=1", "job.notice_s=60"), ("60", "1 min"), "job.notice_s=60"),
    ],
    "hangs_are_seen_before_the_limit": [
        (
            ("launcher=slurm", *SEARCH, "job.silent_min=90", "machine.time_limit_min=60"),
            ("90", "60 minutes"),
            "job.silent_min=90",
        ),
    ],
    "heartbeats_are_our_trainers": [
        (
            ("job=command", "job.command=[program]", "+job.hang.step_s=60"),
            ("job.hang", "a command"),
            "+job.hang.step_s=60",
        ),
    ],
    "sbatch_options_are_free": [
        (("launcher=slurm", "launcher.sbatch.nodes=4"), ("launcher.sbatch.nodes",), "launcher.sbatch.nodes=4"),
        (("launcher=slurm", "launcher.sbatch.cpus_per_task=4"), ("cpus_per_task",), "launcher.sbatch.cpus_per_task=4"),
    ],
    "image_is_there": [
        (("container.runtime=apptainer",), ("neither an image nor a recipe",), "container.image"),
        (
            ("container.runtime=apptainer", "container.image=/nowhere/x.sif"),
            ("/nowhere/x.sif",),
            "container.image=/nowhere/x.sif",
        ),
        (("container.runtime=apptainer", "container.image=/tmp"), ("'/tmp'", "not a file"), "container.image=/tmp"),
        (("container.runtime=apptainer", "container.image=/etc/passwd"), ("not a SIF",), "container.image=/etc/passwd"),
        (
            ("container.runtime=apptainer", "container.image=library://x/y"),
            ("library://x/y", "docker:// and oras:// are"),
            "container.image=library://x/y",
        ),
        (
            ("container.runtime=apptainer", "container.image='docker://me:word@h.org/x'"),
            ("docker://***@h.org/x", "name or password"),
            "container.image=",
        ),
        (("container.runtime=apptainer", "container.recipe=nope"), ("nope.def",), "container.recipe=nope"),
        (
            ("container.runtime=apptainer", "container.dockerfile=no/file"),
            ("'no/file'",),
            "container.dockerfile=no/file",
        ),
        (
            ("container.runtime=apptainer", "container.dockerfile=no/file", "container.recipe=pytorch-cpu"),
            ("stands beside",),
            "container.dockerfile=no/file",
        ),
    ],
    "what_is_said_of_a_container_has_one": [
        (
            ("container.image=docker://host/x:1",),
            ("'docker://host/x:1'", "container.runtime is 'none'"),
            "container.image=docker://host/x:1",
        ),
        (("container.recipe=pytorch-cpu",), ("'pytorch-cpu'", "runs on the host"), "container.recipe=pytorch-cpu"),
        (("container.host_env=[HOME]",), ('["HOME"]', "runtime is 'none'"), "container.host_env"),
        (("container.binds=[{source: /tmp}]",), (), ""),
    ],
    "shared_memory_fits_the_machine": [
        (("container.shm_gb=1",), ("1", "there is no container"), "container.shm_gb=1"),
        (
            ("container=pytorch-cpu", "launcher=slurm", "machine=cpu-small", "container.shm_gb=900"),
            ("900", "machine.mem_gb is 2"),
            "container.shm_gb=900",
        ),
    ],
    "devices_are_shown_to_a_container": [
        (
            ('accelerator.cdi=["nvidia.com/gpu=all"]',),
            ("nvidia.com/gpu=all", "there is no container"),
            "accelerator.cdi=",
        ),
        (
            ("container=pytorch-cpu", 'accelerator.cdi=["a.org/b=0"]', "site.cdi_dirs=[]"),
            ("a.org/b=0", "site.cdi_dirs is empty"),
            "site.cdi_dirs=[]",
        ),
    ],
    "binds_are_there": [
        (("container.binds=[{source: data}]",), ("'data'",), "container.binds=[{source: data}]"),
        (("container.binds=[{source: /nowhere/at/all}]",), ("'/nowhere/at/all'",), "container.binds"),
        (("container.binds=[{source: /tmp, target: rel}]",), ("'rel'",), "container.binds"),
    ],
}
