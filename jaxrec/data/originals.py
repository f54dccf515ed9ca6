"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 from the files that their authors publish, without TensorFlow."""

import gzip
import hashlib
import io
import pickle
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.files import Options
from jaxrec.data.reads import Reads, chosen_features
from jaxrec.data.resized import resized
from jaxrec.data.splits import Source, from_arrays
from jaxrec.errors import UserError

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_THINGS = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
_KINDS = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture
insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""
THINGS, KINDS = tuple(_THINGS.split()), tuple(_KINDS.split())
"""CIFAR-100's classes and the kinds that they belong to."""
IDX = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The files of images and labels of each split, which may end in .gz."""
BATCHES = {"train": r"data_batch_\d", "test": "test_batch"}
HUNDRED = {"train": "train", "test": "test"}
SIDE = 32
"""Of CIFAR's images."""
DEEP = 3
"""Folders below the given one in which the files may lie."""

Examples = dict[str, np.ndarray]
"""``image`` uint8 [N, H, W, C] and the classes by name, int32 [N]."""


class Original(NamedTuple):
    """A published set."""

    address: str
    files: str
    """What to get there."""
    names: Mapping[str, tuple[str, ...]]
    """The class names of each label."""
    find: Callable[[str, Path], Mapping[str, Examples] | None]
    """The examples of each split in a folder; None if its files are not there."""


def open_original(name: str, folder: Path, reads: Reads, options: Options) -> Source | None:
    """The set of this name from its original files in a folder or below it; None if they are not there.

    Raises UserError if a file is damaged.
    """
    splits = ORIGINALS[name].find(name, folder)
    if splits is None:
        return None
    whole = _joined(list(splits.values()))
    features = {"image": Feature("image", whole["image"].shape[1:], "uint8")}
    for key, names in ORIGINALS[name].names.items():
        features[key] = Feature("class", (), "int32", names)
        if whole[key].max() >= len(names):
            raise UserError(f"dataset '{name}' in {folder} holds the class {whole[key].max()}: get its files again")
    chosen, features = chosen_features(name, reads, features)
    digest = hashlib.sha256(name.encode())
    for array in whole.values():
        digest.update(array.data)
    read = from_arrays({each: whole[key] for each, key in chosen.items()})
    sizes = {split: len(examples["image"]) for split, examples in splits.items()}
    return resized(Source(read, sizes, features, digest.hexdigest()), options)


def where_to_get(name: str, folder: Path) -> str:
    """What a user can do if the set is not there."""
    original = ORIGINALS[name]
    return f"get {original.files} from {original.address} and put them into {folder / name}"


def _folders(folder: Path) -> list[Path]:
    """A folder and those below it, the nearer ones first."""
    found = [folder]
    level = [folder]
    for _ in range(DEEP):
        below: list[Path] = []
        for place in level:
            if place.is_dir():
                below += [each for each in place.iterdir() if each.is_dir()]
        level = sorted(below)
        found += level
    return found


def _plain_name(path: Path) -> str:
    """A path in small letters without signs, so that Fashion-MNIST and fashion_mnist are the same."""
    return re.sub("[^a-z0-9]", "", str(path).lower())


def _idx(name: str, folder: Path) -> dict[str, Examples] | None:
    needed = IDX["train"] + IDX["test"]
    places = [place for place in _folders(folder) if all(_named(place, each) for each in needed)]
    # Both sets have the same file names, so that only the folder tells them apart.
    fashion = [place for place in places if "fashion" in _plain_name(place)]
    others = [place for place in places if place not in fashion]
    suitable = others
    if name == "fashion_mnist":
        suitable = fashion + [place for place in others if place == folder]
    if not suitable:
        return None
    nearest = suitable[0]
    splits = {}
    for split, (images, labels) in IDX.items():
        image = read_idx(_found(nearest, images))
        label = read_idx(_found(nearest, labels))
        if image.ndim != 3 or label.shape != image.shape[:1]:
            raise UserError(
                f"{nearest} holds images {image.shape} and labels {label.shape} for {split}: get its files again"
            )
        splits[split] = {"image": image[..., None], "label": label.astype(np.int32)}
    return splits


def _named(folder: Path, name: str) -> Path | None:
    """The file of this name in a folder, perhaps compressed; some copies have a dot for the last dash but one."""
    dotted = name.replace("-idx", ".idx")
    for each in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
        if (folder / each).is_file():
            return folder / each
    return None


def _found(folder: Path, name: str) -> Path:
    path = _named(folder, name)
    assert path is not None
    return path


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in an idx file (LeCun), compressed or not; raises UserError if it is damaged."""
    content = _content(path)
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:3] != b"\0\0\x08" or len(content) < start:
        raise UserError(f"{path} is not an idx file of bytes: get it again")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != np.prod(shape, dtype=object):
        raise UserError(f"{path} holds {len(content) - start} bytes, and its head says {shape}: get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): get it again") from error


def _cifar(name: str, folder: Path) -> dict[str, Examples] | None:
    hundred = name == "cifar100"
    pattern = HUNDRED if hundred else BATCHES
    for files in _cifar_places(folder, "100" if hundred else "10"):
        found = {split: _matching(files, each) for split, each in pattern.items()}
        if not all(found.values()):
            continue
        splits = {}
        for split, paths in found.items():
            splits[split] = _joined([_batch(path, files[path], hundred) for path in paths])
        return splits
    return None


Files = Mapping[str, Callable[[], bytes]]
"""What reads a file, by the file's path."""


def _cifar_places(folder: Path, number: str) -> Iterator[Files]:
    """The files of CIFAR-10 or CIFAR-100, unpacked or in an archive."""
    for place in _folders(folder):
        if not place.is_dir():
            continue
        files = [path for path in sorted(place.iterdir()) if path.is_file()]
        if re.fullmatch(rf"cifar{number}(batches)?(bin|py|binary|python)?", _plain_name(Path(place.name))):
            yield {str(path): path.read_bytes for path in files}
        for path in files:
            if re.fullmatch(rf"cifar{number}(python|binary)(targz|tgz|tar)", _plain_name(Path(path.name))):
                yield _members(path)


def _members(path: Path) -> dict[str, Callable[[], bytes]]:
    """The files in an archive, read at once: going back in a compressed file would begin anew."""
    try:
        with tarfile.open(path) as archive:
            contents = {}
            for member in archive:
                file = archive.extractfile(member)
                if member.isfile() and file is not None:
                    contents[f"{path}/{member.name}"] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): get it again") from error
    return {name: io.BytesIO(content).getvalue for name, content in contents.items()}


def _matching(files: Files, pattern: str) -> list[str]:
    return [path for path in files if re.fullmatch(rf"{pattern}(\.bin)?", path.rpartition("/")[2])]


def _joined(parts: list[Examples]) -> Examples:
    """The examples of all parts, one part after the other."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _batch(path: str, read: Callable[[], bytes], hundred: bool) -> Examples:
    """The examples in one of CIFAR's files: bytes of labels and pixels, or what Python has pickled."""
    content = read()
    data, labels = _binary(content, hundred) if path.endswith(".bin") else _pickled(path, content, hundred)
    if data is None or data.shape[1:] != (3 * SIDE * SIDE,) or any(len(each) != len(data) for each in labels.values()):
        raise UserError(f"{path} is damaged: get it again")
    image = np.ascontiguousarray(data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
    return {"image": image, **labels}


def _binary(content: bytes, hundred: bool) -> tuple[np.ndarray | None, Examples]:
    names = ("coarse_label", "label") if hundred else ("label",)
    row = len(names) + 3 * SIDE * SIDE
    if not content or len(content) % row:
        return None, {}
    table = np.frombuffer(content, np.uint8).reshape(-1, row)
    labels = {name: table[:, place].astype(np.int32) for place, name in enumerate(names)}
    return table[:, len(names) :], labels


class _PlainPickles(pickle.Unpickler):
    """Reads arrays, numbers and texts: a pickle may come from a stranger, and could otherwise run any code."""

    ALLOWED = (
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        # NumPy 2 has moved its parts, and the files are older.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _pickled(path: str, content: bytes, hundred: bool) -> tuple[np.ndarray | None, Examples]:
    keys = {"coarse_label": b"coarse_labels", "label": b"fine_labels"} if hundred else {"label": b"labels"}
    try:
        found = _PlainPickles(io.BytesIO(content), encoding="bytes").load()
        data = np.asarray(found[b"data"], np.uint8)
        return data, {name: np.asarray(found[key], np.int32) for name, key in keys.items()}
    except Exception as error:  # pickle raises a dozen kinds on broken files
        raise UserError(f"{path} is not one of CIFAR's files ({error}): get it again") from error


FOUR_FILES = (
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"
)
TORONTO = "https://www.cs.toronto.edu/~kriz/cifar.html"
ORIGINALS = {
    "mnist": Original("https://ossci-datasets.s3.amazonaws.com/mnist/", FOUR_FILES, {"label": DIGITS}, _idx),
    "fashion_mnist": Original("https://github.com/zalandoresearch/fashion-mnist", FOUR_FILES, {"label": CLOTHES}, _idx),
    "cifar10": Original(TORONTO, "cifar-10-binary.tar.gz or cifar-10-python.tar.gz", {"label": OBJECTS}, _cifar),
    "cifar100": Original(
        TORONTO, "cifar-100-binary.tar.gz or cifar-100-python.tar.gz", {"label": THINGS, "coarse_label": KINDS}, _cifar
    ),
}
