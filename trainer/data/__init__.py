"""From what `data` names to batches on a device: files, tables, shards and queries, staged, split, ordered, fed. The
kinds themselves are in sources/."""
