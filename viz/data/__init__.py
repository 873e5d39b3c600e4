"""Numbers of published figures."""
