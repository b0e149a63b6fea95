"""The demo: every part of the house as its own process, told as a story. Start with `tale.py`."""
