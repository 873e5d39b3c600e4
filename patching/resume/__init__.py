"""What makes exact patching fast: passes that resume where a patch begins. The engine runs without it, only slower.

Read in this order: clean_cache, known_cells, passes, shared_prefix.
"""
