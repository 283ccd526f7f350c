"""From image-text data to batches: sources, shards, manifest, order and reading."""
