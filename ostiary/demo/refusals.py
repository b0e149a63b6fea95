"""Chapter 5: what must not work, each tried for real and refused with its reason shown.

The reasons come from the tenant's audit records: a caller learns a code, the vendor learns why.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, final

import msgspec

from inference_runtime import exchange
from inference_runtime.attester.gpus import Gpus
from inference_runtime.attester.socket_device import SocketDevice
from inference_runtime.attester.socket_gpus import socket_gpus
from inference_runtime.client import BrokerClient
from inference_runtime.errors import RuntimeFault
from inference_runtime.exchange import Bound, Identity
from ostiary import vendor
from ostiary.client import ClientError
from ostiary.demo.stage import LEASE_SECONDS, MODEL, TENANT, Stage
from ostiary.processes import Program
from ostiary.story import Story, StoryError
from verifier.wire import binding, leaf
from verifier.wire.canonical import B64
from verifier.wire.leaf import KeyState
from verifier.wire.messages import GpuEvidence

_FLIPPED_BYTE: Final = 200
"""Inside the TD body of a v4 quote: part of MRTD, which the quote's signature covers."""


def show(story: Story, stage: Stage, runtime: Program) -> None:
    """Try everything that must be refused."""
    story.chapter("What must not work")
    visitor = _Visitor(stage, stage.start_machine("visitor", _anchor(stage)))
    serving = _gpus_at(stage.root / "machine.sock")
    _flipped(story, stage, visitor)
    _replayed(story, stage, visitor)
    _debug(story, stage)
    _unknown(story, stage)
    _forged_gpu(story, stage, visitor)
    _spliced(story, stage, visitor, serving)
    _gpu_elsewhere(story, stage, visitor, serving)
    _started_anew(story, visitor)
    _older_policy(story, stage)
    _log_cannot_be_written(story, stage, visitor)
    _revoked(story, stage, visitor, runtime)
    _row_put_back(story, stage, visitor)


class _Visitor:
    """Somebody with a machine who asks for the key."""

    def __init__(self, stage: Stage, path: Path) -> None:
        self.stage = stage
        self.device = SocketDevice(path)
        self.gpus: Gpus = _gpus_at(path)
        self.identity = Identity.generate()

    def attest(self, gpus: Gpus | None = None) -> Bound:
        """Return genuine evidence for a fresh challenge, with these GPUs or its own."""
        with BrokerClient(self.stage.url) as client:
            answer = client.challenge(TENANT, "release", "tdx", self.identity)
        anchor = exchange.read_anchor(
            answer.document, self.device.launch_config().value, simulated_allowed=True
        )
        return exchange.attest(
            self.device,
            self.identity,
            anchor,
            challenge=answer.challenge,
            purpose="release",
            keys=(MODEL,),
            lease="",
            claims=b"{}",
            gpus=gpus or self.gpus,
        )

    def ask(self, bound: Bound) -> bytes:
        """Send the request and return the signed answer."""
        with BrokerClient(self.stage.url) as client:
            return client.release(exchange.release_request(bound, self.identity))


def _gpus_at(path: Path) -> Gpus:
    return socket_gpus(path, simulated_allowed=True)


def _refused(attempt: Callable[[], object]) -> str:
    """Return the code of the refusal.

    Raises:
        StoryError: it was not refused.
    """
    try:
        attempt()
    except RuntimeFault as fault:
        text = str(fault)
        return str(msgspec.json.decode(text[text.index("{") :])["code"])
    except ClientError as error:
        return error.code
    raise StoryError("something was released that must not be")


def _why(stage: Stage, code: str) -> str:
    """Return the newest audit record's reasons; it must be about this refusal."""
    with stage.client() as client:
        newest = client.audit(1)[0]
    if newest["code"] != code:
        raise StoryError(f"the audit's newest record is {newest['code']}, not {code}")
    return "; ".join(newest["reasons"])


def _flipped(story: Story, stage: Stage, visitor: _Visitor) -> None:
    bound = visitor.attest()
    cpu = bytearray(bound.evidence.cpu)
    cpu[_FLIPPED_BYTE] ^= 1
    evidence = msgspec.structs.replace(bound.evidence, cpu=B64(bytes(cpu)))
    code = _refused(lambda: visitor.ask(replace(bound, evidence=evidence)))
    story.refusal("evidence with one bit flipped", code, _why(stage, code))


def _replayed(story: Story, stage: Stage, visitor: _Visitor) -> None:
    bound = visitor.attest()
    visitor.ask(bound)
    code = _refused(lambda: visitor.ask(bound))
    story.refusal("the same challenge twice", code, _why(stage, code))


def _anchor(stage: Stage) -> bytes:
    tenant = stage.the_tenant()
    return binding.anchor(bytes(tenant.genesis.broker), tenant.digest)


def _debug(story: Story, stage: Stage) -> None:
    device = stage.start_machine("debug-machine", _anchor(stage), "--debug")
    visitor = _Visitor(stage, device)
    code = _refused(lambda: visitor.ask(visitor.attest()))
    story.refusal("a TD whose host may debug it", code, _why(stage, code))


def _unknown(story: Story, stage: Stage) -> None:
    kernel = stage.root / "other-kernel"
    kernel.write_bytes(b"a kernel that nobody reviewed")
    device = stage.start_machine("other-machine", _anchor(stage), "--image", f"kernel={kernel}")
    visitor = _Visitor(stage, device)
    code = _refused(lambda: visitor.ask(visitor.attest()))
    story.refusal("a machine that booted an unknown kernel", code, _why(stage, code))


@final
class _Forger:
    """A machine's GPUs, of which the last one's report is forged."""

    def __init__(self, honest: Gpus) -> None:
        self._honest = honest

    def collect(self, nonce: bytes) -> tuple[GpuEvidence, ...]:
        """Return the evidence, its last bit flipped."""
        *others, last = self._honest.collect(nonce)
        report = bytes(last.report)
        forged = B64(report[:-1] + bytes([report[-1] ^ 1]))
        return (*others, msgspec.structs.replace(last, report=forged))

    def ready(self) -> bool:
        """Return what the driver says."""
        return self._honest.ready()

    def set_ready(self, *, ready: bool) -> None:
        """Do as told."""
        self._honest.set_ready(ready=ready)


def _forged_gpu(story: Story, stage: Stage, visitor: _Visitor) -> None:
    bound = visitor.attest(_Forger(visitor.gpus))
    code = _refused(lambda: visitor.ask(bound))
    story.refusal(f"{stage.set}, the last of them forged", code, _why(stage, code))


def _spliced(story: Story, stage: Stage, visitor: _Visitor, serving: Gpus) -> None:
    bound = visitor.attest()
    nonce = binding.gpu_nonce(bound.challenge, visitor.identity.recipients)
    evidence = msgspec.structs.replace(bound.evidence, gpus=serving.collect(nonce))
    code = _refused(lambda: visitor.ask(replace(bound, evidence=evidence)))
    story.refusal("the GPUs of another machine behind this CPU's quote", code, _why(stage, code))


def _gpu_elsewhere(story: Story, stage: Stage, visitor: _Visitor, serving: Gpus) -> None:
    bound = visitor.attest(serving)
    code = _refused(lambda: visitor.ask(bound))
    story.refusal("GPUs that another machine holds a lease with", code, _why(stage, code))


def _started_anew(story: Story, visitor: _Visitor) -> None:
    visitor.identity = Identity.generate()
    visitor.ask(visitor.attest())
    with visitor.stage.client() as client:
        entries = [leaf.decode(raw) for raw in client.leaves()]
    if not any(isinstance(e, leaf.LeaseEndLeaf) and e.cause == "superseded" for e in entries):
        raise StoryError("the machine's old lease was not superseded")
    story.line("a machine that starts anew ends its own old lease", "lease-end: superseded")


def _older_policy(story: Story, stage: Stage) -> None:
    first = (stage.root / "vendor" / "policy-1.json").read_bytes()
    key, tenant = stage.the_vendor(), stage.the_tenant()
    draft = vendor.policy_file(first)
    second = vendor.sign_policy(
        draft, tenant, key, version=2, predecessor=vendor.policy_digest(first)
    )
    with stage.client() as client:
        client.push_policy(second)
        code = _refused(lambda: client.push_policy(first))
    story.refusal("policy 1 again, after policy 2", code, "version numbers only rise")


def _log_cannot_be_written(story: Story, stage: Stage, visitor: _Visitor) -> None:
    with sqlite3.connect(stage.broker / "ostiary.db") as database:
        database.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON leaves "
            "BEGIN SELECT RAISE(ABORT, 'the log cannot be written'); END"
        )
    code = _refused(lambda: visitor.ask(visitor.attest()))
    why = _why(stage, code)
    with sqlite3.connect(stage.broker / "ostiary.db") as database:
        database.execute("DROP TRIGGER full_disk")
    story.refusal("a release while the log cannot be written", code, why)
    visitor.ask(visitor.attest())
    story.line("with the log back, the same machine is served again")


def _revoked(story: Story, stage: Stage, visitor: _Visitor, runtime: Program) -> None:
    with stage.client() as client:
        order = vendor.sign_order(
            stage.the_tenant(),
            stage.the_vendor(),
            MODEL,
            KeyState.COMPROMISED,
            epoch=client.epoch(),
            reason="the demo revokes it",
        )
        client.order_key(order)
    code = _refused(lambda: visitor.ask(visitor.attest()))
    story.refusal("a release of a revoked key", code, _why(stage, code))
    with story.wait("the running runtime asks to renew its lease"):
        _until_ended(runtime)
    last = runtime.tail.strip().splitlines()[-1]
    story.refusal("the running runtime's renewal", "lease_revoked", last)


def _until_ended(runtime: Program) -> None:
    try:
        runtime.until(lambda: runtime.process.poll() is not None, LEASE_SECONDS + 20)
    except StoryError:
        if runtime.process.poll() is None:
            raise


def _row_put_back(story: Story, stage: Stage, visitor: _Visitor) -> None:
    path = stage.broker / "ostiary.db"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE keys SET state = 'active' WHERE id = ?", (MODEL.id,))
    code = _refused(lambda: visitor.ask(visitor.attest()))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE keys SET state = 'compromised' WHERE id = ?", (MODEL.id,))
    story.refusal("the key's row put back to “active”", code, _why(stage, code))
