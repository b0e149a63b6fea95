"""Tokens of Azure Attestation: admitted only as a policy says, and every way to be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.maa import (
    ISSUER,
    KID,
    LAUNCH,
    MR_TD,
    NONCE,
    NOW,
    POLICY,
    RUNTIME_DATA,
    certificate,
    direct,
    guest,
    judge,
    jwk,
    key,
    key_set,
    number,
    token,
    with_certificate,
)
from verifier.appraise import Evidence, appraise
from verifier.ear import table
from verifier.ear.vector import Tier
from verifier.errors import Reason, VerifierError
from verifier.maa import claims, keys
from verifier.maa.appraise import MAX_TOKEN
from verifier.policy import AppraisalPolicy, MaaReference, MaaRules, SnpRules, SnpTcb, TdxRules
from verifier.result import AttestationResult, TcbStatus, Verdict
from verifier.snp import SnpEndorsements
from verifier.wire.canonical import Hex, b64encode

GOOD = token(guest())
FORMS: list[tuple[Callable[[str], dict[str, Any]], str]] = [
    (form, kind) for form in (guest, direct) for kind in ("sevsnpvm", "tdxvm")
]


def refused(result: AttestationResult, *reasons: Reason) -> None:
    """Hold that a token is refused for these reasons and no other."""
    assert result.verdict is Verdict.REJECT
    assert set(result.reasons) == set(reasons), result.checks


def policy(**changes: Any) -> AppraisalPolicy:
    """Return the policy with other rules for tokens."""
    return AppraisalPolicy(
        maa=MaaRules(**{"issuers": (ISSUER,)} | changes), reference=POLICY.reference
    )


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_a_good_token_of_each_form(form: Callable[[str], dict[str, Any]], kind: str) -> None:
    """Guest attestation and direct, on AMD and on Intel."""
    result = judge(token(form(kind)))

    assert result.verdict is Verdict.ACCEPT, result.checks
    assert result.expires == NOW + 28_800
    assert result.tcb_status is (TcbStatus.UP_TO_DATE if kind == "tdxvm" else None)


def test_keys_and_claims_are_told() -> None:
    """What the token says stands in the result, with the digests of the machine's keys."""
    result = judge(GOOD)

    assert result.claims["maa"]["iss"] == ISSUER
    (named,) = result.claims["maa_keys"].items()
    spki = (
        key("ephemeral")
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert named == ("TpmEphemeralEncryptionKey", hashlib.sha256(spki).hexdigest())


class TestAdmission:
    """Nobody believes Microsoft for want of a rule."""

    @pytest.mark.parametrize("rules", [None, AppraisalPolicy(), policy(issuers=())])
    def test_no_policy_admits_none(self, rules: AppraisalPolicy | None) -> None:
        """Without a listed instance every token is refused, by name."""
        refused(judge(GOOD, policy=rules), Reason.MAA_NOT_ALLOWED)

    @pytest.mark.parametrize(
        "issuer",
        [
            ISSUER + "/",
            ISSUER.upper(),
            ISSUER + ".evil.example",
            "https://other.eus.attest.azure.net",
            "http" + ISSUER[5:],
            "",
        ],
    )
    def test_another_issuer(self, issuer: str) -> None:
        """The exact URL, whoever signed."""
        refused(judge(token(guest() | {"iss": issuer})), Reason.TOKEN_ISSUER)

    @pytest.mark.parametrize(
        "issuer",
        ["http://a.example", "https://a", "https://a.example/", "https://a.example/x", "a"],
    )
    def test_a_policy_lists_urls(self, issuer: str) -> None:
        """What could never be an issuer is a mistake in the policy."""
        with pytest.raises(ValueError, match="URLs like"):
            MaaRules(issuers=(issuer,))

    def test_attestation_types(self) -> None:
        """A policy may admit one of the two."""
        refused(judge(GOOD, policy=policy(attestation_types=("tdxvm",))), Reason.KIND_MISMATCH)

    def test_through_the_front_door(self) -> None:
        """`appraise` judges it as kind `maa`, and takes no parts or endorsements of others."""

        def front(evidence: Evidence, endorsements: Any, **more: Any) -> AttestationResult:
            asked: dict[str, Any] = {"policy": POLICY, "report_data": None, "nonce": NONCE}
            return appraise(evidence, endorsements, now=NOW, **asked | more)

        amd = SnpEndorsements(vek=b"", ask=b"", ark=b"", crl=None)
        maa = Evidence("maa", GOOD)
        assert front(maa, key_set()).verdict is Verdict.ACCEPT
        refused(front(maa, None), Reason.COLLATERAL_MISSING)
        refused(front(maa, amd), Reason.KIND_MISMATCH)
        refused(front(Evidence("maa", GOOD, event_log=b"x"), key_set()), Reason.KIND_MISMATCH)
        refused(front(Evidence("azure-snp", hcl_report=b"x"), key_set()), Reason.KIND_MISMATCH)
        refused(front(maa, key_set(), policy=None), Reason.MAA_NOT_ALLOWED)
        bound = front(maa, key_set(), nonce=None, report_data=bytes(64))
        refused(bound, Reason.NONCE_MISMATCH)

    def test_references(self) -> None:
        """A reference has the values of its type, and at least the launch's."""
        good: dict[str, Any] = {"launch_measurement": Hex(LAUNCH)}
        MaaReference("x", "sevsnpvm", **good)
        for kind, fields in (
            ("sevsnpvm", {}),
            ("tdxvm", {}),
            ("tdxvm", good),
            ("sevsnpvm", good | {"rtmr0": Hex(bytes(48))}),
            ("sevsnpvm", {"launch_measurement": Hex(bytes(32))}),
            ("tdxvm", {"mr_td": Hex(MR_TD), "host_data": Hex(bytes(32))}),
        ):
            with pytest.raises(ValueError, match=r"required|other|bytes"):
                MaaReference("x", kind, **fields)  # type: ignore[arg-type]


class TestSignature:
    """RS256 by a key of the pinned instance's set, whatever the token says."""

    @pytest.mark.parametrize("algorithm", ["none", "HS256", "RS512", "PS256", "ES256", None, 3])
    def test_the_algorithm_is_fixed(self, algorithm: object) -> None:
        """No other, however it is signed."""
        refused(judge(token(guest(), alg=algorithm)), Reason.SIGNATURE_INVALID)

    def test_none_without_a_signature(self) -> None:
        """An unsigned token is no token."""
        header = b64encode(json.dumps({"alg": "none", "kid": KID}).encode())
        raw = f"{header}.{b64encode(json.dumps(guest()).encode())}.".encode()
        refused(judge(raw), Reason.SIGNATURE_INVALID)

    def test_hs256_with_the_public_key(self) -> None:
        """A MAC under the public key's PEM, or under the certificate."""
        pem = (
            key()
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        for secret in (pem, base64.b64decode(certificate(key()))):
            header = b64encode(json.dumps({"alg": "HS256", "kid": KID}).encode())
            part = f"{header}.{b64encode(json.dumps(guest()).encode())}".encode()
            mac = b64encode(hmac.digest(secret, part, "sha256")).encode()
            refused(judge(part + b"." + mac), Reason.SIGNATURE_INVALID)

    def test_another_key(self) -> None:
        """Somebody else's signature under the right name."""
        refused(judge(token(guest(), key("stranger"))), Reason.SIGNATURE_INVALID)

    def test_an_unknown_key(self) -> None:
        """A kid that the set does not have; and none at all."""
        refused(judge(token(guest(), kid="other")), Reason.TOKEN_KEY_UNKNOWN)
        refused(judge(token(guest(), kid=None)), Reason.MALFORMED)

    def test_the_named_key_and_no_other(self) -> None:
        """A token signed by another key of the same set than it names is refused."""
        other = with_certificate(key("other"), kid="other")
        refused(
            judge(token(guest(), kid="other"), key_set(with_certificate(key()), other)),
            Reason.SIGNATURE_INVALID,
        )

    @pytest.mark.parametrize("place", ["https://evil.example/certs", ISSUER + "/certs/", 7, None])
    def test_jku_is_not_followed(self, place: object) -> None:
        """The instance's own or none; another place is refused, and never asked."""
        raw = token(guest(), jku=place)
        if place is None:
            assert judge(raw).verdict is Verdict.ACCEPT
        else:
            refused(judge(raw), Reason.TOKEN_ISSUER)

    @pytest.mark.parametrize("member", ["x5u", "x5c", "x5t", "jwk", "crit", "zip"])
    def test_headers_bring_no_keys(self, member: str) -> None:
        """Keys and extensions in the header are refused."""
        brought = [certificate(key("stranger"))]
        refused(judge(token(guest(), key("stranger"), **{member: brought})), Reason.MALFORMED)

    @given(st.integers(0, len(GOOD) * 8 - 1))
    @settings(max_examples=120, deadline=None)
    def test_no_flipped_bit_is_accepted(self, bit: int) -> None:
        """Anywhere in the token."""
        raw = bytearray(GOOD)
        raw[bit // 8] ^= 1 << bit % 8
        assert judge(bytes(raw)).verdict is not Verdict.ACCEPT

    @given(st.integers(0, len(GOOD) - 1))
    @settings(max_examples=60, deadline=None)
    def test_no_cut_token_is_accepted(self, length: int) -> None:
        """At any length, with our own error."""
        assert judge(GOOD[:length]).verdict is not Verdict.ACCEPT

    def test_a_token_is_bounded(self) -> None:
        """What is too large is not taken apart."""
        refused(judge(bytes(MAX_TOKEN + 1)), Reason.TOO_LARGE)


GOOD_KEYS: list[Callable[[], dict[str, Any]]] = [
    lambda: jwk(key()),
    lambda: jwk(key(), use="sig", alg="RS256"),
    lambda: with_certificate(key()),
    lambda: jwk(key(), x5c=[certificate(key())]),
    lambda: with_certificate(key(), certificate(key(), key("ca")), certificate(key("ca"))),
]


BAD_KEYS: list[Callable[[], dict[str, Any]]] = [
    lambda: jwk(key(), n=None),
    lambda: jwk(key(), n=None, e=None),
    lambda: jwk(key(), kty="EC"),
    lambda: jwk(key(), e=number(3)),
    lambda: jwk(key(), e=number(1)),
    lambda: jwk(key(), e="AA"),
    lambda: jwk(key("small", 1024)),
    lambda: jwk(key(), n="!"),
    lambda: jwk(key(), n=7),
    lambda: jwk(key(), d="AA"),
    lambda: jwk(key(), use="enc"),
    lambda: jwk(key(), alg="PS256"),
    lambda: jwk(key(), x5c=[]),
    lambda: jwk(key(), x5c="x"),
    lambda: jwk(key(), x5c=[7]),
    lambda: jwk(key(), x5c=["!"]),
    lambda: jwk(key(), x5c=["AA=="]),
    lambda: jwk(key(), x5c=[certificate(key()) + "\n"]),
    lambda: jwk(key(), x5c=[certificate(key())] * 6),
    lambda: jwk(key(), x5c=[certificate(key("other"))]),
    lambda: with_certificate(key(), certificate(key("small", 1024))),
    lambda: with_certificate(key(), kty="EC"),
    lambda: with_certificate(key(), certificate(key()), certificate(key("ca"))),
]


class TestKeys:
    """The set as Azure serves it: certificates, or modulus and exponent."""

    @pytest.mark.parametrize("place", range(len(GOOD_KEYS)))
    def test_every_form(self, place: int) -> None:
        """Bare, certified, both, or under a chain."""
        assert judge(GOOD, key_set(GOOD_KEYS[place]())).verdict is Verdict.ACCEPT

    @pytest.mark.parametrize("place", range(len(BAD_KEYS)))
    def test_no_other(self, place: int) -> None:
        """Weak keys, private ones, foreign certificates, chains that do not follow."""
        refused(judge(GOOD, key_set(BAD_KEYS[place]())), Reason.COLLATERAL_MALFORMED)

    def test_other_keys_of_the_set_are_not_looked_at(self) -> None:
        """A key of a kind that nobody uses does not spoil the set."""
        odd = {"kid": "odd", "kty": "EC", "crv": "P-521"}
        assert judge(GOOD, key_set(odd, with_certificate(key()))).verdict is Verdict.ACCEPT

    @pytest.mark.parametrize(
        "raw", [b"", b"{}", b'{"keys":[]}', b'{"keys":[{"kid":"a"},{"kid":"a"}]}', b"\xff"]
    )
    def test_what_is_no_set(self, raw: bytes) -> None:
        """Empty, double, or no JSON."""
        refused(judge(GOOD, keys.MaaKeys(raw)), Reason.COLLATERAL_MALFORMED)
        refused(judge(GOOD, keys.MaaKeys(bytes(keys.MAX_JWKS + 1))), Reason.TOO_LARGE)

    def test_certificates_have_dates(self) -> None:
        """An ended certificate is refused, and a current one ends the verdict."""
        ended = with_certificate(key(), certificate(key(), end=NOW - 1))
        refused(judge(GOOD, key_set(ended)), Reason.CERTIFICATE_EXPIRED)
        soon = with_certificate(key(), certificate(key(), end=NOW + 5))
        assert judge(GOOD, key_set(soon)).expires == NOW + 5


class TestDates:
    """From `nbf` and `iat` to before `exp`."""

    @pytest.mark.parametrize(
        ("changes", "now", "reason"),
        [
            ({}, NOW - 61, Reason.TOKEN_NOT_YET_VALID),
            ({"nbf": NOW + 1}, NOW, Reason.TOKEN_NOT_YET_VALID),
            ({"iat": NOW + 1}, NOW, Reason.TOKEN_NOT_YET_VALID),
            ({}, NOW + 28_800, Reason.TOKEN_EXPIRED),
            ({"exp": NOW}, NOW, Reason.TOKEN_EXPIRED),
        ],
    )
    def test_not_now(self, changes: dict[str, int], now: int, reason: Reason) -> None:
        """Early and late are told apart."""
        refused(judge(token(guest() | changes), now=now), reason)

    @pytest.mark.parametrize("value", [None, "1800000000", 1.8e9, True, -1, 253_402_300_800, []])
    @pytest.mark.parametrize("name", ["iat", "nbf", "exp"])
    def test_times_are_integers(self, name: str, value: object) -> None:
        """Nothing else is a time."""
        refused(judge(token(guest() | {name: value})), Reason.MALFORMED)


class TestBinding:
    """For whoever asked."""

    @pytest.mark.parametrize("form", [guest, direct])
    def test_another_nonce(self, form: Callable[[], dict[str, Any]]) -> None:
        """Whole, and equal."""
        for nonce in (b"other", NONCE[:-1], NONCE + b"\0", b""):
            refused(judge(token(form()), nonce=nonce), Reason.NONCE_MISMATCH)

    @pytest.mark.parametrize("value", [None, "", "!", "AA", 7, {}, "YQ"])
    def test_a_nonce_that_cannot_be_read(self, value: object) -> None:
        """Not base64 in its one spelling: no nonce."""
        told = guest()
        told["x-ms-runtime"]["client-payload"]["nonce"] = value
        refused(judge(token(told)), Reason.NONCE_MISMATCH)

    def test_no_nonce_in_the_token(self) -> None:
        """A token without one is nobody's."""
        told = guest()
        del told["x-ms-runtime"]["client-payload"]
        refused(judge(token(told)), Reason.NONCE_MISMATCH)
        told["x-ms-runtime"] = "x"
        refused(judge(token(told)), Reason.NONCE_MISMATCH)

    def test_both_nonces_must_be_ours(self) -> None:
        """Where the token carries two, one of them does not do."""
        assert judge(token(guest() | {"nonce": NONCE.decode()})).verdict is Verdict.ACCEPT
        refused(judge(token(guest() | {"nonce": "other"})), Reason.NONCE_MISMATCH)
        refused(judge(token(guest() | {"nonce": 7})), Reason.NONCE_MISMATCH)

    def test_without_a_nonce(self) -> None:
        """Refused; or told as not judged, if the caller says so aloud."""
        refused(judge(GOOD, nonce=None), Reason.NONCE_MISSING)
        result = judge(GOOD, nonce=None, nonce_required=False)
        assert result.verdict is Verdict.ACCEPT
        assert [check.ok for check in result.checks if check.name == "nonce"] == [None]

    @pytest.mark.parametrize("kind", ["sevsnpvm", "tdxvm"])
    def test_runtime_data_bind_a_direct_token(self, kind: str) -> None:
        """Their hash stands in the hardware's report, their content in the token."""
        raw = token(direct(kind))
        assert judge(raw, runtime_data=RUNTIME_DATA, nonce=None).verdict is Verdict.ACCEPT
        refused(judge(raw, runtime_data=RUNTIME_DATA + b" "), Reason.REPORT_DATA_MISMATCH)
        refused(judge(raw, runtime_data=b"no JSON"), Reason.REPORT_DATA_MISMATCH)
        shown = direct(kind)
        shown["x-ms-runtime"]["who"] = "them"
        refused(judge(token(shown), runtime_data=RUNTIME_DATA), Reason.REPORT_DATA_MISMATCH)

    def test_runtime_data_do_not_bind_guest_attestation(self) -> None:
        """There the report carries the paravisor's claims, whatever their hash."""
        refused(judge(GOOD, runtime_data=RUNTIME_DATA), Reason.REPORT_DATA_MISMATCH)

    def test_a_direct_token_without_report_data(self) -> None:
        """An absent claim binds nothing."""
        told = direct()
        del told["x-ms-sevsnpvm-reportdata"]
        refused(judge(token(told), runtime_data=RUNTIME_DATA), Reason.REPORT_DATA_MISMATCH)


FLAGS = {
    "x-ms-azurevm-debuggersdisabled": False,
    "x-ms-azurevm-bootdebug-enabled": True,
    "x-ms-azurevm-kerneldebug-enabled": True,
    "x-ms-azurevm-hypervisordebug-enabled": True,
    "x-ms-azurevm-testsigning-enabled": True,
}
TEE: list[tuple[str, str, Any, Reason]] = [
    ("sevsnpvm", "x-ms-sevsnpvm-is-debuggable", True, Reason.DEBUG_ENABLED),
    ("tdxvm", "tdx_td_attributes_debug", True, Reason.DEBUG_ENABLED),
    ("sevsnpvm", "x-ms-compliance-status", "azure-signed-uvm", Reason.MAA_NOT_COMPLIANT),
    ("tdxvm", "x-ms-compliance-status", ["azure-compliant-cvm"], Reason.MAA_NOT_COMPLIANT),
    ("sevsnpvm", "x-ms-sevsnpvm-migration-allowed", True, Reason.MIGRATION_ALLOWED),
    ("sevsnpvm", "x-ms-sevsnpvm-vmpl", 1, Reason.VMPL),
    ("sevsnpvm", "x-ms-sevsnpvm-vmpl", -1, Reason.VMPL),
    ("sevsnpvm", "x-ms-sevsnpvm-vmpl", False, Reason.VMPL),
    ("tdxvm", "attester_tcb_status", "OutOfDate", Reason.TCB_STATUS),
    ("tdxvm", "attester_tcb_status", ["UpToDate"], Reason.TCB_STATUS),
    ("sevsnpvm", "x-ms-sevsnpvm-launchmeasurement", "00" * 48, Reason.MEASUREMENT_UNKNOWN),
    ("sevsnpvm", "x-ms-sevsnpvm-hostdata", "00" * 32, Reason.MEASUREMENT_UNKNOWN),
    ("tdxvm", "tdx_mrtd", "00" * 48, Reason.MEASUREMENT_UNKNOWN),
    ("tdxvm", "tdx_rtmr0", "11" * 48, Reason.MEASUREMENT_UNKNOWN),
]


class TestMachine:
    """Debug, compliance, Secure Boot, TCB and measurements; absent is refused like bad."""

    @pytest.mark.parametrize("form", [guest, direct])
    @pytest.mark.parametrize(("kind", "name", "value", "reason"), TEE)
    def test_the_hardwares_part(
        self,
        form: Callable[[str], dict[str, Any]],
        kind: str,
        name: str,
        value: Any,
        reason: Reason,
    ) -> None:
        """Each claim, bad and absent."""
        for change in (lambda tee: tee.update({name: value}), lambda tee: tee.pop(name)):
            told = form(kind)
            change(told.get("x-ms-isolation-tee", told))
            refused(judge(token(told)), reason)

    @pytest.mark.parametrize("name", FLAGS)
    def test_debug_in_the_guest(self, name: str) -> None:
        """Debuggers, test signing: off, and said to be off."""
        for told in (guest() | {name: FLAGS[name]}, guest() | {name: "false"}):
            refused(judge(token(told)), Reason.DEBUG_ENABLED)
        told = guest()
        del told[name]
        refused(judge(token(told)), Reason.DEBUG_ENABLED)

    def test_debug_may_be_admitted(self) -> None:
        """For tests without secrets; then the vector says that it was not asked."""
        told = guest()
        told["x-ms-isolation-tee"]["x-ms-sevsnpvm-is-debuggable"] = True
        result = judge(token(told), policy=policy(allow_debug=True))

        assert result.verdict is Verdict.ACCEPT
        vector = table.vector("maa", result.checks, tcb_status=None, simulated=False)
        assert vector.tier() is Tier.WARNING

    @pytest.mark.parametrize("value", [False, None, "true", 1])
    def test_secure_boot(self, value: object) -> None:
        """On by every claim that speaks of it."""
        top, inner, own = guest(), guest(), direct()
        top["secureboot"] = value
        inner["x-ms-isolation-tee"]["x-ms-runtime"]["vm-configuration"]["secure-boot"] = value
        own["x-ms-runtime"]["vm-configuration"] = {"secure-boot": value}
        for told in (top, inner, own):
            refused(judge(token(told)), Reason.VM_CONFIGURATION)
            admitted = judge(token(told), policy=policy(require_secure_boot=False))
            assert admitted.verdict is Verdict.ACCEPT

    def test_rules_for_reports_hold_as_far_as_they_can(self) -> None:
        """A floor for parts of a TCB that nobody can compare is a refusal, not a pass."""

        def judged(**rules: Any) -> AttestationResult:
            return judge(
                GOOD,
                policy=AppraisalPolicy(
                    maa=POLICY.maa, reference=POLICY.reference, snp=SnpRules(**rules)
                ),
            )

        refused(judged(products=("Milan",)), Reason.PLATFORM_NOT_ALLOWED)
        assert judged(min_tcb={"Genoa": SnpTcb(snp=23)}).verdict is Verdict.ACCEPT
        assert judged(min_tcb={"Milan": SnpTcb(snp=99)}).verdict is Verdict.ACCEPT
        for floor in (SnpTcb(snp=24), SnpTcb(tee=1), SnpTcb(fmc=1)):
            refused(judged(min_tcb={"Genoa": floor}), Reason.TCB_BELOW_MINIMUM)
        refused(judged(min_guest_svn=8), Reason.TCB_BELOW_MINIMUM)
        assert judged(min_guest_svn=7).verdict is Verdict.ACCEPT
        told = guest()
        del told["x-ms-isolation-tee"]["x-ms-sevsnpvm-chip-family"]
        assert judge(token(told)).verdict is Verdict.ACCEPT
        floors = SnpRules(min_tcb={"Genoa": SnpTcb()})
        strict = AppraisalPolicy(maa=POLICY.maa, reference=POLICY.reference, snp=floors)
        refused(judge(token(told), policy=strict), Reason.PLATFORM_NOT_ALLOWED)
        told = guest()
        told["x-ms-isolation-tee"]["x-ms-sevsnpvm-migration-allowed"] = True
        told["x-ms-isolation-tee"]["x-ms-sevsnpvm-vmpl"] = 2
        rules = SnpRules(allow_migration_agent=True, max_vmpl=2)
        wide = AppraisalPolicy(maa=POLICY.maa, reference=POLICY.reference, snp=rules)
        assert judge(token(told), policy=wide).verdict is Verdict.ACCEPT
        del told["x-ms-isolation-tee"]["x-ms-sevsnpvm-guestsvn"]
        assert judge(token(told), policy=wide).verdict is Verdict.ACCEPT

    def test_a_status_may_be_admitted(self) -> None:
        """By the same rule as for quotes; the result says which it is."""
        told = direct("tdxvm") | {"attester_tcb_status": "OutOfDate"}
        rules = TdxRules(tcb_statuses=(TcbStatus.OUT_OF_DATE,))
        result = judge(
            token(told),
            policy=AppraisalPolicy(maa=POLICY.maa, reference=POLICY.reference, tdx=rules),
        )
        assert (result.verdict, result.tcb_status) == (Verdict.ACCEPT, TcbStatus.OUT_OF_DATE)

    def test_no_reference(self) -> None:
        """A policy without references for this type knows no machine."""
        for reference in ((), POLICY.reference[1:]):
            bare = AppraisalPolicy(maa=POLICY.maa, reference=reference)
            refused(judge(GOOD, policy=bare), Reason.NO_REFERENCE_VALUES)

    def test_the_vector_of_a_good_machine(self) -> None:
        """Microsoft's word for hardware and debug, a reference for what was launched."""
        result = judge(GOOD)
        vector = table.vector("maa", result.checks, tcb_status=None, simulated=False)
        said = (vector.hardware, vector.configuration, vector.executables, vector.runtime_opaque)
        assert said == (2, 2, 3, 2)


class TestClaims:
    """What a token may not look like."""

    @pytest.mark.parametrize("name", ["iss", "exp", "x-ms-attestation-type", "secureboot"])
    def test_members_that_stand_twice(self, name: str) -> None:
        """At the top, and in the hardware's part."""
        raw = json.dumps(guest())
        doubled = raw.replace(f'"{name}":', f'"{name}": 1, "{name}":', 1)
        refused(judge(token(doubled.encode())), Reason.MALFORMED)
        inner = raw.replace(
            '"x-ms-sevsnpvm-vmpl":', '"x-ms-sevsnpvm-vmpl": 3, "x-ms-sevsnpvm-vmpl":'
        )
        refused(judge(token(inner.encode())), Reason.MALFORMED)

    @pytest.mark.parametrize("value", ["sgx", "azurevm", None, 7, [], {}, "openenclave"])
    def test_other_attestation_types(self, value: object) -> None:
        """Neither on top nor inside."""
        inner = guest()
        inner["x-ms-isolation-tee"]["x-ms-attestation-type"] = value
        for told in (direct() | {"x-ms-attestation-type": value}, inner):
            result = judge(token(told))
            assert result.verdict is Verdict.UNSUPPORTED
        without = guest()
        del without["x-ms-isolation-tee"]
        assert judge(token(without)).verdict is Verdict.UNSUPPORTED

    @pytest.mark.parametrize(
        "change",
        [
            {"iss": None},
            {"iss": [ISSUER]},
            {"pi": 3.14},
            {"x-ms-runtime": {"keys": {}}},
            {"x-ms-runtime": {"keys": [{}] * 17}},
            {"x-ms-runtime": {"keys": [7]}},
            {"x-ms-runtime": {"keys": [{"kid": 7}]}},
            {"x-ms-runtime": {"keys": [{"kid": "a"}, {"kid": "a"}]}},
            {"x-ms-runtime": {"keys": [{"kid": "a", "kty": "RSA", "n": "AQAB", "e": "AQAB"}]}},
            {"x-ms-sevsnpvm-launchmeasurement": "00"},
            {"x-ms-sevsnpvm-launchmeasurement": "zz" * 48},
            {"x-ms-sevsnpvm-launchmeasurement": " ".join(["00"] * 48)},
            {"x-ms-sevsnpvm-launchmeasurement": 7},
        ],
    )
    def test_malformed(self, change: dict[str, Any]) -> None:
        """Types, lengths and numbers; one of them wrong refuses the token."""
        refused(judge(token(direct() | change)), Reason.MALFORMED)

    def test_keys_of_other_kinds_are_named(self) -> None:
        """Without a digest, for we do not read them."""
        told = guest()
        told["x-ms-runtime"]["keys"] = [{"kid": "ec", "kty": "EC"}]
        assert judge(token(told)).claims["maa_keys"] == {"ec": None}

    @given(st.binary(max_size=200))
    @settings(max_examples=60, deadline=None)
    def test_nothing_but_our_own_error(self, raw: bytes) -> None:
        """Arbitrary payloads, well signed, and arbitrary tokens."""
        assert judge(token(raw)).verdict is not Verdict.ACCEPT
        assert judge(raw).verdict is not Verdict.ACCEPT

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=6),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(sorted(guest())), inner, max_size=4)
            ),
            max_leaves=12,
        )
    )
    @settings(max_examples=100, deadline=None)
    def test_any_shape_of_claims(self, told: Any) -> None:
        """Whatever stands where, it is read or refused."""
        try:
            claims.parse(json.dumps(told).encode())
        except VerifierError:
            return
