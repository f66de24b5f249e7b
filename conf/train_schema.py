"""What the built-in trainer's loop may be told.

As schema.py's groups: standard library only, typed, with units and meaning; absent is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from conf.bounds import (
    Bound,
    Count,
    NotNegative,
    Positive,
    Precision,
    Price,
    Word,
    group,
)


@group
class StopAfter:
    """When a run ends before its last step: the objective has not become better for so many evaluations."""

    evaluations: Count
    min_delta: Price = 0.0
    """Better is better by more than this."""


@group
class Profile:
    """Which steps torch.profiler looks at, in each attempt."""

    wait: NotNegative = 10
    """Steps before: the first ones load libraries, and find out how many data loader processes it takes."""
    warmup: Count = 1
    """Steps looked at and thrown away, as the profiler's own start is in them."""
    active: Count = 3
    """Steps looked at; a trace of each takes some MB."""
    ranks: Literal["all"] | tuple[NotNegative, ...] = (0,)
    """Who looks. With all of them it is seen who waits for whom."""


@group
class Train:
    """The built-in trainer's loop."""

    epochs: Count | None = None
    max_steps: Count | None = None
    """Optimizer steps; the run ends at whichever of epochs and max_steps comes first."""
    batch_size: Count
    """Samples per optimizer step over all ranks, so that a layout does not change the result."""
    accumulate: Count = 1
    """Micro-batches per optimizer step on each rank."""
    clip_norm: Positive | None = None
    loss: Mapping[str, Any] | None = None
    """`_target_` and its arguments: your own function, or a class of objects that can be called as torch's losses can,
    with outputs and targets, for the loss of each sample: (batch,). Outputs of next tokens are (batch, positions,
    classes); numbers to be predicted are in the target's own units. The metrics beside the loss take outputs as these
    numbers, or as a score of each class; where they are not that many, these metrics are left out. What a loss
    remembers from batch to batch is in no checkpoint. None is the task's: cross-entropy, or the mean squared error."""
    precision: Precision | None = None
    """None takes the accelerator's. fp8 is for engines ddp and fsdp, pays with train.compile, needs the package torchao
    (fairlead[fp8]), and has not yet been run on a card: none was to be had."""
    compile: bool = False
    """torch.compile, block by block: faster steps after a minute of compiling (needs a C++ compiler in the image)."""
    recompute: bool = False
    """Activation checkpointing of a model's blocks: less memory for a third more work."""
    deterministic: bool = False
    """Refuse operations whose result varies from run to run (slower on cards): the same seed and layout then give
    bit-identical weights, however often the run was stopped."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NotNegative = 0
    eval_every_steps: Count | None = None
    """None evaluates after each epoch, and always at the end."""
    log_every_steps: Count = 10
    checkpoint_every_steps: Count | Literal["auto"] | None = None
    """auto: as often as is best, by what a save was measured to cost and how often something breaks (Young, Daly). None
    saves so, and after each evaluation. The last step, and the one at which a run is told to stop, are always saved."""
    until: Annotated[float, Bound(gt=0, le=1)] = 1.0
    """The share of its steps after which a run ends, with an evaluation, a checkpoint and a model. Schedules go by all
    of them: who goes on from there, as a member of a population, makes the steps that a whole run would have made."""
    stop_after: StopAfter | None = None
    """None trains to the last step."""
    export: Literal["last", "best"] = "last"
    """Which weights become the model: those of the last step, or of the evaluation with the objective's best value.
    The best one's checkpoint is kept beside the newest `keep_checkpoints`, and is saved whatever the interval."""
    checkpoint_in_background: bool = True
    """Training goes on while a checkpoint is written; takes memory for a copy of the state on the host."""
    keep_checkpoints: Count = 2
    workers: NotNegative | None = None
    """Data loader processes per rank. None measures batches, at first and now and then, and takes as many as keep the
    loop from waiting, out of the rank's cores but one."""
    onnx: bool = False
    """Export the model as ONNX, too (needs the extra `onnx` where the trainer runs)."""
    start_from: Word | None = None
    """Weights to begin with: a model folder or .safetensors file, a checkpoint, or the folder of a member or run, here
    or of another launch. Checked by the card or manifest beside them; nothing pickled is read."""
    trust_unverified: bool = False
    """Begin with a .safetensors file also where nothing vouches for it, or what vouches for it says another digest; and
    with the weights of a checkpoint whose files are not as its manifest says: a warning names these."""
    log_samples: bool = False
    """Each rank writes down which samples it trained on; `python -m trainer.samples MEMBER_FOLDER` then proves that
    each was seen once in each epoch, however often the run was broken off."""
    profile: Profile | None = None
    """Find out what bounds the run: traces and a page that names it, in `profile/` of the attempt and in MLflow."""
