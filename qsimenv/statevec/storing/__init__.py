"""States on disk: shards, checkpoints, and runs that go on from them."""
