"""Publish an adapter on the Hugging Face hub, with a model card made from its provenance."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.peft_folder import save_adapter
from copra_lab.models.hub_download import PREFIX, hub_errors
from copra_lab.models.sites import KINDS, TOWERS, site_of
from copra_lab.utils.files import write_atomically

__all__ = ["model_card", "push_to_hub"]


def push_to_hub(
    adapter: Adapter, repo: str, *, private: bool = False, token: str | None = None
) -> str:
    """Publish an adapter with its model card.

    Args:
        adapter: The adapter.
        repo: The repository, ``owner/name``; created if necessary.
        private: Whether a new repository is private.
        token: By default the one that ``hf auth login`` stored.

    Returns:
        The address of what was published.

    Raises:
        ValueError: If the name is not valid.
        PermissionError: If the hub does not know you, or refuses.
        ConnectionError: If the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save_adapter(adapter, folder)
        write_atomically(Path(folder) / "README.md", model_card(adapter, repo).encode())
        with hub_errors(repo, "a folder to `save_adapter` instead"):
            api, message = HfApi(token=token), "Adapter and its model card"
            api.create_repo(repo, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))


def model_card(adapter: Adapter, repo: str = "owner/name") -> str:
    """The README.md of an adapter: its provenance, its size, and how to load it.

    Nothing is invented: what is not known, such as a licence, is left out.

    Args:
        adapter: The adapter.
        repo: The repository, ``owner/name``.

    Returns:
        Markdown with a YAML header.
    """
    from huggingface_hub import ModelCardData

    facts = dict(adapter.provenance)
    base, method = str(facts.get("clip") or ""), str(facts.get("method") or "")
    on_hub = "/" in base and not base.startswith(("/", ".")) and ":" not in base
    data = ModelCardData(
        library_name="peft",
        base_model=base if on_hub else None,
        pipeline_tag="zero-shot-image-classification",
        tags=["copra-lab", "lora", "clip", *(["copra"] if "copra" in method.lower() else [])],
    )
    model = f"[{base}](https://huggingface.co/{base})" if on_hub else f"`{base}`"
    kinds, layers = _coverage(adapter)
    trained_on = (
        f"It fits the weights whose hash is `{adapter.base}`, and copra-lab refuses others."
        if adapter.base
        else "Which weights it was trained on is not recorded."
    )
    return f"""---
{data.to_yaml()}
---

# {repo.partition("/")[2] or repo}

A low-rank adapter for {model if base else "a CLIP"}: {adapter.parameters:,} numbers on
the matrices {kinds} (layers: {layers}; rank up to {adapter.rank}). \
It changes nothing until it is loaded beside the model.

## How it was made

{_table(facts) or "Nothing is recorded about that."}

{trained_on}
What it is good for beyond the task above was not measured here.

## How to load it

```python
import copra_lab as cl

clip = cl.load_clip({json.dumps(base or "the CLIP it was trained on")})
adapter = cl.load_adapter("{PREFIX}{repo}", clip)
```

or, on a Hugging Face model with the same weights, `peft.PeftModel.from_pretrained(model, "{repo}")`.
"""  # noqa: E501 (a paragraph of Markdown)


def _coverage(adapter: Adapter) -> tuple[str, str]:
    """Which kinds of matrices an adapter changes, and how many layers of each tower."""
    sites = [site_of(n) for n in adapter.deltas]
    kinds = ", ".join(k for k in KINDS if any(kind == k for _, _, kind in sites))
    layers = {t: {layer for tower, layer, _ in sites if tower == t} for t in TOWERS}
    return kinds, "; ".join(f"{len(ls)} of the {t} tower" for t, ls in layers.items() if ls)


def _table(facts: Mapping[str, Any]) -> str:
    """A Markdown table of what is known, or ""."""
    skip = ("clip", "lora")  # the model card says these elsewhere
    rows = [f"| {k} | {_cell(v)} |" for k, v in facts.items() if k not in skip and v is not None]
    return "\n".join(["| what | value |", "|---|---|", *rows]) if rows else ""


def _cell(value: Any) -> str:
    """A value as it stands in a Markdown table."""
    if isinstance(value, Mapping):
        return "; ".join(f"{k} {_cell(v)}" for k, v in value.items() if v is not None)
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
