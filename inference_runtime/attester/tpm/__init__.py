"""A TPM 2.0 as the attester needs it: PCRs, NV indices, attestation keys and quotes.

A client of our own over raw commands: eight of them, with password sessions and empty passwords.
Every evidence byte so passes through code that is measured and read here. `wire.py` has the bytes,
`channel.py` the device, `client.py` the commands, `keys.py` public keys.
"""
