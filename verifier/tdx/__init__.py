"""Intel quotes, in the order of their files. What SGX shares with TDX is here too.

`body` and `quote` read the bytes; `profile`, `certificate`, `crl` and `pck` read Intel's
certificates, `vendor_json`, `tcbinfo` and `identity` what Intel signs besides, `collateral` all of
it; `verify` asks if a quote is genuine and `tcb` how its platform stands; `platform` asks if that
is acceptable, and `validate` if the TD is.
"""
