"""Sealed models: the signed manifest, and ciphertext files that the broker stores for others.

The broker is *not* trusted with models: whoever holds its object folder has ciphertext, and what it
hands out is compared with the signed manifest by the runtime.
"""
