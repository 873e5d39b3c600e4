"""What makes exact patching fast: forward passes that resume where a patch begins. The engine also works without it.

Read in this order: clean_run, clean_cache, known_cells, patched_sequences, schedule, resumed_pass.
"""
