"""Attestation results as tokens (EAR), in both dialects that are spoken.

This is the package's face: read one of its files at a time. `vector` is AR4SI's trustworthiness
vector, `table` says what our checks mean in its words, `result` makes a token's content from an
attestation result, `claims` writes and reads it, `keys` and `token` are the signature around it.

Source: draft-ietf-rats-ear-04, draft-ietf-rats-ar4si, RFC 9711 (EAT), and the legacy dialect as
Veraison and Trustee emit it.
"""
