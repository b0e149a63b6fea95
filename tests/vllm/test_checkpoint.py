"""Which files are weights, which are written, and what is refused by name."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.engine.protocol import EngineError, EngineFault
from inference_runtime.engine.vllm import checkpoint
from inference_runtime.sealed.layout import Layout
from inference_runtime.sealed.manifest import SealedFile
from verifier.wire.canonical import Hex

CONFIG = {"config.json": b'{"model_type":"llama"}'}
INDEX = "model.safetensors.index.json"


def files(*names: str, size: int = 100) -> list[SealedFile]:
    sealed = Layout.of(size).sealed_size
    return [SealedFile(name, size, sealed, Hex(bytes(32))) for name in names]


def index(*names: str) -> bytes:
    weight_map = {f"t{number}": name for number, name in enumerate(names)}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()


def refused(call: Any, *args: Any) -> EngineError:
    with pytest.raises(EngineError) as found:
        call(*args)
    return found.value


def test_small_files_are_the_known_kinds_at_the_top() -> None:
    """Configs, tokenizers and templates are small files; code, notes and folders are not."""
    there = ["config.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "a.tiktoken"]
    others = ["model.safetensors", "README.md", "modeling_x.py", "sub/config.json", "x.bin"]

    assert list(checkpoint.small_files(files(*there, *others))) == there


def test_a_model_without_a_config_is_refused() -> None:
    """`config.json` is what tells vLLM the architecture."""
    error = refused(checkpoint.small_files, files("tokenizer.json"))

    assert (error.fault, "config.json" in str(error)) == (EngineFault.BAD_MODEL, True)


def test_a_small_file_has_a_limit() -> None:
    """A file that is read into memory whole may not be of any size."""
    error = refused(checkpoint.small_files, files("config.json", size=checkpoint.MAX_SMALL + 1))

    assert "config.json" in str(error)


def test_without_an_index_every_safetensors_file_counts() -> None:
    """Shard 10 comes after shard 9, however the numbers are written."""
    names = ["m-10.safetensors", "m-9.safetensors", "config.json", "a/b.safetensors", "x.bin"]
    plan = checkpoint.plan(files(*names), CONFIG)

    assert plan.weights == ("m-9.safetensors", "m-10.safetensors")
    assert plan.small == ("config.json",)
    assert plan.left == ("a/b.safetensors", "x.bin")


def test_an_index_leaves_the_second_copy_out() -> None:
    """Weights that the index does not name repeat the same tensors in another layout."""
    there = files("config.json", INDEX, "a.safetensors", "consolidated.safetensors")
    plan = checkpoint.plan(there, CONFIG | {INDEX: index("a.safetensors", "a.safetensors")})

    assert plan.weights == ("a.safetensors",)
    assert plan.left == ("consolidated.safetensors",)


@pytest.mark.parametrize("name", ["b.safetensors", "../a.safetensors", "x.bin", "a\n.safetensors"])
def test_an_index_that_names_what_is_not_there_is_refused(name: str) -> None:
    """An index cannot send anybody to a file outside the manifest."""
    there = files("config.json", INDEX, "a.safetensors", "x.bin")
    error = refused(checkpoint.plan, there, CONFIG | {INDEX: index("a.safetensors", name)})

    assert error.fault is EngineFault.BAD_MODEL
    assert str(error).startswith(INDEX)
    assert str(error).isprintable()


@pytest.mark.parametrize("names", [(), ("model.bin",), ("model.gguf", "sub/m.safetensors")])
def test_a_model_without_safetensors_is_refused(names: tuple[str, ...]) -> None:
    """Formats that run code when they are read are no weights."""
    error = refused(checkpoint.plan, files("config.json", *names), CONFIG)

    assert error.fault is EngineFault.NO_MODEL


@pytest.mark.parametrize(
    "document",
    [
        {"auto_map": {"AutoModel": "modeling.Model"}},
        {"auto_map": "modeling.Model"},
        {"auto_map": ["a", None]},
        {"text_config": {"auto_map": {"AutoConfig": "c.C"}}},
        {"list": [1, {"auto_map": {}}]},
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_a_request_for_custom_code_is_refused_by_the_files_name(
    name: str, document: dict[str, Any]
) -> None:
    """`auto_map` anywhere in any document ends the start: its code would run in the ranks."""
    small = CONFIG | {name: json.dumps(document).encode()}
    error = refused(checkpoint.plan, files(*small, "m.safetensors"), small)

    assert error.fault is EngineFault.BAD_MODEL
    assert str(error).startswith(f"{name}: auto_map")


def test_a_word_of_that_name_in_a_vocabulary_is_no_request() -> None:
    """A token may be called auto_map: its value is a number."""
    small = CONFIG | {"vocab.json": b'{"auto_map": 17}'}

    assert checkpoint.plan(files(*small, "m.safetensors"), small).small == (
        "config.json",
        "vocab.json",
    )


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 100_000, b"\xff", b"{}{}"])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    """A document that cannot be looked into is not handed on."""
    error = refused(checkpoint.plan, files("config.json", "m.safetensors"), {"config.json": raw})

    assert (error.fault, str(error)) == (EngineFault.BAD_MODEL, "config.json: not JSON")


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["weight_map", "auto_map", "x"]), inner, max_size=3)
        ),
        max_leaves=10,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_index_is_a_plan_or_an_error_of_ours(raw: bytes) -> None:
    """Whatever an index holds, only files of the manifest come out of it."""
    there = files("config.json", INDEX, "a.safetensors")
    with suppress(EngineError):
        plan = checkpoint.plan(there, CONFIG | {INDEX: raw})
        assert plan.weights == ("a.safetensors",)


@given(st.binary(max_size=8), st.integers(0, 1 << 40))
def test_a_header_lies_inside_its_file(start: bytes, size: int) -> None:
    """A header's length is inside the file and below the format's limit, or refused."""
    with suppress(EngineError):
        length = checkpoint.header_length("m", start, size)
        assert 8 < length <= min(size, checkpoint.MAX_HEADER + 8)
        assert int.from_bytes(start, "little") == length - 8
