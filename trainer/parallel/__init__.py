"""What the engines are made of: the group of ranks, parts of a model, ZeRO, fp8. The engines themselves are
in engines/."""
