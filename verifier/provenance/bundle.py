"""Verify a Sigstore bundle offline, with the library `sigstore` (extra `provenance`).

Guarantees: the certificate chains to the trusted root and was valid at a time that a transparency
log or a timestamp authority vouches for; the log's proof, its signed checkpoint and the certificate
log's promise hold; the signature covers exactly what is returned. Beyond the library: every key of
the trusted root counts only for the times it was valid, and no time may lie after `now`, so that
the machine's clock changes nothing. No network, no update of roots, no file.

Does not tell whether the signer was the right one: that is `judge`.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.provenance import certificate, statement
from verifier.provenance.signed import MAX_BUNDLE, MAX_ROOT, SIZES, Digest, Signed
from verifier.wire.framing import lp_list

_MAX_TIMES: Final = 8
_INSTANCES: Final = ("tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities")
_ALWAYS: Final = "1970-01-01T00:00:00Z"
_BROKEN: Final = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(RuntimeError, InvalidSignature, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.ExtensionNotFound, x509.InvalidVersion),
    x509.UnsupportedGeneralNameType,
)
"""What a library raises that trips over hostile input, beside its own errors."""


@final
class _Anyone:
    """The library's question whether the signer is the right one: asked later, in `judge`."""

    def verify(self, _: x509.Certificate) -> None:
        """Take any certificate that is genuine."""


def available() -> bool:
    """Tell whether the library is installed; the first call loads it, which takes a while."""
    try:
        _library()
    except VerifierError:
        return False
    return True


def verify(raw: bytes, trusted_root: bytes, *, now: int, cache: Cache | None = None) -> Signed:
    """Return what a bundle proves.

    Args:
        raw: the bundle, JSON (versions 0.1 to 0.3).
        trusted_root: Sigstore's TrustedRoot, JSON; the caller knows that it is the right one.
        now: unix seconds, UTC; nothing may have been signed after it.
        cache: kept by the caller to verify one bundle under one root once.

    Raises:
        VerifierError: `provenance_unavailable` without the library, `provenance_root` for a root
            that cannot be used, `provenance_invalid` for anything else.
    """
    digest = hashlib.sha256(lp_list((raw, trusted_root))).digest()
    memory = Cache() if cache is None else cache
    signed = memory.recall(Signed, digest, partial(_verified, raw, trusted_root))
    if max(signed.times) > now:
        raise _invalid("signed later than now")
    return signed


def _verified(raw: bytes, trusted_root: bytes) -> Signed:
    """Return what a bundle proves, whatever the time is now."""
    models, verifying, errors = _library()
    if len(raw) > MAX_BUNDLE:
        raise _invalid(f"{len(raw)} bytes, limit {MAX_BUNDLE}")
    try:
        bundle = models.Bundle.from_json(raw)
        told = json.loads(bundle.to_json())
        times = _times(told)
        if not times or len(times) > _MAX_TIMES:
            raise _invalid(f"1 to {_MAX_TIMES} signed times expected, {len(times)} seen")
        checker = verifying.Verifier(trusted_root=_root(models, trusted_root, times))
        predicate, digests = _content(checker, bundle, told)
        signer = bundle.signing_certificate
        repository, ref = certificate.source(signer)
        return Signed(
            identity=certificate.identity(signer),
            issuer=certificate.issuer(signer),
            repository=repository,
            ref=ref,
            predicate_type=predicate,
            digests=digests,
            times=times,
        )
    except (errors.Error, *_BROKEN) as error:
        raise _invalid(str(error) or type(error).__name__) from error


def _library() -> tuple[Any, Any, Any]:
    names = ("models", "verify.verifier", "errors")
    try:
        models, verifying, errors = (importlib.import_module(f"sigstore.{name}") for name in names)
    except ImportError as error:
        raise VerifierError(
            Reason.PROVENANCE_UNAVAILABLE,
            "the library `sigstore` is not installed: install ostiary[provenance]",
        ) from error
    return models, verifying, errors


def _times(told: dict[str, Any]) -> tuple[int, ...]:
    """Return every time at which the bundle says that it was signed.

    A time that nobody signed may stand here: it can only narrow which keys count.
    """
    material = told["verificationMaterial"]
    found = [int(entry.get("integratedTime") or 0) for entry in material["tlogEntries"]]
    stamps = (material.get("timestampVerificationData") or {}).get("rfc3161Timestamps") or ()
    if stamps:
        timestamps = importlib.import_module("rfc3161_client")
        for stamp in stamps:
            response = timestamps.decode_timestamp_response(
                base64.b64decode(stamp["signedTimestamp"])
            )
            found.append(int(response.tst_info.gen_time.timestamp()))
    return tuple(time for time in found if time)


def _root(models: Any, raw: bytes, times: tuple[int, ...]) -> Any:  # noqa: ANN401 - the library's types
    """Return the trusted root, without whatever was not valid at each of the times.

    Raises:
        VerifierError: `provenance_root`.
    """
    try:
        if len(raw) > MAX_ROOT:
            raise _bad_root(f"{len(raw)} bytes, limit {MAX_ROOT}")
        told = json.loads(raw)
        for name in _INSTANCES:
            told[name] = [each for each in told.get(name) or [] if _valid(each, times)]
        root = importlib.import_module("sigstore_models.trustroot.v1")
        return models.TrustedRoot(root.TrustedRoot.from_json(json.dumps(told)))
    except _BROKEN as error:
        raise _bad_root(str(error)) from error


def _valid(instance: Any, times: tuple[int, ...]) -> bool:  # noqa: ANN401 - vendor JSON
    """Tell whether a key or authority was valid at all times.

    Its window is judged here and then opened: the library would ask the machine's clock.
    """
    holder = instance.get("publicKey") or instance
    window = holder["validFor"]
    first = _seconds(window["start"])
    last = _seconds(window["end"]) if window.get("end") else None
    holder["validFor"] = {"start": _ALWAYS}
    return all(first <= time and (last is None or time <= last) for time in times)


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _content(
    checker: Any,  # noqa: ANN401 - the library's types
    bundle: Any,  # noqa: ANN401
    told: dict[str, Any],
) -> tuple[str | None, frozenset[Digest]]:
    """Verify the signature and return what it is over: a statement's subjects, or one digest."""
    message = told.get("messageSignature")
    if message is None:
        kind, payload = checker.verify_dsse(bundle, _Anyone())
        if kind != statement.PAYLOAD_TYPE:
            raise _invalid(f"a payload of type {kind}")
        return statement.parse(payload)
    named = message.get("messageDigest") or {}
    digest = base64.b64decode(named.get("digest") or "")
    if named.get("algorithm") != "SHA2_256" or len(digest) != SIZES["sha256"]:
        raise _invalid("a signature over a SHA-256 digest that it names expected")
    hashes = importlib.import_module("sigstore.hashes")
    hashed = hashes.Hashed(algorithm=hashes.HashAlgorithm.SHA2_256, digest=digest)
    checker.verify_artifact(hashed, bundle, _Anyone())
    return None, frozenset({("sha256", digest)})


def _invalid(message: str) -> VerifierError:
    return VerifierError(Reason.PROVENANCE_INVALID, f"bundle: {' '.join(message.split())[:500]}")


def _bad_root(message: str) -> VerifierError:
    return VerifierError(Reason.PROVENANCE_ROOT, f"trusted root: {' '.join(message.split())[:500]}")
