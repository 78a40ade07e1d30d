"""A task from a Hugging Face data set: a ``datasets.Dataset``, or a ``DatasetDict`` with its splits.

The library ``datasets`` is not needed here, only what its objects answer to: ``features``, columns by name, rows by number.
"""

import io
from collections.abc import Mapping
from typing import Any

from copra_lab.listing import PARTS, TEMPLATE, Listing, parted
from copra_lab.photos import Readable
from copra_lab.sources import Entry

__all__ = ["listing"]

PART_OF = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
"""Names of splits on the hub."""


def is_dataset(data: object) -> bool:
    """Whether `data` answers to what is asked of a data set, or is a mapping of splits that do."""
    splits = list(data.values()) if isinstance(data, Mapping) else [data]
    return bool(splits) and all(hasattr(s, "features") and hasattr(s, "column_names") for s in splits)


def listing(data: Any, *, image: str | None = None, label: str | None = None, name: str | None = None, template: str = TEMPLATE) -> Listing:
    """The rows of `data`, for `tasks.load_task`. `image` and `label` name its columns: where they are not given, the only
    one of images, and the only one of classes or else the one called "label". Rows without a label are left out.

    The data set's own splits are used, its validation part to test on where it has no other; of a single split half of the
    rows train, a fifth validates and three tenths test, by number.

    Raises ValueError, in one sentence, for columns that cannot be told, labels without names, splits of unknown names, and a stream.
    """
    splits = _splits(data)
    some = next(iter(splits.values()))
    if not hasattr(some, "__len__") or some.features is None:
        raise ValueError("a streamed data set has no rows to choose shots from: load it without streaming=True")
    image = image or _column(some, "image", [c for c, f in some.features.items() if type(f).__name__ == "Image"])
    label = label or _column(some, "label", [c for c, f in some.features.items() if getattr(f, "names", None)] or ["label"])
    if missing := [f"{part}: {c}" for part, s in splits.items() for c in (image, label) if c not in s.column_names]:
        raise ValueError(f"there is no column {missing[0].partition(': ')[2]!r}: choose one of {', '.join(some.column_names)}")
    names = getattr(some.features[label], "names", None)
    rows = [(part, row, value) for part, s in splits.items() for row, value in enumerate(list(s[label]))]
    rows = [(part, row, value) for part, row, value in rows if value is not None and value != -1]  # as the hub writes "not told"
    if not names and any(not isinstance(value, str) for _, _, value in rows):
        raise ValueError(f"column {label!r} holds numbers without names: cast it, data.cast_column({label!r}, ClassLabel(names=[…]))")
    classes = list(names or sorted({value for _, _, value in rows}))
    part_of = {part: part for part, _, _ in rows}
    if len(part_of) == 1:
        part_of, origin = dict.fromkeys(part_of, ""), "Of its rows half train, a fifth validates, three tenths test."
    elif "test" in part_of:
        origin = "The data set's own split."
    else:
        part_of["val"], origin = "test", "Its validation part is the test."
    entries = [Entry(f"{part}:{row}", classes[value] if names else value, f"{part}:{row}", part_of[part]) for part, row, value in rows]

    def open_(source: str) -> Readable:
        part, _, row = source.partition(":")
        return _picture(splits[part][int(row)][image], image)

    about = f"{len(classes)} classes of a Hugging Face data set. {origin} Whether pretraining knew such things is for you to judge."
    own = name or getattr(getattr(some, "info", None), "dataset_name", None) or "dataset"
    return Listing(own, own, about, {c: c.replace("_", " ") for c in classes}, template, parted(entries), open_)


def _splits(data: Any) -> dict[str, Any]:
    """Splits by our names of the parts."""
    if not isinstance(data, Mapping):
        return {"train": data}
    if len(data) == 1:
        return {"train": next(iter(data.values()))}
    found = {PART_OF[name]: split for name, split in data.items() if name in PART_OF}
    if "train" not in found or len(found) < 2:
        raise ValueError(f"the splits {', '.join(map(str, data))} hold no 'train' with a 'test' or 'validation': rename them, or give one alone")
    return {part: found[part] for part in PARTS if part in found}


def _column(split: Any, what: str, candidates: list[str]) -> str:
    chosen = what if what in candidates else candidates[0] if len(candidates) == 1 else None
    if chosen is None:
        of = candidates or list(split.column_names)
        raise ValueError(f"which column is the {what}? Call load_task(hf_datasets.listing(data, {what}=…)) with one of {', '.join(of)}")
    return chosen


def _picture(value: Any, column: str) -> Readable:
    """A picture as the library gives it, decoded or not."""
    if isinstance(value, Mapping):
        value = io.BytesIO(value["bytes"]) if value.get("bytes") else value.get("path")
    if value is None or not (isinstance(value, str | io.BytesIO) or hasattr(value, "convert")):
        raise ValueError(f"column {column!r} gives {type(value).__name__}, not images: undo its format, data.with_format(None), or name another")
    return value
