"""What a RIM says: NVIDIA's SWID documents, read strictly from a tree.

Guarantees: `read` returns a document only if it has exactly the parts that NVIDIA's have, is about
one product and version, and every index has values of the one size that we compare. Records of
another kind, as the minimum security versions in newer ones, are refused: to skip one would be to
admit what it forbids. Does not look at the signature: `rim` reads what was signed, and only that.

Source: ISO/IEC 19770-2:2015 (SWID), TCG Reference Integrity Manifest Information Model 1.01.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, final

from lxml import etree

from verifier.errors import Reason, VerifierError
from verifier.nvgpu import xmldsig

Kind = Literal["driver", "vbios", "switch"]
"""What a RIM is of: a GPU's driver, a GPU's VBIOS, an NVSwitch's BIOS."""

MEASUREMENT_SIZE: Final = 48
"""Bytes of a golden value: SHA-384."""
MANUFACTURER: Final = "5703"
"""NVIDIA's IANA enterprise number, FirmwareManufacturerId."""

_SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_TCG: Final = (
    "{https://trustedcomputinggroup.org/resource/"
    "tcg-reference-integrity-manifest-rim-information-model/}"
)
_HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_MAX_INDEX: Final = 256
_MAX_ALTERNATIVES: Final = 64
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{96}", re.ASCII)
_PRODUCT: Final = re.compile(r"[A-Z][A-Z0-9_]{1,31}", re.ASCII)
_DRIVER: Final = re.compile(r"[0-9]{3,4}(?:\.[0-9]{2,3}){1,3}", re.ASCII)
_FIRMWARE: Final = re.compile(r"[0-9A-F]{2}(?:\.[0-9A-F]{2}){4}", re.ASCII)


@final
@dataclass(frozen=True, slots=True)
class Golden:
    """What one index may measure: any of the alternatives; an inactive index says nothing."""

    active: bool
    alternatives: tuple[bytes, ...]
    name: str = ""


@final
@dataclass(frozen=True, slots=True)
class Document:
    """What a document says. `id` is as much of the service's name for it as is in it."""

    kind: Kind
    id: str
    product: str
    version: str
    tag_id: str
    golden: Mapping[int, Golden]


def _refuse(why: str) -> VerifierError:
    return VerifierError(Reason.COLLATERAL_MALFORMED, f"RIM: {why}")


def read(root: etree._Element) -> Document:
    """Return what a document says; a signature may still hang on it.

    Raises:
        VerifierError: `collateral_malformed`.
    """
    children = [child for child in root if not child.tag.startswith(xmldsig.DS)]
    if root.tag != f"{_SWID}SoftwareIdentity" or [child.tag for child in children] != [
        f"{_SWID}{name}" for name in ("Entity", "Meta", "Payload")
    ]:
        raise _refuse("a SoftwareIdentity of Entity, Meta and Payload expected")
    entity, meta, payload = children
    if any(root.get(kind, "false") != "false" for kind in ("corpus", "patch", "supplemental")):
        raise _refuse("a corpus, patch or supplement")
    if len(entity) or len(meta) or meta.get(f"{_TCG}FirmwareManufacturerId") != MANUFACTURER:
        raise _refuse(f"FirmwareManufacturerId {MANUFACTURER} expected")
    product, version = meta.get("product", ""), meta.get("colloquialVersion", "").upper()
    if _PRODUCT.fullmatch(product) is None or root.get("name") != product:
        raise _refuse(f"product {product[:80]!r}")
    kind, rim_id = _kind(meta.get("edition", ""), product, version)
    return Document(kind, rim_id, product, version, root.get("tagId", "")[:128], _golden(payload))


def _kind(edition: str, product: str, version: str) -> tuple[Kind, str]:
    """Return what a document is of, and its name as far as the document tells."""
    firmware = _FIRMWARE.fullmatch(version) is not None
    if edition == "SWITCH" and firmware:
        return "switch", f"NV_SWITCH_BIOS_*_{version.replace('.', '')}"
    if edition == "GPU" and firmware:
        return "vbios", f"NV_GPU_VBIOS_*_{version.replace('.', '')}"
    if edition == "GPU" and _DRIVER.fullmatch(version) is not None:
        return "driver", f"NV_GPU_DRIVER_{product}_{version}"
    raise _refuse(f"edition {edition[:80]!r}, version {version[:80]!r}")


def _golden(payload: etree._Element) -> Mapping[int, Golden]:
    """Return the golden values by index, each index once."""
    if payload.attrib:
        raise _refuse("attributes of Payload")
    golden: dict[int, Golden] = {}
    for resource in payload:
        if resource.tag != f"{_SWID}Resource" or len(resource) or resource.text:
            raise _refuse("Payload: Resources and nothing else expected")
        index, value = _resource(dict(resource.attrib))
        if index in golden:
            raise _refuse(f"index {index} twice")
        golden[index] = value
    return MappingProxyType(golden)


def _resource(attributes: dict[str, str]) -> tuple[int, Golden]:
    index = _number(attributes, "index", _MAX_INDEX)
    count = _number(attributes, "alternatives", _MAX_ALTERNATIVES + 1)
    hashes = [f"{_HASH}{number}" for number in range(count)]
    known = {"type", "index", "active", "alternatives", "size", "name", *hashes}
    if attributes.keys() != known or count == 0:
        raise _refuse(f"index {index}: {count} alternatives, and other attributes than theirs")
    shape = (attributes["type"], attributes["size"])
    if shape != ("Measurement", str(MEASUREMENT_SIZE)):
        raise _refuse(f"index {index}: {shape!r:.200}")
    if attributes["active"] not in {"True", "False"}:
        raise _refuse(f"index {index}: active {attributes['active'][:80]!r}")
    values = [attributes[name] for name in hashes]
    if any(_DIGEST.fullmatch(value) is None for value in values):
        raise _refuse(f"index {index}: {MEASUREMENT_SIZE} bytes in hexadecimal expected")
    alternatives = tuple(map(bytes.fromhex, values))
    return index, Golden(attributes["active"] == "True", alternatives, attributes["name"])


def _number(attributes: dict[str, str], name: str, below: int) -> int:
    text = attributes.get(name, "")
    if _NUMBER.fullmatch(text) is None or int(text) >= below:
        raise _refuse(f"{name}: a number below {below} expected, {text[:80]!r} seen")
    return int(text)
