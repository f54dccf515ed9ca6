"""Slices of splits as TensorFlow Datasets writes them, ``train[:80%]+test``, without importing it."""

import re
from collections.abc import Mapping

SPEC = re.compile(r"(?P<split>[\w-]+)(\[(?P<start>-?[\d.]+%?)?:(?P<end>-?[\d.]+%?)?\])?")


def parse_slices(spec: str, sizes: Mapping[str, int]) -> list[tuple[str, slice]]:
    """The parts of the splits, whose sizes are given, that a slice such as ``train[:80%]+test[-100:]`` stands for.

    Percentages are rounded to the nearest example. Raises ValueError if the slice has another form, names another split
    or reaches beyond the split.
    """
    return [_part(part.strip(), sizes) for part in spec.split("+")]


def _part(spec: str, sizes: Mapping[str, int]) -> tuple[str, slice]:
    found = SPEC.fullmatch(spec)
    if found is None or found["split"] not in sizes:
        raise ValueError(f"'{spec}' is no slice of {', '.join(sizes)}")
    if "[" in spec and not (found["start"] or found["end"]):
        raise ValueError(f"'{spec}' says neither start nor end")
    size = sizes[found["split"]]
    percent = "%" in spec
    start = _place(found["start"] or "0", size, percent)
    end = size if found["end"] is None else _place(found["end"], size, percent)
    return found["split"], slice(start, end)


def _place(text: str, size: int, percent: bool) -> int:
    """The example at which a slice starts or ends; negative numbers count from the end."""
    number = text.removesuffix("%")
    place = round(float(number) * size / 100) if percent else int(number)
    if abs(place) > size:
        raise ValueError(f"{text} lies beyond {size} examples")
    return place + size if place < 0 else place
