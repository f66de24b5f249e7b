"""Whatever runs members when there is room: Slurm, or a queue on this machine. What runs in them is host/'s."""
