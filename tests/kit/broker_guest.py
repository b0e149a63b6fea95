"""A guest: what it binds, what it sends, and what it opens; each can be told to lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from inference_runtime import exchange
from inference_runtime.exchange import Anchor, Bound, Identity
from ostiary.client import Tenant
from ostiary.simulator.machines import Machine
from tests.kit.broker_home import MODEL, azure, gcp, snp, td
from verifier.wire import binding, canonical, messages
from verifier.wire.canonical import B64
from verifier.wire.messages import KeyRef, Recipient

Kind = messages.Kind


def identity(name: str = "guest") -> Identity:
    """Return the keys of one of the session's guests."""
    if name not in _BORN:
        _BORN[name] = Identity.generate()
    return _BORN[name]


_BORN: dict[str, Identity] = {}


@final
@dataclass(frozen=True)
class Asked:
    """One exchange as a guest sees it: a challenge, and everything that evidence binds to it.

    `replace` gives a guest that binds something else than it sends.
    """

    identity: Identity
    tenant: Tenant
    challenge: bytes
    purpose: messages.Purpose = "release"
    kind: messages.Kind = "tdx"
    genesis: bytes = b""
    broker: bytes = b""
    recipients: tuple[Recipient, ...] = ()
    keys: tuple[KeyRef, ...] = (MODEL,)
    lease: str = ""
    claims: bytes = b"{}"
    gpus: tuple[messages.GpuEvidence, ...] = ()
    ak: bytes = b""

    def report_data(self) -> bytes:
        """Return the 64 bytes that the hardware is to sign."""
        return binding.report_data(
            challenge=self.challenge,
            purpose=self.purpose,
            genesis=self.genesis or self.tenant.digest,
            broker=self.broker or bytes(self.tenant.genesis.broker),
            recipients=self.recipients or self.identity.recipients,
            keys=self.keys,
            lease=self.lease,
            kind=self.kind,
            gpus=self.gpus,
            ak=self.ak,
            claims=self.claims,
        )

    def machine(self) -> Machine:
        """Return the machine that the policy expects."""
        cloud, _, tee = self.kind.rpartition("-")
        if cloud:
            return (azure if cloud == "azure" else gcp)(self.tenant, tee)
        return td(self.tenant) if tee == "tdx" else snp(self.tenant)

    def evidence(self, machine: Machine | None = None) -> messages.Evidence:
        """Return what the machine says, bound to this."""
        said = machine or self.machine()
        cpu, event_log, aux = said.report(self.report_data())
        return messages.Evidence(
            cpu=B64(cpu),
            event_log=B64(event_log),
            endorsements=B64(aux),
            ak=B64(self.ak),
            gpus=self.gpus,
            vtpm=said.vtpm(self.report_data()),
        )

    def body(self, evidence: messages.Evidence | None = None, **changes: Any) -> bytes:
        """Return the release request, with other fields sent than bound where `changes` say so."""
        fields: dict[str, Any] = {
            "v": 1,
            "challenge": B64(self.challenge),
            "keys": self.keys,
            "recipients": self.recipients or self.identity.recipients,
            "evidence": self.evidence() if evidence is None else evidence,
            "claims": B64(self.claims),
        }
        return canonical.encode(messages.ReleaseRequest(**fields | changes))

    def renewal(self, evidence: messages.Evidence | None = None, **changes: Any) -> bytes:
        """Return the renewal request, signed by the instance."""
        signed = messages.renewal_message(self.report_data(), self.lease)
        fields: dict[str, Any] = {
            "v": 1,
            "challenge": B64(self.challenge),
            "lease": self.lease,
            "keys": self.keys,
            "recipients": self.recipients or self.identity.recipients,
            "evidence": self.evidence() if evidence is None else evidence,
            "claims": B64(self.claims),
            "signature": B64(self.identity.instance.sign(signed)),
        }
        return canonical.encode(messages.RenewRequest(**fields | changes))

    @property
    def anchor(self) -> Anchor:
        """Whom the guest obeys."""
        return Anchor(self.tenant.genesis, self.tenant.digest)

    def open(self, envelope: bytes) -> exchange.Released:
        """Open an answer as the runtime does; raises `RuntimeFault`."""
        return exchange.open_release(envelope, self.bound(), self.identity, self.anchor)

    def open_renewal(self, envelope: bytes) -> messages.Lease:
        """Open a renewal's answer as the runtime does; raises `RuntimeFault`."""
        return exchange.open_renewal(envelope, self.bound(), self.identity, self.anchor)

    def bound(self) -> Bound:
        """Return what the runtime remembers of its question."""
        return Bound(
            self.challenge,
            self.keys,
            self.lease,
            self.claims,
            self.report_data(),
            messages.Evidence(cpu=B64(b"-")),
        )
