"""What a name on the Hugging Face hub stands for: which files of it are fetched, and what is said where they cannot be.

Nothing here runs until a name asks for it, and every failure is one sentence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "hf-hub:"
OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Of open_clip's layout, the best first; Hugging Face's own are in `HF_WEIGHTS`."""
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HF_INDEX = "model.safetensors.index.json"
_SMALL = ["*.json", "*.txt", "*.txt.gz", "*.model"]
_VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.txt",),
)
"""Of Hugging Face's tokenizers, each whole by itself; tokenizer_config.json holds no words."""


def tokenizer_files(folder: Path) -> bool:
    """Whether a folder holds the vocabulary of a Hugging Face tokenizer."""
    return any(all((folder / f).is_file() for f in files) for files in _VOCABULARIES)


def unreachable(what: str, instead: str) -> ConnectionError:
    """For what is on the hub alone."""
    return ConnectionError(
        f"{what} would come from the Hugging Face hub, which cannot be reached from here; connect to the internet (and unset HF_HUB_OFFLINE), "
        f"or give {instead}"
    )


@contextmanager
def asking(repo: str, instead: str) -> Iterator[None]:
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
            raise PermissionError(
                f"the hub does not let you use {repo!r}; log in with `hf auth login`, with a token that may write"
            ) from e
        raise ConnectionError(f"the hub answered {status} for {repo!r}; try again later") from e
    except errors.LocalTokenNotFoundError as e:
        raise PermissionError(
            f"the hub has to know who publishes {repo!r}; log in with `hf auth login`"
        ) from e
    except (errors.HTTPError, OSError) as e:  # no connection, offline mode, nothing in the cache
        raise unreachable(repr(repo), instead) from e


def download_clip(repo: str) -> Path:
    """The folder of ``owner/name`` in the hub's cache: its settings, tokenizer and weights, and nothing else of it."""
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    with asking(repo, "the path of a folder that holds it"):
        folder = Path(snapshot_download(repo, allow_patterns=_SMALL))
        names = OPEN_CLIP_WEIGHTS if (folder / OPEN_CLIP_CONFIG).is_file() else HF_WEIGHTS
        if names is HF_WEIGHTS and (folder / HF_INDEX).is_file():
            return Path(snapshot_download(repo, allow_patterns=["model-*.safetensors"]))
        if any((folder / name).is_file() for name in names):
            return (
                folder  # fetched before; without a network nobody could say which of them there are
            )
        for name in names:
            try:
                hf_hub_download(repo, name)
                return folder
            except errors.LocalEntryNotFoundError:
                raise  # not that it is not there, but that nobody could be asked
            except errors.EntryNotFoundError:
                continue
    raise FileNotFoundError(
        f"{repo!r} holds no CLIP that is read here: none of {', '.join(names)}; choose another repository"
    )


def download_adapter(repo: str, names: list[str]) -> Path:
    """The folder of an adapter on the hub, in the hub's cache: the files `names` alone."""
    from huggingface_hub import snapshot_download

    with asking(repo, "the path of a folder that holds it"):
        return Path(snapshot_download(repo, allow_patterns=names))
