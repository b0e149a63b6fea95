"""Intel SGX quotes: what differs from TDX.

An SGX quote is framed, signed, certified and vouched for as a TDX quote is, so `verifier.tdx` asks
for both whether they are genuine and how their platform stands; `validate` here asks whether the
enclave is acceptable.
"""
