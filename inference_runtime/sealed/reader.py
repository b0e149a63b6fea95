"""Reading a sealed file at any offset, without opening the rest of it.

Guarantees: every byte that is returned was authenticated at its place, and the file ends where the
reader says it ends. Does not compare the whole file with the digest in the manifest, so it does not
hold against someone who once had the data key: weights are loaded through `open.py`, which does.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import final

from inference_runtime.sealed.layout import HEADER, Layout
from inference_runtime.sealed.pipeline import Buffers, Slot, default_threads, in_order
from inference_runtime.sealed.secret import SecretKey
from inference_runtime.sealed.source import Source, fetch
from inference_runtime.sealed.stream import SegmentCipher, split


@final
class SealedReader:
    """One sealed file, open for reads at any offset. Safe to use from several threads."""

    def __init__(self, source: Source, name: str, dek: SecretKey, associated: bytes) -> None:
        """Open `name` of `source` and authenticate its end.

        Args:
            source: where the sealed bytes are.
            name: name in the source, such as `files/model.gguf`.
            dek: the data key; needed only during this call.
            associated: see `stream.associated_data`.

        Raises:
            RuntimeFault: any of the `sealed_...` codes but the digest's, or `source_unavailable`.
        """
        self._source = source
        self._name = name
        self._layout = Layout.of_sealed(source.size(name), name)
        header = fetch(source, name, (0, HEADER), memoryview(bytearray(HEADER)))
        self._cipher = SegmentCipher(dek, bytes(header), associated, name)
        # A file cut at a segment's edge has a possible size; only its last flag gives it away.
        buffers = Buffers(1)
        slot = buffers.take()
        self._segment(self._layout.count - 1, slot, slot.plain)
        buffers.wipe()

    @property
    def size(self) -> int:
        """Bytes of the plaintext."""
        return self._layout.size

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` plaintext bytes from `offset`, fewer only at the file's end.

        Raises:
            RuntimeFault: `sealed_truncated`, `sealed_segment` or what the source raises.
            ValueError: on a negative offset or length.
        """
        if length < 0:
            raise ValueError("negative length")
        buffer = bytearray(max(0, min(length, self.size - offset)))
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview, *, threads: int | None = None) -> int:
        """Fill `buffer` with plaintext from `offset`; return the bytes, fewer only at the end.

        Whole segments are decrypted straight into `buffer`, such as a mapped memfd.

        Args:
            offset: in plaintext bytes.
            buffer: writable bytes.
            threads: how many work at once when more than one segment is needed.

        Raises:
            RuntimeFault: `sealed_truncated`, `sealed_segment` or what the source raises; what
                is in `buffer` then is authentic or zeros, but not all of it was filled.
            ValueError: on a negative offset.
        """
        if offset < 0:
            raise ValueError("negative offset")
        end = min(self.size, offset + len(buffer))
        wanted = self._layout.covering(offset, end)
        count = min(threads or default_threads(), len(wanted))
        buffers = Buffers(max(1, count))

        def part(index: int, slot: Slot) -> None:
            self._part(index, slot, offset, buffer[: end - offset])

        try:
            if count <= 1:
                in_order(None, buffers, wanted, part, lambda _, __: None)
            else:
                with ThreadPoolExecutor(count, thread_name_prefix="sealed-read") as pool:
                    in_order(pool, buffers, wanted, part, lambda _, __: None)
        finally:
            buffers.wipe()
        return max(0, end - offset)

    def _part(self, index: int, slot: Slot, offset: int, buffer: memoryview) -> None:
        """Put what segment `index` has of the plaintext from `offset` on at its place."""
        start, length = self._layout.plain(index)
        end = offset + len(buffer)
        if offset <= start and start + length <= end:
            self._segment(index, slot, buffer[start - offset : start - offset + length])
            return
        self._segment(index, slot, slot.plain)
        first, stop = max(start, offset), min(start + length, end)
        buffer[first - offset : stop - offset] = slot.plain[first - start : stop - start]

    def _segment(self, index: int, slot: Slot, out: memoryview) -> None:
        layout = self._layout
        sealed = fetch(self._source, self._name, layout.sealed(index), slot.sealed)
        plain = out[: layout.plain(index)[1]]
        self._cipher.open(index, split(sealed, index), plain, last=layout.last(index))
