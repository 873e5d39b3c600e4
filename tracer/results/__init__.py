"""The result of a trace: maps, layer profiles, statistics, tables and storage. Needs no torch."""
