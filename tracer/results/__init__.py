"""What a trace says: the result with its maps, layer profiles, statistics, tables and storage. Needs no torch."""
