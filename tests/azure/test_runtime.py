"""The claims: strict JSON, one HCLAkPub, one reading of its key, settings that are booleans."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.simulator.azure import base64url, encoded
from tests.kit.azure import jwk, runtime
from tests.kit.measured import rsa_key
from verifier.azure.runtime import MAX_CLAIMS, parse
from verifier.errors import Reason, VerifierError

ODD = jwk()["n"]


def refused(raw: bytes) -> Reason:
    with pytest.raises(VerifierError) as caught:
        parse(raw)
    return caught.value.reason


def key(**changes: Any) -> bytes:
    told = {name: value for name, value in (jwk() | changes).items() if value is not None}
    return encoded(runtime(keys=[told]))


def test_good_claims() -> None:
    """Key, settings and user data are read; what has no meaning here is shown."""
    told = parse(encoded(runtime(user_data="AB" * 64, other={"deep": [1, None]})))

    assert told.ak.key == rsa_key().public_key()
    assert told.key_ids == ("HCLAkPub", "HCLEkPub")
    assert told.configuration.secure_boot
    assert told.user_data == b"\xab" * 64
    assert told.told["other"] == {"deep": [1, None]}
    assert "keys" not in told.told


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    """Bytes that are no claims are refused, by our error."""
    assert refused(raw) is Reason.MALFORMED


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(("kid", "n", "e", "kty", "key_ops", "secure-boot")), inner
            )
        ),
        max_leaves=8,
    ),
    st.sampled_from(("keys", "vm_configuration", "user_data")),
)
def test_any_member(value: Any, name: str) -> None:
    """A member of any other shape is refused, by our error."""
    assert refused(encoded(runtime() | {name.replace("_", "-"): value})) in {
        Reason.MALFORMED,
        Reason.AK_REFUSED,
    }


def test_every_length() -> None:
    """Claims cut anywhere are refused."""
    raw = encoded(runtime())
    for length in range(len(raw)):
        assert refused(raw[:length]) is Reason.MALFORMED


@pytest.mark.parametrize(
    "raw",
    [
        encoded([]),
        encoded(runtime(keys=None)),
        encoded(runtime(vm_configuration=None)),
        encoded(runtime(user_data=None)),
        encoded(runtime()).replace(b'"user-data":', b'"user-data":"","user-data":'),
        encoded(runtime()).replace(b'"secure-boot":', b'"secure-boot":false,"secure-boot":'),
        encoded(runtime()).replace(b'"e":', b'"e":"Aw","e":'),
        encoded(runtime(extra=1.5)),
        encoded(runtime(extra=float("nan"))),
        encoded(runtime(extra=float("inf"))),
        encoded(runtime(extra="x")).replace(b'"x"', b'"\xff"'),
        encoded(runtime()) + b" {}",
        b"[" * 9000,
        encoded(runtime(extra=0)).replace(b'"extra":0', b'"extra":' + b"9" * 5000),
    ],
)
def test_json_that_is_not_strict(raw: bytes) -> None:
    """Keys twice, numbers with two readings, other encodings and depth are refused."""
    assert refused(raw) is Reason.MALFORMED


def test_size() -> None:
    """Claims are read up to a bound."""
    assert refused(encoded(runtime(extra="x" * MAX_CLAIMS))) is Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ([], Reason.AK_REFUSED),
        ([jwk("HCLEkPub")], Reason.AK_REFUSED),
        ([jwk("hclakpub")], Reason.AK_REFUSED),
        ([jwk(), jwk()], Reason.AK_REFUSED),
        ([jwk(), jwk("other"), jwk()], Reason.AK_REFUSED),
        ([jwk(), jwk("other"), jwk("other")], Reason.AK_REFUSED),
        ([jwk(str(number)) for number in range(9)], Reason.MALFORMED),
        ([jwk(), "HCLEkPub"], Reason.MALFORMED),
        ([jwk(), {}], Reason.MALFORMED),
        ([jwk() | {"kid": 1}], Reason.MALFORMED),
        ({"HCLAkPub": jwk()}, Reason.MALFORMED),
    ],
)
def test_keys(keys: Any, reason: Reason) -> None:
    """HCLAkPub is there exactly once, and no other name twice."""
    assert refused(encoded(runtime(keys=keys))) is reason


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "EC"},
        {"kty": None},
        {"key_ops": ["encrypt"]},
        {"key_ops": ["sign", "encrypt"]},
        {"key_ops": []},
        {"key_ops": None},
        {"d": "AQAB"},
        {"alg": "none"},
        {"e": "Aw"},
        {"e": "AAEAAQ"},
        {"e": "AQAB="},
        {"e": 65537},
        {"n": ""},
        {"n": None},
        {"n": ODD + "="},
        {"n": ODD + "=="},
        {"n": ODD[:-1]},
        {"n": ODD[:-2]},
        {"n": ODD + "A"},
        {"n": "AAAA" + ODD},
        {"n": ODD[:-1] + chr(ord(ODD[-1]) + 1)},
        {"n": ODD[:20] + "+" + ODD[21:]},
        {"n": ODD[:20] + " " + ODD[20:]},
        {"n": base64url(b"\x80" + bytes(255))},
        {"n": base64url(bytes(255) + b"\x01")},
        {"n": jwk(key=rsa_key(3072))["n"]},
        {"n": jwk(key=rsa_key(1024))["n"]},
    ],
)
def test_a_key_that_is_refused(changes: dict[str, Any]) -> None:
    """HCLAkPub is RSA, 2,048 bits, e = 65537, for signing, in its one spelling."""
    assert refused(key(**changes)) is Reason.AK_REFUSED


@pytest.mark.parametrize("name", ["secure-boot", "console-enabled", "tpm-enabled"])
@pytest.mark.parametrize("value", ["true", 1, None, "absent"])
def test_settings(name: str, value: Any) -> None:
    """A setting that is missing or no boolean is refused: absent is not false."""
    told = runtime()
    told["vm-configuration"][name] = value
    if value == "absent":
        del told["vm-configuration"][name]

    assert refused(encoded(told)) is Reason.MALFORMED


@pytest.mark.parametrize(
    "value",
    ["", "00" * 63, "00" * 65, "ab" * 64, "0" * 127, "0x" + "00" * 63, "\u0660" * 128, 0, []],
)
def test_user_data(value: Any) -> None:
    """User data is 64 bytes of upper-case hex."""
    assert refused(json.dumps(runtime(user_data=value)).encode()) is Reason.MALFORMED
