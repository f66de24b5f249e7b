"""Which faults strike where? A campaign is a list of cases, drawn from a seed; each case is whole in itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Launcher = Literal["local", "slurm"]
Moment = Literal["step", "evaluation", "checkpoint"]
Every = int | Literal["auto"]
Form = Literal["rows", "tar", "staged"]
"""Of what is trained on: rows in memory; tar shards, or Parquet shards that are copied to the node's disk first, both
read by data loader processes."""

BOX = "pytorch-cpu"
TOTAL_STEPS = 40
CHECKPOINT_EVERY = 6
EVALUATE_EVERY = 10
STEP_S = 0.05
"""The least that a step takes."""
AUTO = ("kill one rank", "kill all ranks", "host off")
"""Faults that strike every second time (on the cluster first) a training that chooses itself how often it saves."""
AUTO_FROM = 26
"""Step from which they strike: by then it has saved, and lost much if it has not again."""
FORMS: Sequence[Form] = ("rows", "tar", "staged")
LOADED: Sequence[Form] = ("tar", "staged")
"""Those that data loader processes read."""


@dataclass(frozen=True)
class Layout:
    """Ranks on nodes."""

    nodes: int
    ranks_per_node: int

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_per_node

    def __str__(self) -> str:
        return f"{self.nodes}x{self.ranks_per_node}"


ONE, TWO, THREE, FOUR = (Layout(1, n) for n in (1, 2, 3, 4))
PAIR, PAIRS = Layout(2, 1), Layout(2, 2)


@dataclass(frozen=True)
class Kind:
    """What a campaign must know of a fault; what the fault does is faults.py's."""

    graceful: bool = False
    """The program was told, and had time: no step may be lost."""
    moment: Moment = "step"
    local: Sequence[Layout] = (ONE, TWO)
    slurm: Sequence[Layout] = (TWO, PAIR, PAIRS)
    back: Sequence[Layout] = ()
    """Layouts in which it may go on; none is the same again."""
    earliest: int = 3
    """Step that must be made before it strikes."""
    latest: int = 28
    lost_checkpoints: int = 0
    """How many of the newest checkpoints the fault itself destroys."""
    bearable: bool = False
    """The training may as well go on through it."""
    words: Sequence[str] = ()
    """What else the command line says."""
    forms: Sequence[Form] = FORMS
    """Those with what the fault strikes."""
    said: str = ""
    """What the outcome then has in its message, which shows that the fault hit what its name says."""
    by_hand: Sequence[Launcher] = ()
    """Where it goes on only when a person says `retry`, once; everywhere else it comes back by itself."""
    in_place: bool = False
    """It starts again on the nodes it holds, and does not go back to the queue."""


BOTH: Sequence[Launcher] = ("local", "slurm")
STAYS_DOWN = ("job.restarts.crash=0",)
DAMAGE = Kind(earliest=16, lost_checkpoints=1, in_place=True)
HERE_CANCELLED: Sequence[Launcher] = ("local",)
"""Who sends SIGTERM to the supervisor on this machine ends the job: it has no queue to go back to."""
KINDS = {
    "kill one rank": Kind(local=(TWO, THREE), said="killed by signal 9", in_place=True),
    "kill a loader process": Kind(forms=LOADED, said="DataLoader worker", in_place=True),
    "kill all ranks": Kind(in_place=True),
    "kill all ranks in a save": Kind(moment="checkpoint", in_place=True),
    "kill the supervisor": Kind(by_hand=BOTH),  # whoever starts things again is gone; to Slurm its job has failed
    "TERM": Kind(graceful=True, by_hand=HERE_CANCELLED),
    "USR2": Kind(graceful=True),
    "TERM in an evaluation": Kind(graceful=True, moment="evaluation", by_hand=HERE_CANCELLED),
    "TERM in a save": Kind(graceful=True, moment="checkpoint", by_hand=HERE_CANCELLED),
    "STOP a rank": Kind(
        local=(TWO,),
        slurm=(PAIR,),
        words=("job.hang={step_s: 10, checkpoint_s: 300}", "job.restarts.hang=1"),
        in_place=True,
    ),
    "disk full": Kind(bearable=True, by_hand=BOTH),  # cause `site`: it stays so until somebody mends the disk
    "checkpoints read-only": Kind(bearable=True, by_hand=BOTH),
    "newest checkpoint truncated": DAMAGE,
    "newest checkpoint bit-flipped": DAMAGE,
    "fewer ranks": Kind(local=(TWO, THREE), slurm=(PAIR, PAIRS), back=(ONE,), words=STAYS_DOWN, by_hand=BOTH),
    "more ranks": Kind(local=(ONE,), slurm=(ONE, TWO), back=(FOUR, PAIRS), words=STAYS_DOWN, by_hand=BOTH),
    "store down": Kind(graceful=True, bearable=True, local=(ONE,), slurm=(ONE,)),
    "host off": Kind(slurm=(ONE, TWO, PAIR)),
    "host off in a save": Kind(moment="checkpoint", slurm=(TWO, PAIR)),
    "preempted": Kind(graceful=True, slurm=(TWO, PAIR)),
    "time limit": Kind(graceful=True, slurm=(ONE, TWO), words=("job.notice_s=60",)),
}
EACH_HERE = (
    "kill one rank",
    "STOP a rank",
    "TERM",
    "newest checkpoint truncated",
    "kill all ranks",
    "disk full",
    "TERM in a save",
    "fewer ranks",
    "kill the supervisor",
    "USR2",
    "newest checkpoint bit-flipped",
    "TERM in an evaluation",
    "kill all ranks in a save",
    "checkpoints read-only",
    "more ranks",
    "TERM in a save",
    "kill a loader process",
)
HERE = (*EACH_HERE, "store down", *EACH_HERE, "kill one rank")
"""In turn, those on one machine: what is cheap and what has many ways to go wrong comes more often than the rest."""
ON_SLURM = (
    "host off",
    "preempted",
    "kill one rank",
    "time limit",
    "host off in a save",
    "kill the supervisor",
    "TERM in an evaluation",
    "fewer ranks",
    "kill all ranks in a save",
    "TERM in a save",
    "store down",
    "kill a loader process",
    "more ranks",
    "STOP a rank",
    "disk full",
    "newest checkpoint truncated",
    "checkpoints read-only",
    "newest checkpoint bit-flipped",
    "TERM",
    "kill all ranks",
    "USR2",
)
"""And those on the cluster: every kind once. The tests run the first sixteen. The last five (a read-only folder, a
flipped bit, TERM, all ranks killed between saves, USR2) are `make chaos`'s alone: each has a near relation among the
first, as a full disk, TERM in a save, the time limit's USR2."""


@dataclass(frozen=True)
class Case:
    """One training and one fault. Everything that is left to chance was drawn when the case was made."""

    number: int
    fault: str
    launcher: Launcher
    engine: str
    layout: Layout
    back: Layout
    """In which it goes on."""
    at_step: int
    """The fault strikes when this step was reported; or in the next evaluation or save that is not before it."""
    phase: float
    """And so much later, as a part of a step."""
    victim: int
    """Which of several processes, hosts, files or bits is meant, modulo their number."""
    form: Form
    """Of the data, whose numbers are the same in each."""
    container: str = "none"
    """In which it trains; the run that it is compared with has none."""
    every: Every = CHECKPOINT_EVERY
    """train.checkpoint_every_steps."""

    @property
    def kind(self) -> Kind:
        return KINDS[self.fault]

    @property
    def same_layout(self) -> bool:
        return self.layout == self.back

    @property
    def name(self) -> str:
        return f"{self.key}-{self.fault.replace(' ', '-')}" + ("-auto" if self.every == "auto" else "")

    @property
    def key(self) -> str:
        """Its folder's name: short, as in a TMPDIR with a longer path than 70 bytes loader processes leave nothing."""
        return f"{self.launcher}-{self.number:03}"


FOUND = (
    # DDP sorted its parcels after the first step, so that three ranks which went on added up in another order.
    Case(900, "TERM", "local", "ddp", THREE, THREE, at_step=10, phase=0.5, victim=0, form="rows"),
    # A save that failed on a read-only folder left its half for good, as nothing was started again.
    Case(901, "checkpoints read-only", "local", "ddp", ONE, ONE, at_step=24, phase=0.4, victim=0, form="rows"),
)
"""Cases that broke a promise once. They are always run."""


DEEPSPEED = (
    Case(910, "TERM", "local", "deepspeed", TWO, TWO, at_step=10, phase=0.5, victim=0, form="tar"),
    Case(911, "kill one rank", "local", "deepspeed", TWO, TWO, at_step=16, phase=0.3, victim=1, form="rows"),
    Case(912, "fewer ranks", "local", "deepspeed", TWO, ONE, at_step=13, phase=0.6, victim=0, form="staged"),
    Case(913, "host off", "slurm", "deepspeed", PAIR, PAIR, at_step=12, phase=0.4, victim=1, form="staged"),
)
"""With the engine that takes longest to start (40 to 75 s a case on two busy cores): always in `make chaos`, and one
more among the tests (test_here.py)."""


BOXED = (
    Case(920, "kill one rank", "local", "ddp", TWO, TWO, at_step=14, phase=0.4, victim=1, form="tar", container=BOX),
    Case(921, "preempted", "slurm", "ddp", PAIR, PAIR, at_step=11, phase=0.5, victim=0, form="rows", container=BOX),
    Case(922, "host off", "slurm", "fsdp", PAIR, PAIR, at_step=15, phase=0.2, victim=1, form="staged", container=BOX),
    Case(923, "kill one rank", "slurm", "fsdp", TWO, TWO, at_step=9, phase=0.7, victim=0, form="tar", container=BOX),
)
"""In containers, through which signals go, and whose processes have to end: with the tests, and in `make chaos`."""


def campaign(seed: int, launcher: Launcher, count: int) -> list[Case]:
    """So many cases, the kinds in turn. Case n of a seed is the same in a campaign of any length."""
    kinds = HERE if launcher == "local" else ON_SLURM
    return [_drawn(seed, launcher, number, kinds[number % len(kinds)]) for number in range(count)]


def _drawn(seed: int, launcher: Launcher, number: int, fault: str) -> Case:
    chance, kind = random.Random(f"{seed} {launcher} {number}"), KINDS[fault]
    layout = chance.choice(kind.local if launcher == "local" else kind.slurm)
    backs = [b for b in kind.back if launcher == "slurm" or b.nodes == 1] or [layout]
    is_auto = fault in AUTO and (number // len(EACH_HERE) + (launcher == "slurm")) % 2 == 1
    return Case(
        number=number,
        fault=fault,
        launcher=launcher,
        engine="fsdp" if layout.world > 1 and chance.random() < 0.4 else "ddp",
        layout=layout,
        back=chance.choice(backs),
        at_step=max(chance.randint(kind.earliest, kind.latest), AUTO_FROM if is_auto else 0),
        phase=chance.random(),
        victim=chance.getrandbits(30),
        form=_form(launcher, number, kind.forms),
        every="auto" if is_auto else CHECKPOINT_EVERY,
    )


def _form(launcher: Launcher, number: int, forms: Sequence[Form]) -> Form:
    """In turn, each fault with another one the next time or the one after. On the cluster those that are told begin
    with loader processes: Slurm tells these as well."""
    return forms[(number + number // len(EACH_HERE) + (launcher == "slurm")) % len(forms)]
