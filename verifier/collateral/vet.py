"""Who signed a part, and from when to when it may be used.

Guarantees: `vet` returns a `Part` only if its chain ends in a root that this process pins, every
signature holds over the very bytes, it is about what its name says, and every date in it was read.
It does not compare dates with a clock: `Part.is_current` does, at each use. Appraisal checks all of
this again; it is done here so that a bad answer of some server is never kept, and so that dates
that decide about fetching again are signed ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509 as c_x509

from verifier import x509
from verifier.anchors import Anchors
from verifier.collateral.parts import Name, Part, Role
from verifier.collateral.vet_nvidia import NVIDIA, vet_nvidia
from verifier.errors import Reason, VerifierError
from verifier.snp import product as products
from verifier.snp.endorsements import parse_vek
from verifier.tdx import identity, tcbinfo
from verifier.tdx.pck import PCK_CA_NAMES, check_name, check_root
from verifier.tdx.signature import p256_key, verifies
from verifier.tdx.windows import Window, Windows, of_certificate, of_crl, of_document

MAX_BODY: Final = 4 * 1024 * 1024
"""Largest part in bytes."""

_SIGNER: Final = "Intel SGX TCB Signing"
_PCK_CA: Final = dict(zip(("platform", "processor"), PCK_CA_NAMES, strict=True))
_TEES: Final[dict[str, identity.Tee]] = {"tdx": "TDX", "sgx": "SGX"}
_MEMBERS: Final = {Role.TCB: "tcbInfo", Role.QE: "enclaveIdentity"}
_OPENINGS: Final = {
    role: re.compile(rf'\s*\{{\s*"{member}"\s*:\s*', re.ASCII) for role, member in _MEMBERS.items()
}
_SIGNATURE: Final = re.compile(r'\s*,\s*"signature"\s*:\s*"([0-9a-fA-F]{128})"\s*\}\s*', re.ASCII)
_AMD_LEAVES: Final = {Role.VCEK: "SEV-VCEK", Role.VLEK: "SEV-VLEK"}
_AMD_CAS: Final = {"vcek": "SEV-", "vlek": "SEV-VLEK-"}


def signed_text(body: bytes, role: Role, what: str) -> tuple[str, bytes]:
    """Return the signed JSON text in an answer of Intel's PCS, as it stands there, and r ‖ s.

    The signature covers the text, so it is cut out and never written anew (PCS API v4).

    Raises:
        VerifierError: `collateral_malformed`.
    """
    opening = None
    closing = None
    try:
        text = body.decode()
        opening = _OPENINGS[role].match(text)
        if opening is not None:
            end = json.JSONDecoder().raw_decode(text, opening.end())[1]
            closing = _SIGNATURE.fullmatch(text, end)
    except (ValueError, RecursionError) as error:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: {error}") from error
    if opening is None or closing is None:
        raise VerifierError(
            Reason.COLLATERAL_MALFORMED,
            f"{what}: {_MEMBERS[role]}, then a signature of 64 bytes expected",
        )
    return text[opening.end() : closing.start()], bytes.fromhex(closing[1])


def vet(name: Name, body: bytes, chain: bytes, anchors: Anchors, *, fetched: int) -> Part:
    """Return the part, its signatures checked up to a pinned root.

    Args:
        name: what it must be about.
        body: the vendor's bytes: signed JSON, DER, or PEM for a chain of AMD's.
        chain: PEM of who signed it, leaf first; the chain itself for AMD's.
        anchors: the roots that this process trusts.
        fetched: when it was received, unix seconds.

    Raises:
        VerifierError: the first thing that is wrong with it.
    """
    if len(body) > MAX_BODY:
        raise VerifierError(Reason.TOO_LARGE, f"{name.text}: more than {MAX_BODY} bytes")
    role = name.role
    if role is Role.TCB or role is Role.QE:
        windows, number, issued = _intel_document(name, body, chain, anchors)
    elif role is Role.PCK_CRL or role is Role.ROOT_CRL:
        windows, number, issued = _intel_crl(name, body, chain, anchors)
    elif role in NVIDIA:
        windows, number, issued = vet_nvidia(name, body, chain, anchors)
    else:
        windows, number, issued = _amd(name, body, chain, anchors)
    return Part(name, body, chain, Windows.of(windows), number, issued, fetched)


def _intel_document(
    name: Name, body: bytes, chain: bytes, anchors: Anchors
) -> tuple[list[Window], int, int]:
    what = name.text
    signer, root = x509.load_pem_chain(chain, f"{what}: chain", count=2)
    check_root(root, anchors, f"{what}: root")
    check_name(signer, (_SIGNER,), f"{what}: signer")
    x509.check_issued_by(signer, root, f"{what}: signer")
    x509.check_end_entity(signer, f"{what}: signer")
    text, signature = signed_text(body, name.role, what)
    if not verifies(p256_key(signer, f"{what}: signer"), signature, text.encode()):
        raise VerifierError(Reason.COLLATERAL_SIGNATURE, f"{what}: not signed over this text")
    document: tcbinfo.TcbInfo | identity.QeIdentity
    if name.role is Role.TCB:
        document = tcbinfo.parse(text, _TEES[name.fields[0]])
        if document.fmspc.hex() != name.fields[1]:
            raise VerifierError(
                Reason.COLLATERAL_MISMATCH, f"{what}: it is about FMSPC {document.fmspc.hex()}"
            )
    else:
        document = identity.parse(text, _TEES[name.fields[0]])
    windows = [
        of_document(document.issue_date, document.next_update, what),
        of_certificate(signer, f"{what}: signer"),
        of_certificate(root, f"{what}: root"),
    ]
    return windows, document.evaluation_number, document.issue_date


def _intel_crl(
    name: Name, body: bytes, chain: bytes, anchors: Anchors
) -> tuple[list[Window], int, int]:
    what = name.text
    certificates = x509.load_pem_chain(
        chain, f"{what}: chain", count=2 if name.role is Role.PCK_CRL else 1
    )
    issuer, root = certificates[0], certificates[-1]
    check_root(root, anchors, f"{what}: root")
    if name.role is Role.PCK_CRL:
        check_name(issuer, (_PCK_CA[name.fields[0]],), f"{what}: issuer")
        x509.check_issued_by(issuer, root, f"{what}: issuer")
        x509.check_ca(issuer, path_length=0, what=f"{what}: issuer")
    p256_key(issuer, f"{what}: issuer")
    crl, number = _crl(body, issuer, what)
    windows = [of_crl(crl, what), *_certificates(certificates, what)]
    return windows, number, windows[0].start


def _crl(
    der: bytes, issuer: c_x509.Certificate, what: str
) -> tuple[c_x509.CertificateRevocationList, int]:
    """Return the CRL, signed by `issuer`, and its number (RFC 5280 §5.2.3; 0 without one)."""
    crl = x509.load_crl(der, what)
    x509.check_crl_signature(crl, issuer, what)
    for extension in crl.extensions:
        if isinstance(extension.value, c_x509.CRLNumber):
            return crl, extension.value.crl_number
    return crl, 0


def _certificates(each: Iterable[c_x509.Certificate], what: str) -> list[Window]:
    return [of_certificate(c, f"{what}: {x509.common_name(c)}") for c in each]


def _amd(name: Name, body: bytes, chain: bytes, anchors: Anchors) -> tuple[list[Window], int, int]:
    what, product = name.text, name.fields[0]
    if name.role is Role.AMD_CHAIN and chain != body:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: it is its own chain")
    if name.role is Role.AMD_CRL:
        (ark,) = x509.load_pem_chain(chain, f"{what}: chain", count=1)
        _check_ark(ark, product, anchors, what)
        crl, number = _crl(body, ark, what)
        windows = [of_crl(crl, what), *_certificates((ark,), what)]
        return windows, number, windows[0].start
    vek = name.fields[1] if name.role is Role.AMD_CHAIN else name.role.name.lower()
    ask, ark = x509.load_pem_chain(chain, f"{what}: chain", count=2)
    _check_ark(ark, product, anchors, what)
    check_name(ask, (_AMD_CAS[vek] + product,), f"{what}: intermediate")
    x509.check_issued_by(ask, ark, f"{what}: intermediate")
    x509.check_ca(ask, path_length=0, what=f"{what}: intermediate")
    if name.role is Role.AMD_CHAIN:
        return _certificates((ask, ark), what), 0, x509.not_before(ask)
    leaf = x509.load_der(body, what)
    check_name(leaf, (_AMD_LEAVES[name.role],), what)
    x509.check_issued_by(leaf, ask, what)
    x509.check_end_entity(leaf, what)
    _check_vek(name, leaf)
    return _certificates((leaf, ask, ark), what), 0, x509.not_before(leaf)


def _check_ark(ark: c_x509.Certificate, product: str, anchors: Anchors, what: str) -> None:
    digest = x509.fingerprint(ark)
    if digest not in anchors.amd.get(product, frozenset()):
        raise VerifierError(
            Reason.ROOT_UNKNOWN, f"{what}: SHA-256 {digest.hex()} is not a pinned root of {product}"
        )
    check_name(ark, (f"ARK-{product}",), f"{what}: ARK")
    x509.check_issued_by(ark, ark, f"{what}: ARK")
    x509.check_ca(ark, path_length=1, what=f"{what}: ARK")


def _check_vek(name: Name, leaf: c_x509.Certificate) -> None:
    """The certificate is for the product, TCB and (VCEK) chip in its name."""
    said = parse_vek(leaf)
    generation = products.from_name(name.fields[0])
    expected = generation.decode_tcb(bytes.fromhex(name.fields[-1]), name.text)
    chip = bytes.fromhex(name.fields[1]) if name.role is Role.VCEK else b""
    hwid = chip[: generation.hwid_size] or None
    if (said.generation, dict(said.tcb), said.hwid) != (generation, expected, hwid):
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH, f"{name.text}: the certificate is for another chip or TCB"
        )
