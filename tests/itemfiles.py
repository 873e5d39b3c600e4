"""Files of items, as `evaluate --items` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def items(path: Path, hits: dict[str, Sequence[float]], groups: Sequence[str], **columns: Sequence[str]) -> Path:
    """An items file with these hits by task."""
    parts = [
        pd.DataFrame(
            {
                "task": task,
                "id": [str(i) for i in range(len(values))],
                "group": list(groups),
                "hit": list(values),
                "chance": 0.25,
                "margin": 0.0,
                **columns,
            }
        )
        for task, values in hits.items()
    ]
    pd.concat(parts).to_csv(path, index=False)
    return path
