"""The explorer: an interactive view of traces for notebooks, and the session behind it, which needs no page."""

from .session import ExplorerSession
from .start import explore, make_session

__all__ = ["ExplorerSession", "explore", "make_session"]
