"""Sets prepared by TensorFlow Datasets, read as array_record without TensorFlow and without the network."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.decoders import (
    DECODERS,
    Context,
    Decode,
    Example,
    described,
    image_in,
    kinds_of,
    survey_boxes,
    survey_clips,
)
from jaxrec.data.features import Feature, Features, blank
from jaxrec.data.files import PLAIN, Options
from jaxrec.data.images import upright_size
from jaxrec.data.reads import Reads, choose, images_read
from jaxrec.data.sizes import told
from jaxrec.data.splits import Source
from jaxrec.data.unpaired import UNPAIRED, of_two_kinds, split_pairs
from jaxrec.errors import UserError, nearest
from jaxrec.waiting import counted

AT_ONCE = 100
"""Records that are read at once."""


def tfds_dir(data_dir: str | None) -> Path:
    """Where prepared sets lie: the given folder, TFDS_DATA_DIR or ~/tensorflow_datasets, the first that is set."""
    # Not Path.expanduser, which raises if the user has no home.
    return Path(os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def prepared_sets(folder: Path) -> dict[str, Path]:
    """The folder of each prepared set: ``name`` or ``name/config`` for its newest version, ``name:version`` for any."""
    infos = [*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")]
    versions = [info.parent for info in infos if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)]
    found = {}
    for version in sorted(versions, key=lambda path: tuple(map(int, path.name.split(".")))):
        name = version.parent.relative_to(folder).as_posix()
        found |= {name: version, f"{name}:{version.name}": version}
    return found


def _path_meant(name: str) -> str:
    """The clause that names the folder or file ``name`` as --dataset takes it; empty if there is none."""
    path = Path(name)
    kind = {".csv": "csv", ".npz": "npz"}.get(path.suffix.lower())
    if path.is_dir():
        kind = "folder"
    if kind is None or not path.exists():
        return ""
    return f"; did you mean {shlex.quote(f'{kind}:{name}')}?"


def find_prepared(name: str, folder: Path) -> Path | None:
    """Where the set ``name`` is prepared; ``folder`` holds it, or is the set's own folder or that of a version.

    None if it is not there.
    """
    sets = prepared_sets(folder)
    if name in sets:
        return sets[name]
    inside = ("dataset_info.json", "*/dataset_info.json", "*/*/dataset_info.json")
    if not any(any(folder.glob(pattern)) for pattern in inside):
        return None
    for above in folder.absolute().parents[:3]:
        sets = prepared_sets(above)
        for key in (name, f"{name}:{folder.name}"):
            path = sets.get(key)
            if path is not None and folder.absolute() in (path, *path.parents):
                return path
    return None


def missing_set(name: str, folder: Path, others: Iterable[str], instead: str = "") -> UserError:
    """The error that says that a set is not there, and what is possible.

    Args:
        name: The set.
        folder: Where it was looked for.
        others: Names of sets that are no prepared ones.
        instead: A way to get this one without TFDS.
    """
    hint = _path_meant(name) or nearest(name, [*others, *(each for each in prepared_sets(folder) if ":" not in each)])
    other = f"; or {instead}" if instead else ""
    there = "" if folder.is_dir() else ", which does not exist (check --data-dir and TFDS_DATA_DIR)"
    prepare = shlex.join(["jaxrec", "prepare", name, "--data-dir", str(folder)])
    return UserError(
        f"dataset '{name}' is not prepared in {folder}{there}: expected digits, scenes, moving, bouncing, translated, "
        f"cluttered, synthetic, folder:PATH, csv:FILE, npz:FILE or a set that `{prepare}` prepares after "
        f"`pip install 'jaxrec[prepare]'`{other}{hint}"
    )


def open_prepared(name: str, path: Path, reads: Reads, options: Options = PLAIN) -> Source:
    """The set ``name``, prepared in the folder ``path``; its images may vary in size.

    Raises UserError if it is not in array_record form or has not what is to be read.
    """
    whole = partial(_whole, name, path)
    with whole():
        _refuse_code(path)
        records = _Records(name, path)
        sizes = {split: info.num_examples for split, info in records.builder.info.splits.items()}
        unpaired = _unpaired(name, reads, sizes)
        if unpaired:
            reads = {images_read(reads)[0]: "image"}
        chosen = _chosen(name, reads, kinds_of(records.features), options.image_key)
        firsts = records.parsed(range(min(100, len(records))))
        context = Context(name, records.features, records.metadata, firsts, options)
        context, losses = _with_boxes(context, chosen, records)
        context = _with_clips(context, chosen, records)
        features, decode = _decoders(chosen, context)
        remarks = _remarks(features, chosen, firsts) + losses
        identity = _identity(records.builder, firsts, [chosen[each] for each in _encoded(features)])

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        with whole():
            examples = blank(features, len(rows))
            for place, example in enumerate(records.parsed(rows.tolist())):
                for each, values in examples.items():
                    values[place] = decode[each](example)
            return examples

    source = Source(read, sizes, features, identity=identity, remarks=remarks, version=_version(path))
    return of_two_kinds(source, unpaired) if unpaired else source


def _unpaired(name: str, reads: Reads, sizes: Mapping[str, int]) -> list[str]:
    """The splits that have a part A and a part B, if images of two kinds are to be read that need not be pairs."""
    if UNPAIRED not in images_read(reads):
        return []
    return split_pairs(f"dataset '{name}'", sizes)


def _chosen(name: str, reads: Reads, kinds: Mapping[str, str], image_key: str | None) -> dict[str, str]:
    """The set's feature for each name in ``reads``; raises UserError if one of several images has to be named."""
    images = sorted(key for key, kind in kinds.items() if kind == "image")
    wanted = images_read(reads)
    if image_key is None:
        chosen = choose(name, reads, kinds)
        # Of a set of two images, a pair is both of them.
        if 0 < len(wanted) < len(images) and not {wanted[0], "image"} & set(images):
            raise UserError(f"dataset '{name}' has several images, {', '.join(images)}: choose one with --image-key")
        return chosen
    if image_key not in images:
        raise UserError(
            f"dataset '{name}' has no image '{image_key}', only {', '.join(images)}: "
            f"change --image-key{nearest(image_key, images)}"
        )
    if len(wanted) < 2:
        return choose(name, reads, {key: kind for key, kind in kinds.items() if kind != "image" or key == image_key})
    first = wanted[0]
    others = {each: kind for each, kind in reads.items() if each != first}
    rest = {key: kind for key, kind in kinds.items() if key != image_key}
    return {first: image_key, **choose(name, others, rest)}


class _Records:
    """The records of all splits of a prepared set, one after the other."""

    def __init__(self, name: str, folder: Path) -> None:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        # Not tfds.builder: official classes may import TensorFlow, reach for the network and hide the features.
        self.builder: Any = tfds.builder_from_directory(folder)
        info = self.builder.info
        if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            raise UserError(
                f"dataset '{name}' in {folder} is stored as {info.file_format.value}, expected array_record: "
                f"remove {folder} and prepare it again with `jaxrec prepare {name}`"
            )
        self.features = described(info.features)
        self.metadata = info.metadata or {}
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._source = self.builder.as_data_source("+".join(info.splits), deserialize_method=raw)
        self._parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]

    def __len__(self) -> int:
        return len(self._source)

    def parsed(self, rows: Iterable[int]) -> list[Example]:
        """The records of these rows, not decoded.

        tfds's own parsing takes as long as decoding a small image; and decoded by Pillow, pixels do not depend on
        whether OpenCV is installed.
        """
        return [self._parse(record).features.feature for record in self._source.__getitems__(list(rows))]

    def all(self) -> Iterator[Example]:
        """Every record, a few in memory at a time."""
        for start in range(0, len(self), AT_ONCE):
            yield from self.parsed(range(start, min(start + AT_ONCE, len(self))))


def _with_boxes(context: Context, chosen: Mapping[str, str], records: _Records) -> tuple[Context, tuple[str, ...]]:
    """The context with what all records say of their boxes, if boxes are read; and what a user should know of them."""
    kinds = kinds_of(context.features)
    if not {"boxes", "box_classes"} & {kinds[key] for key in chosen.values()}:
        return context, ()
    images = [key for key in (*chosen.values(), *sorted(kinds)) if kinds[key] == "image"]
    context = replace(context, image=images[0] if images else "")
    most, losses = survey_boxes(context, counted(records.all(), "reading boxes", len(records)))
    return replace(context, most_boxes=most), losses


def _with_clips(context: Context, chosen: Mapping[str, str], records: _Records) -> Context:
    """The context with what all records say of their clips, if clips are read."""
    kinds = kinds_of(context.features)
    clips = [key for key in chosen.values() if kinds[key] == "clip"]
    if not clips:
        return context
    every = counted(records.all(), "reading clips", len(records))
    return replace(context, most_frames=survey_clips(context, clips, every))


def _decoders(chosen: Mapping[str, str], context: Context) -> tuple[dict[str, Feature], dict[str, Decode]]:
    """The features by their names in the batch, and what reads each of them from a record."""
    kinds = kinds_of(context.features)
    features: dict[str, Feature] = {}
    decode: dict[str, Decode] = {}
    # Images first, because masks and boxes take their size.
    for name in sorted(chosen, key=lambda name: kinds[chosen[name]] != "image"):
        features[name], decode[name] = DECODERS[kinds[chosen[name]]].open(chosen[name], context)
        if features[name].kind == "image" and context.size is None:
            context = replace(context, size=features[name].shape[:2])
    return {name: features[name] for name in chosen}, decode


def _remarks(features: Features, chosen: Mapping[str, str], firsts: Sequence[Example]) -> tuple[str, ...]:
    """What becomes of images of another size, counted among the first ones."""
    for name, feature in features.items():
        if feature.kind in ("image", "clip"):
            height, width, _ = feature.shape[-3:]
            sizes = [upright_size(image_in(example[chosen[name]].bytes_list.value[0])) for example in firsts]
            return told(sizes, (height, width), feature.resize, "the first ")
    return ()


def _encoded(features: Features) -> list[str]:
    """The features that are files within a record."""
    return [name for name, feature in features.items() if feature.kind in ("image", "clip", "mask")]


@contextmanager
def _whole(name: str, folder: Path) -> Iterator[None]:
    """Raises UserError if the set's files are not what was prepared."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # array_record, protobuf and Pillow raise a dozen kinds on broken files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"dataset '{name}' in {folder} is damaged ({reason}); prepare it again") from error


def _refuse_code(folder: Path) -> None:
    """Raises UserError if a set's features are classes of another package, which tfds would import."""
    path = folder / "features.json"

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, value in pairs:
            named = key in ("pythonClassName", "type") and "." in str(value)
            if named and not str(value).startswith("tensorflow_datasets."):
                raise UserError(f"{path} asks for the code '{value}'; expected features of tensorflow_datasets alone")
        return dict(pairs)

    json.loads(path.read_text("utf-8"), object_pairs_hook=check)


def _identity(builder: Any, firsts: Sequence[Example], keys: Sequence[str]) -> str:
    """Name, version, sizes and the first encoded images, frames and masks."""
    shards = [(name, info.shard_lengths, info.num_bytes) for name, info in builder.info.splits.items()]
    digest = hashlib.sha256(repr((builder.info.full_name, shards)).encode())
    for key in keys:
        for example in firsts:
            for encoded in example[key].bytes_list.value:
                digest.update(encoded)
    return digest.hexdigest()


def _version(folder: Path) -> str:
    """Sizes and times of the set's files, and Pillow's version."""
    from PIL import __version__

    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
    return repr((__version__, files))
