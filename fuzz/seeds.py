"""Good inputs to start from, one or more for every target, made anew by simulator and printers.

Guarantees: every seed is accepted by its target, which a test holds. Nothing of anybody's evidence
is kept here; `fuzz.run --corpus DIR` starts from recorded evidence as well.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from broker.release import challenge
from fuzz import token_seeds
from fuzz.targets import CHALLENGE_KEY, NOW, SIGNER
from inference_runtime.sealed import manifest, stream
from inference_runtime.sealed.layout import TAG, Layout
from inference_runtime.sealed.secret import SecretKey
from ostiary.simulator.amd import FakeAmd
from ostiary.simulator.intel import FakeIntel
from ostiary.simulator.machine import LaunchRequest, launch_td
from ostiary.simulator.nvidia.devices import device_set
from ostiary.simulator.nvidia.ocsp import Answer
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.nvidia.services import NvidiaServices
from ostiary.simulator.quote import quote_v4, quote_v5
from ostiary.simulator.snp import report_for
from verifier import dsse, x509
from verifier.azure import hcl
from verifier.collateral import certificate_table
from verifier.collateral.bundle import Bundle, BundledPart
from verifier.collateral.store import Dates, Entry
from verifier.eventlog import tcg
from verifier.eventlog.log import Event, EventLog, Kind
from verifier.nvgpu import opaque, spdm
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.result import Appraisal
from verifier.tdx.pck import SGX_EXTENSION
from verifier.tlog import merkle, note
from verifier.tlog.checkpoint import Checkpoint
from verifier.tlog.proof import Receipt
from verifier.tpm import attest
from verifier.wire import canonical
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import Genesis
from verifier.wire.framing import lp, lp_list, u8, u64
from verifier.wire.leaf import GenesisLeaf

_TIME: Final = 1_775_000_000
_DIGEST: Final = bytes(32)


def make() -> Mapping[str, Sequence[bytes]]:
    """Return the seeds by target."""
    every = _intel() | _amd() | _nvidia() | _azure() | _collateral() | _logs() | _ours()
    every |= token_seeds.make()
    return {name: list(found) for name, found in every.items()}


def _intel() -> dict[str, list[bytes]]:
    intel = FakeIntel.create(_TIME)
    machine = intel.platform()
    body = launch_td(LaunchRequest(config=bytes(48)))
    bundle = intel.collateral(_TIME)
    chain, blocks = machine.chain_pem, machine.chain
    leaf = x509.load_der(blocks[0], "PCK", honoured=frozenset({_dotted(SGX_EXTENSION)}))
    values = [e.value for e in leaf.extensions if e.oid.dotted_string == _dotted(SGX_EXTENSION)]
    return {
        "tdx-quote": [quote_v4(machine, body), quote_v5(machine, body)],
        "pck-extension": [value.value for value in values],
        "pck-chain": [chain],
        "tcb-info": [bundle["tcb_info"].encode()],
        "qe-identity": [bundle["qe_identity"].encode()],
        "tdx-collateral": [json.dumps(bundle).encode()],
        "der-certificate": list(blocks),
        "der-crl": [bytes.fromhex(bundle["root_ca_crl"]), bytes.fromhex(bundle["pck_crl"])],
        "pem": [chain.rstrip(b"\0")],
    }


def _dotted(oid: bytes) -> str:
    """Return a short OID (its DER value) as people write it."""
    arcs, value = [oid[0] // 40, oid[0] % 40], 0
    for byte in oid[1:]:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    return ".".join(map(str, arcs))


def _amd() -> dict[str, list[bytes]]:
    chip = FakeAmd.create(_TIME).vcek("Genoa")
    loose = b"".join(
        bytes([first, second]) + bytes([len(value)]) + value
        for first, second, value in (
            (1, 0, b"\x02\x01\x01"),
            (2, 0, b"\x16\x05Genoa"),
            *((3, part, bytes([2, 1, 0 if part in {4, 5, 6, 7} else 3])) for part in range(1, 9)),
            (4, 0, bytes(64)),
        )
    )
    return {
        "snp-report": [chip.sign(report_for("Genoa")), chip.sign(report_for("Turin"))],
        "vek-extensions": [loose],
        "vek-certificate": [chip.chain[0]],
    }


def _azure() -> dict[str, list[bytes]]:
    claims = json.dumps(
        {
            "keys": [
                {
                    "kid": "HCLAkPub",
                    "key_ops": ["sign"],
                    "kty": "RSA",
                    "e": "AQAB",
                    "n": base64.urlsafe_b64encode(b"\xc5" * 256).rstrip(b"=").decode(),
                }
            ],
            "vm-configuration": {
                "console-enabled": True,
                "secure-boot": True,
                "tpm-enabled": True,
                "vmUniqueId": "6332533D-5649-4D02-8AA7-8F64B7C3EE21",
            },
            "user-data": "00" * 64,
        },
        separators=(",", ":"),
    ).encode()
    local = b"\x81" + bytes(hcl.TDREPORT_SIZE - 1)
    report = b"\x03" + bytes(hcl.HARDWARE_SIZE - 1)
    return {
        "azure-hcl": [
            hcl.encode(hcl.HclReport(2, hcl.SNP, report, claims, 9)),
            hcl.encode(hcl.HclReport(1, hcl.TDX, local, claims, 0)),
        ],
        "azure-runtime": [claims],
        "azure-tdreport": [local],
    }


def _nvidia() -> dict[str, list[bytes]]:
    vendor = FakeNvidia.create(_TIME)
    whole = device_set(vendor, 8, "ppcie")
    some = [whole.gpus[0], whole.switches[0]]
    reports = [each.report(_DIGEST) for each in some]
    fields = [spdm.parse(report).opaque for report in reports]
    new = opaque.Opaque(
        b"NVDAOD\0\0\2\0\0\0",
        {3: opaque.Field(b"620.54\0", 0x86), 36: opaque.Field(b"\1\0", 0x85)},
    )
    return {
        "nvidia-report": reports,
        "nvidia-opaque": [*fields, opaque.encode(new)],
        "nvidia-chain": [each.chain for each in some],
        **_nvidia_collateral(vendor),
    }


def _nvidia_collateral(vendor: FakeNvidia) -> dict[str, list[bytes]]:
    services = NvidiaServices.published(vendor, lambda: _TIME)
    answered = services.get("/v1/rim/NV_GPU_DRIVER_GH100_590.12") or ("", b"")
    serial = vendor.serial("gh100_ica")
    said = [
        services.responder.respond(serial, "identity", _TIME, Answer(status=status, nonce=b"n"))
        for status in ("good", "hold", "unknown")
    ]
    key = ec.generate_private_key(ec.SECP384R1())
    token = jwt.encode({"iss": "x"}, key, algorithm="ES384", headers={"kid": "k", "typ": None})
    told = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())) | {"kid": "k"}
    return {
        "nvidia-rim": list(services.rims.values()),
        "nvidia-ocsp": said,
        "nvidia-endorsements": [GpuEndorsements((b"a", b""), (b"b",), ()).to_bytes()],
        "rim-answer": [answered[1]],
        "nras-answer": [json.dumps([["JWT", token], {"GPU-0": token}]).encode()],
        "nras-keys": [json.dumps({"keys": [told]}).encode()],
    }


def _collateral() -> dict[str, list[bytes]]:
    row = struct.Struct("<16sII")
    head = row.pack(certificate_table.VLEK, 72, 3) + row.pack(certificate_table.VCEK, 75, 4)
    signature = "ab" * 64
    dates = (Dates("leaf", 1, 2),)
    part = BundledPart("intel/root-crl", 1, 1, 1, dates, B64(b"chain"), B64(b"body"))
    digest = Hex(_DIGEST)
    return {
        "certificate-table": [head + bytes(row.size) + b"abcdefg"],
        "collateral-name": [
            b"intel/tcb/tdx/50806f000000/standard",
            b"intel/pck-crl/platform",
            b"amd/Milan/vcek/" + b"ab" * 64 + b"/" + b"cd" * 8,
        ],
        "pcs-answer": [
            b'{"tcbInfo":{"id":"TDX"},"signature":"%s"}' % signature.encode(),
            b'{"enclaveIdentity":{"id":"QE"},"signature":"%s"}' % signature.encode(),
        ],
        "collateral-record": [
            canonical.encode(Entry(1, "intel/root-crl", digest, digest, 1, 1, 1, dates)),
            canonical.encode(Bundle(1, 1, (part,))),
        ],
    }


def _logs() -> dict[str, list[bytes]]:
    separator = bytes(4)
    events = tuple(
        Event(number, register, Kind.SEPARATOR, (hashlib.sha384(separator).digest(),), separator)
        for number, register in enumerate((1, 2, 3, 4), 1)
    )
    ccel = tcg.encode(EventLog("ccel", ("sha384",), events, 0, len(events)))
    aael = b"INIT/sha256 " + b"0" * 64 + b"\nexample.org start one\n"
    dstack = json.dumps(
        [
            {
                "imr": 3,
                "event_type": int(Kind.DSTACK_RUNTIME),
                "digest": "",
                "event": "compose-hash",
                "event_payload": "00ff",
            }
        ]
    ).encode()
    quoted = attest.encode(
        attest.Attest(
            qualified_signer=b"\x00\x0b" + _DIGEST,
            extra_data=b"nonce",
            clock=1,
            reset_count=1,
            restart_count=1,
            safe=1,
            firmware_version=1,
            selections=(attest.Selection("sha256", b"\xff\x00\x00"),),
            pcr_digest=_DIGEST,
        )
    )
    return {
        "event-log": [ccel, aael, dstack],
        "quoted-registers": [json.dumps({"bank": "sha256", "pcrs": {"0": "00" * 32}}).encode()],
        "tpm-attest": [quoted],
        "tpm-signature": [
            b"\x00\x14\x00\x0b\x01\x00" + b"\x01" * 256,
            b"\x00\x18\x00\x0b\x00\x20" + b"\x01" * 32 + b"\x00\x20" + b"\x02" * 32,
        ],
    }


def _ours() -> dict[str, list[bytes]]:
    key = SIGNER
    spki = dsse.spki(key.public_key())
    text = Checkpoint("broker.example/g/t", 1, merkle.leaf_hash(b"leaf")).text()
    signed = note.assemble(text, [note.sign(text, "broker.example/g/t", key)])
    vkey = note.VerifierKey("broker.example/g/t", key.public_key().public_bytes_raw())
    challenged, _ = challenge.issue(
        key_id=7,
        key=CHALLENGE_KEY,
        now=NOW,
        purpose="release",
        genesis=_DIGEST,
        kind="tdx",
        caller=_DIGEST,
    )
    order = _genesis(spki)
    leaf = GenesisLeaf(1, Hex(_DIGEST), _TIME, 0, Hex(_DIGEST), B64(b"document"))
    result = Appraisal("tdx")
    result.not_judged("measurements", "none")
    strict = b'[tdx]\ntcb_statuses = ["UpToDate"]\n[snp]\nmin_tcb = { Genoa = { snp = 23 } }\n'
    return {
        "tpm-key": [_p256()],
        "wire-message": [canonical.encode(order)],
        "log-leaf": [canonical.encode(leaf)],
        "signed-note": [signed, str(vkey).encode()],
        "tlog-proof": [Receipt(0, (), signed, b"extra").encode()],
        "dsse-envelope": [dsse.sign("t", b"payload", key)],
        "signer-key": [spki, _p256()],
        "sealed-manifest": [_manifest()],
        "sealed-header": [_sealed()],
        "framing-reader": [u8(0) + lp(b"item") + u8(1) + lp_list((b"a",)) + u8(2) + u64(1) + u8(3)],
        "broker-challenge": [challenged, challenged[:-32]],
        "policy-toml": [strict],
        "stored-result": [result.result().to_json()],
    }


def _genesis(spki: bytes) -> Genesis:
    return Genesis(
        v=1,
        tenant="acme",
        created=_TIME,
        signers=(B64(spki),),
        threshold=1,
        broker=Hex(hashlib.sha256(spki).digest()),
        broker_key=B64(spki),
        log_key=B64(_DIGEST),
        tree=Hex(bytes(16)),
        simulated=True,
    )


def _p256() -> bytes:
    """Return the key whose private half is 1: the generator of P-256."""
    return dsse.spki(ec.derive_private_key(1, ec.SECP256R1()).public_key())


def _manifest() -> bytes:
    return manifest.encode(
        manifest.Manifest(
            v=1,
            model="model",
            version=1,
            genesis=Hex(_DIGEST),
            model_version_id=Hex(_DIGEST),
            key_id="model",
            key_version=1,
            files=(manifest.SealedFile("a.bin", 4, Layout.of(4).sealed_size, Hex(_DIGEST)),),
        )
    )


def _sealed() -> bytes:
    cipher = stream.SegmentCipher.fresh(SecretKey(bytearray(32)), b"", "file")
    out = bytearray(4 + TAG)
    cipher.seal(0, memoryview(b"data"), memoryview(out), last=True)
    return cipher.header + bytes(out)
