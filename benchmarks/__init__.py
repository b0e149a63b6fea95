"""Benchmarks: each module measures ours, the peer and the limit in one run.

`python -m benchmarks` runs them all; `python -m benchmarks.NAME [--json]` runs one. Nothing here
is imported by the product.
"""
