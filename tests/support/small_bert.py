"""A tiny BERT with random weights and its tokenizer, in a folder as Hugging Face reads it."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import torch

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LAYERS, HEADS, WIDTH, HIDDEN = 3, 6, 24, 48


def write_bert(folder: Path) -> Path:
    """Write the network, whose tokens are letters, and return the folder. Without transformers the test is skipped."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase
    words = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=64,
        initializer_range=0.2,  # so that layers change what they read, as those of a trained network do
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder
