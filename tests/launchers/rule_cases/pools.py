"""Command lines that break a rule of pools, held or of workers, of secrets, or of addresses."""

from __future__ import annotations

from tests.launchers.checked import AT_ADDRESS, COMMAND, Cases

TPU = ("machine=gpu-1", "accelerator.kind=tpu", "accelerator.count=1", "launcher=slurm")
IN_POOL = ("launcher=pool", "launcher.pool=small", "machine=cpu-small")
OF_POOLS: Cases = {
    "pool_is_named_for_a_pool": [
        (("launcher.pool=small",), ("'small'", "'local'"), "launcher.pool=small"),
        ((*IN_POOL, "launcher.members_per_allocation=2"), ("2", "one allocation"), "launcher.members_per"),
        ((*IN_POOL, "+launcher.sbatch.nice=1"), ("nice",), "launcher.sbatch"),
    ],
    "pools_fit_the_pool": [
        ((*IN_POOL, "pools=[{},{machine: {nodes: 1}}]", *COMMAND), ("2 nodes together", "1 node(s)"), "pools=")
    ],
    "pool_is_known": [(("launcher=pool", "launcher.pool=smal"), ("'smal'", "small"), "launcher.pool=smal")],
    "members_fit_the_pool": [
        ((*IN_POOL, "machine.nodes=2"), ("2", "1 node"), "machine.nodes=2"),
        ((*IN_POOL, "machine.mem_gb=3"), ("3072", "1000"), "machine.mem_gb=3"),
        (
            (*IN_POOL, "machine.cpus_per_rank=2"),
            ("1 rank(s) with 2", "1 CPU"),
            "machine.cpus_per_rank=2",
        ),
        ((*IN_POOL, "machine.constraint=ib"), ("'ib'", "'none'"), "machine.constraint=ib"),
        ((*IN_POOL, "machine.disk.kind=nvme"), ("'nvme'", "'none'"), "machine.disk.kind=nvme"),
    ],
    "members_end_before_the_pool": [((*IN_POOL, "machine.time_limit_min=11"), ("11", "10"), "machine.time_limit_min")],
    "secrets_have_one_source": [
        (("+secrets.A={env: X, file: /x}",), ("env and file",), "secrets.A"),
        (("+secrets.A={through: file}",), ("none",), "secrets.A"),
        (("+secrets.A.command=[]",), ("no program",), "secrets.A.command"),
    ],
    "secrets_are_not_said_in_plain_words": [
        (("+container.env.WANDB_API_KEY=x",), ("WANDB_API_KEY", "secret"), "container.env.WANDB_API_KEY"),
        (("+site.env={DB_PASSWORD: x}",), ("DB_PASSWORD",), "site.env"),
        (("+container.env.HF_TOKEN=x",), ("HF_TOKEN",), "container.env.HF_TOKEN"),
        (("+container.env.PAD_TOKEN=x", "+container.env.TOKENIZERS_PARALLELISM='false'"), (), ""),
        (("+container.env.SSH_PRIVATE_KEY=/home/ada/key",), (), ""),
    ],
    "secrets_have_names_of_their_own": [
        (("+secrets.RANK.env=X",), ("RANK",), "secrets.RANK"),
        (("+secrets.A.env=X", "+container.env.A=x"), ("A", "container.env"), "secrets.A"),
        (("+secrets.A={file: /x, through: file}", "+secrets.A_FILE.env=X"), ("A_FILE",), "secrets.A"),
    ],
    "tensorboard_is_there": [((), (), "")],
    "event_files_can_be_read": [((), (), "")],
    "objective_is_what_the_pattern_finds": [((), (), "")],
    "location_is_known": [
        ((*AT_ADDRESS, "data.path=ftp://host/x"), ("ftp://host/x", "protocol ftp"), "data.path=ftp://host/x"),
    ],
    "location_shows_no_secrets": [
        ((*AT_ADDRESS, "data.path=https://me:word@host/x"), ("'https://***@host/x'",), "https://***@host/x"),
        ((*AT_ADDRESS, "'data.path=\"https://host/x?X-Amz-Signature=1\"'"[1:-1]), ("'https://host/x?***'",), "x?***"),
        (
            (*AT_ADDRESS, "data.path=s3://b/x", "staging.options={client_kwargs: {aws_secret_access_key: x}}"),
            ("staging.options.client_kwargs.aws_secret_access_key",),
            "staging.options=",
        ),
    ],
    "weights_are_there": [
        (("train.start_from=/nowhere/at/all",), ("'/nowhere/at/all'", "no such file"), "train.start_from="),
        (("train.start_from=/etc/passwd",), ("'/etc/passwd'", "no .safetensors file"), "train.start_from="),
        (("train.trust_unverified=true",), ("nothing to trust",), "train.trust_unverified=true"),
    ],
    "pools_are_at_most_four": [
        (("machine=cpu-small", "pools.4.machine.nodes=2"), ("5 pools", "4", "3 evaluators"), "pools.4.machine.nodes=2"),
    ],
    "chief_is_one_replica": [
        (
            (*COMMAND, "machine=cpu-small", "machine.nodes=3", "launcher=slurm", "pools.1.machine=cpu-large"),
            ("is 3", "one replica"),
            "pools",
        ),
    ],
    "tpu_is_one_replica": [
        ((*COMMAND, *TPU, "machine.nodes=2"), ("'tpu'", "2 node(s)"), "accelerator.kind=tpu"),
        ((*COMMAND, *TPU, "pools.1.accelerator=none"), ("'tpu'", "2 pool(s)"), "pools"),
    ],
    "trainers_are_one_group": [
        (
            ("machine=cpu-small", "pools.1.job={base: command, command: [a]}"),
            ("'command' in pool 1", "'trainer' in pool 0"),
            "pools.1.job",
        ),
        (
            ("machine=gpu-1", "accelerator=h100", "launcher=slurm", "pools.1.accelerator=none"),
            ("cpu with gloo", "cuda with nccl"),
            "pools.1.accelerator=none",
        ),
    ],
    "waiting_is_in_a_queue": [
        (("launcher.max_wait_min=5",), ("is 5", "launcher=local"), "launcher.max_wait_min=5"),
    ],
    "staging_stages_something": [
        ((*COMMAND, "staging.copy=true"), ("'command'",), "staging.copy=true"),
        (("staging.copy=true",), ("no path",), "staging.copy=true"),
        (("staging.options={anon: true}",), ("data.path is no address",), "staging.options="),
        (("staging.sums=SUMS",), ("nothing is staged", "staging.copy is false"), "staging.sums=SUMS"),
    ],
}
