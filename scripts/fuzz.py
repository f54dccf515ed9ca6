"""Feeds mutated files to what reads strangers': each gives a picture, boxes, a setting or one sentence.

    python scripts/fuzz.py                     100,000 images, 20,000 files of boxes and 20,000 settings
    python scripts/fuzz.py --images 1000 --seed 1

Prints how many were tried and how they were answered; exit code 1 where one was answered by a traceback, or not within
ten seconds. Linux.
"""

import argparse
import copy
import io
import json
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxrec.data.features import Feature
from jaxrec.data.files import Options
from jaxrec.data.folder import open_folder
from jaxrec.data.images import decode_file, probe_file, strict_pillow
from jaxrec.errors import UserError
from jaxrec.run.store.folder import read_config
from jaxrec.settings import Train, models, preset, to_dict

SHAPE = (16, 16, 3)
BOXES = {"image": "image", "boxes": "boxes", "label": "box_classes"}
PATIENCE = 10
INTERESTING = (b"\x00", b"\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00")
VALUES = (None, True, -1, 0, 1e308, 2**70, "", "x", "../..", [], [[]], {}, {"system": "gan"}, "\u202e", float("nan"))


def seeds() -> list[bytes]:
    """Small pictures of every kind that a folder may hold."""
    rng = np.random.default_rng(0)
    grey, color = rng.integers(0, 256, (12, 9), np.uint8), rng.integers(0, 256, (12, 9, 3), np.uint8)
    rgb = Image.fromarray(color)
    turned = Image.Exif()
    turned[0x0112] = 6
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (Image.fromarray(grey), "PNG", {}),
        (rgb, "PNG", {"exif": turned}),
        (rgb.convert("RGBA"), "PNG", {}),
        (rgb.quantize(7), "PNG", {"transparency": 1}),
        (Image.fromarray(grey.astype(np.uint16) * 200), "PNG", {}),
        (Image.fromarray(grey).convert("1"), "PNG", {}),
        (rgb, "JPEG", {"exif": turned}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "BMP", {}),
        (rgb, "WEBP", {"lossless": True}),
        (rgb, "WEBP", {}),
        (rgb.quantize(9), "GIF", {"save_all": True, "append_images": [rgb.quantize(5)], "duration": 40}),
    ]
    files = []
    for image, kind, options in made:
        file = io.BytesIO()
        image.save(file, kind, **options)
        files.append(file.getvalue())
    return files


def mutated(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """The content after one to four changes."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) + 1)
        end = min(len(content), place + rng.choice((1, 1, 2, 4, 16, 64)))
        change = rng.randrange(7)
        if change == 0 and place < len(content):
            content = content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        elif change == 1:
            content = content[:place]
        elif change == 2:
            content = content[:place] + content[end:]
        elif change == 3:
            content = content[:place] + content[place:end] * rng.randint(2, 20) + content[end:]
        elif change == 4:
            other = rng.choice(others)
            content = content[:place] + other[rng.randrange(len(other)) :]
        elif change == 5:
            new = rng.choice(INTERESTING)
            content = content[:place] + new + content[place + len(new) :]
        else:
            content = content[:place] + rng.randbytes(end - place) + content[end:]
    return content


def read_picture(path: Path) -> None:
    """As a folder's images are read: the header, then the pixels."""
    header = probe_file(path)
    assert min(header.size) > 0 and header.pages > 0
    image = decode_file(path, Feature("image", SHAPE, "uint8"))
    assert image.shape == SHAPE and image.dtype == np.uint8


def annotated(folder: Path) -> dict[Path, bytes]:
    """Three images with boxes in every format: the file of each folder that is to be changed, and its content."""
    image = {"height": 12, "width": 9}
    boxes = [{"id": each, "image_id": each, "category_id": 1, "bbox": [1, 2, 3, 4]} for each in (1, 2, 3)]
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    images = [{**image, "id": number, "file_name": f"{stem}.png"} for number, stem in enumerate("abc", 1)]
    coco = {"images": images, "annotations": boxes, "categories": names}
    corners = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>5</xmax><ymax>7</ymax></bndbox>"
    thing = f"<object><name>cat</name>{corners}</object>"
    voc = f"<annotation><size><width>9</width><height>12</height></size>{thing}</annotation>".encode()
    yolo = b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.2 0.1 0.2 0.3\n"
    contents = {
        "coco/boxes.json": json.dumps(coco).encode(),
        "voc/a.xml": voc,
        "voc/b.xml": voc,
        "voc/c.xml": voc,
        "yolo/a.txt": yolo,
        "yolo/b.txt": yolo,
        "names/data.yaml": b"nc: 2\nnames:\n  0: cat\n  1: dog\n",
        "names/a.txt": yolo,
    }
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        for stem in "abc":
            Image.new("L", (9, 12)).save(path.with_name(f"{stem}.png"))
    changed = ("coco/boxes.json", "voc/a.xml", "yolo/a.txt", "names/data.yaml")
    return {folder / name: contents[name] for name in changed}


def read_boxes(folder: Path) -> None:
    """As a folder with boxes is read: leaving out what is amiss, then refusing it."""
    for skip_bad in (True, False):
        source = open_folder(str(folder), BOXES, Options(held=0, skip_bad=skip_bad))
        examples = source.read(np.arange(sum(source.sizes.values())))
        assert np.isfinite(examples["boxes"]).all() and examples["label"].max() < len(source.features["label"].names)


def mutated_settings(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Settings whose text or one of whose values is changed."""
    if rng.random() < 0.3:
        return mutated(rng, content, others)
    settings = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        place = settings
        while True:
            name = rng.choice(list(place))
            if not isinstance(place[name], dict) or not place[name] or rng.random() < 0.2:
                break
            place = place[name]
        change = rng.randrange(3)
        if change == 0:
            del place[name]
            if not place:
                place["x"] = 0
        else:
            place[name if change == 1 else name + "_"] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(settings).encode()


def attempts(
    kind: str,
    count: int,
    rng: random.Random,
    originals: list[bytes],
    change: Callable[[random.Random, bytes, list[bytes]], bytes],
    path: Path,
    read: Callable[[], Any],
) -> bool:
    """Whether every changed file was read or refused in one sentence."""
    answers: Counter[str] = Counter()
    for number in range(count):
        path.write_bytes(change(rng, rng.choice(originals), originals))
        signal.alarm(PATIENCE)
        try:
            read()
            answers["read"] += 1
        except UserError as error:
            answers["refused" if len(str(error).splitlines()) == 1 else "refused in many lines"] += 1
        except (Exception, Hang) as error:
            answers["FAILED"] += 1
            if answers["FAILED"] <= 5:
                kept = Path(tempfile.gettempdir(), f"fuzz-{kind}-{number}")
                kept.write_bytes(path.read_bytes())
                print(f"{kind} {number}, kept as {kept}: {type(error).__name__}: {error}", file=sys.stderr)
                traceback.print_exc()
        finally:
            signal.alarm(0)
    print(f"{count} {kind}: " + ", ".join(f"{number} {name}" for name, number in answers.most_common()), flush=True)
    return set(answers) <= {"read", "refused"}


class Hang(BaseException):
    """No answer in time. Readers take any Exception for a damaged file."""


def hang(*_: Any) -> None:
    """Ends a reader that takes too long."""
    raise Hang(f"no answer within {PATIENCE} s")


def main() -> int:
    """Reads the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=20_000)
    parser.add_argument("--settings", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, hang)
    rng = random.Random(options.seed)
    settings = [json.dumps(to_dict(Train(task=task))).encode() for task in map(preset, models())]
    with tempfile.TemporaryDirectory() as folder, strict_pillow():
        image, run = Path(folder, "image.png"), Path(folder)
        good = [attempts("images", options.images, rng, seeds(), mutated, image, lambda: read_picture(image))]
        for path, content in annotated(run).items():
            read = partial(read_boxes, path.parent)
            good.append(attempts(f"{path.suffix} of boxes", options.boxes // 4, rng, [content], mutated, path, read))
        config = run / "config.json"
        good.append(
            attempts("settings", options.settings, rng, settings, mutated_settings, config, lambda: read_config(run))
        )
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
