"""The parsers that read what others wrote, each as one function from bytes.

Guarantees: a target returns for whatever the parser accepts, and for whatever it refuses with one
of our own errors; any other exception is a finding. Where parsing has an inverse, printing what was
parsed must give the input back, and a difference is a finding too.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.errors import BrokerError
from broker.release import challenge
from inference_runtime.errors import RuntimeFault
from inference_runtime.sealed import manifest
from inference_runtime.sealed.layout import HEADER, Layout
from inference_runtime.sealed.secret import SecretKey
from inference_runtime.sealed.stream import SegmentCipher
from verifier import dsse, explain, jose, policy
from verifier.azure import hcl, runtime, tdreport
from verifier.collateral import certificate_table, nvidia, parts, vet
from verifier.collateral.bundle import Bundle
from verifier.collateral.store import Entry
from verifier.ear import claims as ears
from verifier.ear import keys as ear_sets
from verifier.ear import result as ear_results
from verifier.errors import VerifierError
from verifier.eventlog import appraise as eventlogs
from verifier.eventlog import boot, registers, tcg
from verifier.eventlog.log import EventLog
from verifier.maa import claims as maas
from verifier.maa import keys as maa_sets
from verifier.nvgpu import chain as device_chain
from verifier.nvgpu import device, nras, ocsp, opaque, rim, spdm
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.snp import endorsements
from verifier.snp.report import SnpReport
from verifier.tdx import certificate, collateral, crl, identity, pck, quote, tcbinfo
from verifier.tdx.body import SIZES, TD10, read_td
from verifier.tlog import note
from verifier.tlog.checkpoint import Checkpoint
from verifier.tlog.proof import Receipt
from verifier.tpm import attest, keys
from verifier.tpm.chain import trim_der
from verifier.wire import canonical, leaf, messages
from verifier.wire.documents import Genesis, ImportStatement, KeyOrder
from verifier.wire.framing import Reader
from verifier.x509 import load_crl, load_der, split_pem

_TEES: Final[tuple[identity.Tee, ...]] = ("SGX", "TDX")

Target = Callable[[bytes], None]

OURS: Final = (VerifierError, BrokerError, RuntimeFault)
"""What a parser may raise."""

CHALLENGE_KEY: Final = b"k" * 32
_CHALLENGE_KEYS: Final = {7: CHALLENGE_KEY}
SIGNER: Final = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
_SIGNERS: Final = (dsse.spki(SIGNER.public_key()),)
NOW: Final = 1000
_DEK: Final = SecretKey(bytearray(32))


class FindingError(Exception):
    """What was parsed does not print as what was read."""


def _same(printed: bytes, read: bytes) -> None:
    if printed != read:
        raise FindingError(f"printed {printed[:80].hex()}, read {read[:80].hex()}")


def tdx_quote(raw: bytes) -> None:
    """Read a TDX quote, and as if it were one of SGX."""
    for parse in (quote.parse_sgx, quote.parse):
        try:
            found: quote.Quote[Any] = parse(raw)
        except VerifierError:
            continue
        quote.claims(found)
        _same(quote.encode(found), raw)


def pck_extension(raw: bytes) -> None:
    """The SGX extension of a PCK certificate: the fast reader and the slow one agree."""
    found = pck.parse_extension(raw)
    if pck.parse_fields(raw) != found:
        raise FindingError("two readers, two results")


def pck_chain(raw: bytes) -> None:
    """Read the claims of certification data; nothing of them is believed."""
    pck.read_claims(raw)


def tcb_info(raw: bytes) -> None:
    """Read Intel's TCB info, of TDX and of SGX."""
    text = raw.decode("utf-8", "replace")  # a document is read as text before it comes here
    for tee in _TEES:
        try:
            tcbinfo.parse(text, tee)
        except VerifierError:
            continue


def qe_identity(raw: bytes) -> None:
    """Read Intel's identity of the quoting enclave."""
    text = raw.decode("utf-8", "replace")  # a document is read as text before it comes here
    for tee in _TEES:
        try:
            identity.parse(text, tee)
        except VerifierError:
            continue


def tdx_collateral(raw: bytes) -> None:
    """Read a collateral bundle."""
    found = collateral.from_json(raw)
    if collateral.from_json(collateral.to_json(found)) != found:
        raise FindingError("collateral changes when it is written and read")


def der_certificate(raw: bytes) -> None:
    """Read a certificate with our own reader and with the library's, padding cut off before."""
    for load in (certificate.load, load_der):
        try:
            load(raw, "certificate")
        except VerifierError:
            continue
    trimmed = trim_der(raw)
    if not raw.startswith(trimmed):
        raise FindingError("what was trimmed is not the beginning")


def der_crl(raw: bytes) -> None:
    """Read a revocation list with our own reader and with the library's."""
    for load in (crl.load, load_crl):
        try:
            load(raw, "CRL")
        except VerifierError:
            continue


def pem(raw: bytes) -> None:
    """Split PEM into its blocks."""
    split_pem(raw, "chain", limit=4)


def snp_report(raw: bytes) -> None:
    """Read a SEV-SNP report."""
    _same(SnpReport.parse(raw).to_bytes(), raw)


def vek_extensions(raw: bytes) -> None:
    """Read AMD's extensions in a certificate: each `OID length value` of the input is one."""
    reader = Reader(raw)
    builder = []
    while True:
        try:
            arcs = reader.take(2)
            value = reader.take(reader.uint(1))
        except VerifierError:
            break
        oid = x509.ObjectIdentifier(
            f"1.3.6.1.4.1.3704.1.{arcs[0] % 8}" + f".{arcs[1] % 10}" * (arcs[1] > 0)
        )
        extension = x509.UnrecognizedExtension(oid, value)
        builder.append(x509.Extension(oid, critical=False, value=extension))
    endorsements.parse_vek(_Extended(builder))  # type: ignore[arg-type]  # only extensions are read


class _Extended:
    """Stands for a certificate of which only the extensions are read."""

    def __init__(self, extensions: list[x509.Extension[Any]]) -> None:
        self.extensions = extensions


def vek_certificate(raw: bytes) -> None:
    """Read AMD's extensions in a whole certificate."""
    endorsements.parse_vek(load_der(raw, "VEK"))


def event_log(raw: bytes) -> None:
    """Read an event log of every kind, and what it says of the boot."""
    kinds: tuple[eventlogs.LogKind, ...] = ("tcg", "ccel", "dstack", "aael")
    for kind in kinds:
        try:
            found = eventlogs.parse(raw, kind)
        except VerifierError:
            continue
        if kind in {"tcg", "ccel"}:
            _same_log(found, kind)
        for bank in found.banks:
            proven = frozenset(event.register for event in found.events)
            try:
                boot.read(found, bank, proven=proven).to_dict()
            except VerifierError:
                continue


def _same_log(found: EventLog, kind: eventlogs.LogKind) -> None:
    """Hold that a log reads the same when written again; header and padding are not kept."""
    again = eventlogs.parse(tcg.encode(found), kind)
    if (again.banks, again.events, again.initial) != (found.banks, found.events, found.initial):
        raise FindingError("a log changes when it is written and read")


def quoted_registers(raw: bytes) -> None:
    """Read quoted registers, JSON."""
    registers.from_json(raw)


def tpm_attest(raw: bytes) -> None:
    """Read a TPM's TPMS_ATTEST."""
    found = attest.parse(raw)
    found.claims()
    _same(attest.encode(found), raw)


def tpm_signature(raw: bytes) -> None:
    """Read a TPM's signature."""
    _same(attest.encode_signature(attest.parse_signature(raw)), raw)


def tpm_key(raw: bytes) -> None:
    """Read an attestation key, in every form."""
    keys.load(raw).describe()


def azure_hcl(raw: bytes) -> None:
    """Read the report of an Azure VM's paravisor."""
    found = hcl.parse(raw)
    found.told()
    _same(hcl.encode(found), raw)


def azure_runtime(raw: bytes) -> None:
    """Read the claims in such a report."""
    runtime.parse(raw)


_BODY: Final = read_td(bytes(SIZES[TD10]), 0, TD10)


def azure_tdreport(raw: bytes) -> None:
    """Read a TDREPORT and hold it against a quote's body."""
    tdreport.differences(tdreport.parse(raw), _BODY)


def nvidia_report(raw: bytes) -> None:
    """Read a GPU's or switch's SPDM report, and what it says in its opaque data."""
    found = spdm.parse(raw)
    _same(spdm.encode(found), raw)
    nvidia_opaque(found.opaque)


def nvidia_opaque(raw: bytes) -> None:
    """Read opaque data, and ask it everything."""
    found = opaque.parse(raw)
    _same(opaque.encode(found), raw)
    opaque.claims(found)
    asked: list[Callable[[], object]] = [
        found.driver_version,
        found.vbios_version,
        found.counters,
        found.link_pdis,
        found.own_pdi,
        found.gpu_pdis,
        lambda: device.rim_ids("GH100", found),
        lambda: device.rim_ids("LS10", found),
    ]
    for ask in asked:
        with contextlib.suppress(VerifierError):
            ask()


def nvidia_rim(raw: bytes) -> None:
    """Read an NVIDIA RIM: XML, its signature, its chain, its values."""
    rim.is_about(raw, "driver", "GH100", "590.12")  # never raises
    rim.read(raw)


def nvidia_ocsp(raw: bytes) -> None:
    """Read an OCSP response."""
    ocsp.parse(raw)


def nvidia_endorsements(raw: bytes) -> None:
    """Read the endorsements of a set of GPUs."""
    _same(GpuEndorsements.from_bytes(raw).to_bytes(), raw)


def rim_answer(raw: bytes) -> None:
    """Read an answer of the RIM service."""
    nvidia.rim_of(raw, "NV_GPU_DRIVER_GH100_590.12")


def nras_answer(raw: bytes) -> None:
    """Read an answer of NRAS, as far as the ids of its keys."""
    nras.key_ids(raw)


def nras_keys(raw: bytes) -> None:
    """Read the keys of NRAS."""
    nras.load_keys(raw)


def nvidia_chain(raw: bytes) -> None:
    """Read a device's certificate chain, down to the name of the chip."""
    device_chain.load(raw)


def certificate_table_(raw: bytes) -> None:
    """Read the certificate table that an SNP host hands to its guest."""
    for wanted in (certificate_table.VCEK, certificate_table.VLEK):
        found = certificate_table.find(raw, wanted)
        if found not in raw:
            raise FindingError("an entry that is not in the table")


def collateral_name(raw: bytes) -> None:
    """Read the name of a part of collateral."""
    text = raw.decode("utf-8", "replace")  # a name is text before it comes here
    if parts.Name.parse(text).text != text:
        raise FindingError("a name with two spellings")


def pcs_answer(raw: bytes) -> None:
    """Cut the signed text out of an answer of Intel's service."""
    for role in (parts.Role.TCB, parts.Role.QE):
        try:
            text, _ = vet.signed_text(raw, role, "answer")
        except VerifierError:
            continue
        if text not in raw.decode():
            raise FindingError("a signed text that is not in the answer")


def collateral_record(raw: bytes) -> None:
    """Read the store's index of a part, and a bundle's payload."""
    kinds: tuple[Any, ...] = (Entry, Bundle)
    for kind in kinds:
        try:
            found = canonical.decode(raw, kind)
        except VerifierError:
            continue
        _same(canonical.encode(found), raw)


_MESSAGES: Final[tuple[Any, ...]] = (
    messages.ChallengeRequest,
    messages.ChallengeAnswer,
    messages.ReleaseRequest,
    messages.RenewRequest,
    messages.ReleaseAnswer,
    messages.RenewalAnswer,
    messages.KeyImport,
    messages.Evidence,
    Genesis,
    ImportStatement,
    KeyOrder,
    leaf.StateMap,
    policy.ReleasePolicy,
)


def wire_message(raw: bytes) -> None:
    """Read a message as each kind that there is."""
    for kind in _MESSAGES:
        try:
            found = canonical.decode(raw, kind)
        except VerifierError:
            continue
        _same(canonical.encode(found), raw)


def log_leaf(raw: bytes) -> None:
    """Read a leaf of the log."""
    _same(canonical.encode(leaf.decode(raw)), raw)


def signed_note(raw: bytes) -> None:
    """Read a signed note, its checkpoint, and the key of a verifier."""
    try:
        note.VerifierKey.parse(raw.decode("utf-8", "replace"))
    except VerifierError:
        found = note.parse(raw)
        _same(found.encode(), raw)
        _same(Checkpoint.parse(found.text).text(), found.text)


def tlog_proof(raw: bytes) -> None:
    """Read a receipt."""
    _same(Receipt.parse(raw).encode(), raw)


def dsse_envelope(raw: bytes) -> None:
    """Read an envelope, and what it holds."""
    dsse.payload_unverified(raw)
    dsse.verify(raw, "t", _SIGNERS)


def signer_key(raw: bytes) -> None:
    """Read the key of a signer."""
    _same(dsse.spki(dsse.load_signer(raw)), raw)


def sealed_manifest(raw: bytes) -> None:
    """Read the manifest of a sealed model."""
    _same(manifest.encode(manifest.decode(raw)), raw)


def sealed_header(raw: bytes) -> None:
    """Open what claims to be a short sealed file of one segment."""
    layout = Layout.of_sealed(len(raw), "file")
    cipher = SegmentCipher(_DEK, raw[:HEADER], b"", "file")
    out = memoryview(bytearray(layout.size))
    cipher.open(0, memoryview(raw)[HEADER:], out, last=True)


def framing_reader(raw: bytes) -> None:
    """Read framed bytes by every step that there is."""
    reader = Reader(raw)
    while True:
        step = reader.uint(1)
        if step & 3 == 0:
            reader.lp()
        elif step & 3 == 1:
            reader.lp_list(4)
        elif step & 3 == 2:  # noqa: PLR2004 - the third of four steps
            reader.uint(8)
        else:
            reader.end()
            return


def broker_challenge(raw: bytes) -> None:
    """Open a challenge as it came, and again with a good MAC over the same bytes."""
    try:
        challenge.open_challenge(raw, _CHALLENGE_KEYS, now=NOW)
    except BrokerError:
        mac = hmac.digest(CHALLENGE_KEY, b"ostiary/challenge/v1" + raw, "sha256")
        challenge.open_challenge(raw + mac, _CHALLENGE_KEYS, now=NOW)


def policy_toml(raw: bytes) -> None:
    """Read an authored policy."""
    policy.from_toml(raw)


def stored_result(raw: bytes) -> None:
    """Read a result that `ostiary explain` is given."""
    explain.explain(raw)


def jws(raw: bytes) -> None:
    """Take a compact JWS apart."""
    found = jose.read(raw, "JWS", algorithm="RS256", members=frozenset({"jku"}), limit=1 << 16)
    printed = (found.signed, canonical.b64encode(found.signature).encode())
    _same(b".".join(printed), raw)


def ear_claims(raw: bytes) -> None:
    """Read the content of an attestation result's token, in both dialects."""
    found = ears.decode(raw)
    again = ears.decode(ears.encode(found))
    if again != found:
        raise FindingError("a token's content changes when it is written and read")


def ear_result(raw: bytes) -> None:
    """Read a result that a token is to be made of."""
    _same(ear_results.read(raw).to_json(), raw)


def ear_keys(raw: bytes) -> None:
    """Read the key set of a broker."""
    found = ear_sets.read_jwks(raw)
    if ear_sets.read_jwks(ear_sets.to_jwks(found.values())) != found:
        raise FindingError("a key set changes when it is written and read")


def maa_claims(raw: bytes) -> None:
    """Read what a token of Azure Attestation says."""
    found = maas.parse(raw)
    found.nonces()
    found.secure_boot()


def maa_keys(raw: bytes) -> None:
    """Read every key of an instance's set."""
    for kid in maa_sets.key_ids(raw):
        maa_sets.find(raw, kid)


TARGETS: Final[Mapping[str, Target]] = {
    target.__name__.rstrip("_").replace("_", "-"): target
    for target in (
        tdx_quote,
        pck_extension,
        pck_chain,
        tcb_info,
        qe_identity,
        tdx_collateral,
        der_certificate,
        der_crl,
        pem,
        snp_report,
        vek_extensions,
        vek_certificate,
        azure_hcl,
        azure_runtime,
        azure_tdreport,
        nvidia_report,
        nvidia_opaque,
        nvidia_chain,
        nvidia_rim,
        nvidia_ocsp,
        nvidia_endorsements,
        rim_answer,
        nras_answer,
        nras_keys,
        certificate_table_,
        collateral_name,
        pcs_answer,
        collateral_record,
        event_log,
        quoted_registers,
        tpm_attest,
        tpm_signature,
        tpm_key,
        wire_message,
        log_leaf,
        signed_note,
        tlog_proof,
        dsse_envelope,
        signer_key,
        sealed_manifest,
        sealed_header,
        framing_reader,
        broker_challenge,
        policy_toml,
        stored_result,
        jws,
        ear_claims,
        ear_result,
        ear_keys,
        maa_claims,
        maa_keys,
    )
}
"""Every target by name."""


def attempt(target: Target, raw: bytes) -> None:
    """Run one input; whatever it raises is a finding."""
    try:
        target(raw)
    except OURS:
        return
