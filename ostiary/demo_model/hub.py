"""The demo model as the folder that vLLM loads: safetensors, config, tokenizer, chat template.

Guarantees: the folder is one that a Llama-architecture loader of safetensors takes as it is, in the
usual layouts: one file or shards with an index, own or tied output embeddings, plain floats or
weights quantised to eight bits beforehand. With a seed the bytes are the same again.
Does not guarantee sense: nothing trained the weights.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from ostiary.demo_model.bpe import Tokenizer, train
from ostiary.demo_model.make import BEGIN, CHAT_TEMPLATE, CONTROL, END, MERGES, UNUSED
from ostiary.demo_model.shape import DEMO_SHAPE, Shape, tensors
from ostiary.demo_model.shards import Tensor, write_shards

_LAYER: Final[Mapping[str, str]] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP: Final[Mapping[str, str]] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LARGEST: Final = 127  # of a signed byte, symmetric


@final
@dataclass(frozen=True, slots=True)
class HubLayout:
    """How the checkpoint is laid out.

    `shards` 0 means one `model.safetensors` without an index. `tied` leaves the output embeddings
    out; `tied_with_head` says tied in the config and ships a head of its own all the same, which
    real checkpoints do. `quantised` stores the layers' matrices as int8 with a scale per row.
    """

    shards: int = 4
    tied: bool = False
    tied_with_head: bool = False
    quantised: bool = False


def make_hub_folder(
    folder: Path,
    *,
    layout: HubLayout | None = None,
    shape: Shape = DEMO_SHAPE,
    seed: int | None = None,
) -> Path:
    """Write the demo model into `folder` (made if absent) as vLLM and its relatives expect it.

    Args:
        folder: where the files go.
        layout: see `HubLayout`; four plain shards where none is given.
        shape: sizes of the model.
        seed: a number for the same bytes again; without it they are fresh.

    Returns:
        `folder`.

    Raises:
        ValueError: there are fewer tensors than shards.
        OSError: the folder cannot be written.
    """
    layout = layout or HubLayout()
    text = files("ostiary.demo_model").joinpath("corpus.txt").read_text(encoding="utf-8")
    tokenizer = train(text, MERGES)
    vocabulary = [*tokenizer.tokens, *CONTROL]
    ids = {token: number for number, token in enumerate(vocabulary)}
    spoken = set(tokenizer.encode(text))
    unused = [number for number in range(len(vocabulary)) if number not in spoken]
    rng = np.random.default_rng(secrets.randbits(128) if seed is None else seed)
    everything = [
        part
        for name, tensor in tensors(shape, len(vocabulary), unused, rng)
        for part in _renamed(name, tensor, layout)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, everything, layout.shards)
    for name, document in {
        "config.json": _config(shape, ids, layout),
        "generation_config.json": {"bos_token_id": ids[BEGIN], "eos_token_id": ids[END]},
        "tokenizer.json": _tokenizer(tokenizer, ids),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN,
            "eos_token": END,
            "pad_token": UNUSED,
            "model_max_length": shape.context,
            "clean_up_tokenization_spaces": False,
        },
    }.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder


def _renamed(name: str, tensor: Tensor, layout: HubLayout) -> Iterator[tuple[str, Tensor]]:
    """Give a tensor under the name that checkpoints on model hubs use."""
    if name in _TOP:
        if name != "output.weight" or not layout.tied:
            yield _TOP[name], tensor
        return
    _, number, part, _ = name.split(".")
    stem = f"model.layers.{number}.{_LAYER[part]}"
    if not layout.quantised or part.endswith("norm"):
        yield f"{stem}.weight", tensor
        return
    scale = np.abs(tensor.astype(np.float32)).max(axis=1, keepdims=True) / np.float32(_LARGEST)
    yield f"{stem}.weight", np.rint(tensor.astype(np.float32) / scale).astype(np.int8)
    yield f"{stem}.weight_scale", scale.astype(np.float32)


def _config(shape: Shape, ids: Mapping[str, int], layout: HubLayout) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": ids[BEGIN],
        "dtype": "float16",
        "eos_token_id": ids[END],
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": ids[UNUSED],
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_base,
        "tie_word_embeddings": layout.tied or layout.tied_with_head,
        "vocab_size": len(ids),
    }
    if layout.quantised:
        config["quantization_config"] = _INT8
    return config


# Weights by row beforehand, activations by token when they come: "W8A8" in the field's short.
_INT8: Final[Mapping[str, Any]] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


def _tokenizer(tokenizer: Tokenizer, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the `tokenizer.json` of a byte-level BPE, as the `tokenizers` library reads it."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": BEGIN, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {BEGIN: {"id": BEGIN, "ids": [ids[BEGIN]], "tokens": [BEGIN]}},
        },
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokenizer.tokens)},
            "merges": [f"{left} {right}" for left, right in tokenizer.merges],
        },
    }
