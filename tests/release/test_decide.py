"""Room 5: keys, policy, manifest, dates and evidence must all agree; absent means refuse."""

import dataclasses
import hashlib

import msgspec
import pytest

from broker.errors import BrokerError, Code
from broker.release.decide import decide, read_policy, select_keys
from verifier.errors import Reason
from verifier.policy import AppraisalPolicy, GpuRules, ReleasePolicy
from verifier.result import Appraisal
from verifier.wire import canonical
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import Genesis, Release
from verifier.wire.leaf import (
    NO_DEVICES,
    NO_POLICY,
    KeyEntry,
    KeyState,
    StateMap,
    of_devices,
)
from verifier.wire.messages import KeyRef

G, MANIFEST, NOW = Hex(b"g" * 32), Hex(b"m" * 32), 10_000
REF = KeyRef("tiny", 1)
BROKER_KEY = B64(b"spki of the broker" * 2)
GENESIS = Genesis(
    v=1,
    tenant="acme",
    created=1,
    signers=(B64(b"signer"),),
    threshold=1,
    broker=Hex(hashlib.sha256(BROKER_KEY).digest()),
    broker_key=BROKER_KEY,
    log_key=B64(bytes(32)),
    tree=Hex(bytes(16)),
    simulated=True,
)
POLICY = ReleasePolicy(
    v=1,
    genesis=G,
    name="p",
    version=1,
    predecessor=NO_POLICY,
    keys=(REF,),
    manifests=(MANIFEST,),
    release=Release(lease_seconds=600),
    appraisal=AppraisalPolicy(),
)


def entry(policy=POLICY, **changes):
    fields = {
        "id": "tiny",
        "version": 1,
        "state": KeyState.ACTIVE,
        "blob": Hex(b"b" * 32),
        "manifest": MANIFEST,
        "kek": 1,
        "policy": Hex(hashlib.sha256(canonical.encode(policy)).digest()),
        "policy_version": policy.version,
    }
    return KeyEntry(**(fields | changes))


def state(*entries):
    return StateMap(v=1, genesis=G, signers=Hex(bytes(32)), keys=entries)


def result(*, simulated=True, fail=None):
    appraisal = Appraisal("tdx", simulated=simulated)
    appraisal.require("quote", True, Reason.SIGNATURE_INVALID, "valid", "valid")
    if fail is not None:
        appraisal.require("debug", False, fail, "off", "on")
    return appraisal.result()


def run(policy=POLICY, *, now=NOW, outcome=None, claims=b"", **changes):
    held = state(entry(policy, **changes))
    entries = select_keys(held, (REF,))
    read = read_policy(canonical.encode(policy), entries, G)
    return decide(
        state=held,
        epoch=4,
        entries=entries,
        policy=read,
        genesis=GENESIS,
        result=outcome or result(),
        claims=claims,
        now=now,
    )


def refused(*args, **kwargs):
    with pytest.raises(BrokerError) as caught:
        run(*args, **kwargs)
    return caught.value


def test_a_yes_names_keys_policy_epoch_and_lease():
    """What will be logged stands in the decision."""
    decision = run()

    assert [(key.id, key.version, key.manifest) for key in decision.keys] == [("tiny", 1, MANIFEST)]
    assert (decision.epoch, decision.not_after, decision.renew_after) == (4, NOW + 600, NOW + 300)


@pytest.mark.parametrize("other", [each for each in KeyState if each is not KeyState.ACTIVE])
def test_only_active_keys_are_released(other):
    """Every other state of SP 800-57 is a refusal that says so."""
    error = refused(state=other)

    assert error.code is Code.KEY_NOT_ACTIVE
    assert other.value in error.reasons[0]


def test_an_unknown_key_is_refused():
    """Absent means refuse."""
    with pytest.raises(BrokerError) as caught:
        select_keys(state(), (REF,))

    assert caught.value.code is Code.KEY_NOT_ACTIVE


def test_a_key_that_no_policy_names_is_refused():
    """An empty policy is a refusal, not a licence."""
    assert refused(policy=POLICY, policy_version=0).code is Code.KEY_NOT_ACTIVE


def test_keys_under_different_policies_do_not_go_in_one_release():
    """One release is appraised by one policy."""
    mixed = state(entry(), msgspec.structs.replace(entry(), id="zeta", policy=Hex(b"x" * 32)))
    with pytest.raises(BrokerError) as caught:
        select_keys(mixed, (REF, KeyRef("zeta", 1)))

    assert caught.value.code is Code.DENIED


def test_a_policy_that_is_not_the_logged_one_is_refused():
    """A policy row that was exchanged is found before it is used."""
    other = msgspec.structs.replace(POLICY, name="q")
    with pytest.raises(BrokerError) as caught:
        read_policy(canonical.encode(other), (entry(),), G)

    assert caught.value.code is Code.STATE_MISMATCH


@pytest.mark.parametrize("changes", [{"genesis": Hex(b"h" * 32)}, {"keys": (KeyRef("other", 1),)}])
def test_a_policy_of_another_tenant_or_key_is_refused(changes):
    """Even if a row says that it is the one."""
    other = msgspec.structs.replace(POLICY, **changes)
    with pytest.raises(BrokerError) as caught:
        read_policy(canonical.encode(other), (entry(other),), G)

    assert caught.value.code is Code.STATE_MISMATCH


def test_refused_evidence_gives_every_reason():
    """The verifier's reasons reach the operator."""
    error = refused(outcome=result(fail=Reason.DEBUG_ENABLED))

    assert error.code is Code.EVIDENCE_REFUSED
    assert error.reasons[0].startswith("debug_enabled")


def test_real_tenants_refuse_simulated_evidence_and_the_reverse():
    """The two worlds do not mix."""
    assert refused(outcome=result(simulated=False)).code is Code.DENIED


def test_a_manifest_outside_the_policy_is_refused():
    """The key opens what the policy names and nothing else."""
    assert refused(manifest=Hex(b"n" * 32)).code is Code.DENIED


def with_gpus(*verdicts, kind="gpu"):
    """Return an accepted result with a device for each verdict."""
    told = result()
    devices = [
        {"kind": kind, "genuine": True, "verdict": verdict, "device_id": f"{at:018x}"}
        for at, verdict in enumerate(verdicts)
    ]
    return dataclasses.replace(told, claims={"devices": devices})


def needs(count):
    """Return the policy with a demand for GPUs."""
    return msgspec.structs.replace(POLICY, appraisal=AppraisalPolicy(gpu=GpuRules(count=count)))


def test_no_gpu_evidence_is_not_no_gpu_needed():
    """A key is never let go under a policy for GPUs without as many accepted ones, nor with more.

    The appraisal refuses that already; the decision does not rest on it.
    """
    assert refused(needs(1)).code is Code.DENIED
    assert refused(needs(2), outcome=with_gpus("accept")).code is Code.DENIED
    assert refused(needs(1), outcome=with_gpus("reject")).code is Code.DENIED
    assert refused(needs(1), outcome=with_gpus("accept", kind="switch")).code is Code.DENIED
    assert refused(outcome=with_gpus("accept")).code is Code.DENIED


def test_the_decision_names_the_devices():
    """Leaf and lease take count and ids from here."""
    found = run(needs(2), outcome=with_gpus("accept", "accept")).devices

    assert (found.gpus, [each.hex() for each in found.ids]) == (2, [f"{at:018x}" for at in (0, 1)])
    assert found.digest == of_devices(found.ids)
    assert run().devices.digest == NO_DEVICES


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        (b'{"tensor_parallel_size":3}', "tensor_parallel_size 3 claimed, 2 GPUs attested"),
        (b'{"tensor_parallel_size":3,"gpus":2}', "tensor_parallel_size 3 claimed"),
        (b'{"tensor_parallel_size":2,"gpus":3}', "3 GPUs claimed, 2 attested"),
        (b'{"tensor_parallel_size":0}', "impossible"),
        (b'{"gpus":-1}', "impossible"),
        (b'{"tensor_parallel_size":true}', "cannot be read"),
        (b'{"tensor_parallel_size":2.5}', "cannot be read"),
        (b"[]", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[" * 9000, "cannot be read"),
    ],
)
def test_a_runtime_never_uses_more_gpus_than_it_showed(claims, why):
    """Its own claims are bound into the evidence; what they ask for must be attested."""
    error = refused(needs(2), outcome=with_gpus("accept", "accept"), claims=claims)

    assert error.code is Code.DENIED
    assert why in " ".join(error.reasons)


@pytest.mark.parametrize(
    "claims",
    [
        b"",
        b"{}",
        b'{"tensor_parallel_size":2}',
        b'{"v":1,"engine":"x","tensor_parallel_size":2,"gpus":2}',
        b'{"tensor_parallel_size":8,"gpus":0}',
    ],
)
def test_claims_within_what_was_shown(claims):
    """As many parts as GPUs are fine, and any number on the processor, which needs none."""
    assert run(needs(2), outcome=with_gpus("accept", "accept"), claims=claims).devices.gpus == 2


def test_a_claim_of_parts_without_gpus():
    """Parts that are not said to be on the processor are on GPUs that nobody saw."""
    assert refused(claims=b'{"tensor_parallel_size":1}').code is Code.DENIED
    assert run(claims=b'{"tensor_parallel_size":1,"gpus":0}').devices.gpus == 0


@pytest.mark.parametrize(("now", "allowed"), [(99, False), (100, True), (199, True), (200, False)])
def test_a_policy_holds_between_its_dates(now, allowed):
    """Not before the first second, not from the last on; a lease never outlives the policy."""
    dated = msgspec.structs.replace(POLICY, release=Release(not_before=100, not_after=200))
    if allowed:
        assert run(dated, now=now).not_after == 200
    else:
        assert refused(dated, now=now).code is Code.DENIED
