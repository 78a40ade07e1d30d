"""Make a folder that is a Hugging Face Space: ``python recipes/space.py FOLDER`` writes the page,
the package with its weights, what it needs and its front matter; ``--publish owner/name``
uploads it too. Without ``--publish`` nothing is called over the network.

A folder that holds anything that this command did not write is refused; one that it wrote is
replaced as a whole.
"""

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, SpaceCard, SpaceCardData, get_token

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import copra_lab  # noqa: E402 (after the path)

FILES = ("app.py", "requirements.txt", "LICENSE", "ATTRIBUTION.md")
MANIFEST = "space.json"
"""Which files this command wrote, with a hash of each."""

ATTRIBUTES = "".join(
    f"{kind} filter=lfs diff=lfs merge=lfs -text\n"
    for kind in ("*.safetensors", "*.npz", "*.gz", "*.png")
)
"""What git keeps in large-file storage: the hub takes no other binary files. `upload_folder` does
the same by itself.
"""

COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
REQUIRED = (
    "title",
    "emoji",
    "colorFrom",
    "colorTo",
    "sdk",
    "sdk_version",
    "python_version",
    "app_file",
    "license",
    "short_description",
)


class SpaceError(Exception):
    """Why there is no Space, and what to do, in a sentence."""


def check(card: Mapping[str, Any]) -> None:
    """The front matter, against what the hub asks of a Gradio Space. Raises SpaceError for the
    first thing that is wrong.
    """
    if missing := [key for key in REQUIRED if not card.get(key)]:
        raise SpaceError(f"the front matter of README.md lacks {missing[0]}")
    if card["sdk"] != "gradio":
        raise SpaceError(f"sdk must be gradio, not {card['sdk']!r}")
    for key in ("colorFrom", "colorTo"):
        if card[key] not in COLOURS:
            raise SpaceError(f"{key} must be one of {', '.join(COLOURS)}, not {card[key]!r}")
    if len(card["emoji"].removesuffix("\ufe0f")) != 1 or card["emoji"].isascii():
        raise SpaceError(f"emoji must be a single one, not {card['emoji']!r}")
    if len(card["short_description"]) > 60:
        raise SpaceError(
            f"short_description has {len(card['short_description'])} characters, and 60 are the "
            "most that the hub shows"
        )
    if not isinstance(card["python_version"], str) or not re.fullmatch(
        r"3\.\d+", card["python_version"]
    ):
        raise SpaceError(
            'python_version must be a text such as "3.11" in quotes, not '
            f"{card['python_version']!r}"
        )


def readme(name: str) -> str:
    """The README of the Space `name`: the front matter of ours, with the gradio that is installed
    (and so tested) here, above a text of its own.
    """
    card = SpaceCard.load(ROOT / "README.md")
    data = {**card.data.to_dict(), "sdk_version": version("gradio")}
    check(data)
    text = (ROOT / "recipes" / "space_template.md").read_text(encoding="utf-8")
    text = text.replace("{version}", copra_lab.__version__).replace("{name}", name)
    return f"---\n{SpaceCardData(**data).to_yaml(original_order=list(data))}\n---\n{text}"


def make(folder: Path, name: str = "owner/name") -> None:
    """Write the Space into `folder`: either all of it is there afterwards, or what was there
    before. Raises SpaceError for a folder that holds anything else.
    """
    refuse_others(folder)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as aside:
        new, old = Path(aside, "new"), Path(aside, "old")
        new.mkdir()
        for file in FILES:
            shutil.copyfile(ROOT / file, new / file)
        shutil.copytree(
            ROOT / "copra_lab",
            new / "copra_lab",
            ignore=shutil.ignore_patterns("__pycache__", "*.part", ".*"),
        )
        (new / "README.md").write_text(readme(name), encoding="utf-8")
        (new / ".gitattributes").write_text(ATTRIBUTES, encoding="utf-8")
        (new / MANIFEST).write_text(
            json.dumps({"copra_lab": copra_lab.__version__, "files": hashes(new)}, indent=1) + "\n",
            encoding="utf-8",
        )
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` but the manifest, by its path."""
    files = sorted(p for p in folder.rglob("*") if not p.is_dir() and p != folder / MANIFEST)
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def refuse_others(folder: Path) -> None:
    """Raises SpaceError if there is anything in `folder` that `make` did not write, or that was
    changed since.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise SpaceError(f"{folder} is no folder: name another one")
    if not any(folder.iterdir()):
        return
    try:
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SpaceError(f"{folder} holds something else: name a new or an empty folder") from None
    ours = {name: h for name, h in hashes(folder).items() if "__pycache__" not in name}
    if others := [name for name, h in ours.items() if known.get(name) != h]:
        raise SpaceError(
            f"{folder / others[0]} was not written by this command, or changed since: move it "
            "away, or name another folder"
        )


def publish(folder: Path, name: str) -> str:
    """Upload `folder` as the Space `name`, which is made if need be, and give its address. Raises
    SpaceError without a token or a connection, or where the hub refuses.
    """
    if not get_token():
        raise SpaceError(
            "no token for the hub: log in with `hf auth login`, or set HF_TOKEN, and publish again"
        )
    api = HfApi()
    try:
        api.create_repo(name, repo_type="space", space_sdk="gradio", exist_ok=True)
        api.upload_folder(
            repo_id=name, repo_type="space", folder_path=folder, commit_message=f"copra-lab {copra_lab.__version__}",
            ignore_patterns=["**/__pycache__/**"], delete_patterns="*",
        )  # fmt: skip
    except Exception as e:  # the hub's client raises those of three libraries
        raise SpaceError(
            "the hub could not be reached, or refused: "
            f"{str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__}"
        ) from e
    return f"https://huggingface.co/spaces/{name}"


def main(arguments: "list[str] | None" = None) -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("folder", type=Path, metavar="FOLDER", help="where to write it")
    p.add_argument("--publish", metavar="OWNER/NAME", help="upload it as this Space")
    a = p.parse_args(arguments)
    if a.publish and not re.fullmatch(r"[\w.-]+/[\w.-]+", a.publish):
        p.error("--publish takes the owner and the name of a Space, as owner/name")
    try:
        make(a.folder, a.publish or "owner/name")
        size = sum(f.stat().st_size for f in a.folder.rglob("*") if f.is_file())
        print(
            f"{a.folder} is a Space of {size / 1e6:.1f} MB: try it with pip install -r "
            "requirements.txt and python app.py in there."
        )
        if a.publish:
            print(f"Published: {publish(a.folder, a.publish)}")
    except (SpaceError, OSError) as e:
        p.exit(1, f"{e}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
