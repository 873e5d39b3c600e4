"""The demo: the whole idea on the shipped miniature, its verdicts, and its page."""
