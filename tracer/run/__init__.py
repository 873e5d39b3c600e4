"""Runs a trace: options, columns, the engine or the cache shard by shard, scores."""
