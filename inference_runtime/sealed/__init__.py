"""Sealed models: one signed manifest, one Tink streaming AEAD file per original file (SPEC.md)."""
