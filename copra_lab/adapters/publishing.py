"""Publishing an adapter on the Hugging Face hub, with a model card written from its provenance."""

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
    """Publish `adapter` as ``owner/name``, made if need be, with its model card; the address of what was published. `token` is by
    default the one that ``hf auth login`` stored.

    Raises ValueError for a name that is none, PermissionError where the hub does not know you or not let you, and ConnectionError where
    it cannot be reached.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as made:
        save_adapter(adapter, made)
        write_atomically(Path(made) / "README.md", model_card(adapter, repo).encode())
        with hub_errors(repo, "a folder to `save` to instead"):
            api = HfApi(token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            return str(
                api.upload_folder(
                    repo_id=repo, folder_path=made, commit_message="Adapter and its model card"
                )
            )


def model_card(adapter: Adapter, repo: str = "owner/name") -> str:
    """The README.md of an adapter on the hub: what its provenance says, how large it is, and how to load it. What is not known, such as
    a licence, is not made up."""
    from huggingface_hub import ModelCardData

    made = dict(adapter.provenance)
    base = str(made.get("clip") or "")
    on_hub = "/" in base and not base.startswith(("/", ".")) and ":" not in base
    method = str(made.get("method") or "")
    data = ModelCardData(
        library_name="peft",
        base_model=base if on_hub else None,
        pipeline_tag="zero-shot-image-classification",
        tags=["copra-lab", "lora", "clip", *(["copra"] if "copra" in method.lower() else [])],
    )
    where = [site_of(n) for n in adapter.deltas]
    kinds = ", ".join(k for k in KINDS if any(w[2] == k for w in where))
    layers = "; ".join(
        f"{len(found)} of the {t} tower"
        for t in TOWERS
        if (found := {w[1] for w in where if w[0] == t})
    )
    rows = "\n".join(
        f"| {k} | {_cell(v)} |"
        for k, v in made.items()
        if k not in ("clip", "lora") and v is not None
    )
    title = repo.partition("/")[2] or repo
    return f"""---
{data.to_yaml()}
---

# {title}

A low-rank adapter for {f"[{base}](https://huggingface.co/{base})" if on_hub else f"`{base}`" if base else "a CLIP"}: {adapter.parameters:,} numbers on
the matrices {kinds} (layers: {layers}; rank up to {adapter.rank}). It changes nothing until it is loaded beside the model.

## How it was made

{f"| what | value |{chr(10)}|---|---|{chr(10)}{rows}" if rows else "Nothing is recorded about that."}

{f"It fits the weights whose hash is `{adapter.base}`, and copra-lab refuses others." if adapter.base else "Which weights it was trained on is not recorded."}
What it is good for beyond the task above was not measured here.

## How to load it

```python
import copra_lab as cl

clip = cl.load_clip({json.dumps(base or "the CLIP it was trained on")})
adapter = cl.load_adapter("{PREFIX}{repo}", clip)
```

or, on a Hugging Face model with the same weights, `peft.PeftModel.from_pretrained(model, "{repo}")`.
"""


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{k} {_cell(v)}" for k, v in value.items() if v is not None)
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
