"""The door: sizes, media types, callers and problem documents. No decision is made here."""
