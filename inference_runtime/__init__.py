"""Runs inside the confidential VM: proves itself, takes the key, opens the model, serves it."""
