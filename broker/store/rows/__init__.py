"""Statements by table: each function takes a `Unit` and gives or takes plain values."""
