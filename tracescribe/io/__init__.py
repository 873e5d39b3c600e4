"""Files read and written by every folder: whole or not at all, checked when read."""
