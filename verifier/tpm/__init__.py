"""TPM 2.0 quotes: `quote.appraise_quote` judges one, `appraise.appraise_tpm` with its policy.

Guarantees: PCR values are believed only where the quote's own selection covers them. Does not make
an attestation key trustworthy: a certificate chain (`chain`), a hardware report or the caller does.
"""
