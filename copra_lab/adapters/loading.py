"""Adapters from wherever they are: a folder, a file of another tool, the Hugging Face hub."""

from pathlib import Path

from copra_lab.adapters.adapter import Adapter, check_fits
from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.adapters.peft_folder import CONFIG, WEIGHTS, read_folder
from copra_lab.adapters.single_files import read_file
from copra_lab.models.clip import Clip
from copra_lab.models.hub_download import PREFIX, download_adapter

__all__ = ["load_adapter"]


def load_adapter(folder: "str | Path", clip: Clip | None = None) -> Adapter:
    """Read an adapter; with `clip`, make sure that it fits that model.

    ``folder``: as peft writes it, ``hf-hub:owner/name``, or a file: CLIP-LoRA's ``.pt``, or the LoRA on a CLIP's text tower that kohya's
    scripts and diffusers write (see `copra_lab.adapters.single_files`).

    Raises AdapterError, one sentence that names the fix, for a missing or cut-off file, a pickle, numbers that are not
    finite, shapes that do not match, an unknown site, a kind of adapter that is not plain LoRA, or another base; and OSError where the hub cannot be
    asked. Warns (UserWarning) where the file holds more than is read, and where peft computes something else than the file says.
    """
    if str(folder).startswith(PREFIX):
        folder = download_adapter(str(folder).removeprefix(PREFIX), [WEIGHTS, CONFIG])
    folder = Path(folder)
    if folder.is_file() and folder.name in (WEIGHTS, CONFIG):
        folder = folder.parent
    try:
        adapter = (
            read_file(folder, clip) if folder.is_file() else read_folder(folder, clip is not None)
        )
        if clip is not None:
            check_fits(adapter, clip.sites, clip.hash)
    except AdapterError:
        raise
    except ValueError as e:
        raise AdapterError(f"{folder}: {e}") from e
    return adapter
