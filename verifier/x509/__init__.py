"""Certificates and revocation lists of every vendor but Intel, and PEM and dates of all of them.

This is the package's face: read one of its files at a time. `certificate` and `crl` read and check,
`pem` takes the text form apart, `library` stands between us and the certificate library. Intel's
certificates are of one narrow profile and have a reader of their own, `verifier.tdx.certificate`.
"""

from verifier.x509.certificate import (
    MAX_CERTIFICATE,
    check_ca,
    check_end_entity,
    check_issued_by,
    check_window,
    common_name,
    fingerprint,
    load_der,
    load_pem_chain,
    not_after,
    not_before,
    serial_number,
)
from verifier.x509.crl import (
    MAX_CRL,
    check_crl,
    check_crl_signature,
    check_crl_window,
    check_not_revoked,
    crl_window,
    load_crl,
)
from verifier.x509.moment import rfc3339, unix
from verifier.x509.pem import MAX_PEM, split_pem

__all__ = [
    "MAX_CERTIFICATE",
    "MAX_CRL",
    "MAX_PEM",
    "check_ca",
    "check_crl",
    "check_crl_signature",
    "check_crl_window",
    "check_end_entity",
    "check_issued_by",
    "check_not_revoked",
    "check_window",
    "common_name",
    "crl_window",
    "fingerprint",
    "load_crl",
    "load_der",
    "load_pem_chain",
    "not_after",
    "not_before",
    "rfc3339",
    "serial_number",
    "split_pem",
    "unix",
]
