"""Which of a set's features a system reads: names in the batch, matched to what the set has by kind."""

from collections.abc import Mapping

from jaxrec.data.features import KINDS, RESERVED, Feature, Features
from jaxrec.errors import UserError

Reads = Mapping[str, str]
"""Name in the batch to kind.

Alternatives, the first one preferred, are written ``class|classes``. What is read only if the set has it ends in a
question mark: ``class?``.
"""

USUAL = {
    "image": "image",
    "clip": "clip",
    "length": "length",
    "class": "label",
    "classes": "labels",
    "mask": "mask",
    "boxes": "boxes",
    "box_classes": "box_classes",
    "number": "number",
}
"""What a feature of each kind is mostly called."""


def check_reads(reads: Reads) -> None:
    """Raises UserError if a name is one of a batch's own, a kind does not exist, or boxes are read without an image."""
    for name, kinds in reads.items():
        if name in RESERVED:
            raise UserError(
                f"a feature cannot be read as '{name}': batches use {', '.join(RESERVED)} themselves; "
                "choose another name"
            )
        for kind in alternatives(kinds):
            if kind not in KINDS:
                raise UserError(f"'{name}' is read as the kind '{kind}'; expected one of {', '.join(KINDS)}")
    if (wants(reads, "boxes") or wants(reads, "box_classes")) and not wants(reads, "image"):
        raise UserError("boxes are read without an image, in whose pixels they are: read an image, too")


def images_read(reads: Reads) -> list[str]:
    """The names that are read as images, in their order: two for a pair, the image and what it is translated into."""
    return [name for name, kinds in reads.items() if "image" in alternatives(kinds)]


def wants(reads: Reads, kind: str) -> bool:
    """Whether some name is read as this kind, perhaps among others."""
    return any(kind in alternatives(kinds) for kinds in reads.values())


def needs(reads: Reads, kind: str) -> bool:
    """Whether some name that has to be read may be of this kind."""
    return any(kind in alternatives(kinds) for kinds in reads.values() if not kinds.endswith("?"))


def alternatives(kinds: str) -> list[str]:
    """The kinds in ``"class|classes?"``."""
    return kinds.removesuffix("?").split("|")


def choose(dataset: str, reads: Reads, there: Mapping[str, str]) -> dict[str, str]:
    """For each name in ``reads``, the feature of the set to read: the one of that name, the usual one, or the first.

    Args:
        dataset: What the set is called in an error.
        reads: Names in the batch and their kinds.
        there: The set's features and their kinds.

    Raises:
        UserError: The set has nothing of a wanted kind.
    """
    chosen: dict[str, str] = {}
    for name, kinds in reads.items():
        free = {key: kind for key, kind in there.items() if key not in chosen.values()}
        found = _first(name, kinds, free)
        if found is None and kinds.endswith("?"):
            continue
        if found is None:
            has = [f"'{key}' ({kind})" for key, kind in sorted(there.items())]
            raise UserError(
                f"dataset '{dataset}' has no {kinds.replace('|', ' or ')} for '{name}', "
                f"only {', '.join(has) or 'features of other kinds'}: choose another set"
            )
        chosen[name] = found
    return chosen


def check_clear(dataset: str, there: Mapping[str, str], chosen: Mapping[str, str]) -> None:
    """Raises UserError if one of several features of a kind was chosen, and its name does not tell that it is meant.

    ``there`` and ``chosen`` are what ``choose`` got and returned.
    """
    for name, key in chosen.items():
        kind = there[key]
        alike = [each for each, other in there.items() if other == kind and each not in chosen.values()]
        if alike and key not in (name, USUAL[kind]):
            raise UserError(
                f"dataset '{dataset}' has several features of kind {kind}, {', '.join(sorted([key, *alike]))}: "
                f"call the one to read '{name}'"
            )


def _first(name: str, kinds: str, free: Mapping[str, str]) -> str | None:
    for kind in alternatives(kinds):
        keys = sorted(key for key in free if free[key] == kind)
        for key in (name, USUAL[kind], *keys):
            if key in keys:
                return key
    return None


def chosen_features(dataset: str, reads: Reads, features: Features) -> tuple[dict[str, str], dict[str, Feature]]:
    """``choose`` for a set whose features are known: the set's name, and the feature, of each name in the batch."""
    chosen = choose(dataset, reads, {name: feature.kind for name, feature in features.items()})
    return chosen, {name: features[key] for name, key in chosen.items()}
