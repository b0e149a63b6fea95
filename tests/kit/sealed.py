"""Sealed models for tests: a folder to seal, a source that lies, and Tink as the peer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.open import OpenedModel, open_model
from inference_runtime.sealed.seal import ModelName, SealedModel, seal_model
from inference_runtime.sealed.secret import SecretKey
from verifier import dsse

GENESIS = bytes(range(32))
NAME = ModelName("tiny-llama", 1, GENESIS, "tiny-llama", 1)
SEGMENT = 1 << 20


def pattern(size: int, seed: int = 1) -> bytes:
    """Return `size` bytes that differ from segment to segment."""
    block = bytes((i * 7 + seed) & 0xFF for i in range(65_521))  # a prime: never in step with 1 MiB
    return (block * (size // len(block) + 1))[:size]


class MemorySource:
    """A sealed model in a dictionary, to be tampered with. Implements the real `Source`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    @classmethod
    def of(cls, folder: Path) -> MemorySource:
        """Return the sealed model in `folder`."""
        found = (path for path in folder.rglob("*") if path.is_file())
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in found})

    def size(self, name: str) -> int:
        return len(self._file(name))

    def read(self, name: str, offset: int, length: int) -> bytes:
        return self._file(name)[offset : offset + length]

    def _file(self, name: str) -> bytes:
        if name not in self.files:
            raise RuntimeFault(Fault.SEALED_MISSING, f"{name}: no such file")
        return self.files[name]


@dataclass
class Vendor:
    """A vendor with one signing key, and a data key that tests may read."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    raw_dek: bytes = bytes(range(100, 132))

    @cached_property
    def signers(self) -> list[bytes]:
        """The SPKI of the signing key, as readers want it."""
        return [dsse.spki(self.key.public_key())]

    def dek(self) -> SecretKey:
        """Return the data key, in a buffer of its own."""
        return SecretKey(bytearray(self.raw_dek))

    def sign(self, payload: bytes) -> bytes:
        """Sign a manifest's payload."""
        return dsse.sign(manifests.PAYLOAD_TYPE, payload, self.key)

    def seal(self, files: Mapping[str, bytes], where: Path, name: str = "model") -> SealedModel:
        """Write `files` below `where/name` and seal them into `where/name-sealed`."""
        folder = where / name
        for path, data in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return seal_model(folder, where / f"{name}-sealed", self.dek(), NAME, self.sign, threads=2)

    def open(self, sealed: SealedModel, source: MemorySource, threads: int = 2) -> OpenedModel:
        """Open `sealed` from `source` with everything that is expected of it."""
        return open_model(
            sealed.envelope,
            source,
            self.dek(),
            self.signers,
            1,
            expected_digest=sealed.digest,
            expected_genesis=GENESIS,
            threads=threads,
        )


class Tink:
    """Tink's own streaming AEAD over a raw data key, by way of a keyset of one RAW key."""

    def __init__(self, dek: bytes) -> None:
        import tink  # noqa: PLC0415 - heavy, and only two tests want it
        from tink import secret_key_access, streaming_aead  # noqa: PLC0415 - same
        from tink.proto import (  # noqa: PLC0415 - same
            aes_gcm_hkdf_streaming_pb2,
            common_pb2,
            tink_pb2,
        )

        streaming_aead.register()
        key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
            version=0,
            key_value=dek,
            params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
                ciphertext_segment_size=SEGMENT,
                derived_key_size=32,
                hkdf_hash_type=common_pb2.SHA256,
            ),
        )
        data = tink_pb2.KeyData(
            type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
            value=key.SerializeToString(),
            key_material_type=tink_pb2.KeyData.SYMMETRIC,
        )
        keyset = tink_pb2.Keyset(
            primary_key_id=1,
            key=[
                tink_pb2.Keyset.Key(
                    key_data=data,
                    status=tink_pb2.ENABLED,
                    key_id=1,
                    output_prefix_type=tink_pb2.RAW,
                )
            ],
        )
        handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
        self._primitive = handle.primitive(streaming_aead.StreamingAead)

    def seal(self, plain: bytes, associated: bytes) -> bytes:
        """Return what Tink makes of `plain`."""
        sink = io.BytesIO()
        keep = sink.close
        sink.close = lambda: None  # type: ignore[method-assign]  # Tink closes what it wrote to
        with self._primitive.new_encrypting_stream(sink, associated) as stream:
            stream.write(plain)
        sealed = sink.getvalue()
        keep()
        return sealed

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        """Return what Tink reads out of `sealed`; its own error if it refuses."""
        with self._primitive.new_decrypting_stream(io.BytesIO(sealed), associated) as stream:
            plain: bytes = stream.read()
        return plain
