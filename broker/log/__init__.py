"""The log: one RFC 6962 tree per tenant, appended to by one compare-and-swap. See `sequencer.py`.

The broker's process *is* trusted not to lie about evidence, and nothing more: whoever holds it and
the database, but not the HSM worker, cannot rewrite or fork a tree, because the worker signs only
extensions of the head that it keeps outside the database.
"""
