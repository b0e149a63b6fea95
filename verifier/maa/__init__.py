"""Tokens of Microsoft Azure Attestation (MAA): Microsoft's word in place of the hardware's.

This is the package's face: read one of its files at a time. `keys` reads an instance's key set,
`claims` what a token says, `appraise` judges it. Admitted only where a policy lists the instance
(`maa.issuers`): who believes such a token sees no evidence, no chain of the hardware's vendor and
no TCB that it could judge by itself.
"""
