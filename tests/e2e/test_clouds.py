"""Machines in Azure and at Google: what a release needs of them, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from inference_runtime import exchange
from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.client import BrokerClient
from inference_runtime.errors import Fault, RuntimeFault
from ostiary.simulator.azure import AzureMachine
from ostiary.simulator.device import serving
from tests.kit import vendors
from tests.kit.broker import House
from tests.kit.broker_guest import Asked, identity
from tests.kit.broker_home import MODEL, RENEWALS, RIVAL, TENANT, azure, gcp
from verifier.wire import binding, canonical, leaf, messages
from verifier.wire.canonical import B64
from verifier.wire.messages import Kind, Vtpm

AZURE: Final[tuple[Kind, ...]] = ("azure-tdx", "azure-snp")
GCP: Final[tuple[Kind, ...]] = ("gcp-tdx", "gcp-snp")
OTHER: Final = "another machine"


class Through(httpx.BaseTransport):
    """Carries a runtime's requests to the house's broker."""

    def __init__(self, house: House) -> None:
        self.house = house

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one on."""
        answer = self.house.send(
            request.method,
            request.url.raw_path.decode(),
            request.read(),
            content_type=request.headers.get("content-type"),
        )
        return httpx.Response(
            answer.status_code,
            headers={"content-type": answer.headers["content-type"]},
            stream=httpx.ByteStream(answer.content),
        )


def attested(device: SocketDevice, client: BrokerClient, name: str) -> Any:
    """Return what a runtime binds to a fresh challenge, and whom it obeys."""
    who = identity(name)
    answer = client.challenge(TENANT, "release", device.kind, who)
    launch = device.launch_config()
    anchor = exchange.read_anchor(
        answer.document, launch.value, simulated_allowed=True, extended=launch.extended
    )
    bound = exchange.attest(
        device,
        who,
        anchor,
        challenge=answer.challenge,
        purpose="release",
        keys=(MODEL,),
        lease="",
        claims=b"{}",
    )
    return who, anchor, bound


@pytest.mark.parametrize("kind", [*AZURE, *GCP])
def test_runtime_and_device(house: House, tmp_path: Path, kind: Kind) -> None:
    """The runtime's own client takes a simulated device of the cloud through a whole release."""
    machine = house.ask(kind=kind).machine()
    with serving(tmp_path / "device", machine):
        device = SocketDevice(tmp_path / "device")
        with BrokerClient("http://broker", transport=Through(house)) as client:
            who, anchor, bound = attested(device, client, f"runtime {kind}")
            envelope = client.release(exchange.release_request(bound, who))
        released = exchange.open_release(envelope, bound, who, anchor)

    assert bytes(released.deks[MODEL].view()) == house.prepared.dek
    assert bound.evidence.ak == machine.ak
    entry = leaf.decode(released.answer.leaf)
    assert isinstance(entry, leaf.ReleaseLeaf)
    assert entry.kind == kind
    lease = house.sql("SELECT platform FROM leases WHERE id = ?", entry.lease)[0][0]
    assert len(lease) in {16, 64}, "the hardware's identity is in the lease"


@pytest.mark.parametrize("tee", ["tdx", "snp"])
def test_the_anchor_in_azure(house: House, tmp_path: Path, tee: str) -> None:
    """A guest in Azure obeys only whom its first stage extended into PCR 8."""
    machine = azure(house.prepared.tenants[RIVAL], tee)
    with serving(tmp_path / "device", machine):
        device = SocketDevice(tmp_path / "device")
        with (
            BrokerClient("http://broker", transport=Through(house)) as client,
            pytest.raises(RuntimeFault, match="PCR 8") as refused,
        ):
            attested(device, client, "stranger")

    assert refused.value.code is Fault.ANCHOR_MISMATCH


@pytest.mark.parametrize("kind", [*AZURE, *GCP])
def test_renewal(house: House, kind: Kind) -> None:
    """A lease on a machine in a cloud is prolonged on fresh evidence, and not on the old."""
    first = house.ask(kind=kind, name=f"renewed {kind}")
    lease = house.released(first).lease.id
    again = house.ask("renew", kind, name=f"renewed {kind}", lease=lease)

    assert again.open_renewal(house.renew(again.renewal()).content).id == lease
    late = house.ask("renew", kind, name=f"renewed {kind}", lease=lease)
    expected = "nonce_mismatch" if kind in AZURE else "report_data_mismatch"
    house.refused(
        late.renewal(again.evidence()), "evidence_refused", to=RENEWALS, leaves=0, why=expected
    )


def vtpm(evidence: messages.Evidence, **changes: Any) -> messages.Evidence:
    """Return evidence whose vTPM says something else."""
    assert evidence.vtpm is not None
    changed = msgspec.structs.replace(evidence.vtpm, **changes)
    return msgspec.structs.replace(evidence, vtpm=changed)


def quoted(asked: Asked, name: str, report_data: bytes) -> dict[str, Any]:
    """Return message and signature of the guest's PCRs by the TPM of this name."""
    machine = azure(asked.tenant, "tdx").tpm
    by = replace(machine, key=vendors.tpm(name).key)
    said = by.says(report_data)
    return {"message": said.message, "signature": said.signature}


Case = Callable[[Asked], messages.Evidence]


def other_ak(asked: Asked) -> messages.Evidence:
    """Bind and quote with a key of one's own; the hardware's claims name the VM's."""
    return msgspec.structs.replace(
        vtpm(asked.evidence(), **quoted(asked, OTHER, asked.report_data())),
        ak=B64(vendors.tpm(OTHER).ak),
    )


def other_signer(asked: Asked) -> messages.Evidence:
    """Name the VM's key, and quote with another."""
    return vtpm(asked.evidence(), **quoted(asked, OTHER, asked.report_data()))


def other_claims(asked: Asked) -> messages.Evidence:
    """Put claims with a key of one's own before the hardware report of the VM."""
    good = asked.machine()
    assert isinstance(good, AzureMachine)
    mine = replace(good, tpm=vendors.tpm(OTHER)).hcl_report()
    report = bytearray(mine)
    report[0x20:0x4C0] = good.hcl_report()[0x20:0x4C0]
    return msgspec.structs.replace(
        vtpm(
            asked.evidence(),
            hcl_report=B64(bytes(report)),
            **quoted(asked, OTHER, asked.report_data()),
        ),
        ak=B64(vendors.tpm(OTHER).ak),
    )


def other_machine(asked: Asked) -> messages.Evidence:
    """Send the hardware report of another VM, whose TPM is another."""
    tee = asked.kind.rpartition("-")[2]
    other = azure(asked.tenant, tee, tpm=vendors.tpm(OTHER))
    sent = vtpm(asked.evidence(), hcl_report=B64(other.hcl_report()))
    return msgspec.structs.replace(sent, cpu=B64(other.report(bytes(64))[0]))


def other_nonce(asked: Asked) -> messages.Evidence:
    """Quote over other report data."""
    return vtpm(asked.evidence(), **quoted(asked, "guest", bytes(64)))


def bare_report_data(asked: Asked) -> messages.Evidence:
    """Quote over the report data itself, not its digest under our domain."""
    machine = azure(asked.tenant, "tdx").tpm
    message, signature = machine.quote(asked.report_data()[:32])
    return vtpm(asked.evidence(), message=B64(message), signature=B64(signature))


def no_key(asked: Asked) -> messages.Evidence:
    """Name no key."""
    return msgspec.structs.replace(asked.evidence(), ak=B64())


def other_boot(asked: Asked) -> messages.Evidence:
    """Boot another kernel."""
    tee = asked.kind.rpartition("-")[2]
    machine = azure(asked.tenant, tee)
    return asked.evidence(replace(machine, tpm=machine.tpm.extended(4, bytes(32))))


def debuggable(asked: Asked) -> messages.Evidence:
    """Run under a paravisor that the host may read."""
    return asked.evidence(azure(asked.tenant, asked.kind.rpartition("-")[2], debug=True))


def no_hcl(asked: Asked) -> messages.Evidence:
    """Send no HCL report."""
    return vtpm(asked.evidence(), hcl_report=B64())


REFUSED: Final[dict[str, tuple[Case, str]]] = {
    "other key": (other_ak, "ak_refused"),
    "other signer": (other_signer, "signature_invalid"),
    "other claims": (other_claims, "report_data_mismatch"),
    "other machine": (other_machine, "ak_refused"),
    "other nonce": (other_nonce, "nonce_mismatch"),
    "bare report data": (bare_report_data, "nonce_mismatch"),
    "no key": (no_key, "malformed"),
    "other boot": (other_boot, "measurement_unknown"),
    "debug": (debuggable, "debug_enabled"),
}


@pytest.mark.parametrize("kind", AZURE)
@pytest.mark.parametrize("case", REFUSED)
def test_azure_refusals(house: House, kind: Kind, case: str) -> None:
    """A chain from exchange to TPM to claims to hardware with a link that is another's is none."""
    make, why = REFUSED[case]
    asked = house.ask(kind=kind)

    house.refused(asked.body(make(asked)), "evidence_refused", why=why)


@pytest.mark.parametrize("kind", AZURE)
def test_stale_azure_evidence(house: House, kind: Kind) -> None:
    """Evidence for a challenge that is spent fits no other one."""
    first = house.ask(kind=kind)
    evidence = first.evidence()
    house.released(first)

    house.refused(house.ask(kind=kind).body(evidence), "evidence_refused", why="nonce_mismatch")


@pytest.mark.parametrize("kind", AZURE)
def test_azure_without_tpm(house: House, kind: Kind) -> None:
    """Hardware alone is no evidence of an exchange in Azure: the TPM's quote must be there."""
    asked = house.ask(kind=kind)
    whole = asked.evidence()
    bare = messages.Evidence(cpu=whole.cpu or B64(b"-"), ak=whole.ak)
    why = "hardware_report_missing" if kind == "azure-snp" else "malformed"

    house.refused(asked.body(bare), "evidence_refused", why=why)
    again = house.ask(kind=kind)
    house.refused(again.body(no_hcl(again)), "evidence_refused", why=why)


@pytest.mark.parametrize("kind", GCP)
def test_google_without_tpm(house: House, kind: Kind) -> None:
    """The hardware report decides at Google: a vTPM need not be there."""
    asked = house.ask(kind=kind, ak=b"")
    machine = replace(gcp(house.tenant, kind.rpartition("-")[2]), tpm=None)

    answer = house.release(asked.body(asked.evidence(machine)))
    assert answer.status_code == 200, house.reasons()
    assert '"vtpm.quote"' in bytes(asked.open(answer.content).answer.result).decode()


@pytest.mark.parametrize("kind", GCP)
def test_a_vtpm_alone(house: House, kind: Kind) -> None:
    """Without a hardware report the host's vTPM is refused by name, however good its quote is."""
    asked = house.ask(kind=kind)
    alone = msgspec.structs.replace(asked.evidence(), cpu=B64())

    house.refused(asked.body(alone), "evidence_refused", why="hardware_report_missing")


@pytest.mark.parametrize("kind", GCP)
def test_a_vtpm_repairs_nothing(house: House, kind: Kind) -> None:
    """A fresh quote of the vTPM does not make an old hardware report fresh."""
    asked, other = house.ask(kind=kind), house.ask(kind=kind)
    stale = msgspec.structs.replace(asked.evidence(), cpu=other.evidence().cpu)

    house.refused(asked.body(stale), "evidence_refused", why="report_data_mismatch")


@pytest.mark.parametrize("kind", GCP)
def test_a_bad_vtpm_denies(house: House, kind: Kind) -> None:
    """A quote of the vTPM that is not good denies, though the hardware report is."""
    for name, fresh, why in (
        ("host", False, "nonce_mismatch: vtpm.tpm.nonce"),
        (OTHER, True, "signature_invalid: vtpm.genuine"),
    ):
        asked = house.ask(kind=kind)
        pcrs = azure(asked.tenant, "tdx").tpm.says(bytes(64)).pcrs
        changes = quoted(asked, name, asked.report_data() if fresh else bytes(64))
        sent = vtpm(asked.evidence(), pcrs=pcrs, **changes)
        house.refused(asked.body(sent), "evidence_refused", why=why)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("tdx", "azure-tdx"),
        ("azure-tdx", "tdx"),
        ("gcp-tdx", "azure-tdx"),
        ("azure-tdx", "gcp-tdx"),
    ],
)
def test_kinds_do_not_mix(house: House, kind: Kind, sent: Kind) -> None:
    """The challenge says what kind of evidence is judged, whatever comes."""
    asked = house.ask(kind=kind, ak=vendors.tpm().ak)
    other = replace(asked, kind=sent)

    house.refused(asked.body(other.evidence()), "evidence_refused")


def test_a_vtpm_has_no_place_beside_a_plain_td(house: House) -> None:
    """A part that the kind does not have is refused, not passed over."""
    asked = house.ask(kind="tdx")
    extra = msgspec.structs.replace(asked.evidence(), vtpm=vendors.tpm().says(asked.report_data()))

    house.refused(asked.body(extra), "evidence_refused", why="kind_mismatch")


def test_qualifying_data() -> None:
    """A device's vTPM quotes exactly the digest of the report data under our domain."""
    said = vendors.tpm().says(bytes(64))

    assert bytes(said.message).count(binding.tpm_qualifying_data(bytes(64))) == 1
    assert canonical.decode(canonical.encode(said), Vtpm) == said
