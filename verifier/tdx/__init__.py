"""Intel TDX quotes, in the order of their files.

`quote` reads the bytes; `pck`, `collateral`, `tcbinfo` and `identity` read what Intel signs;
`verify` asks if a quote is genuine and `tcb` how its platform stands; `validate` asks if it is
acceptable.
"""
