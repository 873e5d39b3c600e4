"""What holds for the whole suite."""

from __future__ import annotations

import os

# The models here are tiny: a second thread only costs (up to ten times, beside other jobs).
# Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
