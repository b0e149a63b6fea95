"""The self-test against real keys of SoftHSM that are badly made, each in its own way."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag
from pkcs11.types import Session

from broker.hsm import forbidden, keys, selftest
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.home import HsmHome
from broker.hsm.pkcs11 import Mapper, Module, find_module, handle_of
from broker.hsm.token import Token
from tests.kit.hsm import Prepared, ready, run, worker
from tests.kit.hsm_token import opened

pytestmark = pytest.mark.softhsm

G = bytes(range(32))


def _bench(session: Session) -> tuple[Any, Any]:
    dek = session.generate_key(
        KeyType.AES, 256, capabilities=MechanismFlag(0), template=keys.DEK_TEMPLATE
    )
    thief = session.generate_key(KeyType.AES, 256, capabilities=MechanismFlag.WRAP)
    return dek, thief


BAD_KEKS: dict[str, tuple[dict[str, Any], str]] = {
    "no unwrap template": ({"unwrap_template": None}, "let us unwrap with CKA_SENSITIVE=False"),
    "template without sensitive": (
        {"unwrap_template": {Attribute.EXTRACTABLE: True}},
        "let us unwrap with CKA_SENSITIVE=False",
    ),
    "readable": ({"sensitive": False, "extractable": True}, "let us read CKA_VALUE"),
    "extractable": ({"extractable": True}, "let us wrap it out"),
    "decrypts": ({"decrypt": True, "allowed_mechanisms": None}, "let us decrypt a blob"),
    "encrypts": ({"encrypt": True, "allowed_mechanisms": None}, "let us encrypt"),
    "modifiable": ({"modifiable": True}, "let us set CKA_"),
    "does not unwrap": ({"unwrap": False}, "unwraps it again failed"),
}

BAD_PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "no unwrap template": ({"unwrap_template": None}, "let us unwrap with CKA_SENSITIVE=False"),
    "decrypts": ({"decrypt": True}, "let us decrypt"),
    "decrypts by PKCS#1 v1.5": (
        {"decrypt": True, "allowed_mechanisms": None},
        "let us decrypt",
    ),
    "any mechanism": ({"allowed_mechanisms": None}, "let us unwrap by PKCS#1 v1.5"),
    "signs": ({"sign": True, "allowed_mechanisms": None}, "let us sign"),
    "readable": ({"sensitive": False, "extractable": True}, "let us read the private exponent"),
}


def test_each_bad_kek_and_import_key_is_caught_in_the_act(hsm_home: Callable[..., Path]) -> None:
    """No attempt of the self-test is vacuous: for each there is a key on which it succeeds."""
    with opened(hsm_home()) as session:
        dek, thief = _bench(session)
        wanted = keys.Wanted(b"bad", "bad", store=False)
        for name, (changes, said) in BAD_KEKS.items():
            kek = keys.make_kek(session, wanted, **changes)
            with pytest.raises(HsmError, match=said) as caught:
                forbidden.check_kek(kek, dek, thief, name, change=True)
            assert caught.value.reason is HsmReason.SELF_TEST
        for name, (changes, said) in BAD_PAIRS.items():
            pair = keys.make_import_pair(session, wanted, 2048, **changes)
            with pytest.raises(HsmError, match=said) as caught:
                forbidden.check_import(pair, thief, "sha1", name, change=True)
            assert caught.value.reason is HsmReason.SELF_TEST
        good = keys.make_kek(session, wanted)
        assert forbidden.check_kek(good, dek, thief, "good", change=True)


def test_a_real_kek_must_say_of_itself_what_it_should(hsm_home: Callable[..., Path]) -> None:
    """Every attribute of every stored key is read and compared."""
    key_id = keys.kek_id(G, 1, simulated=True)
    wrong: tuple[dict[str, Any], ...] = (
        {"extractable": True},
        {"sensitive": False},
        {"decrypt": True},
        {"encrypt": True},
        {"derive": True},
        {"sign": True},
        {"modifiable": True},
        {"copyable": True},
        {"allowed_mechanisms": None},
    )
    with opened(hsm_home()) as session:
        for changes in wrong:
            kek = keys.make_kek(session, keys.Wanted(key_id, "bad"), **changes)
            with pytest.raises(HsmError, match=r"CKA_\w+ (is|cannot)") as caught:
                forbidden.check_attributes(kek, key_id, "a KEK")
            assert caught.value.reason is HsmReason.SELF_TEST
            kek.destroy()
        keys.make_kek(session, keys.Wanted(key_id, "bad"), decrypt=True)
        with pytest.raises(HsmError, match="CKA_DECRYPT is True, must be False"):
            selftest.run(session)


def test_a_key_that_is_none_of_ours_is_refused(hsm_home: Callable[..., Path]) -> None:
    """A stranger in the token is not served beside."""
    with opened(hsm_home()) as session:
        session.generate_key(KeyType.AES, 256, id=b"someone", label="x", store=True)

        with pytest.raises(HsmError, match="none of ours"):
            selftest.run(session)


@pytest.mark.parametrize("kind", ["kek", "import"])
def test_a_worker_refuses_to_serve_a_token_with_a_bad_key(
    hsm_home: Callable[..., Path], kind: str
) -> None:
    """A stored key without its unwrap template, which no attribute shows, stops the start."""
    home = hsm_home()
    with opened(home) as session:
        if kind == "kek":
            wanted = keys.Wanted(keys.kek_id(G, 1, simulated=True), "bad")
            keys.make_kek(session, wanted, unwrap_template=None)
        else:
            wanted = keys.Wanted(keys.import_id(G, bytes(16)), "bad")
            keys.make_import_pair(session, wanted, 2048, unwrap_template=None)

    async def attempt() -> HsmError:
        async with worker(home) as client:
            with pytest.raises(HsmError) as caught:
                await client.info()
            return caught.value

    error = run(attempt())
    assert error.reason is HsmReason.SELF_TEST
    assert "unwrap with CKA_SENSITIVE=False" in error.detail


def test_every_real_key_stands_in_the_report(enrolled_home: Callable[[], Prepared]) -> None:
    """`info` shows a line for each key of the token and what was tried on it."""
    prepared = enrolled_home()

    async def look() -> tuple[str, ...]:
        async with worker(prepared.home) as client:
            await ready(client, prepared)
        async with worker(prepared.home) as client:
            return (await client.info()).checks

    checks = run(look())
    for kind in (keys.KEK, keys.IMPORT, keys.LOG, keys.BROKER):
        assert any(f"key {kind.hex()}" in line and "refused to" in line for line in checks), kind


def test_a_missing_mechanism_is_named(
    hsm_home: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the token lacks is refused by its PKCS#11 name, never replaced."""
    monkeypatch.setattr(selftest, "NEEDED", (*selftest.NEEDED, Mechanism.ML_KEM))
    with opened(hsm_home()) as session, pytest.raises(HsmError, match="CKM_ML_KEM") as caught:
        selftest.run(session)

    assert caught.value.reason is HsmReason.UNSUPPORTED


def test_the_token_logs_in_again_after_it_was_lost(enrolled_home: Callable[[], Prepared]) -> None:
    """A token that dropped its login, or all its sessions, is opened again and serves on."""
    place = HsmHome(enrolled_home().home)
    token = Token(place, find_module(), place.read_marker().label)
    try:
        key_id = keys.broker_id(simulated=True)
        before = token.sign(key_id, b"message")
        token._module.logout(handle_of(token._session))
        assert token.sign(key_id, b"message") == before
        token._module.finalize()
        token._module.initialize()
        assert token.sign(key_id, b"message") == before
    finally:
        token.close()


def test_an_object_is_found_only_if_there_is_exactly_one(hsm_home: Callable[..., Path]) -> None:
    """No key, or two of the same CKA_ID and class, is fatal; nothing is picked."""
    key_id = keys.kek_id(G, 1, simulated=True)
    with opened(hsm_home()) as session:
        for count in (0, 2):
            for _ in range(count):
                keys.make_kek(session, keys.Wanted(key_id, "twin"))
            with pytest.raises(HsmError, match=f"has {count} SECRET_KEY") as caught:
                keys.find_one(session, keys.MUST[keys.KEK][Attribute.CLASS], key_id)
            assert caught.value.reason is HsmReason.TOKEN_MISSING


def test_threads_do_not_crash_the_module(hsm_home: Callable[..., Path]) -> None:
    """With OS locking, four threads with sessions of their own sign at once and all is right."""
    with opened(hsm_home()) as session:
        signatures: list[bytes] = []

        def sign() -> None:
            own = session.token.open(rw=True, attribute_mapper=Mapper())
            key_id = keys.broker_id(simulated=True)
            (key,) = keys.find(own, keys.MUST[keys.BROKER][Attribute.CLASS], key_id)
            signatures.extend(key.sign(b"text", mechanism=Mechanism.EDDSA) for _ in range(150))
            own.close()

        threads = [threading.Thread(target=sign) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert len(signatures) == 600
        assert len(set(signatures)) == 1


def test_a_module_that_is_not_there_says_what_to_install(tmp_path: Path) -> None:
    """A wrong path, or a file that is no module, is `unsupported` with words to act on."""
    for path in (tmp_path / "none.so", tmp_path / "text.so"):
        if path.name == "text.so":
            path.write_bytes(os.urandom(64))
        with pytest.raises(HsmError) as caught:
            Module(find_module(str(path)))
        assert caught.value.reason is HsmReason.UNSUPPORTED
        assert str(path) in caught.value.detail
