"""Event logs: what was measured while a machine booted, replayed to registers, then read.

Guarantees: a claim is taken only from events of registers that replay to the quoted values, and
from data that its digest covers where the kind of event allows that. Does not make unauthenticated
parts true: the type of an event, and data that is only a description, are never evidence (`boot`
says what each claim rests on). `appraise.appraise_log` is the function to call.
"""
