"""Each file beside this one is a kind of model: `Options`, `build(options, shape) -> torch.nn.Module`, and `TAKES`,
the forms of samples it can take (trainer.sources.Form; without it, any). `HAS_BLOCKS` is true of one made of blocks
(parallel/units.py)."""
