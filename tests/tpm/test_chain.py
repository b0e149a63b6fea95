"""AK certificates: a whole chain to a pinned root, and nothing less."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.kit import tpm_chain
from tests.kit.measured import ec_key, rsa_key
from tests.kit.tpm_chain import Issued, Shape, intermediate, issue, root
from tests.kit.vendors import NOW
from verifier.anchors import PINNED
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal
from verifier.tpm.chain import trim_der, verify_ak_chain

SAN = x509.SubjectAlternativeName([x509.DirectoryName(x509.Name([]))])
LEAF = Shape("AK", extensions=((SAN, True),))


def leaf(shape: Shape = LEAF, by: Issued | None = None) -> Issued:
    return issue(shape, by or intermediate(), rsa_key())


def judged(certificate: Issued, issuers: list[Issued], **options: Any) -> Appraisal:
    appraisal = Appraisal("tpm")
    told: dict[str, Any] = {"now": NOW, "anchors": tpm_chain.anchors(), **options}
    verify_ak_chain(appraisal, certificate.der, [each.der for each in issuers], **told)
    return appraisal


def refused(reason: Reason, certificate: Issued, issuers: list[Issued], **options: Any) -> None:
    with pytest.raises(VerifierError) as caught:
        judged(certificate, issuers, **options)
    assert caught.value.reason is reason, caught.value


def test_a_good_chain() -> None:
    """A chain to a pinned root is told, with its end of validity; revocation is not judged."""
    appraisal = judged(leaf(), [intermediate(), root()], expected=rsa_key().public_key())

    assert appraisal.simulated
    assert appraisal.expires == NOW + 10 * 86400
    assert [(c.name, c.ok) for c in appraisal.checks] == [
        ("ak.certificate", True),
        ("ak.revocation", None),
    ]


def test_a_certificate_by_the_root_itself() -> None:
    """A chain may have no intermediate."""
    assert judged(leaf(by=root()), [root()]).checks[0].ok


def test_roots() -> None:
    """Only pinned roots count, and only those of the makers asked for."""
    chain = [intermediate(), root()]
    refused(Reason.ROOT_UNKNOWN, leaf(), chain, anchors=PINNED)
    refused(Reason.ROOT_UNKNOWN, leaf(), chain, anchors=PINNED, makers=("nobody",))
    refused(Reason.ROOT_UNKNOWN, leaf(), [intermediate()])


def test_chains_of_other_shapes() -> None:
    """Empty, too long, out of order, doubled and foreign chains are refused."""
    refused(Reason.CHAIN_INVALID, leaf(), [])
    refused(Reason.CHAIN_INVALID, leaf(), [intermediate()] * 9 + [root()])
    refused(Reason.CHAIN_INVALID, leaf(), [root()])
    refused(Reason.CHAIN_INVALID, leaf(), [intermediate(), intermediate(), root()])
    refused(Reason.ROOT_UNKNOWN, leaf(), [root(), intermediate()])


def test_an_issuer_of_the_same_name() -> None:
    """Names do not make an issuer: the signature must be its key's."""
    other = issue(Shape("TPM issuer", ca=True), root(), tpm_chain.key_of("other"))

    refused(Reason.CHAIN_INVALID, leaf(), [other, root()])


def test_a_root_that_did_not_sign_itself() -> None:
    """A pinned root is checked like any other certificate."""
    bent = issue(Shape("TPM root", ca=True), None, root().key, signer="other")

    refused(
        Reason.CHAIN_INVALID,
        leaf(),
        [intermediate(), bent],
        anchors=tpm_chain.anchors(bent),
    )


def test_who_may_issue() -> None:
    """An issuer is a CA whose path is long enough and which may sign certificates."""
    for shape in (Shape("TPM issuer"), Shape("TPM issuer", ca=True, usage=False)):
        bent = issue(shape, root())
        refused(Reason.CHAIN_INVALID, leaf(by=bent), [bent, root()])
    second = issue(Shape("second", ca=True), intermediate())
    refused(Reason.CHAIN_INVALID, leaf(by=second), [second, intermediate(), root()])


def test_an_issuing_certificate_is_no_ak() -> None:
    """A CA certificate, or one that may not sign, is no attestation key's."""
    refused(Reason.CHAIN_INVALID, leaf(Shape("AK", ca=True)), [intermediate(), root()])
    refused(Reason.CHAIN_INVALID, leaf(Shape("AK", usage=False)), [intermediate(), root()])


@pytest.mark.parametrize("place", range(3))
def test_dates(place: int) -> None:
    """Each certificate is valid at the time asked, to the second."""
    shapes = [Shape("TPM root", ca=True), Shape("TPM issuer", ca=True), LEAF]
    days = [(-20, 20)] * 3
    days[place] = (-10, 10)
    top = issue(Shape(shapes[0].subject, ca=True, days=days[0]), None)
    middle = issue(Shape(shapes[1].subject, ca=True, days=days[1]), top)
    last = leaf(Shape("AK", days=days[2]), middle)
    options = {"anchors": tpm_chain.anchors(top)}
    end = NOW + 10 * 86400

    assert judged(last, [middle, top], now=end, **options).expires == end
    refused(Reason.CERTIFICATE_EXPIRED, last, [middle, top], now=end + 1, **options)
    early = NOW - 10 * 86400 - 1
    refused(Reason.CERTIFICATE_INVALID, last, [middle, top], now=early, **options)


def test_algorithms() -> None:
    """RSA issuers sign by PKCS#1 v1.5 with 2048 bits or more."""
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    refused(Reason.CHAIN_INVALID, leaf(Shape("AK", rsa_padding=pss)), [intermediate(), root()])
    weak = issue(Shape("weak", ca=True), root())
    refused(Reason.CHAIN_INVALID, leaf(by=weak), [weak, root()])
    curve = issue(Shape("curve", ca=True), root(), ec_key())
    assert judged(leaf(by=curve), [curve, root()]).checks[0].ok


def test_critical_extensions() -> None:
    """The TPM's name may be critical; anything unknown may not."""
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    bent = leaf(Shape("AK", extensions=((unknown, True),)))

    refused(Reason.CERTIFICATE_INVALID, bent, [intermediate(), root()])


def test_the_certified_key() -> None:
    """The certificate must hold the key that signed, and a key that may."""
    chain = [intermediate(), root()]
    other = tpm_chain.key_of("other").public_key()
    refused(Reason.AK_REFUSED, leaf(), chain, expected=other)
    weak = issue(LEAF, intermediate(), tpm_chain.key_of("weak AK"))
    refused(Reason.AK_REFUSED, weak, chain)


def test_padded_certificates() -> None:
    """Azure's NV buffer is cut at the DER's end; what follows is padding only."""
    der = leaf().der
    for fill in (b"\0", b"\xff"):
        assert trim_der(der + fill * 100) == der
    assert trim_der(der) == der
    with pytest.raises(VerifierError) as caught:
        trim_der(der + b"\0\1")
    assert caught.value.reason is Reason.TRAILING_DATA
    for raw in (b"", der[:100], b"\x31" + der[1:]):
        with pytest.raises(VerifierError):
            trim_der(raw)
