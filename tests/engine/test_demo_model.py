from __future__ import annotations

import asyncio
import json
from importlib.resources import files
from pathlib import Path

import gguf as gguf_format
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ostiary.demo_model import make_demo_model, make_safetensors_folder
from ostiary.demo_model.bpe import Tokenizer, byte_alphabet, train
from tests.kit.engine import running_engine

CORPUS = files("ostiary.demo_model").joinpath("corpus.txt").read_text(encoding="utf-8")
TOKENIZER = train(CORPUS, 448)


def test_the_byte_alphabet_names_every_byte_once() -> None:
    """The 256 bytes have 256 different printable letters."""
    alphabet = byte_alphabet()

    assert len(set(alphabet)) == 256
    assert all(letter.isprintable() and not letter.isspace() for letter in alphabet)


def test_training_learns_whole_words_of_the_text() -> None:
    """Frequent words of the corpus become single tokens, and the text gets much shorter."""
    assert len(TOKENIZER.merges) == 448
    assert len(set(TOKENIZER.tokens)) == 256 + 448
    assert len(TOKENIZER.encode(" keeper")) == 1
    assert len(TOKENIZER.encode(CORPUS)) < len(CORPUS.encode()) / 2


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_every_text_decodes_to_itself(text: str) -> None:
    """Byte-level encoding loses nothing, whatever the text."""
    assert text.encode() == TOKENIZER.decode(TOKENIZER.encode(text))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200), st.integers(0, 20))
def test_training_takes_any_text(text: str, merges: int) -> None:
    """Training on any text gives a tokenizer that is lossless on it."""
    tokenizer = train(text, merges)

    assert len(tokenizer.merges) <= merges
    assert text.encode() == tokenizer.decode(tokenizer.encode(text))


def test_a_seed_gives_the_same_model_and_no_seed_a_fresh_one(tmp_path: Path) -> None:
    """The model is reproducible with a seed, and only then."""
    same = [make_demo_model(tmp_path / name, seed=7).read_bytes() for name in "ab"]
    fresh = [make_demo_model(tmp_path / name).read_bytes() for name in "cd"]

    assert same[0] == same[1]
    assert fresh[0] != fresh[1]
    assert same[0] != fresh[0]


def test_the_folder_holds_a_llama_gguf_with_template_and_a_few_files(tmp_path: Path) -> None:
    """The GGUF reads back as a llama model of a few million weights; progress reaches its end."""
    seen: list[tuple[int, int]] = []
    path = make_demo_model(
        tmp_path, seed=1, progress=lambda done, steps: seen.append((done, steps))
    )
    reader = gguf_format.GGUFReader(path)

    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["tokenizer.ggml.model"].contents() == "gpt2"
    assert len(reader.fields["tokenizer.ggml.merges"].contents()) == 448
    assert "<|assistant|>" in reader.fields["tokenizer.chat_template"].contents()
    assert 1_000_000 < sum(tensor.n_elements for tensor in reader.tensors) < 4_000_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.gguf"]
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].contents())
    assert vocabulary == json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    "text",
    [
        "The ostiary kept the door and the keys.",
        "An eighth button? Don't guess: it's 12 o'clock,  and\n\n  the door stays shut!",
        "Schlüssel, clé, ключ, 鍵 \U0001f511 _under_score_",
    ],
)
def test_the_engine_reads_the_tokenizer_as_we_trained_it(gguf: Path, text: str) -> None:
    """llama.cpp splits a text into exactly the tokens that our own encoder gives."""

    async def tokens() -> list[int]:
        async with running_engine(gguf) as engine:
            address = engine.address
            transport = httpx.AsyncHTTPTransport(uds=address.uds)
            headers = {"authorization": f"Bearer {address.api_key}"}
            async with httpx.AsyncClient(transport=transport, headers=headers) as client:
                answer = await client.post(
                    f"{address.base_url}/tokenize", json={"content": text, "add_special": False}
                )
                found: list[int] = answer.json()["tokens"]
                return found

    assert TOKENIZER.encode(text) == asyncio.run(tokens())


def test_an_untrained_tokenizer_is_bytes() -> None:
    """Without merges each byte is a token."""
    assert Tokenizer(()).encode("ü") == [0xC3, 0xBC]


@pytest.mark.parametrize("shards", [1, 3])
def test_the_safetensors_folder_is_read_by_its_own_library(tmp_path: Path, shards: int) -> None:
    """Every tensor that the index names lies in its shard, and the sizes add up."""
    index = make_safetensors_folder(tmp_path, shards=shards, seed=3)
    document = json.loads(index.read_text())
    found = {
        name: (path.name, tensor)
        for path in tmp_path.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }

    assert document["weight_map"] == {name: file for name, (file, _) in found.items()}
    assert document["metadata"]["total_size"] == sum(t.nbytes for _, t in found.values())
    assert shards == len(set(document["weight_map"].values()))


@pytest.mark.parametrize("shards", [0, 1000])
def test_more_shards_than_tensors_are_refused(tmp_path: Path, shards: int) -> None:
    """A shard without a tensor is not written."""
    with pytest.raises(ValueError, match="shards must be"):
        make_safetensors_folder(tmp_path, shards=shards)
