"""Fuzzing of every parser that reads what others wrote; see `fuzz/README.md`."""
