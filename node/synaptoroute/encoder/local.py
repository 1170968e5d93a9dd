"""A model in a folder: its files and its configuration.

Configuration is read in this order: ``synaptoroute.json`` (ours),
``1_Pooling/config.json`` and ``sentence_bert_config.json`` (sentence-transformers),
``tokenizer_config.json`` and ``config.json`` (transformers).  Prefixes are not guessed: a
folder without ``synaptoroute.json`` has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from synaptoroute.encoder.recipe import POOLINGS, TOKENS_MAX_DEFAULT, Pooling, Recipe
from synaptoroute.encoder.understanding import known_scripts
from synaptoroute.errors import ConfigError, EncoderError, ModelNotFound

OWN_FILE: Final = "synaptoroute.json"
_OWN_KEYS: Final[Mapping[str, type]] = {
    "model_file": str,
    "pooling": str,
    "output": str,
    "query_prefix": str,
    "utterance_prefix": str,
    "max_tokens": int,
    "scripts": list,
}
_GRAPHS: Final = (
    "model.onnx",
    "onnx/model.onnx",
    "model_optimized.onnx",
    "onnx/model_optimized.onnx",
)
_CONFIG_BYTES_MAX: Final = 1 << 20
_POSITIONS_DEFAULT: Final = 512
_PREFIXES_MAX: Final = 8
_PREFIX_CHARACTERS_MAX: Final = 512
# These models count positions from the padding id on, so two positions are never used.
_OFFSET_POSITIONS: Final = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
_POOLING_MODES: Final[Mapping[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def local_recipe(folder: Path) -> Recipe:
    """Describe the model in a folder."""
    own = _own_settings(folder)
    tokenizer_file = folder / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise ModelNotFound(f"{folder} has no tokenizer.json", model=str(folder))
    positions_max = positions_of(folder)
    max_tokens = own.get("max_tokens", min(trained_tokens(folder), positions_max))
    return Recipe(
        name=folder.resolve().name,
        model_file=_find_graph(folder, own.get("model_file")),
        tokenizer_file=tokenizer_file,
        pooling=_check_pooling(own["pooling"]) if "pooling" in own else _pooling_of(folder),
        max_tokens=max_tokens,
        positions_max=positions_max,
        output=own.get("output"),
        query_prefix=own.get("query_prefix", ""),
        utterance_prefix=own.get("utterance_prefix", ""),
        scripts=_check_scripts(own["scripts"]) if "scripts" in own else None,
    )


def write_prefix(folder: Path, prefix: str) -> None:
    """Have a model put a prefix before queries and utterances: another fingerprint."""
    own = _own_settings(folder)
    own |= {"query_prefix": prefix, "utterance_prefix": prefix}
    path = folder / OWN_FILE
    draft = path.with_name(f".{OWN_FILE}")
    try:
        draft.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def declared_prefixes(folder: Path) -> list[str]:
    """Prefixes that a folder of sentence-transformers declares as prompts."""
    prompts = read_config(folder / "config_sentence_transformers.json").get("prompts")
    texts = prompts.values() if isinstance(prompts, dict) else ()
    found = dict.fromkeys(text for text in texts if isinstance(text, str) and text)
    return [text for text in found if len(text) <= _PREFIX_CHARACTERS_MAX][:_PREFIXES_MAX]


def positions_of(folder: Path) -> int:
    config = read_config(folder / "config.json")
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 3:
        return _tokenizer_tokens(folder) or _POSITIONS_DEFAULT
    return positions - 2 if config.get("model_type") in _OFFSET_POSITIONS else positions


def trained_tokens(folder: Path) -> int:
    """Tokens of a text that the model in a folder was trained on."""
    trained = read_config(folder / "sentence_bert_config.json").get("max_seq_length")
    if isinstance(trained, int) and trained >= 3:
        return trained
    return min(_tokenizer_tokens(folder) or TOKENS_MAX_DEFAULT, TOKENS_MAX_DEFAULT)


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _CONFIG_BYTES_MAX:
            raise ValueError(f"larger than {_CONFIG_BYTES_MAX} bytes")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} cannot be read: {error}", file=str(path)) from error
    return content


def _own_settings(folder: Path) -> dict[str, Any]:
    own = read_config(folder / OWN_FILE)
    for key, value in own.items():
        kind = _OWN_KEYS.get(key)
        if kind is None:
            raise ConfigError(f"{OWN_FILE}: unknown key {key!r}; known: {', '.join(_OWN_KEYS)}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{OWN_FILE}: {key} must be of type {kind.__name__}")
    return own


def _find_graph(folder: Path, named: str | None) -> Path:
    """Find the ONNX file: the named one, one of a usual name, or the only one."""
    names = (named,) if named else _GRAPHS
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = [] if named else sorted(folder.glob("*.onnx"))
    if len(others) != 1:
        raise ModelNotFound(
            f"{folder} has no {' or '.join(names)}"
            + (f"; name one of its {len(others)} graphs in {OWN_FILE}" if others else ""),
            model=str(folder),
        )
    return others[0]


def _check_pooling(name: str) -> Pooling:
    for pooling in POOLINGS:
        if name == pooling:
            return pooling
    raise ConfigError(f"{OWN_FILE}: pooling must be one of {', '.join(POOLINGS)}")


def _check_scripts(names: list[object]) -> frozenset[str]:
    """Scripts that the model was trained on, such as ``LATIN``, ``CYRILLIC`` or ``CJK``."""
    known = known_scripts()
    unknown = [name for name in names if not isinstance(name, str) or name not in known]
    if unknown or not names:
        what = f"{unknown[0]!r} is no script" if unknown else "no script is named"
        raise ConfigError(
            f"{OWN_FILE}: scripts: {what}; a name is the first word of a letter's Unicode name, "
            "such as LATIN, CYRILLIC, ARABIC, CJK, HIRAGANA or HANGUL"
        )
    return frozenset(str(name) for name in names)


def _pooling_of(folder: Path) -> Pooling:
    """Read the pooling of sentence-transformers; the default is ``mean``."""
    config = read_config(folder / "1_Pooling" / "config.json")
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    if not modes:
        return "mean"
    if len(modes) > 1 or modes[0] not in _POOLING_MODES:
        raise EncoderError(f"pooling by {' and '.join(modes)} is not offered", modes=modes)
    return _POOLING_MODES[modes[0]]


def _tokenizer_tokens(folder: Path) -> int | None:
    """Read the tokenizer's stricter limit; transformers writes 1e30 for unknown."""
    config = read_config(folder / "tokenizer_config.json")
    limits = [config.get("model_max_length"), config.get("max_length")]
    known = [limit for limit in limits if isinstance(limit, int) and 3 <= limit <= 1 << 20]
    return min(known, default=None)
