"""XML signatures as NVIDIA makes them: one profile, checked exactly, over lxml.

Guarantees: `read` returns a document that is UTF-8 with no DTD, entity, comment, CDATA section or
processing instruction, whose last child is the one signature, of exactly the algorithms below, over
the whole of it. `Enveloped.verify` returns only if the key that the caller names signed it, and
from then on `Enveloped.root` is what was signed: the tree that was digested, without the signature.
Does not choose the key: certificates in KeyInfo are the caller's to judge, everything else there is
refused. Does not read the document.

Source: XML Signature Syntax and Processing 1.1 (§4, §6.6.4), Canonical XML 1.1, RFC 4051 §2.3.6.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from lxml import etree

from verifier.errors import Reason, VerifierError

DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"

_DECLARATION: Final = re.compile(
    rb"""<\?xml version=(["'])1\.0\1(?: encoding=(["'])[Uu][Tt][Ff]-8\2)?\s*\?>"""
)
_SPACE: Final = "\t\n\r "
_XML: Final = "{http://www.w3.org/XML/1998/namespace}"
_HALF: Final = 48
_MAX_CERTIFICATES: Final = 8


@final
@dataclass(slots=True)
class Enveloped:
    """A document with its signature, which `verify` checks and takes off."""

    root: etree._Element
    certificates: tuple[bytes, ...]
    """DER, as KeyInfo names them; nobody has judged them."""
    _signature: etree._Element
    _what: str

    def verify(self, key: ec.EllipticCurvePublicKey) -> None:
        """Check that `key` (P-384) signed the document; afterwards `root` is what was signed.

        Raises:
            VerifierError: `collateral_signature`.
        """
        if self._signature.getparent() is None:
            raise VerifierError(
                Reason.COLLATERAL_SIGNATURE, f"{self._what}: the signature was taken off before"
            )
        info, value, _ = self._signature
        _, _, reference = info
        _, _, told = reference
        raw = _base64(value, self._what, 2 * _HALF)
        # Both forms are inclusive Canonical XML; 1.0 and 1.1 differ in attributes of the xml
        # namespace only, which `read` refuses.
        signed_info = _canonical(info, self._what)
        r, s = (int.from_bytes(half) for half in (raw[:_HALF], raw[_HALF:]))
        try:
            key.verify(encode_dss_signature(r, s), signed_info, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature as error:
            raise VerifierError(
                Reason.COLLATERAL_SIGNATURE, f"{self._what}: SignedInfo is not signed by this key"
            ) from error
        _take_off(self._signature)
        signed = _canonical(self.root, self._what)
        digest = _base64(told, self._what, hashlib.sha384().digest_size)
        if not hmac.compare_digest(hashlib.sha384(signed).digest(), digest):
            raise VerifierError(
                Reason.COLLATERAL_SIGNATURE, f"{self._what}: the document was changed"
            )


def read(raw: bytes, what: str, *, limit: int) -> Enveloped:
    """Return the document in `raw`, whose signature is the last child of its root.

    Args:
        raw: the document, UTF-8.
        what: its name in errors.
        limit: most bytes.

    Raises:
        VerifierError: `too_large`, or `collateral_malformed` for anything else than one document
            of the profile.
    """
    if len(raw) > limit:
        raise VerifierError(Reason.TOO_LARGE, f"{what}: {len(raw)} bytes, at most {limit} expected")
    root = _parsed(raw, what)
    for element in root.iter():
        if any(name.startswith(_XML) for name in element.keys()):  # noqa: SIM118 - an element, not a mapping
            raise _malformed(what, "attributes of the xml namespace")
        # One signature, where it is looked for: nothing can be wrapped around it.
        if element.tag.startswith(DS) and not _inside_last(element, root):
            raise _malformed(what, f"{element.tag} outside of the last child")
    if len(root) == 0:
        raise _malformed(what, "no signature")
    signature = root[-1]
    return Enveloped(root, _check_profile(signature, what), signature, what)


def _inside_last(element: etree._Element, root: etree._Element) -> bool:
    top: etree._Element | None = element
    while top is not None and top.getparent() is not root:
        top = top.getparent()
    return top is not None and top.getnext() is None


def _malformed(what: str, why: str) -> VerifierError:
    return VerifierError(Reason.COLLATERAL_MALFORMED, f"{what}: {why}")


def _parsed(raw: bytes, what: str) -> etree._Element:
    """Return the root; markup that a RIM has no use for is refused before any parser sees it."""
    declared = _DECLARATION.match(raw)
    body = raw if declared is None else raw[declared.end() :]
    # "<" stands for itself in markup only, so this finds DTDs, comments, CDATA and instructions.
    if b"<!" in body or b"<?" in body:
        raise _malformed(what, "a DTD, comment, CDATA section or processing instruction")
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        recover=False,
        ns_clean=False,
        strip_cdata=False,
        collect_ids=False,
    )
    try:
        body.decode("utf-8", "strict")
        return etree.fromstring(body, parser)
    except (etree.LxmlError, ValueError) as error:
        raise _malformed(what, f"not XML: {str(error)[:200]}") from error


def _check_profile(signature: etree._Element, what: str) -> tuple[bytes, ...]:
    """Check that a signature is of the one form; return the certificates that it names."""
    info, _, keys = _children(signature, ("SignedInfo", "SignatureValue", "KeyInfo"), what)
    method, algorithm, reference = _children(
        info, ("CanonicalizationMethod", "SignatureMethod", "Reference"), what
    )
    _algorithm(method, C14N, what)
    _algorithm(algorithm, ECDSA_SHA384, what)
    transforms, digest, _ = _children(
        reference, ("Transforms", "DigestMethod", "DigestValue"), what, {"URI": ""}
    )
    _algorithm(digest, SHA384, what)
    first, second = _children(transforms, ("Transform", "Transform"), what)
    _algorithm(first, ENVELOPED, what)
    _algorithm(second, C14N, what)
    (data,) = _children(keys, ("X509Data",), what)
    count = len(data)
    if not 1 <= count <= _MAX_CERTIFICATES:
        raise _malformed(what, f"{count} certificates")
    return tuple(_base64(c, what) for c in _children(data, ("X509Certificate",) * count, what))


def _children(
    parent: etree._Element,
    names: tuple[str, ...],
    what: str,
    attributes: dict[str, str] | None = None,
) -> tuple[etree._Element, ...]:
    """Return the children of an element, which are exactly these, with only space around them."""
    seen = tuple(parent)
    if [child.tag for child in seen] != [DS + name for name in names]:
        tags = ", ".join(child.tag.removeprefix(DS)[:60] for child in seen)
        raise _malformed(what, f"{_name(parent)}: {', '.join(names)} expected, {tags} seen")
    if dict(parent.attrib) != (attributes or {}):
        raise _malformed(what, f"{_name(parent)}: attributes {dict(parent.attrib)!r:.200}")
    around = [parent.text, *(child.tail for child in seen)]
    if any((text or "").strip(_SPACE) for text in around):
        raise _malformed(what, f"{_name(parent)}: text between elements")
    return seen


def _name(element: etree._Element) -> str:
    return str(element.tag).removeprefix(DS)[:200]


def _algorithm(element: etree._Element, expected: str, what: str) -> None:
    if dict(element.attrib) != {"Algorithm": expected}:
        seen = element.get("Algorithm", "none")[:200]
        raise _malformed(what, f"{_name(element)}: {expected} expected, {seen} seen")
    if len(element) or (element.text or "").strip(_SPACE):
        raise _malformed(what, f"{_name(element)}: contents")


def _base64(element: etree._Element, what: str, length: int | None = None) -> bytes:
    """Return what the text of a leaf element stands for; space in it means nothing (XML Schema).

    Encoded again it must give the same text: base64 has loose bits.
    """
    text = "".join((element.text or "").split())
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed(what, f"{_name(element)}: base64: {error}") from error
    if len(element) or element.attrib or base64.b64encode(raw).decode() != text:
        raise _malformed(what, f"{_name(element)}: base64 and nothing else expected")
    if length is not None and len(raw) != length:
        raise _malformed(what, f"{_name(element)}: {length} bytes expected, {len(raw)} seen")
    return raw


def _canonical(element: etree._Element, what: str) -> bytes:
    try:
        return bytes(etree.tostring(element, method="c14n", with_comments=False))
    except etree.LxmlError as error:  # a relative namespace, which has no canonical form
        raise _malformed(what, f"no canonical form: {str(error)[:200]}") from error


def _take_off(signature: etree._Element) -> None:
    """Remove the signature and not the text behind it (enveloped-signature transform, §6.6.4)."""
    parent, before = signature.getparent(), signature.getprevious()
    tail = signature.tail or ""
    if before is not None:
        before.tail = (before.tail or "") + tail
    else:
        parent.text = (parent.text or "") + tail
    parent.remove(signature)
