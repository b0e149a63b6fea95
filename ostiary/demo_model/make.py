"""Writes the demo model's folder: the GGUF file, its configuration and a note.

Guarantees: the folder is complete when the function returns; an existing file is replaced, never
mixed with a new one. Does not seal anything: the folder is the vendor's plaintext.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Final

import gguf
import numpy as np

from ostiary.demo_model.bpe import Tokenizer, train
from ostiary.demo_model.shape import DEMO_SHAPE, Shape, tensors

MODEL_FILE: Final = "model.gguf"
MERGES: Final = 448
BEGIN, END, UNUSED = "<|begin|>", "<|end|>", "<|unused|>"
ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>")
CONTROL: Final = (BEGIN, END, UNUSED, *ROLES)

CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)

_NOTE: Final = """\
# Ostiary demo model

A Llama-architecture model with a trained tokenizer and random weights. It was made to be sealed,
released and served, not to be right: it answers any question with a salad of words.
"""


def make_demo_model(
    folder: Path, *, seed: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Make the demo model in `folder` (made if absent): about 2 million weights, 4 MB.

    Args:
        folder: where `model.gguf`, `config.json` and `README.md` are written.
        seed: a number for the same model again; without it the weights are fresh.
        progress: called with (steps done, steps in all).

    Returns:
        The path of the GGUF file.

    Raises:
        OSError: the folder cannot be written.
    """
    shape = DEMO_SHAPE
    steps = MERGES + 9 * shape.layers + 3

    def merged(done: int, _: int) -> None:
        if progress is not None:
            progress(done, steps)

    text = files("ostiary.demo_model").joinpath("corpus.txt").read_text(encoding="utf-8")
    tokenizer = train(text, MERGES, progress=merged)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / MODEL_FILE
    partial = folder / f".{MODEL_FILE}.partial"
    rng = np.random.default_rng(secrets.randbits(128) if seed is None else seed)
    _write_gguf(
        partial,
        shape=shape,
        tokenizer=tokenizer,
        text=text,
        rng=rng,
        progress=progress,
        steps=steps,
    )
    partial.replace(target)
    (folder / "config.json").write_text(_config(shape, tokenizer), encoding="utf-8")
    (folder / "README.md").write_text(_NOTE, encoding="utf-8")
    return target


def _tokens(tokenizer: Tokenizer) -> list[str]:
    return [*tokenizer.tokens, *CONTROL]


def _write_gguf(
    path: Path,
    *,
    shape: Shape,
    tokenizer: Tokenizer,
    text: str,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
    steps: int,
) -> None:
    tokens = _tokens(tokenizer)
    ids = {token: number for number, token in enumerate(tokens)}
    writer = gguf.GGUFWriter(os.fspath(path), "llama")
    writer.add_name("Ostiary demo")
    writer.add_license("Apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in CONTROL else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    writer.add_bos_token_id(ids[BEGIN])
    writer.add_eos_token_id(ids[END])
    writer.add_pad_token_id(ids[UNUSED])
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
    # The end is not among them: random weights would stop anywhere, also before the first word.
    spoken = set(tokenizer.encode(text))
    unused = [number for number in range(len(tokens)) if number not in spoken]
    done = MERGES
    for name, tensor in tensors(shape, len(tokens), unused, rng):
        writer.add_tensor(name, tensor)
        done += 1
        if progress is not None:
            progress(done, steps)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _config(shape: Shape, tokenizer: Tokenizer) -> str:
    """Return the `config.json` that model folders usually carry, for tools that look for one."""
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "max_position_embeddings": shape.context,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_base,
        "torch_dtype": "float16",
        "vocab_size": len(_tokens(tokenizer)),
    }
    return json.dumps(fields, indent=2) + "\n"
