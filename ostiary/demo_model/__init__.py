"""A demo model of our own making: small, genuine in form, empty of meaning.

Guarantees: `make_demo_model` writes a folder whose GGUF file any Llama-architecture engine loads:
a byte-level BPE tokenizer trained here from `corpus.txt`, a chat template, random weights. With
the same seed and the same `gguf` release the file is the same, byte for byte.
Does not guarantee sense: nothing trained the weights, so the model answers with word salad.
"""

from ostiary.demo_model.hub import HubLayout, make_hub_folder
from ostiary.demo_model.make import MODEL_FILE, make_demo_model
from ostiary.demo_model.shards import make_safetensors_folder

__all__ = [
    "MODEL_FILE",
    "HubLayout",
    "make_demo_model",
    "make_hub_folder",
    "make_safetensors_folder",
]
