"""Vector figures of an exact size by matplotlib, for papers."""
