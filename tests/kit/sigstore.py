"""A Sigstore of our own: Fulcio, certificate log, Rekor and timestamp authority, in memory.

Everything is signed for real with keys made here, so that the library `sigstore` verifies its
bundles as it does real ones; only the trusted root differs. Written from Sigstore's public formats.
"""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from asn1crypto import algos, cms, core, tsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier

from tests.kit.vendors import NOW
from verifier.provenance.statement import PAYLOAD_TYPE

DAY: Final = 86_400
FOUNDED: Final = NOW - 1000 * DAY
SIGNED: Final = NOW - 10 * DAY
"""When bundles are signed, unless a test says otherwise."""
LIFETIME: Final = 600
ISSUER: Final = "https://token.actions.githubusercontent.com"
REPOSITORY: Final = "https://github.com/example/guest-image"
REF: Final = "refs/heads/main"
IDENTITY: Final = f"{REPOSITORY}/.github/workflows/build.yml@{REF}"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
ORIGIN: Final = "rekor.example - 1"
_ARC: Final = "1.3.6.1.4.1.57264.1"
P256 = ec.SECP256R1()
SHA256 = hashes.SHA256()
Key = ec.EllipticCurvePrivateKey


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def stamp(seconds: int) -> str:
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def utf8(text: str) -> bytes:
    return bytes(core.UTF8String(text).dump())


@dataclass(frozen=True)
class Signer:
    """Who signs, and when; `extensions` replaces Fulcio's by their last number, None removes."""

    names: tuple[x509.GeneralName, ...] = (x509.UniformResourceIdentifier(IDENTITY),)
    issuer: str = ISSUER
    repository: str = REPOSITORY
    ref: str = REF
    at: int = SIGNED
    extensions: Mapping[int, bytes | None] = field(default_factory=dict)

    def values(self) -> dict[int, bytes]:
        told: dict[int, bytes | None] = {
            1: self.issuer.encode(),
            8: utf8(self.issuer),
            12: utf8(self.repository),
            14: utf8(self.ref),
            **self.extensions,
        }
        return {number: value for number, value in told.items() if value is not None}


@dataclass(frozen=True)
class Instance:
    """One Sigstore."""

    root_key: Key
    root: x509.Certificate
    ca_key: Key
    ca: x509.Certificate
    ct_key: Key
    log_key: Key
    tsa_key: Key
    tsa: x509.Certificate

    @staticmethod
    def create() -> Instance:
        root_key, ca_key, ct_key, log_key, tsa_key = (
            ec.generate_private_key(P256) for _ in range(5)
        )
        root = _authority("root", root_key, None, root_key)
        ca = _authority("intermediate", ca_key, root, root_key)
        builder = _builder("tsa", tsa_key, root, FOUNDED, 3650 * DAY)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
        ).add_extension(_usage(sign=True), critical=True)
        return Instance(
            root_key, root, ca_key, ca, ct_key, log_key, tsa_key, builder.sign(root_key, SHA256)
        )

    def trusted_root(self, **ends: int) -> bytes:
        """Return the trusted root; `tlogs=…`, `ctlogs=…` and so on end a validity."""

        def window(name: str) -> dict[str, str]:
            told = {"start": stamp(FOUNDED)}
            return told | ({"end": stamp(ends[name])} if name in ends else {})

        def log(name: str, key: Key) -> dict[str, Any]:
            return {
                "baseUrl": f"https://{name}.example",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": b64(spki(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": window(name),
                },
                "logId": {"keyId": b64(hashlib.sha256(spki(key)).digest())},
            }

        def authority(name: str, *chain: x509.Certificate) -> dict[str, Any]:
            return {
                "subject": {"organization": "example", "commonName": name},
                "uri": f"https://{name}.example",
                "certChain": {"certificates": [{"rawBytes": b64(der(each))} for each in chain]},
                "validFor": window(name),
            }

        told = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log("tlogs", self.log_key)],
            "certificateAuthorities": [authority("certificateAuthorities", self.ca, self.root)],
            "ctlogs": [log("ctlogs", self.ct_key)],
            "timestampAuthorities": [authority("timestampAuthorities", self.tsa, self.root)],
        }
        return json.dumps(told).encode()

    def certify(self, key: Key, signer: Signer) -> x509.Certificate:
        """Return a Fulcio certificate, with the certificate log's promise in it."""
        builder = _builder(None, key, self.ca, signer.at - 60, LIFETIME)
        builder = (
            builder.add_extension(_usage(sign=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
            )
            .add_extension(x509.SubjectAlternativeName(signer.names), critical=True)
        )
        for number, value in signer.values().items():
            oid = ObjectIdentifier(f"{_ARC}.{number}")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        pre = builder.sign(self.ca_key, SHA256).tbs_certificate_bytes
        issuer = hashlib.sha256(spki(self.ca_key)).digest()
        when = struct.pack("!Q", signer.at * 1000)
        entry = issuer + len(pre).to_bytes(3) + pre
        signature = self.ct_key.sign(b"\0\0" + when + b"\0\1" + entry + b"\0\0", ec.ECDSA(SHA256))
        sct = b"\0" + hashlib.sha256(spki(self.ct_key)).digest() + when + b"\0\0\4\3"
        sct += len(signature).to_bytes(2) + signature
        listed = len(sct).to_bytes(2) + sct
        raw = bytes(core.OctetString(len(listed).to_bytes(2) + listed).dump())
        oid = ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS
        return builder.add_extension(x509.UnrecognizedExtension(oid, raw), critical=False).sign(
            self.ca_key, SHA256
        )

    def sign(self, digest: bytes, signer: Signer | None = None, **options: Any) -> dict[str, Any]:
        """Return a bundle of a plain signature over an artefact, by its SHA-256."""
        signer = signer or Signer()
        key = ec.generate_private_key(P256)
        certificate = self.certify(key, signer)
        signature = key.sign(digest, ec.ECDSA(utils.Prehashed(SHA256)))
        spec = {
            "data": {"hash": {"algorithm": "sha256", "value": digest.hex()}},
            "signature": {"content": b64(signature), "publicKey": {"content": _pem(certificate)}},
        }
        body = {"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec}
        content = {
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": b64(digest)},
                "signature": b64(signature),
            }
        }
        return self._bundle(certificate, body, content, signature, signer.at, **options)

    def attest(
        self,
        statement: Any,
        signer: Signer | None = None,
        *,
        kind: str = PAYLOAD_TYPE,
        **options: Any,
    ) -> dict[str, Any]:
        """Return a bundle of a signed statement; bytes are signed as they are."""
        signer = signer or Signer()
        key = ec.generate_private_key(P256)
        certificate = self.certify(key, signer)
        payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
        pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
        signature = key.sign(pae, ec.ECDSA(SHA256))
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(pae).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": b64(signature), "verifier": _pem(certificate)}],
        }
        body = {"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}
        content = {
            "dsseEnvelope": {
                "payload": b64(payload),
                "payloadType": kind,
                "signatures": [{"sig": b64(signature)}],
            }
        }
        return self._bundle(certificate, body, content, signature, signer.at, **options)

    def _bundle(
        self,
        certificate: x509.Certificate,
        body: dict[str, Any],
        content: dict[str, Any],
        signature: bytes,
        at: int,
        *,
        logged: int | None = None,
        promise: bool = True,
        stamped: int | None = None,
    ) -> dict[str, Any]:
        """Log an entry and return the bundle. `stamped` adds the timestamp authority's word."""
        raw = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
        leaf = hashlib.sha256(b"\0" + raw).digest()
        other = hashlib.sha256(b"\0other").digest()
        root = hashlib.sha256(b"\1" + leaf + other).digest()
        key_id = hashlib.sha256(spki(self.log_key)).digest()
        note = f"{ORIGIN}\n2\n{b64(root)}\n"
        noted = b64(key_id[:4] + self.log_key.sign(note.encode(), ec.ECDSA(SHA256)))
        entry: dict[str, Any] = {
            "logIndex": "7",
            "logId": {"keyId": b64(key_id)},
            "kindVersion": {"kind": body["kind"], "version": body["apiVersion"]},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "2",
                "hashes": [b64(other)],
                "checkpoint": {"envelope": f"{note}\n— {ORIGIN.split()[0]} {noted}\n"},
            },
            "canonicalizedBody": b64(raw),
        }
        if promise:
            when = at if logged is None else logged
            entry["integratedTime"] = str(when)
            said = {
                "body": b64(raw),
                "integratedTime": when,
                "logID": key_id.hex(),
                "logIndex": 7,
            }
            text = json.dumps(said, separators=(",", ":"), sort_keys=True).encode()
            entry["inclusionPromise"] = {
                "signedEntryTimestamp": b64(self.log_key.sign(text, ec.ECDSA(SHA256)))
            }
        material: dict[str, Any] = {
            "certificate": {"rawBytes": b64(der(certificate))},
            "tlogEntries": [entry],
        }
        if stamped is not None:
            material["timestampVerificationData"] = {
                "rfc3161Timestamps": [{"signedTimestamp": b64(self.timestamp(signature, stamped))}]
            }
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            **content,
        }

    def timestamp(self, message: bytes, at: int) -> bytes:
        """Return an RFC 3161 response over a message."""
        sha256 = algos.DigestAlgorithm({"algorithm": "sha256"})
        info = tsp.TSTInfo(
            {
                "version": "v1",
                "policy": "1.3.6.1.4.1.57264.2",
                "message_imprint": {
                    "hash_algorithm": sha256,
                    "hashed_message": hashlib.sha256(message).digest(),
                },
                "serial_number": 1,
                "gen_time": moment(at),
            }
        )
        certificate = cms.Certificate.load(der(self.tsa))
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "message_digest", "values": [hashlib.sha256(info.dump()).digest()]},
            ]
        )
        signer = {
            "version": "v1",
            "sid": cms.SignerIdentifier(
                "issuer_and_serial_number",
                {"issuer": certificate.issuer, "serial_number": certificate.serial_number},
            ),
            "digest_algorithm": sha256,
            "signed_attrs": attributes,
            "signature_algorithm": {"algorithm": "sha256_ecdsa"},
            "signature": self.tsa_key.sign(attributes.dump(), ec.ECDSA(SHA256)),
        }
        signed = cms.SignedData(
            {
                "version": "v3",
                "digest_algorithms": [sha256],
                "encap_content_info": {"content_type": "tst_info", "content": info},
                "certificates": [certificate],
                "signer_infos": [signer],
            }
        )
        token = cms.ContentInfo({"content_type": "signed_data", "content": signed})
        response = tsp.TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token})
        return bytes(response.dump())


@functools.cache
def instance(name: str = "example") -> Instance:
    """Return the session's Sigstore of a name."""
    del name
    return Instance.create()


def statement(
    digest: Mapping[str, str], *, predicate: str = PREDICATE, **changes: Any
) -> dict[str, Any]:
    """Return an in-toto statement about one subject."""
    told = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "guest", "digest": dict(digest)}],
        "predicateType": predicate,
        "predicate": {},
    }
    return told | changes


def raw(bundle: Mapping[str, Any]) -> bytes:
    return json.dumps(bundle).encode()


def changed(bundle: Mapping[str, Any], path: str, value: Any) -> bytes:
    """Return a bundle with the value at a dotted path replaced; `...` deletes it."""
    told: Any = copy.deepcopy(dict(bundle))
    at = told
    *way, last = [int(each) if each.isdigit() else each for each in path.split(".")]
    for each in way:
        at = at[each]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return raw(told)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def _pem(certificate: x509.Certificate) -> str:
    return b64(certificate.public_bytes(serialization.Encoding.PEM))


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str | None) -> x509.Name:
    attributes = [] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    return x509.Name(attributes)


def _builder(
    name: str | None, key: Key, issuer: x509.Certificate | None, start: int, seconds: int
) -> x509.CertificateBuilder:
    above = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    if issuer is not None:
        above = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name) if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(start))
        .not_valid_after(moment(start + seconds))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), critical=False
        )
    )


def _authority(
    name: str, key: Key, issuer: x509.Certificate | None, issuer_key: Key
) -> x509.Certificate:
    return (
        _builder(name, key, issuer, FOUNDED, 3650 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .sign(issuer_key, SHA256)
    )
