"""Downloads from the Hugging Face hub: only the files that are needed, and clear errors.

The hub is asked only if a name needs it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "hf-hub:"
OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Names of the weights in open_clip's layout, the preferred one first."""
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in Hugging Face's layout, the preferred one first."""
HF_INDEX = "model.safetensors.index.json"
_SMALL_FILES = ["*.json", "*.txt", "*.txt.gz", "*.model"]
_VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.txt",),
)
"""Files that each make a whole vocabulary; tokenizer_config.json alone has no words."""
_LOG_IN = "log in with `hf auth login`, with a token that may do this"
_FOLDER = "the path of a folder that holds it"


def tokenizer_files(folder: Path) -> bool:
    """Whether a folder has the vocabulary of a Hugging Face tokenizer."""
    return any(all((folder / f).is_file() for f in files) for files in _VOCABULARIES)


def unreachable(what: str, instead: str) -> ConnectionError:
    """The error for something that needs the hub, which cannot be reached.

    Args:
        what: What needs the hub.
        instead: What to give so that the hub is not needed.
    """
    return ConnectionError(
        f"{what} needs the Hugging Face hub, which cannot be reached; connect to the internet (and "
        f"unset HF_HUB_OFFLINE), or give {instead}"
    )


@contextmanager
def hub_errors(repo: str, instead: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one sentence.

    Args:
        repo: The repository, ``owner/name``.
        instead: What to give so that the hub is not needed.

    Raises:
        ValueError: If the name is not valid.
        FileNotFoundError: If there is no such repository, or it is private.
        PermissionError: If the hub does not know the user, or refuses.
        ConnectionError: If the hub cannot be reached.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as e:
        raise ValueError(f"{repo!r} is not a name on the hub; write it as owner/name") from e
    except errors.RepositoryNotFoundError as e:
        raise FileNotFoundError(
            f"the hub shows no repository {repo!r}; check the name, or {_LOG_IN} if it is private"
        ) from e
    except errors.HfHubHTTPError as e:
        status = e.response.status_code
        if status in (401, 403):
            raise PermissionError(f"the hub does not let you use {repo!r}; {_LOG_IN}") from e
        raise ConnectionError(f"the hub answered {status} for {repo!r}; try again later") from e
    except errors.LocalTokenNotFoundError as e:
        raise PermissionError(f"the hub must know who publishes {repo!r}; {_LOG_IN}") from e
    except (errors.HTTPError, OSError) as e:  # no connection, offline mode, or an empty cache
        raise unreachable(repr(repo), instead) from e


def download_clip(repo: str) -> Path:
    """Download a CLIP's configuration, tokenizer and weights, and nothing else.

    Args:
        repo: The repository, ``owner/name``.

    Returns:
        The folder in the hub's cache.

    Raises:
        FileNotFoundError: If the repository holds no CLIP.
        OSError: As `hub_errors`.
    """
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    with hub_errors(repo, _FOLDER):
        folder = Path(snapshot_download(repo, allow_patterns=_SMALL_FILES))
        names = OPEN_CLIP_WEIGHTS if (folder / OPEN_CLIP_CONFIG).is_file() else HF_WEIGHTS
        if names is HF_WEIGHTS and (folder / HF_INDEX).is_file():
            return Path(snapshot_download(repo, allow_patterns=["model-*.safetensors"]))
        # Already in the cache: offline, the hub could not say which of them exist.
        if any((folder / name).is_file() for name in names):
            return folder
        for name in names:
            # Another error means that the hub could not be asked, not that there is no such file.
            with suppress(errors.RemoteEntryNotFoundError):
                hf_hub_download(repo, name)
                return folder
    raise FileNotFoundError(f"{repo!r} holds no CLIP: none of {', '.join(names)}; choose another")


def download_adapter(repo: str, names: list[str]) -> Path:
    """Download only the files `names` of an adapter; returns the folder in the hub's cache."""
    from huggingface_hub import snapshot_download

    with hub_errors(repo, _FOLDER):
        return Path(snapshot_download(repo, allow_patterns=names))
