"""How a trace comes about: columns, the engine or the cache shard by shard, scores."""
