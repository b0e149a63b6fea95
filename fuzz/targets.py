"""The parsers that read what others wrote, each as one function from bytes.

Guarantees: a target returns for whatever the parser accepts, and for whatever it refuses with one
of our own errors; any other exception is a finding. Where parsing has an inverse, printing what was
parsed must give the input back, and a difference is a finding too.
"""

from __future__ import annotations

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
from verifier import dsse, explain, policy
from verifier.errors import VerifierError
from verifier.eventlog import appraise as eventlogs
from verifier.eventlog import boot, registers, tcg
from verifier.eventlog.log import EventLog
from verifier.snp import endorsements
from verifier.snp.report import SnpReport
from verifier.tdx import certificate, collateral, crl, identity, pck, quote, tcbinfo
from verifier.tlog import note
from verifier.tlog.checkpoint import Checkpoint
from verifier.tlog.proof import Receipt
from verifier.tpm import attest, keys
from verifier.wire import canonical, leaf, messages
from verifier.wire.documents import Genesis, ImportStatement, KeyOrder
from verifier.wire.framing import Reader
from verifier.x509 import load_der, split_pem

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
    """Read a certificate with our own reader and with the library's."""
    for load in (certificate.load, load_der):
        try:
            load(raw, "certificate")
        except VerifierError:
            continue


def der_crl(raw: bytes) -> None:
    """Read a revocation list."""
    crl.load(raw, "CRL")


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


TARGETS: Final[Mapping[str, Target]] = {
    target.__name__.replace("_", "-"): target
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
    )
}
"""Every target by name."""


def attempt(target: Target, raw: bytes) -> None:
    """Run one input; whatever it raises is a finding."""
    try:
        target(raw)
    except OURS:
        return
