"""The shape of the demo model and its random tensors.

Guarantees: the tensors are those a Llama-architecture engine expects, by GGUF's names, in an order
that does not change. Does not know any file format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt


@final
@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama-architecture model: counts of elements, not bytes."""

    layers: int = 4
    width: int = 192
    heads: int = 6
    kv_heads: int = 2
    feed_forward: int = 512
    context: int = 8192
    norm_epsilon: float = 1e-5
    rope_base: float = 10_000.0

    @property
    def head_width(self) -> int:
        """Elements of one attention head."""
        return self.width // self.heads


DEMO_SHAPE: Final = Shape()


def tensors(
    shape: Shape, vocabulary: int, unused: list[int], rng: np.random.Generator
) -> Iterator[tuple[str, npt.NDArray[np.float32] | npt.NDArray[np.float16]]]:
    """Yield (GGUF name, tensor) for the whole model: matrices in f16, norms in f32.

    Args:
        shape: sizes.
        vocabulary: number of tokens.
        unused: token ids that the output layer scores with zero, below what the others reach,
            so that random weights do not choose bytes that never occur in text.
        rng: where the weights come from.

    Yields:
        Names as in `gguf`'s tensor map for the llama architecture; rows are outputs.
    """

    def matrix(rows: int, columns: int, gain: float = 1.0) -> npt.NDArray[np.float16]:
        scale = np.float32(gain / columns**0.5)
        return (rng.standard_normal((rows, columns), dtype=np.float32) * scale).astype(np.float16)

    def norm() -> npt.NDArray[np.float32]:
        return np.ones(shape.width, dtype=np.float32)

    kv_width = shape.kv_heads * shape.head_width
    # Embeddings near one per element, so that a token says more than the layers' noise.
    yield "token_embd.weight", matrix(vocabulary, shape.width, gain=shape.width**0.5)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", norm()
        yield f"{block}.attn_q.weight", matrix(shape.width, shape.width)
        yield f"{block}.attn_k.weight", matrix(kv_width, shape.width)
        yield f"{block}.attn_v.weight", matrix(kv_width, shape.width)
        yield f"{block}.attn_output.weight", matrix(shape.width, shape.width)
        yield f"{block}.ffn_norm.weight", norm()
        yield f"{block}.ffn_gate.weight", matrix(shape.feed_forward, shape.width)
        yield f"{block}.ffn_up.weight", matrix(shape.feed_forward, shape.width)
        yield f"{block}.ffn_down.weight", matrix(shape.width, shape.feed_forward)
    yield "output_norm.weight", norm()
    output = matrix(vocabulary, shape.width, gain=3.0)
    output[unused] = 0
    yield "output.weight", output
