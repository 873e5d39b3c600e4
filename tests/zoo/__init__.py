"""The zoo: every source model that a tower must be able to read, small, random and of the real class.

``entries()`` is the table; each entry builds its model, says how the model reads a text, and where its blocks' sites
are, so that one parametrised test holds for all of them. Nothing here knows of towers.
"""

from __future__ import annotations

from functools import cache

from zoo.entry import Entry


@cache
def entries() -> tuple[Entry, ...]:
    """All of them, in a fixed order."""
    from zoo.medical_models import medical_entries
    from zoo.open_clip_models import open_clip_entries
    from zoo.open_clip_variants import open_clip_variants
    from zoo.sentence_models import sentence_entries
    from zoo.transformers_models import transformers_entries

    dual = (*open_clip_entries(), *open_clip_variants(), *transformers_entries(), *medical_entries())
    return (*dual, *sentence_entries())
