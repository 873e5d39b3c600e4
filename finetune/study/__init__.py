"""The study of whether tracing pays: arms x rates x seeds from one file, a folder of runs, one table."""
