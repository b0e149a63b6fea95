"""The worker's operations: what is checked, in which order it is stored, and when a key moves.

Guarantees: nothing is signed for a log but a consistent extension, and its head is on disk before
the signature leaves; no key moves but for a permit that was checked and burnt, on disk, before. One
thread runs it, so that check, burn and move see one state. Does not speak to sockets (`server.py`)
nor know PKCS#11 (`token.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import Final, Literal, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pkcs11 import ObjectClass

from broker.hsm import answer, extension, keys, permit, protocol, result
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.forbidden import Oaep
from broker.hsm.home import Marker
from broker.hsm.state import HeadRow, TenantRow, WorkerState
from broker.hsm.tenant import Tenant, read_genesis, refused
from broker.hsm.token import Token
from verifier import dsse
from verifier.ear import keys as ear_keys
from verifier.ear import token as ear_token
from verifier.errors import VerifierError
from verifier.tlog import note
from verifier.tlog.checkpoint import Checkpoint
from verifier.wire import canonical
from verifier.wire.documents import STATEMENT_TYPE, ImportStatement
from verifier.wire.messages import ANSWER_TYPE, DIGEST

ROTATION: Final = 900
"""Seconds that a challenge key is the newest. It counts for as long again, as the second."""

_TREE: Final = 16
_FIRST_KEK: Final = 1

Mode = Literal["same-user", "separate-user"]


@final
class Service:
    """The open worker: token, state, and the challenge keys, which live in memory alone."""

    def __init__(  # noqa: D417 - the rest is said by their types
        self,
        marker: Marker,
        token: Token,
        state: WorkerState,
        *,
        mode: Mode,
        hardening: Sequence[str],
        uptime: Callable[[], float],
    ) -> None:
        """Take over an open token and state.

        Args:
            uptime: seconds since any fixed moment, never going back; rotates challenge keys.

        Raises:
            HsmError: `token_missing` if the token is not the marker's.
        """
        self._token = token
        self._state = state
        self._simulated = marker.simulated
        self._uptime = uptime
        self._tenants: dict[bytes, Tenant] = {}
        self._heads: dict[bytes, HeadRow] = {}
        self._broker_key_id = keys.broker_id(simulated=marker.simulated)
        self._broker_spki = keys.ed25519_spki(token.public(self._broker_key_id))
        self._broker = keys.spki_digest(self._broker_spki)
        if self._broker != marker.broker:
            raise HsmError(
                HsmReason.TOKEN_MISSING, "the token's broker key is not the one of the ceremony"
            )
        self._result_key_id = keys.result_id(simulated=marker.simulated)
        result_spki = b""
        if marker.result is not None:
            result_spki = token.public_p256(self._result_key_id)
            if keys.spki_digest(result_spki) != marker.result:
                raise HsmError(
                    HsmReason.TOKEN_MISSING, "the token's result key is not the one of the ceremony"
                )
        for cka_id in state.unfinished_imports():  # a crash cut their making short
            token.destroy(cka_id)
            state.forget_import(cka_id)
        self._challenge_keys: tuple[tuple[int, bytes], ...] = (_challenge_key(frozenset()),)
        self._rotated = uptime()
        self._info = protocol.Info(
            mode=mode,
            label=marker.label,
            simulated=marker.simulated,
            oaep=token.passed.oaep,
            mechanisms=token.passed.mechanisms,
            broker_key=self._broker_spki,
            result_key=result_spki,
            checks=(*hardening, *token.passed.checks),
        )

    def info(self) -> protocol.Info:
        """Return what this worker is."""
        return self._info

    def begin_tenant(self, call: protocol.BeginTenant) -> protocol.Begun:
        """Make the log key of a tenant to be."""
        try:
            name = canonical.require_id(call.tenant, "tenant")
        except VerifierError as error:
            raise refused(error) from error
        row = self._state.tenant_named(name)
        if row is None:
            # A crash after this leaves a row without log key; the same call then makes the key.
            self._state.begin(name, secrets.token_bytes(_TREE))
            row = self._tenant_row(name)
        if row.g is not None:
            raise HsmError(HsmReason.EXISTS, f"tenant {name} is enrolled already")
        if row.log_key is not None:
            return protocol.Begun(row.tree, row.log_key)
        raw = self._token.make_signing_pair(keys.log_id(row.tree), f"ostiary log {name}")
        self._state.set_log_key(name, raw)
        return protocol.Begun(row.tree, raw)

    def enrol_tenant(self, call: protocol.EnrolTenant) -> protocol.Done:
        """Take a tenant's genesis and make its KEK."""
        genesis, payload = read_genesis(call.genesis)
        row = self._state.tenant_named(genesis.tenant)
        if row is None or row.log_key is None:
            raise HsmError(HsmReason.NOT_FOUND, f"tenant {genesis.tenant} was never begun")
        g = hashlib.sha256(payload).digest()
        if row.g is not None:
            if row.g == g:
                return protocol.Done()
            raise HsmError(HsmReason.EXISTS, f"tenant {genesis.tenant} has another genesis")
        for name, seen, own in (
            ("broker key", genesis.broker_key, self._broker_spki),
            ("broker", genesis.broker, self._broker),
            ("log key", genesis.log_key, row.log_key),
            ("tree", genesis.tree, row.tree),
            ("simulated", genesis.simulated, self._simulated),
        ):
            if seen != own:
                raise HsmError(HsmReason.REFUSED, f"the genesis names another {name} than ours")
        kek = keys.kek_id(g, _FIRST_KEK, simulated=self._simulated)
        # A crash after this leaves a KEK that no row names and nothing is wrapped under; made anew.
        self._token.make_kek(kek, f"ostiary kek {genesis.tenant} v{_FIRST_KEK}")
        self._state.enrol(genesis.tenant, g, payload, _FIRST_KEK)
        return protocol.Done()

    def begin_import_key(self, call: protocol.CreateImportKey) -> tuple[bytes, Callable[[], bytes]]:
        """Prepare an import pair: its CKA_ID, and what makes it, in any thread, and gives its SPKI.

        `finish_import_key` or `drop_import_key` must follow, here. A crash in between is cleared at
        the next start.
        """
        tenant = self._tenant(call.g)
        cka_id = keys.import_id(tenant.g, secrets.token_bytes(16))
        self._state.begin_import(cka_id, tenant.g)
        label = f"ostiary import {tenant.genesis.tenant}"
        return cka_id, lambda: self._token.make_import_pair(cka_id, label)

    def finish_import_key(self, cka_id: bytes, spki: bytes) -> protocol.ImportKeyMade:
        """Store that an import pair was made."""
        self._state.set_import(cka_id, keys.spki_digest(spki))
        return protocol.ImportKeyMade(spki)

    def drop_import_key(self, cka_id: bytes) -> None:
        """Clear away an import pair whose making failed."""
        self._token.destroy(cka_id)
        self._state.forget_import(cka_id)

    def destroy_import_key(self, call: protocol.DestroyImportKey) -> protocol.Done:
        """Destroy an import pair."""
        cka_id = self._import_id(self._tenant(call.g), call.spki)
        self._token.destroy(cka_id)
        # A crash between the two leaves a row without key: destroying it again deletes the row.
        self._state.forget_import(cka_id)
        return protocol.Done()

    def import_key(self, call: protocol.ImportKey) -> protocol.Imported:
        """Take in a DEK on the tenant's signed statement."""
        tenant = self._tenant(call.g)
        try:
            payload = tenant.signed(call.statement, STATEMENT_TYPE)
            statement = canonical.decode(payload, ImportStatement)
        except VerifierError as error:
            raise refused(error) from error
        if statement.genesis != tenant.g:
            raise HsmError(HsmReason.REFUSED, "the statement is of another tenant")
        if statement.ciphertext != hashlib.sha256(call.ciphertext).digest():
            raise HsmError(HsmReason.REFUSED, "the statement is of another ciphertext")
        import_id = self._import_id(tenant, statement.import_key)
        kek_id = keys.kek_id(tenant.g, tenant.kek, simulated=self._simulated)
        blob = self._token.import_dek(import_id, kek_id, call.ciphertext)
        return protocol.Imported(blob, tenant.kek)

    def extend(self, call: protocol.Extend) -> protocol.Extended:
        """Append to a tenant's log and sign its head."""
        tenant = self._tenant(call.g)
        head = self._head(tenant)
        # 1. The caller's log ends where ours does.
        if call.start != head.size:
            raise HsmError(HsmReason.HEAD_MISMATCH, "the log ends elsewhere", head.size)
        # 2. Every leaf may follow.
        grown = extension.extended(tenant, head, call.leaves)
        # 3. The token signs; until the head is stored, nobody has seen the signature.
        text = Checkpoint(tenant.origin, grown.size, grown.frontier.root()).text()
        log_key = keys.log_id(tenant.genesis.tree)
        signature = self._token.sign(log_key, text)
        try:
            Ed25519PublicKey.from_public_bytes(tenant.vkey.public).verify(signature, text)
        except InvalidSignature as error:
            raise HsmError(HsmReason.UNAVAILABLE, "the token's signature is wrong") from error
        checkpoint = note.assemble(text, [tenant.vkey.signature(signature)])
        new = HeadRow(grown.frontier, grown.epoch, grown.state, grown.time, checkpoint)
        # 4. The head is on disk. A crash after this: the caller asks for the head, and goes on.
        self._heads.pop(tenant.g, None)
        self._state.advance(tenant.g, head, new)
        self._heads[tenant.g] = new
        return protocol.Extended(checkpoint)

    def head(self, call: protocol.GetHead) -> protocol.Head:
        """Return where a tenant's log stands."""
        head = self._head(self._tenant(call.g))
        return protocol.Head(
            size=head.size,
            root=head.frontier.root(),
            epoch=head.epoch,
            state=head.state,
            time=head.time,
            checkpoint=head.checkpoint,
        )

    def release(
        self, calls: Sequence[protocol.Release]
    ) -> list[protocol.Released | protocol.Failure]:
        """Spend permits that came in together: check each, burn all at once, then move keys."""
        results: list[protocol.Released | protocol.Failure | None] = [None] * len(calls)
        permits: dict[int, permit.Permit] = {}
        # 1. Each permit holds.
        for place, call in enumerate(calls):
            try:
                tenant = self._tenant(call.g)
                permits[place] = permit.check(tenant, self._head(tenant), call)
            except HsmError as error:
                results[place] = protocol.Failure.of(error)
        # 2. They burn, on disk. A crash from here on over-reports: the leaf stands, no key moved.
        try:
            fresh = self._state.burn([(p.g, p.index) for p in permits.values()])
        except HsmError as error:
            failure = protocol.Failure.of(error)
            return [failure if result is None else result for result in results]
        # 3. Keys move, for permits that were not burnt before.
        for (place, held), unspent in zip(permits.items(), fresh, strict=True):
            results[place] = self._move(held) if unspent else _SPENT
        return [result for result in results if result is not None]

    def sign_answer(self, call: protocol.SignAnswer) -> protocol.Signed:
        """Sign a release or renewal answer with the broker's key."""
        found = answer.read(call.payload)
        answer.check(self._tenant(found.genesis), self._broker, found)
        message = dsse.pae(ANSWER_TYPE, call.payload)
        signature = self._token.sign(self._broker_key_id, message)
        signed = [(self._broker_spki, signature)]
        return protocol.Signed(dsse.seal(ANSWER_TYPE, call.payload, signed))

    def sign_result(self, call: protocol.SignResult) -> protocol.ResultSigned:
        """Write and sign a token about the result that a leaf names."""
        if not self._info.result_key:
            raise HsmError(
                HsmReason.UNSUPPORTED,
                "this home's ceremony was held before there was a key for results; none is made "
                "later, so this broker signs none",
            )
        ear = result.write(self._tenant(call.g), self._broker, call)
        try:
            kid = ear_keys.key_id(ear_keys.from_spki(self._info.result_key))
            part = ear_token.signed_part(ear, kid)
        except VerifierError as error:
            raise refused(error) from error
        signature = self._token.sign_es256(self._result_key_id, part)
        return protocol.ResultSigned(ear_token.assemble(part, signature))

    def challenge_keys(self) -> protocol.ChallengeKeys:
        """Return the challenge keys, after rotating them if it is time.

        They die with the process: after a restart older challenges are unknown, and asked anew.
        """
        age = self._uptime() - self._rotated
        if age >= ROTATION:
            newest = self._challenge_keys[0]
            fresh = _challenge_key(frozenset({newest[0]}))
            # Who asked for nothing during two rotations gets no key that should be forgotten.
            self._challenge_keys = (fresh, newest) if age < 2 * ROTATION else (fresh,)
            self._rotated, age = self._uptime(), 0.0
        return protocol.ChallengeKeys(self._challenge_keys, max(1, int(ROTATION - age)))

    def close(self) -> None:
        """Close token and state."""
        with contextlib.suppress(HsmError):
            self._token.close()
        self._state.close()

    def _move(self, held: permit.Permit) -> protocol.Released | protocol.Failure:
        blobs = [
            (keys.kek_id(held.g, kek, simulated=self._simulated), blob) for kek, blob in held.blobs
        ]
        try:
            wrapped = self._token.release(blobs, held.modulus)
        except HsmError as error:
            return protocol.Failure.of(error)
        return protocol.Released(_ALG[self._token.passed.oaep], wrapped)

    def _tenant(self, g: bytes) -> Tenant:
        tenant = self._tenants.get(g)
        if tenant is None:
            row = self._state.tenant(g) if len(g) == DIGEST else None
            if row is None or row.genesis is None or row.kek is None:
                raise HsmError(HsmReason.NOT_FOUND, "no tenant of this genesis is enrolled")
            try:
                tenant = Tenant.of(row.genesis, row.kek)
            except VerifierError as error:
                raise HsmError(HsmReason.STATE_MISSING, f"worker.db is damaged: {error}") from error
            if not self._token.has(
                ObjectClass.SECRET_KEY, keys.kek_id(g, tenant.kek, simulated=self._simulated)
            ):
                raise HsmError(
                    HsmReason.TOKEN_MISSING, f"the KEK of tenant {row.name} is not in the token"
                )
            self._tenants[g] = tenant
        return tenant

    def _tenant_row(self, name: str) -> TenantRow:
        row = self._state.tenant_named(name)
        if row is None:
            raise HsmError(HsmReason.UNAVAILABLE, "worker.db lost a row it had just stored")
        return row

    def _head(self, tenant: Tenant) -> HeadRow:
        head = self._heads.get(tenant.g)
        if head is None:
            head = self._heads[tenant.g] = self._state.head(tenant.g)
        return head

    def _import_id(self, tenant: Tenant, spki: bytes) -> bytes:
        cka_id = self._state.import_id(tenant.g, spki)
        if cka_id is None:
            raise HsmError(HsmReason.NOT_FOUND, "no such import key of this tenant")
        return cka_id


_ALG: Final[dict[Oaep, Literal["rsa-oaep-sha1", "rsa-oaep-sha256"]]] = {
    "sha1": "rsa-oaep-sha1",
    "sha256": "rsa-oaep-sha256",
}

_SPENT: Final = protocol.Failure(HsmReason.PERMIT_SPENT, "this leaf was released on before")


def _challenge_key(taken: frozenset[int]) -> tuple[int, bytes]:
    number = next(n for n in iter(lambda: secrets.randbits(32), -1) if n not in taken)
    return number, secrets.token_bytes(32)
