"""The Hugging Face hub: fetching what a name stands for, and publishing an adapter with a model card written from its provenance.

Nothing here runs until a name asks for it, and every failure is one sentence.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from copra_lab.lora import Adapter
from copra_lab.sites import KINDS, TOWERS, place

__all__ = ["model_card", "push_to_hub"]

PREFIX = "hf-hub:"
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""Of open_clip's layout, the best first; Hugging Face's own are in `HF_WEIGHTS`."""
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HF_INDEX = "model.safetensors.index.json"
_SMALL = ["*.json", "*.txt", "*.txt.gz", "*.model"]
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "tokenizer.model")


def tokenizer_files(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face tokenizer."""
    return any((folder / f).is_file() for f in _TOKENIZER)


def unreachable(what: str, instead: str) -> ConnectionError:
    """For what is on the hub alone."""
    return ConnectionError(
        f"{what} would come from the Hugging Face hub, which cannot be reached from here; connect to the internet (and unset HF_HUB_OFFLINE), "
        f"or give {instead}"
    )


@contextmanager
def _asking(repo: str, instead: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as e:
        raise ValueError(f"{repo!r} is no name on the hub; write it as owner/name") from e
    except errors.RepositoryNotFoundError as e:
        raise FileNotFoundError(
            f"the hub shows no repository {repo!r}; check the name, or log in with `hf auth login` if it is private or asks for consent"
        ) from e
    except errors.HfHubHTTPError as e:
        status = e.response.status_code
        if status in (401, 403):
            raise PermissionError(f"the hub does not let you use {repo!r}; log in with `hf auth login`, with a token that may write") from e
        raise ConnectionError(f"the hub answered {status} for {repo!r}; try again later") from e
    except errors.LocalTokenNotFoundError as e:
        raise PermissionError(f"the hub has to know who publishes {repo!r}; log in with `hf auth login`") from e
    except (errors.HTTPError, OSError) as e:  # no connection, offline mode, nothing in the cache
        raise unreachable(repr(repo), instead) from e


def download_clip(repo: str) -> Path:
    """The folder of ``owner/name`` in the hub's cache: its settings, tokenizer and weights, and nothing else of it."""
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    with _asking(repo, "the path of a folder that holds it"):
        folder = Path(snapshot_download(repo, allow_patterns=_SMALL))
        names = WEIGHTS if (folder / CONFIG).is_file() else HF_WEIGHTS
        if names is HF_WEIGHTS and (folder / HF_INDEX).is_file():
            return Path(snapshot_download(repo, allow_patterns=["model-*.safetensors"]))
        if any((folder / name).is_file() for name in names):
            return folder  # fetched before; without a network nobody could say which of them there are
        for name in names:
            try:
                hf_hub_download(repo, name)
                return folder
            except errors.LocalEntryNotFoundError:
                raise  # not that it is not there, but that nobody could be asked
            except errors.EntryNotFoundError:
                continue
    raise FileNotFoundError(f"{repo!r} holds no CLIP that is read here: none of {', '.join(names)}; choose another repository")


def download_adapter(repo: str, names: list[str]) -> Path:
    """The folder of an adapter on the hub, in the hub's cache: the files `names` alone."""
    from huggingface_hub import snapshot_download

    with _asking(repo, "the path of a folder that holds it"):
        return Path(snapshot_download(repo, allow_patterns=names))


def push_to_hub(adapter: Adapter, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish `adapter` as ``owner/name``, made if need be, with its model card; the address of what was published. `token` is by
    default the one that ``hf auth login`` stored.

    Raises ValueError for a name that is none, PermissionError where the hub does not know you or not let you, and ConnectionError where
    it cannot be reached.
    """
    from huggingface_hub import HfApi

    from copra_lab.storage import save_adapter, write_atomically

    with tempfile.TemporaryDirectory() as made:
        save_adapter(adapter, made)
        write_atomically(Path(made) / "README.md", model_card(adapter, repo).encode())
        with _asking(repo, "a folder to `save` to instead"):
            api = HfApi(token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo, folder_path=made, commit_message="Adapter and its model card"))


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
    where = [place(n) for n in adapter.deltas]
    kinds = ", ".join(k for k in KINDS if any(w[2] == k for w in where))
    layers = "; ".join(f"{len(found)} of the {t} tower" for t in TOWERS if (found := {w[1] for w in where if w[0] == t}))
    rows = "\n".join(f"| {k} | {_cell(v)} |" for k, v in made.items() if k not in ("clip", "lora") and v is not None)
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
