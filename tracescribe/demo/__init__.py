"""The demo: all steps on the shipped miniature, its verdicts, and its page."""
