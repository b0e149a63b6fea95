"""The key broker: decides who may have which key, logs every release, and holds no key itself.

Read `broker/release/flow.py` for one release through its rooms; `broker/hsm` is the one room that
runs as a process of its own.
"""
