"""Tink's own Python, reading the same sealed bytes: the peer of `decrypt`.

Guarantees: it runs as fast as its interface allows: pieces of one segment (asked for everything at
once it is five times slower), and nothing is kept of what it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, Final, final

import tink
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

_TYPE: Final = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"
_PIECE: Final = 1 << 20


@final
class TinkReader:
    """Tink's streaming AEAD over a raw data key; the key type is that of SPEC.md 3.1."""

    def __init__(self, dek: bytes) -> None:
        """Make a keyset of one key with the output prefix RAW."""
        streaming_aead.register()
        params = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
            ciphertext_segment_size=_PIECE,
            derived_key_size=32,
            hkdf_hash_type=common_pb2.SHA256,
        )
        key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
            version=0, key_value=dek, params=params
        )
        data = tink_pb2.KeyData(
            type_url=_TYPE,
            value=key.SerializeToString(),
            key_material_type=tink_pb2.KeyData.SYMMETRIC,
        )
        entry = tink_pb2.Keyset.Key(
            key_data=data,
            status=tink_pb2.ENABLED,
            key_id=1,
            output_prefix_type=tink_pb2.RAW,
        )
        keyset = tink_pb2.Keyset(primary_key_id=1, key=[entry]).SerializeToString()
        handle: Any = tink.proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
        self._primitive = handle.primitive(streaming_aead.StreamingAead)

    def read(self, sealed: BinaryIO, associated: bytes, take: Callable[[bytes], object]) -> None:
        """Decrypt all of `sealed`; `take` gets the plaintext piece by piece."""
        with self._primitive.new_decrypting_stream(sealed, associated) as stream:
            while piece := stream.read(_PIECE):
                take(piece)
