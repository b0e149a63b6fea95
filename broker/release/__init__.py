"""One release in eight rooms: read `flow.py` first."""
