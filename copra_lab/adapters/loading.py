"""Load adapters: from a folder, a file of another tool, or the Hugging Face hub."""

from pathlib import Path

from copra_lab.adapters.adapter import Adapter, check_fits
from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.adapters.peft_folder import CONFIG, WEIGHTS, read_folder
from copra_lab.adapters.single_files import read_file
from copra_lab.models.clip import Clip
from copra_lab.models.hub_download import PREFIX, download_adapter

__all__ = ["load_adapter"]


def load_adapter(folder: "str | Path", clip: Clip | None = None) -> Adapter:
    """Load an adapter, and check that it fits a CLIP if one is given.

    Warns (UserWarning) if the file holds more than is read, or peft computes something else than
    the file says.

    Args:
        folder: A folder as peft writes it, ``hf-hub:owner/name``, or a file: CLIP-LoRA's ``.pt``,
            or the LoRA on a CLIP's text tower that kohya's scripts and diffusers write (see
            `copra_lab.adapters.single_files`).
        clip: The CLIP it should fit.

    Raises:
        AdapterError: If a file is missing, cut off or a pickle, a number is not finite, shapes do
            not match, a site is unknown, the method is not plain LoRA, or the base is another.
        OSError: If the hub cannot be asked.
    """
    if str(folder).startswith(PREFIX):
        folder = download_adapter(str(folder).removeprefix(PREFIX), [WEIGHTS, CONFIG])
    path = Path(folder)
    if path.is_file() and path.name in (WEIGHTS, CONFIG):
        path = path.parent
    try:
        adapter = read_file(path, clip) if path.is_file() else read_folder(path, clip is not None)
        if clip is not None:
            check_fits(adapter, clip.sites, clip.hash)
    except AdapterError:
        raise
    except ValueError as e:
        raise AdapterError(f"{path}: {e}") from e
    return adapter
