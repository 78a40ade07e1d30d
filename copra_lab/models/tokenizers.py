"""The tokenizers of CLIPs: read from a folder, checked against the model, and saved."""

import gzip
import json
import tempfile
import unicodedata
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from copra_lab.models.hub_download import tokenizer_files, unreachable
from copra_lab.utils.checks import reason
from copra_lab.utils.extras import needs

PROBES = ("a photo of a cat", "a photo of a dog")
"""Texts of equal length; a vocabulary that gives both the same tokens knows neither."""
_MORE_PROBES = (
    *PROBES,
    "A photo of 12 RED things!",
    "the quick brown fox jumps over the lazy dog",
    "naïve café, 東京 & мир",
)
START, END = "<|startoftext|>", "<|endoftext|>"
"""Special tokens in Hugging Face's files; open_clip: <start_of_text> and <end_of_text>."""
_BUNDLED_VOCABULARY = "91f2a32b41430eab"
_FILES = "tokenizer.json and tokenizer_config.json"
_COPY = "copy the tokenizer's files from the repository that the model comes from"


def check_tokenizer(tokenizer: Any, model: nn.Module, name: str) -> None:
    """Check that a tokenizer belongs to a model.

    Args:
        tokenizer: Texts → int64 (n, context).
        model: open_clip's module.
        name: What the CLIP is called, for error messages.

    Raises:
        ValueError: If the tokenizer does not tell two texts apart, has more tokens than the model,
            or ends texts with another token than the one at which the model reads them.
    """
    rows = tokenizer(list(PROBES))
    text, highest = getattr(model, "text", model), int(rows.max())
    known = _vocabulary_size(text)
    inner = getattr(tokenizer, "tokenizer", None)
    end = getattr(tokenizer, "eot_token_id", None) or getattr(inner, "eos_token_id", None)
    read = [_token_read(text, row) for row in rows]
    if torch.equal(rows[0], rows[1]):
        fault = f"gives {PROBES[0]!r} and {PROBES[1]!r} the same tokens"
    elif known is not None and highest >= known:
        fault = f"has token {highest}, and the model only {known} tokens"
    elif end is not None and any(token not in (None, end) for token in read):
        fault = f"ends texts with token {end}, and the model reads them at token {read[0]}"
    else:
        return
    raise ValueError(
        f"the tokenizer of {name} {fault}, so its vocabulary is empty or another model's; {_COPY}"
    )


def _vocabulary_size(text: Any) -> int | None:
    """How many tokens a text tower has embeddings for."""
    if hasattr(text, "token_embedding"):
        return len(text.token_embedding.weight)
    embeddings = getattr(getattr(text, "transformer", None), "get_input_embeddings", None)
    return len(embeddings().weight) if embeddings else None


def _token_read(text: Any, row: Tensor) -> int | None:
    """The token of `row` at which a text tower reads the text, if it reads at a single token."""
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    if not hasattr(text, "positional_embedding") or pool not in ("argmax", "eos"):
        return None
    if pool == "argmax":
        return int(row.max())
    return text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id


def of_open_clip(text_cfg: dict[str, Any], folder: Path, name: str) -> Any:
    """The tokenizer that open_clip's configuration names.

    Args:
        text_cfg: Settings of the text tower.
        folder: May hold the vocabulary: CLIP's (merges.txt.gz) or Hugging Face's.
        name: What the CLIP is called, for error messages.

    Returns:
        Texts → int64 (n, context).
    """
    with needs("clip"):
        from open_clip.tokenizer import SimpleTokenizer

    context, more = text_cfg.get("context_length", 77), text_cfg.get("tokenizer_kwargs") or {}
    if named := text_cfg.get("hf_tokenizer_name"):
        source = str(folder) if tokenizer_files(folder) else named
        mode = text_cfg.get("tokenizer_mode")
        return _hugging_face(source, name, context, tokenizer_mode=mode, **more)
    merges = folder / "merges.txt.gz"
    vocabulary = {"bpe_path": str(merges)} if merges.is_file() else {}
    return SimpleTokenizer(context_length=context, **more, **vocabulary)


def of_transformers(folder: Path, name: str, context: int, base: str | None) -> Any:
    """The tokenizer in a Hugging Face folder, with transformers' way of cleaning texts.

    CLIP's own kind becomes open_clip's class, on which prompts can be trained.

    Args:
        folder: Holds the tokenizer's files.
        name: What the CLIP is called, for error messages.
        context: How many tokens a text has.
        base: The repository that the folder says it comes from.

    Returns:
        Texts → int64 (n, context).

    Raises:
        FileNotFoundError: If files are missing.
        ValueError: If files cannot be read.
    """
    if not tokenizer_files(folder):
        where = repr(base) if base else "the repository that the model comes from"
        raise FileNotFoundError(
            f"{folder} has no tokenizer: copy {_FILES} (or vocab.json with merges.txt, or "
            f"spiece.model) into it from {where}"
        )
    found = _hugging_face(str(folder), name, context)
    found.clean_fn = str  # transformers repairs neither HTML nor encodings
    return _as_open_clip(found, context) or found


def _hugging_face(source: str, name: str, context: int, **more: Any) -> Any:
    """A Hugging Face tokenizer from a folder or the hub, in open_clip's wrapper."""
    with needs("clip"):
        from open_clip.tokenizer import HFTokenizer

    try:
        return HFTokenizer(source, context_length=context, trust_remote_code=False, **more)
    except Exception as e:  # the Rust code raises bare ones for a damaged vocabulary
        if not Path(source).is_dir():
            raise unreachable(
                f"the tokenizer {source!r} of {name}", f"{_FILES} with the weights"
            ) from e
        raise ValueError(
            f"the tokenizer in {source} cannot be read ({reason(e)}); copy {_FILES} again"
        ) from e


def _as_open_clip(found: Any, context: int) -> Any | None:
    """The same tokenizer as open_clip's class, or None if the two are not equal."""
    with needs("clip"):
        from open_clip.tokenizer import SimpleTokenizer

    backend = getattr(found.tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None else {}
    if model.get("type") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        return None
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    if "" in model["vocab"]:  # open_clip makes a token of an empty last line
        merges.append("")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "merges.txt.gz"
        file.write_bytes(gzip.compress("\n".join(["#version: 0.2", *merges]).encode("utf-8")))
        same = SimpleTokenizer(str(file), context_length=context)
    same.clean_fn = _clean_as_transformers
    theirs = found.tokenizer.get_vocab()
    if [*[*same.encoder][:-2], START, END] != sorted(theirs, key=theirs.__getitem__):
        return None
    texts = list(_MORE_PROBES)
    ours = _until_end(same(texts), same.eot_token_id)
    return same if ours == _until_end(found(texts), found.tokenizer.eos_token_id) else None


def _clean_as_transformers(text: str) -> str:
    """Clean a text as transformers does for CLIP, letter by letter.

    open_clip would also repair encodings and HTML.
    """
    return "".join(c.lower() for c in unicodedata.normalize("NFC", text))


def _until_end(rows: Tensor, end: int) -> list[list[int]]:
    """Rows of tokens (n, context) without their padding."""
    return [row[: row.index(end) + 1] if end in row else row for row in rows.tolist()]


def save(tokenizer: Any, folder: Path, name: str) -> None:
    """Save a tokenizer for transformers (tokenizer.json, tokenizer_config.json).

    Args:
        tokenizer: open_clip's or Hugging Face's.
        folder: Where to save it.
        name: What the CLIP is called, for error messages.

    Raises:
        ValueError: If transformers has no such tokenizer.
    """
    if hasattr(tokenizer, "tokenizer") and not getattr(tokenizer, "tokenizer_mode", ""):
        inner = tokenizer.tokenizer
        inner.model_max_length = tokenizer.context_length
    elif hasattr(tokenizer, "bpe_ranks"):
        inner = _as_transformers(tokenizer)
    else:
        raise ValueError(
            f"the tokenizer of {name} is neither CLIP's nor Hugging Face's; use a CLIP with one of "
            "those"
        )
    inner.save_pretrained(folder)


def _as_transformers(tokenizer: Any) -> Any:
    """open_clip's tokenizer as a CLIPTokenizer, with the same numbers for the same tokens."""
    from transformers import CLIPTokenizer

    names, start, end = [*tokenizer.encoder], tokenizer.sot_token_id, tokenizer.eot_token_id
    tokens = [*names[:start], START, END, *names[end + 1 :]]
    vocabulary = json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False)
    merges = [" ".join(pair) for pair in tokenizer.bpe_ranks if len(pair) == 2]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(vocabulary, encoding="utf-8")
        lines = "\n".join(["#version: 0.2", *merges, ""])
        (Path(folder) / "merges.txt").write_text(lines, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=tokenizer.context_length)


def vocabulary(tokenizer: Any) -> str:
    """Identify what a tokenizer makes of texts.

    Returns:
        Sixteen hex digits; "" for CLIP's own vocabulary, the part of it that the bundled CLIP uses,
        and tokenizers of an unknown kind.
    """
    if hasattr(tokenizer, "bpe_ranks"):
        found = _digest([*tokenizer.encoder][: tokenizer.sot_token_id])
        return "" if found in (_clip_vocabulary(), _BUNDLED_VOCABULARY) else found
    if inner := getattr(tokenizer, "tokenizer", None):
        special = set(inner.all_special_tokens)
        tokens = sorted((i, t) for t, i in inner.get_vocab().items() if t not in special)
        return _digest([str(tokens), str(tokenizer(list(_MORE_PROBES)).tolist())])
    return ""


@cache
def _clip_vocabulary() -> str:
    """The digest of CLIP's own vocabulary."""
    with needs("clip"):
        from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return _digest([*tokenizer.encoder][: tokenizer.sot_token_id])


def _digest(words: Sequence[str]) -> str:
    """Sixteen hex digits that identify a list of words."""
    return blake2b("\n".join(words).encode("utf-8"), digest_size=8).hexdigest()
