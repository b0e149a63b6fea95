"""XML signatures: what was signed is what is read, and nothing else passes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree
from signxml import XMLVerifier
from signxml.verifier import SignatureConfiguration

from ostiary.simulator.nvidia.xml import Element
from tests.kit import nvrim
from tests.kit.corpus import ABSENT
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import xmldsig
from verifier.nvgpu.endorsements import MAX_RIM

DS = "http://www.w3.org/2000/09/xmldsig#"


def key_of(raw: bytes) -> Any:
    found = xmldsig.read(raw, "RIM", limit=MAX_RIM)
    return x509.load_der_x509_certificate(found.certificates[0]).public_key()


def verified(raw: bytes, key: Any = None) -> xmldsig.Enveloped:
    found = xmldsig.read(raw, "RIM", limit=MAX_RIM)
    found.verify(key or nvrim.certificate("gh100_rim_l4").public_key())
    return found


def refused(
    raw: bytes, reason: Reason = Reason.COLLATERAL_MALFORMED, match: str | None = None
) -> None:
    with pytest.raises(VerifierError, match=match) as caught:
        verified(raw)
    assert caught.value.reason is reason


def replaced(old: bytes, new: bytes, count: int = 1) -> bytes:
    raw = nvrim.good_rim()
    assert old in raw
    return raw.replace(old, new, count)


def test_an_honest_document_is_read_without_its_signature() -> None:
    """After the check the tree is what was signed: no signature is left in it."""
    root = verified(nvrim.good_rim()).root
    assert [etree.QName(child).localname for child in root] == ["Entity", "Meta", "Payload"]


def test_a_document_is_checked_once() -> None:
    """The signature that was taken off cannot be checked a second time."""
    found = verified(nvrim.good_rim())
    with pytest.raises(VerifierError, match="taken off"):
        found.verify(nvrim.certificate("gh100_rim_l4").public_key())


def test_another_key_is_refused() -> None:
    """Only the key that the caller names counts, not one that the document names."""
    with pytest.raises(VerifierError, match="SignedInfo"):
        verified(nvrim.good_rim(), nvrim.certificate("gh100_rim_l3").public_key())


def test_a_declaration_may_stand_in_front() -> None:
    """An XML declaration of UTF-8 is not part of what is signed."""
    for declaration in (b'<?xml version="1.0"?>\n', b"<?xml version='1.0' encoding='utf-8'?>"):
        verified(declaration + nvrim.good_rim())


FORBIDDEN: dict[str, Callable[[bytes], bytes]] = {
    "doctype": lambda raw: b"<!DOCTYPE SoftwareIdentity>" + raw,
    "external DTD": lambda raw: b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">' + raw,
    "entity": lambda raw: b'<!DOCTYPE a [<!ENTITY e "x">]>' + raw,
    "billion laughs": lambda raw: (
        b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
        + raw.replace(b"Measurement_1", b"&b;", 1)
    ),
    "undeclared entity": lambda raw: raw.replace(b'"Measurement_1"', b'"&e;"'),
    "comment in a value": lambda raw: raw.replace(
        b"</ds:DigestValue>", b"<!-- --></ds:DigestValue>"
    ),
    "comment between": lambda raw: raw.replace(b"<ds:Signature ", b"<!-- x --><ds:Signature "),
    "comment behind": lambda raw: raw + b"<!-- x -->",
    "instruction": lambda raw: raw.replace(b"<ds:Signature ", b"<?x y?><ds:Signature "),
    "CDATA": lambda raw: raw.replace(b"<ds:SignedInfo>", b"<![CDATA[ ]]><ds:SignedInfo>"),
    "another encoding": lambda raw: b'<?xml version="1.0" encoding="UTF-16"?>' + raw,
    "UTF-16": lambda raw: raw.decode().encode("utf-16"),
    "Latin-1": lambda raw: raw.replace(b"NVIDIA", b"NVIDI\xc4", 1),
    "two roots": lambda raw: raw + b"<a/>",
    "cut": lambda raw: raw[:-40],
    "empty": lambda _: b"",
    "nothing": lambda _: b"<a/>",
    "deep": lambda _: b"<a>" * 5000 + b"</a>" * 5000,
    "xml:base": lambda raw: raw.replace(b'corpus="false"', b'corpus="false" xml:base="x"'),
    "xml:id": lambda raw: raw.replace(b"<ds:SignedInfo>", b'<ds:SignedInfo xml:id="x">'),
    "relative namespace": lambda raw: raw.replace(b"http://www.w3.org/2001/04/xmlenc#", b"x", 1),
    "NUL": lambda raw: raw.replace(b"\n", b"\0", 1),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_markup_that_a_rim_has_no_use_for_is_refused(name: str) -> None:
    """DTDs, entities, comments, CDATA, instructions and other encodings never reach a meaning."""
    refused(FORBIDDEN[name](nvrim.good_rim()))


def test_a_huge_document_is_refused_before_it_is_read() -> None:
    """The size is looked at first."""
    refused(b"<" * (MAX_RIM + 1), Reason.TOO_LARGE)


PROFILE: dict[str, tuple[bytes, bytes]] = {
    "canonicalization": (b"2006/12/xml-c14n11", b"2001/10/xml-exc-c14n#"),
    "signature method": (b"xmldsig-more#ecdsa-sha384", b"xmldsig-more#hmac-sha384"),
    "digest method": (b"xmldsig-more#sha384", b"xmlenc#sha256"),
    "transform": (b"xmldsig#enveloped-signature", b"xmldsig#base64"),
    "no second transform": (
        b'<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></ds:Transforms>',
        b"</ds:Transforms>",
    ),
    "xpath": (b"</ds:Transforms>", b'<ds:Transform Algorithm="xpath"/></ds:Transforms>'),
    "URI to a part": (b'URI=""', b'URI="#x"'),
    "no URI": (b' URI=""', b""),
    "Reference with an Id": (b' URI=""', b' URI="" Id="x"'),
    "Signature with an Id": (b"<ds:Signature ", b'<ds:Signature Id="x" '),
    "contents of a method": (b'ecdsa-sha384"/>', b'ecdsa-sha384">1</ds:SignatureMethod>'),
    "text between": (b"<ds:SignedInfo>", b"<ds:SignedInfo>x"),
    "text behind": (b"</ds:SignedInfo>", b"</ds:SignedInfo>x"),
    "an object": (b"</ds:KeyInfo>", b"</ds:KeyInfo><ds:Object/>"),
    "no KeyInfo": (b"ds:KeyInfo>", b"ds:KeyNone>"),
    "a foreign key": (b"<ds:X509Data>", b"<ds:KeyName>x</ds:KeyName><ds:X509Data>"),
    "a key value": (b"</ds:X509Data>", b"</ds:X509Data><ds:KeyValue/>"),
    "a serial in X509Data": (b"<ds:X509Data>", b"<ds:X509Data><ds:X509SubjectName/>"),
    "no base64": (b"<ds:SignatureValue>", b"<ds:SignatureValue>*"),
    "not ASCII": (b"<ds:SignatureValue>", "<ds:SignatureValue>\u00e9".encode()),
    "an element in a value": (b"<ds:SignatureValue>", b"<ds:SignatureValue><a/>"),
    "an attribute of a value": (b"<ds:SignatureValue>", b'<ds:SignatureValue a="b">'),
    "another namespace": (DS.encode(), b"urn:x"),
}


@pytest.mark.parametrize("name", PROFILE)
def test_a_signature_of_another_form_is_refused(name: str) -> None:
    """One set of algorithms, one reference, one place for each element: all else is refused."""
    old, new = PROFILE[name]
    refused(replaced(old, new, -1))


def signature_of(raw: bytes) -> bytes:
    found = re.search(rb"<ds:Signature .*</ds:Signature>", raw, re.DOTALL)
    assert found is not None
    return found.group()


def test_two_references_are_refused() -> None:
    """A second reference, which could cover something else, is refused."""
    reference = re.search(rb"<ds:Reference.*</ds:Reference>", nvrim.good_rim(), re.DOTALL)
    assert reference is not None
    refused(replaced(reference.group(), reference.group() * 2))


def test_two_signatures_are_refused() -> None:
    """A second signature is refused wherever it stands."""
    own = signature_of(nvrim.good_rim())
    refused(replaced(own, own * 2), match="outside of the last child")


def test_a_signature_further_down_is_refused() -> None:
    """The signature of a part of the document is none of the whole."""
    raw = nvrim.good_rim()
    own = signature_of(raw)
    refused(raw.replace(own, b"").replace(b"</ns0:Payload>", own + b"</ns0:Payload>"))


def test_a_wrapped_document_is_refused() -> None:
    """A signed document inside of another one, or beside forged values, does not pass."""
    raw = nvrim.good_rim().strip()
    own = signature_of(raw)
    forged = raw.replace(own, b"").replace(b"Measurement_1", b"Measurement_X")
    inside = forged.replace(b"</SoftwareIdentity>", raw + b"</SoftwareIdentity>")
    refused(inside, match="outside of the last child|expected")
    behind = forged.replace(b"</SoftwareIdentity>", raw + own + b"</SoftwareIdentity>")
    refused(behind)
    held = own.replace(b"</ds:KeyInfo>", b"</ds:KeyInfo><ds:Object>" + raw + b"</ds:Object>")
    refused(forged.replace(b"</SoftwareIdentity>", held + b"</SoftwareIdentity>"))


def test_a_changed_document_is_refused() -> None:
    """Any change of what is signed is seen: values, names, space, namespaces."""
    for old, new in (
        (b'active="True"', b'active="False"'),
        (b'name="Measurement_1"', b'name="Measurement_2"'),
        (b"\n        <", b"\n <"),
        (b"<ns0:Payload ", b'<ns0:Payload xmlns:x="urn:x" '),
        (b"ns0:", b"nsA:"),
    ):
        refused(
            replaced(old, new),
            Reason.COLLATERAL_MALFORMED if old == b"ns0:" else Reason.COLLATERAL_SIGNATURE,
        )


def test_text_behind_the_signature_is_signed_too() -> None:
    """The transform takes the signature off and not the text behind it."""
    refused(
        replaced(b"</ds:Signature>", b"</ds:Signature>\n"),
        Reason.COLLATERAL_SIGNATURE,
        "the document was changed",
    )


ALGORITHMS = (
    f'<ds:CanonicalizationMethod Algorithm="{xmldsig.C14N}"/>'
    f'<ds:SignatureMethod Algorithm="{xmldsig.ECDSA_SHA384}"/>'
)
TRANSFORMS = (
    f'<ds:Transforms><ds:Transform Algorithm="{xmldsig.ENVELOPED}"/>'
    f'<ds:Transform Algorithm="{xmldsig.C14N}"/></ds:Transforms>'
    f'<ds:DigestMethod Algorithm="{xmldsig.SHA384}"/>'
)


def enveloped(signed: bytes, before: str, after: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a document with a signature over `signed`, which stands between two texts."""
    digest = base64.b64encode(hashlib.sha384(signed).digest()).decode()
    info = (
        f'<ds:SignedInfo>{ALGORITHMS}<ds:Reference URI="">{TRANSFORMS}'
        f"<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    )
    rest = "<ds:KeyInfo><ds:X509Data><ds:X509Certificate>AAAA</ds:X509Certificate>"
    whole = (
        f'{before}<ds:Signature xmlns:ds="{DS}">{info}<ds:SignatureValue>%s</ds:SignatureValue>'
        f"{rest}</ds:X509Data></ds:KeyInfo></ds:Signature>{after}"
    )
    placed = etree.fromstring(whole % "").find(f".//{{{DS}}}SignedInfo")
    value = key.sign(etree.tostring(placed, method="c14n"), ec.ECDSA(hashes.SHA384()))
    r, s = (number.to_bytes(48) for number in decode_dss_signature(value))
    return (whole % base64.b64encode(r + s).decode()).encode()


def test_text_around_the_signature_stays() -> None:
    """Taking the signature off leaves the text before and behind it, whoever stands beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    for before, after in (("<a>x", "y</a>"), ("<a>", "</a>"), ("<a><b/>x", "y</a>")):
        raw = enveloped((before + after).replace("<b/>", "<b></b>").encode(), before, after, key)
        root = verified(raw, key.public_key()).root
        plain = etree.fromstring(before + after)
        assert etree.tostring(root, method="c14n") == etree.tostring(plain, method="c14n")
        bent = raw.replace(after.encode(), b"z" + after.encode())
        with pytest.raises(VerifierError, match="was changed"):
            verified(bent, key.public_key())


def test_a_namespace_on_signed_info_is_seen() -> None:
    """Namespaces in scope are part of what is signed."""
    refused(
        replaced(b"<ds:SignedInfo>", b'<ds:SignedInfo xmlns:x="urn:x">'),
        Reason.COLLATERAL_SIGNATURE,
    )


def test_a_lied_about_digest_is_refused() -> None:
    """A signed digest of another document does not pass."""
    refused(nvrim.text_rim(digest=bytes(48)), Reason.COLLATERAL_SIGNATURE, "was changed")


def test_sizes_of_values_are_exact() -> None:
    """r, s and digest have 48 bytes each."""
    short = base64.b64encode(bytes(95))
    raw = nvrim.good_rim()
    value = re.search(rb"<ds:SignatureValue>(.*)</ds:SignatureValue>", raw)
    assert value is not None
    refused(raw.replace(value[1], short), match="96 bytes")
    refused(nvrim.text_rim(digest=bytes(47)), match="48 bytes")


def test_a_number_of_certificates_is_bounded() -> None:
    """KeyInfo names one to eight certificates."""
    refused(nvrim.text_rim(certificates=[b"x"] * 9), match="9 certificates")
    refused(
        re.sub(
            rb"<ds:X509Certificate>.*</ds:X509Certificate>", b"", nvrim.good_rim(), flags=re.DOTALL
        ),
        match="0 certificates",
    )


def test_foreign_key_info_is_refused() -> None:
    """A KeyInfo that offers another key, rightly signed otherwise, is not looked at further."""
    offered = (Element("ds", "KeyName", (), {}, ("mine",)),)
    refused(nvrim.text_rim(key_info=offered), match="X509Data expected")


@given(st.binary(max_size=300))
@example(b"<a xmlns='\xff'/>")
@settings(max_examples=80, deadline=None)
def test_any_bytes_are_refused_by_name(raw: bytes) -> None:
    """Nothing but our error leaves the reader."""
    with pytest.raises(VerifierError):
        xmldsig.read(raw, "RIM", limit=MAX_RIM)


def outcome(raw: bytes) -> bytes | None:
    try:
        root = verified(raw).root
    except VerifierError:
        return None
    return bytes(etree.tostring(root, method="c14n"))


@given(st.data())
@settings(max_examples=70, deadline=None)
def test_a_flipped_bit_never_gives_another_document(data: st.DataObject) -> None:
    """Where one bit of the whole file differs, it is refused, or says exactly the same."""
    raw = bytearray(nvrim.good_rim())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert outcome(bytes(raw)) in {None, outcome(nvrim.good_rim())}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_piece_moved_never_gives_another_document(data: st.DataObject) -> None:
    """Elements that are taken away, doubled or moved never give another document."""
    raw = nvrim.good_rim()
    pieces = re.split(rb"(?=<)", raw)
    at, to = (data.draw(st.integers(1, len(pieces) - 1)) for _ in range(2))
    what = data.draw(st.sampled_from(["drop", "double", "move"]))
    piece = pieces[at]
    changed = pieces[:at] + pieces[at + (what != "double") :]
    if what != "drop":
        changed.insert(to, piece)
    assert outcome(b"".join(changed)) in {None, outcome(raw)}


def independent(raw: bytes) -> bool:
    """Tell what signxml says, with the key of the document's own first certificate."""
    try:
        leaf = x509.load_der_x509_certificate(
            xmldsig.read(raw, "RIM", limit=MAX_RIM).certificates[0]
        )
        XMLVerifier().verify(
            raw,
            x509_cert=leaf,
            expect_config=SignatureConfiguration(
                location="./", verification_time=leaf.not_valid_before_utc
            ),
        )
    except Exception:  # noqa: BLE001 - whatever another implementation raises is a no
        return False
    return True


def ours(raw: bytes) -> bool:
    try:
        verified(raw, key_of(raw))
    except VerifierError:
        return False
    return True


def test_signxml_agrees_about_simulated_rims() -> None:
    """Another implementation says the same of an honest document and of changed ones."""
    raw = nvrim.good_rim()
    assert (ours(raw), independent(raw)) == (True, True)
    for old, new in ((b'"True"', b'"False"'), (b"\n        <", b"\n <")):
        changed = raw.replace(old, new, 1)
        assert (ours(changed), independent(changed)) == (False, False)


def _real() -> list[Path]:
    return sorted([*nvrim.REAL.glob("*/*/*.xml"), *nvrim.REAL.glob("*/*/*.swidtag")])


@pytest.mark.skipif(not nvrim.REAL.is_dir(), reason=ABSENT)
def test_signxml_agrees_about_every_real_rim() -> None:
    """Another implementation says the same of every RIM of the corpus."""
    said = {
        path.name: (ours(path.read_bytes()), independent(path.read_bytes())) for path in _real()
    }
    assert len(said) > 20
    assert {name for name, (own, other) in said.items() if own != other} == set()
    bad = {"driver_mismatch_badsig.xml", "incorrect_signature_driver_rim.xml"}
    assert {name for name, (own, _) in said.items() if not own} == bad


@pytest.mark.skipif(not nvrim.REAL.is_dir(), reason=ABSENT)
def test_bit_flips_over_a_real_rim_change_nothing_or_everything() -> None:
    """A sample of single flipped bits, spread over a whole real RIM: refused, or the same."""
    raw = nvrim.real("ls10/ls10-96.10.55-full/rim_signed_2026-05.xml")
    key = key_of(raw)

    def meaning(text: bytes) -> bytes | None:
        try:
            return bytes(etree.tostring(verified(text, key).root, method="c14n"))
        except VerifierError:
            return None

    good, seen = meaning(raw), []
    for bit in range(0, 8 * len(raw), 997):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        seen.append(meaning(bytes(flipped)))
    assert good is not None
    assert {each for each in seen if each is not None} <= {good}
    # What is left are bits of certificates, which no XML signature covers: `rim` checks those.
    assert seen.count(None) > len(seen) // 2
