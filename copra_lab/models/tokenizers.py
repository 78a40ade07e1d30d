"""The tokenizers of CLIPs: read from a folder, held against the model that they are for, and written as transformers reads them."""

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
from copra_lab.utils.extras import needs

PROBES = ("a photo of a cat", "a photo of a dog")
"""Of equal length and in every vocabulary; a tokenizer that gives both the same tokens knows neither."""
_MORE_PROBES = (
    *PROBES,
    "A photo of 12 RED things!",
    "the quick brown fox jumps over the lazy dog",
    "naïve café, 東京 & мир",
)
START, END = "<|startoftext|>", "<|endoftext|>"
"""The special tokens in Hugging Face's files; open_clip calls them <start_of_text> and <end_of_text>."""
_BUNDLED_VOCABULARY = "91f2a32b41430eab"


def check_tokenizer(tokenizer: Any, model: nn.Module, name: str) -> None:
    """Raises ValueError for a tokenizer that does not tell two texts apart, has more tokens than the model knows, or ends its texts with
    another token than the one at which the model reads."""
    rows = tokenizer(list(PROBES))
    if torch.equal(rows[0], rows[1]):
        raise ValueError(
            f"the tokenizer of {name} gives {PROBES[0]!r} and {PROBES[1]!r} the same tokens, so its vocabulary is empty or another model's; "
            "copy the tokenizer's files from the repository that the model comes from"
        )
    text = getattr(model, "text", model)
    known = _embedded(text)
    if known is not None and int(rows.max()) >= known:
        raise ValueError(
            f"the tokenizer of {name} has token {int(rows.max())}, and the model only {known} tokens: it is another model's; "
            "copy the tokenizer's files from the repository that the model comes from"
        )
    read = {
        "argmax": lambda row: int(row.max()),
        "eos": lambda row: text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id,
    }
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    end = getattr(tokenizer, "eot_token_id", None) or getattr(
        getattr(tokenizer, "tokenizer", None), "eos_token_id", None
    )
    if (
        pool in read
        and end is not None
        and hasattr(text, "positional_embedding")
        and any(read[pool](row) != end for row in rows)
    ):
        raise ValueError(
            f"the tokenizer of {name} ends texts with token {end}, and the model reads them at token {read[pool](rows[0])}: it is another "
            "model's; copy the tokenizer's files from the repository that the model comes from"
        )


def _embedded(text: nn.Module) -> int | None:
    """How many tokens a text tower has vectors for."""
    if hasattr(text, "token_embedding"):
        return int(text.token_embedding.weight.shape[0])
    inner: Any = getattr(text, "transformer", None)
    return (
        int(inner.get_input_embeddings().weight.shape[0])
        if hasattr(inner, "get_input_embeddings")
        else None
    )


def of_open_clip(text_cfg: dict[str, Any], folder: Path, name: str) -> Any:
    """The tokenizer that open_clip's configuration names: CLIP's own, with the vocabulary in the folder if there is one, or Hugging Face's."""
    with needs("clip"):
        from open_clip.tokenizer import SimpleTokenizer

    context, more = text_cfg.get("context_length", 77), text_cfg.get("tokenizer_kwargs") or {}
    if named := text_cfg.get("hf_tokenizer_name"):
        source = str(folder) if tokenizer_files(folder) else named
        return _hugging_face(
            source, name, context, tokenizer_mode=text_cfg.get("tokenizer_mode"), **more
        )
    merges = folder / "merges.txt.gz"
    return SimpleTokenizer(
        context_length=context, **more, **({"bpe_path": str(merges)} if merges.is_file() else {})
    )


def of_transformers(folder: Path, name: str, context: int, base: str | None) -> Any:
    """The tokenizer in a Hugging Face folder, which cuts texts as transformers does. Where it is CLIP's own kind it becomes open_clip's
    class, on which prompts can be trained. `base`: the repository that the folder says it comes from.

    Raises FileNotFoundError where its files are missing, and ValueError where they cannot be read."""
    if not tokenizer_files(folder):
        where = f"the repository {base!r}" if base else "the repository that the model comes from"
        raise FileNotFoundError(
            f"{folder} has no tokenizer, without which every text would become the same tokens: copy tokenizer.json and "
            f"tokenizer_config.json (or vocab.json with merges.txt, or spiece.model) into it from {where}"
        )
    found = _hugging_face(str(folder), name, context)
    found.clean_fn = str  # transformers mends neither HTML nor encodings
    return _as_open_clips(found, context) or found


def _hugging_face(source: str, name: str, context: int, **more: Any) -> Any:
    """A Hugging Face tokenizer from a folder or the hub, called as open_clip calls its own: texts → int64 (n, context)."""
    with needs("clip"):
        from open_clip.tokenizer import HFTokenizer

    try:
        return HFTokenizer(source, context_length=context, trust_remote_code=False, **more)
    except (
        Exception
    ) as e:  # transformers' tokenizers, written in Rust, raise bare ones for a damaged vocabulary
        if not Path(source).is_dir():
            raise unreachable(
                f"the tokenizer {source!r} of {name}",
                "its files (tokenizer.json, tokenizer_config.json) beside the weights",
            ) from e
        raise ValueError(
            f"the tokenizer in {source} cannot be read ({(str(e).strip() or type(e).__name__).splitlines()[0]}); copy tokenizer.json and tokenizer_config.json anew"
        ) from e


def _as_open_clips(found: Any, context: int) -> Any | None:
    """The same tokenizer as open_clip's class, if it has CLIP's bytes and merges in CLIP's order; else None."""
    with needs("clip"):
        from open_clip.tokenizer import SimpleTokenizer

    backend = getattr(found.tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None else {}
    if model.get("type") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        return None
    lines = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    lines += (
        [""] if "" in model["vocab"] else []
    )  # a last line without words is a token to open_clip
    with tempfile.TemporaryDirectory() as aside:
        file = Path(aside) / "merges.txt.gz"
        file.write_bytes(gzip.compress("\n".join(["#version: 0.2", *lines]).encode("utf-8")))
        same = SimpleTokenizer(str(file), context_length=context)
    same.clean_fn = _as_transformers_cleans
    theirs = found.tokenizer.get_vocab()
    if [*[*same.encoder][:-2], START, END] != sorted(theirs, key=theirs.__getitem__):
        return None
    ends = (same.eot_token_id, found.tokenizer.eos_token_id)
    texts = list(_MORE_PROBES)
    return same if _read(same(texts), ends[0]) == _read(found(texts), ends[1]) else None


def _as_transformers_cleans(text: str) -> str:
    """CLIP's normaliser in transformers; open_clip's would mend encodings and HTML too. Letter by letter, as Rust does it."""
    return "".join(c.lower() for c in unicodedata.normalize("NFC", text))


def _read(rows: Tensor, end: int) -> list[list[int]]:
    """Rows of tokens up to their first end: what pads them counts for nothing."""
    return [row[: row.index(end) + 1] if end in row else row for row in rows.tolist()]


def save(tokenizer: Any, folder: Path, name: str) -> None:
    """Write `tokenizer` as the files that transformers reads (tokenizer.json, tokenizer_config.json). Raises ValueError for one that they
    cannot hold."""
    if hasattr(tokenizer, "tokenizer") and not getattr(tokenizer, "tokenizer_mode", ""):
        inner = tokenizer.tokenizer
        inner.model_max_length = tokenizer.context_length
    elif hasattr(tokenizer, "bpe_ranks"):
        inner = _as_transformers(tokenizer)
    else:
        raise ValueError(
            f"the tokenizer of {name} is neither CLIP's nor Hugging Face's, so that transformers has no files for it"
        )
    inner.save_pretrained(folder)


def _as_transformers(tokenizer: Any) -> Any:
    """open_clip's tokenizer as transformers' CLIPTokenizer, with the same numbers for the same tokens."""
    from transformers import CLIPTokenizer

    names = [*tokenizer.encoder]
    vocabulary = {
        t: i
        for i, t in enumerate(
            [*names[: tokenizer.sot_token_id], START, END, *names[tokenizer.eot_token_id + 1 :]]
        )
    }
    merges = [" ".join(pair) for pair in tokenizer.bpe_ranks if len(pair) == 2]
    with tempfile.TemporaryDirectory() as aside:
        (Path(aside) / "vocab.json").write_text(
            json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8"
        )
        (Path(aside) / "merges.txt").write_text(
            "\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8"
        )
        return CLIPTokenizer.from_pretrained(aside, model_max_length=tokenizer.context_length)


def vocabulary(tokenizer: Any) -> str:
    """Sixteen digits that name what a tokenizer makes of texts, or "" for CLIP's own vocabulary, the bundled CLIP's cut of it, and
    for what is no tokenizer that is known here."""
    if hasattr(tokenizer, "bpe_ranks"):
        found = _digest([*tokenizer.encoder][: tokenizer.sot_token_id])
        return "" if found in (_own_vocabulary(), _BUNDLED_VOCABULARY) else found
    if inner := getattr(tokenizer, "tokenizer", None):
        special = set(inner.all_special_tokens)
        tokens = sorted((i, t) for t, i in inner.get_vocab().items() if t not in special)
        return _digest([str(tokens), str(tokenizer(list(_MORE_PROBES)).tolist())])
    return ""


@cache
def _own_vocabulary() -> str:
    with needs("clip"):
        from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return _digest([*tokenizer.encoder][: tokenizer.sot_token_id])


def _digest(words: Sequence[str]) -> str:
    return blake2b("\n".join(words).encode("utf-8"), digest_size=8).hexdigest()
