"""Everything a user may say. This file only makes `pkg://conf` a place Hydra can find; it holds nothing."""
