"""Writes reference integrity manifests: TCG RIMs in SWID documents, signed (XML Signature).

Guarantees: namespaces, attributes, order, indentation and the signature's profile are those of
NVIDIA's RIMs; the signature covers the canonical form of everything else. Checks nothing: every
part can be told to say something else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator.nvidia import firmware
from ostiary.simulator.nvidia.devices import BOARD, SWITCH_BOARD
from ostiary.simulator.nvidia.firmware import RimKind
from ostiary.simulator.nvidia.identity import Chip
from ostiary.simulator.nvidia.pki import RIM_CHAINS, FakeNvidia
from ostiary.simulator.nvidia.report import raw_signature
from ostiary.simulator.nvidia.xml import Element

_SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_HASHES: Final = "http://www.w3.org/2001/04/xmlenc#sha384"
_TCG: Final = (
    "https://trustedcomputinggroup.org/resource/"
    "tcg-reference-integrity-manifest-rim-information-model/"
)
_DS: Final = "http://www.w3.org/2000/09/xmldsig#"
_C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
_ECDSA: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_ENVELOPED: Final = _DS + "enveloped-signature"
_NVIDIA: Final = "NVIDIA Corporation"
_NVIDIA_ID: Final = "5703"
_COLUMNS: Final = 64


def driver_id(version: str) -> str:
    """Return the id of a Hopper driver's RIM."""
    return f"NV_GPU_DRIVER_GH100_{version}".upper()


def vbios_id(version: str, board: tuple[str, str, str] = BOARD) -> str:
    """Return the id of a GPU VBIOS' RIM."""
    return f"NV_GPU_VBIOS_{'_'.join(board)}_{version.replace('.', '')}".upper()


def switch_id(version: str) -> str:
    """Return the id of a switch BIOS' RIM."""
    return f"NV_SWITCH_BIOS_{'_'.join(SWITCH_BOARD)}_{version.replace('.', '')}".upper()


def rim_id(kind: RimKind, version: str) -> str:
    """Return the id of a RIM for the simulated boards."""
    return {"driver": driver_id, "vbios": vbios_id, "switch": switch_id}[kind](version)


@final
@dataclass(frozen=True, slots=True)
class RimText:
    """What a RIM says. None for what the kind and version make of it.

    `salt` makes another issue of the same version; `certificates` (DER) stand in KeyInfo;
    `digest` and `algorithm` lie about the document and its signature.
    """

    kind: RimKind
    version: str
    chip: Chip | None = None
    edition: str | None = None
    golden: Mapping[int, Sequence[bytes]] | None = None
    salt: str = ""
    manufacturer: str = _NVIDIA_ID
    certificates: Sequence[bytes] | None = None
    digest: bytes | None = None
    algorithm: str = _ECDSA
    key_info: Sequence[Element] = field(default_factory=tuple)
    """Further children of KeyInfo, before the certificates."""

    @property
    def product(self) -> Chip:
        """The chip that it is for."""
        return self.chip or ("LS10" if self.kind == "switch" else "GH100")

    def sign(self, vendor: FakeNvidia, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        """Return the document as the service has it, signed by the chip's RIM signer or `key`."""
        roles = RIM_CHAINS[self.product]
        chain = self.certificates or [vendor.certificates[role] for role in roles]
        plain = self._root()
        digest = self.digest or hashlib.sha384(plain.canonical().encode()).digest()
        info = _signed_info(digest, self.algorithm)
        scope = {**plain.namespaces, "ds": _DS}
        signature = raw_signature(key or vendor.keys[roles[0]], info.canonical(scope).encode())
        signed = Element(
            plain.prefix,
            plain.name,
            plain.attributes,
            plain.namespaces,
            (*plain.children, _signature(info, signature, chain, self.key_info)),
        )
        return f"{signed.served()}\n".encode()

    def _root(self) -> Element:
        values = self.golden or firmware.table(self.kind, self.version, self.salt)
        resources: list[Element | str] = []
        for index in range(firmware.RIM_SIZE):
            resources += ["\n        ", _resource(index, values.get(index))]
        said = repr(sorted(values.items())) + self.version + self.product
        attributes = (
            ("", "corpus", "false"),
            ("", "name", self.product),
            ("", "patch", "false"),
            ("", "supplemental", "false"),
            ("", "tagId", hashlib.sha384(said.encode()).hexdigest()),
            ("", "version", "1.0"),
            ("", "tagVersion", "0"),
        )
        payload = Element("ns0", "Payload", (), {"SHA384": _HASHES}, (*resources, "\n    "))
        return Element(
            "",
            "SoftwareIdentity",
            attributes,
            {"": _SWID, "ns0": _SWID, "ns2": _HASHES},
            ("\n    ", _entity(), "\n    ", self._meta(), "\n    ", payload, "\n"),
        )

    def _meta(self) -> Element:
        edition = self.edition or ("SWITCH" if self.kind == "switch" else "GPU")
        attributes = (
            ("", "colloquialVersion", self.version),
            ("", "edition", edition),
            ("", "product", self.product),
            ("", "revision", "r1"),
            ("", "PayloadType", "direct"),
            ("ns1", "BindingSpec", "RIMIM"),
            ("ns1", "BindingSpecVersion", "1.01"),
            ("ns1", "PlatformManufacturerId", self.manufacturer),
            ("ns1", "PlatformManufacturerStr", _NVIDIA),
            ("ns1", "PlatformModel", self.product),
            ("ns1", "FirmwareManufacturer", _NVIDIA),
            ("ns1", "FirmwareManufacturerId", self.manufacturer),
        )
        return Element("ns0", "Meta", attributes, {"ns1": _TCG})


def _entity() -> Element:
    return Element(
        "ns0", "Entity", (("", "name", _NVIDIA), ("", "role", "softwareCreator tagCreator"))
    )


def _resource(index: int, values: Sequence[bytes] | None) -> Element:
    shown = values or (bytes(firmware.MEASUREMENT_SIZE),)
    return Element(
        "ns0",
        "Resource",
        (
            ("", "type", "Measurement"),
            ("", "index", str(index)),
            ("", "active", str(values is not None)),
            ("", "alternatives", str(len(shown))),
            *(("ns2", f"Hash{number}", value.hex()) for number, value in enumerate(shown)),
            ("", "name", f"Measurement_{index}"),
            ("", "size", str(len(shown[0]))),
        ),
    )


def _ds(name: str, *children: Element | str, **attributes: str) -> Element:
    said = tuple(("", key, value) for key, value in attributes.items())
    return Element("ds", name, said, {}, children)


def _signed_info(digest: bytes, algorithm: str) -> Element:
    transforms = _ds(
        "Transforms", _ds("Transform", Algorithm=_ENVELOPED), _ds("Transform", Algorithm=_C14N)
    )
    reference = _ds(
        "Reference",
        transforms,
        _ds("DigestMethod", Algorithm=_SHA384),
        _ds("DigestValue", base64.b64encode(digest).decode()),
        URI="",
    )
    return _ds(
        "SignedInfo",
        _ds("CanonicalizationMethod", Algorithm=_C14N),
        _ds("SignatureMethod", Algorithm=algorithm),
        reference,
    )


def _signature(
    info: Element, value: bytes, chain: Sequence[bytes], key_info: Sequence[Element]
) -> Element:
    shown = []
    for certificate in chain:
        text = base64.b64encode(certificate).decode()
        lines = (text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS))
        shown.append(_ds("X509Certificate", "".join(f"{line}\n" for line in lines)))
    return Element(
        "ds",
        "Signature",
        (),
        {"ds": _DS},
        (
            info,
            _ds("SignatureValue", base64.b64encode(value).decode()),
            _ds("KeyInfo", *key_info, _ds("X509Data", *shown)),
        ),
    )
