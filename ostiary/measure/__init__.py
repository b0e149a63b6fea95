"""Compute what registers will hold, from the artefacts that a machine is started with.

Guarantees: a value is computed from every byte that goes into it, by the published rules that its
module names, or refused by name with what to do instead. Does not know what a host really does:
each module says which behaviour of hypervisor and firmware it assumes; a computed value that a
reviewed machine does not show is wrong for that machine, and admits nobody.
"""
