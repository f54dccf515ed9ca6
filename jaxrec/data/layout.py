"""How a folder of images is laid out: which of the folders in it are splits, and which are classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrec.data.splits import SAME_SPLIT, same_split, split_word
from jaxrec.data.walk import LeftOut, folders, inside, shown, walk, why_left_out
from jaxrec.errors import UserError


class Tree(NamedTuple):
    """A folder of images, and how it is cut into splits."""

    root: Path
    """The folder that holds the splits or classes."""
    splits: Mapping[str, str] = {}
    """The folders that are splits, and the name of each split; empty if the set is to be cut."""
    bases: Mapping[str, Path] = {}
    """For each folder that is a split, the one that holds its classes: itself, or the only one in it."""
    inner: bool = False
    """Whether the folders of splits lie in those of classes."""
    remarks: tuple[str, ...] = ()


class Placed(NamedTuple):
    """An image file, and the folders that it lies in."""

    path: Path
    split: str
    """Empty if the set is to be cut."""
    folder: str
    """The folder inside the split, which is a class's if classes are read; empty if it lies in none."""


def tree_of(root: Path, classes: bool, clips: bool = False) -> Tree:
    """The layout of a folder or, if it holds a single folder and no image, of that one.

    Args:
        root: The folder.
        classes: Whether folders may be those of classes.
        clips: Whether the folders in these may be clips, whose names say nothing.

    Raises:
        UserError: There are two folders for one split, or it is not clear which folders are classes.
    """
    remarks: tuple[str, ...] = ()
    while True:
        tree = _stated(root, classes)
        below = folders(root)
        if tree.splits or not _wraps(root):
            break
        root = below[0]
        remarks = (f"the set is taken from {shown(root)}, the only folder there",)
    if classes and not clips and not tree.inner:
        for base in tree.bases.values() or [root]:
            _check_repeated(base)
    return tree._replace(remarks=remarks + tree.remarks)


def place(tree: Tree, also: Sequence[str] = ()) -> tuple[list[Placed], list[LeftOut]]:
    """Every image file, and those of the suffixes ``also``, with its split and folder, and what is left out."""
    found, left_out = walk(tree.root, also)
    placed = []
    for path in found:
        above = path.relative_to(tree.root).parts[:-1]
        if not tree.splits:
            placed.append(Placed(path, "", _first(above)))
            continue
        # Of a class's folder, an image has to lie in a split's folder inside.
        split = _first(above[1:]) if tree.inner else _first(above)
        if split not in tree.splits:
            left_out.append(LeftOut(path, "beside the splits", "it lies in no split's folder"))
            continue
        if not tree.inner:
            above = path.relative_to(tree.bases[split]).parts[:-1]
        placed.append(Placed(path, tree.splits[split], _first(above)))
    return placed, left_out


def _first(names: Sequence[str]) -> str:
    """The outermost of some folders, empty if there is none."""
    return names[0] if names else ""


def _stated(root: Path, classes: bool) -> Tree:
    """The tree of a folder whose folders are splits, or hold them; one without splits if they do not."""
    named = _named_splits(root, classes)
    if named:
        return _of_splits(root, named, classes)
    worded = _worded_splits(root, classes)
    if worded:
        tree = _of_splits(root, worded, classes)
        told = [f"{shown(folder)} as {split}" for folder, split in worded.items() if folder != split]
        remark = f"folders are read as splits: {', '.join(told)}"
        return tree._replace(remarks=(remark, *tree.remarks))
    inner = _inner_splits(root) if classes else {}
    if inner:
        remark = f"each class folder holds splits, which are read as such: {', '.join(inner)}"
        return Tree(root, inner, inner=True, remarks=(remark,))
    return Tree(root)


def _of_splits(root: Path, splits: Mapping[str, str], classes: bool) -> Tree:
    """The tree of a folder that holds those of splits."""
    _check_twice(root, splits)
    places = {folder: root / folder for folder in splits}
    if not classes:
        return Tree(root, splits, places)
    bases = _bases(places)
    entered = [shown(base.relative_to(root)) for folder, base in bases.items() if base != places[folder]]
    remarks = (f"classes are taken from {', '.join(entered)}",) if entered else ()
    return Tree(root, splits, bases, remarks=remarks)


def _named_splits(root: Path, classes: bool) -> dict[str, str]:
    """The folders that are splits by their whole names; none if they are those of classes."""
    below = folders(root)
    known = [path for path in below if is_split(path.name)]
    trained = [path for path in known if same_split(path.name, "train")]
    # A class may be called train: then it stands beside others, and holds no folders.
    stated = any(folders(path) for path in trained) if classes else bool(trained)
    alone = bool(known) and len(known) == len(below)
    if not stated and not alone:
        return {}
    return {path.name: path.name for path in below}


def _worded_splits(root: Path, classes: bool) -> dict[str, str]:
    """The folders that are splits by a word of their names, such as ``training_set`` and ``seg_test``.

    Since the word may also be a class's, all of them must have one, or their folders must have the same names.
    """
    below = folders(root)
    words = {path.name: split_word(path.name) for path in below}
    training = [root / folder for folder, word in words.items() if word == "train"]
    others = [root / folder for folder, word in words.items() if word not in ("", "train")]
    if not training or not others:
        return {}
    if not all(words.values()):
        trained = _names(_entered(training[0], set()))
        tested = _names(_entered(others[0], set()))
        if not classes or not trained & tested or _holds_images(*training, *others):
            return {}
    return {folder: word for folder, word in words.items() if word}


def _inner_splits(root: Path) -> dict[str, str]:
    """The folders of splits in each class's folder, and the split's name; none if the classes hold none.

    Raises UserError if some classes hold them and others do not.
    """
    names = {path.name: _names(path) for path in folders(root)}
    cut, uncut = [], []
    every: set[str] = set()
    for folder, inner in names.items():
        splits = [name for name in inner if is_split(name)]
        # Folders train and training mean one split, and do not cut a class.
        if len({split_word(name) for name in splits}) > 1:
            cut.append(folder)
        if not splits or len(splits) < len(inner):
            uncut.append(folder)
        every |= inner
    if not cut or len(names) < 2:
        return {}
    if uncut:
        held = " and ".join(sorted(names[cut[0]]))
        raise UserError(
            f"class folder {root / cut[0]} holds {held}, and {root / uncut[0]} does not: "
            "put the images of each class into folders of the same splits, or of none"
        )
    return {name: split_word(name) for name in sorted(every)}


def _bases(places: Mapping[str, Path]) -> dict[str, Path]:
    """For each split's folder, the one that holds the class folders."""
    known: set[str] = set()
    for path in places.values():
        names = _names(path)
        # A single one may be a folder around the classes.
        if len(names) > 1:
            known |= names
    return {folder: _entered(path, known) for folder, path in places.items()}


def _entered(folder: Path, known: set[str]) -> Path:
    """The folder or, as long as it holds a single one that wraps all, that one; ``known`` are names of classes."""
    while _wraps(folder) and not _names(folder) <= known:
        folder = folders(folder)[0]
    return folder


def _wraps(folder: Path) -> bool:
    """Whether a folder holds a single one and no image; one with images of its own is a class, or a set without."""
    below = folders(folder)
    return len(below) == 1 and bool(folders(below[0])) and not _holds_images(folder, below[0])


def _check_twice(root: Path, splits: Mapping[str, str]) -> None:
    for group in SAME_SPLIT:
        named = [folder for folder, split in splits.items() if same_split(split, group[0])]
        if len(named) > 1:
            raise UserError(
                f"folder {root} holds {' and '.join(named)}, which mean one split: "
                "put their images together, or rename one of them"
            )


def _check_repeated(root: Path) -> None:
    """Raises UserError if all folders hold folders of the same names, so that either may be classes."""
    below = folders(root)
    if len(below) < 2 or _holds_images(*below):
        return
    held = [_names(path) for path in below]
    same = sorted(set.intersection(*held))
    if len(same) > 1:
        outer = ", ".join(shown(path.name) for path in below[:3])
        inner = shown(", ".join(same[:3]))
        raise UserError(
            f"the classes of folder {root} may be {outer} or, in each of these, {inner}: "
            "call the outer folders train and test if they are splits; if they are classes, put the images of each "
            "into its folder itself"
        )


def _holds_images(*places: Path) -> bool:
    """Whether images lie in one of the folders themselves."""
    for place in places:
        for path in inside(place):
            if path.is_file() and why_left_out(path) is None:
                return True
    return False


def _names(folder: Path) -> set[str]:
    return {path.name for path in folders(folder)}


def is_split(name: str) -> bool:
    """Whether the whole name means a split."""
    return any(same_split(name, group[0]) for group in SAME_SPLIT)
