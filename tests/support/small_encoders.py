"""Small encoders of real architectures, as folders that a node can load.

The graphs are in ``tests/data/encoders``: 2 layers of 32 dimensions, 120 tokens, 64 positions.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

GRAPHS = Path(__file__).parents[1] / "data" / "encoders"
NAMES = ("bert", "bert_dynamo", "bert_fused_float16", "mpnet", "xlm_roberta")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
OFFSET_POSITIONS = ("mpnet", "xlm_roberta")


def small_encoder(name: str, folder: Path, pooling: str = "mean") -> Path:
    """Write the folder of a small encoder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(GRAPHS / f"{name}.onnx", folder / "model.onnx")
    tokenizer = word_pieces() if name.startswith("bert") else letters_of_roberta()
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = name.split("_fused")[0].split("_dynamo")[0].replace("xlm_", "xlm-")
    positions = 66 if name in OFFSET_POSITIONS else 64
    config = {"model_type": kind, "max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "synaptoroute.json").write_text(json.dumps({"pooling": pooling}))
    return folder


def word_pieces() -> Tokenizer:
    """Letters as word pieces, as BERT has them."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{each}" for each in LETTERS)]
    pieces += [f"[unused{number}]" for number in range(120 - len(pieces))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def letters_of_roberta() -> Tokenizer:
    """Letters as a unigram model, with the padding id 1, as XLM-R has them."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *LETTERS]
    pieces += [f"\u2581{each}" for each in LETTERS]
    scores = [(piece, -float(number) / 100) for number, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer
