"""The demo model in the layouts that checkpoints come in, read by the format's own library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ostiary.demo_model import HubLayout, make_hub_folder

Hub = Callable[[HubLayout], Path]


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Return every tensor of a folder by name."""
    return {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize("shards", [0, 1, 4])
def test_shards_and_index_hold_the_same_tensors(hub: Hub, shards: int) -> None:
    """One file has no index; shards have one that names each tensor's file."""
    folder = hub(HubLayout(shards=shards))
    found = tensors(folder)
    index = folder / "model.safetensors.index.json"

    assert len(list(folder.glob("*.safetensors"))) == max(1, shards)
    assert index.exists() == (shards > 0)
    if shards:
        assert set(json.loads(index.read_text())["weight_map"]) == set(found)
    assert found["lm_head.weight"].shape == found["model.embed_tokens.weight"].shape
    assert len([name for name in found if name.startswith("model.layers.0.")]) == 9


def test_tied_leaves_the_head_out_and_wrongly_tied_does_not(hub: Hub) -> None:
    """Both say tied in the config; only one has no head of its own."""
    tied = hub(HubLayout(shards=0, tied=True))
    named = hub(HubLayout(shards=2, tied_with_head=True))

    assert "lm_head.weight" not in tensors(tied)
    assert "lm_head.weight" in tensors(named)
    for folder in (tied, named):
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True


def test_int8_weights_are_near_what_they_stand_for(hub: Hub) -> None:
    """A byte times its row's scale is the weight, to half a step."""
    plain, small = tensors(hub(HubLayout())), tensors(hub(HubLayout(quantised=True)))
    name = "model.layers.1.mlp.up_proj.weight"
    scale = small[f"{name}_scale"]

    assert small[name].dtype == np.int8
    assert np.abs(small[name] * scale - plain[name]).max() <= scale.max() * 0.51
    assert small["model.embed_tokens.weight"].dtype == np.float16


def test_a_seed_gives_the_same_bytes(hub: Hub, tmp_path: Path) -> None:
    """The folder is reproducible with a seed, and fresh without."""
    again = make_hub_folder(tmp_path / "again", seed=7)
    fresh = make_hub_folder(tmp_path / "fresh")
    first = hub(HubLayout())

    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in first.iterdir()
    }
    name = "model-00001-of-00004.safetensors"
    assert (fresh / name).read_bytes() != (first / name).read_bytes()
