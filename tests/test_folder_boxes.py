"""Folders of images with boxes: the same pictures in COCO's, Pascal VOC's and YOLO's layouts, and what is amiss."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageOps

from jaxrec.data import open_dataset
from jaxrec.data.boxes import around
from jaxrec.data.files import Known
from jaxrec.data.walk import counted
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

READS = {"image": "image", "boxes": "boxes", "label": "box_classes"}
NAMES = ("cat", "dog")
VALUES = (100, 200)
"""The brightness of each class."""
SIZE = (12, 16)
BOXES = [[((1, 2, 5, 9), 1), ((6, 3, 12, 16), 0)], [], [((0, 0, 3, 4), 0)], [((4, 4, 8, 9), 1)]]


class Picture(NamedTuple):
    name: str
    boxes: list
    size: tuple[int, int] = SIZE

    def save(self, folder: Path, suffix: str = ".png", **options) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros(self.size, np.uint8)
        for (top, left, bottom, right), number in self.boxes:
            pixels[top:bottom, left:right] = VALUES[number]
        Image.fromarray(pixels).save(folder / f"{self.name}{suffix}", **options)


def pictures(count=8, first=0):
    return [Picture(f"p{number}", BOXES[number % 4]) for number in range(first, first + count)]


SPLITS = {"train": pictures(8), "test": pictures(4, 8)}


def coco(path, shown, folder="", suffix=".png", sizes=None):
    """A JSON file of pictures; category 0 is one of those that some tools add and nobody uses."""
    images, annotations = [], []
    for number, picture in enumerate(shown, 100):
        height, width = sizes or picture.size
        images.append({"id": number, "file_name": f"{folder}{picture.name}{suffix}", "height": height, "width": width})
        for (top, left, bottom, right), label in picture.boxes:
            box = [left, top, right - left, bottom - top]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": 5 * label + 3, "bbox": box, "iscrowd": 0}
            )
    categories = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}]
    write(path, json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc(folder, picture, suffix=".png", size=None):
    objects = ""
    for (top, left, bottom, right), label in picture.boxes:
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        inside = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
        part = "<part><name>tail</name><bndbox/></part>"
        objects += f"<object><name>{NAMES[label]}</name><bndbox>{inside}</bndbox>{part}</object>"
    height, width = size or picture.size
    stated = f"<size><width>{width}</width><height>{height}</height><depth>1</depth></size>"
    text = f"<annotation><filename>{picture.name}{suffix}</filename>{stated}{objects}</annotation>"
    write(folder / f"{picture.name}.xml", text)


def yolo(folder, picture):
    lines = ""
    height, width = picture.size
    for (top, left, bottom, right), label in picture.boxes:
        center = ((left + right) / 2 / width, (top + bottom) / 2 / height)
        sides = ((right - left) / width, (bottom - top) / height)
        lines += f"{label} {' '.join(f'{number:.6f}' for number in (*center, *sides))}\n"
    write(folder / f"{picture.name}.txt", lines)


def save(folder, shown):
    for picture in shown:
        picture.save(folder)


def coco_2017(root):
    for split, shown in SPLITS.items():
        save(root / f"{split}2017", shown)
        coco(root / "annotations" / f"instances_{split}2017.json", shown)
        captions = {"images": [], "annotations": [{"caption": "a cat"}], "categories": []}
        write(root / "annotations" / f"captions_{split}2017.json", json.dumps(captions))


def coco_beside(root):
    for split, shown in SPLITS.items():
        save(root / split, shown)
        coco(root / split / "_annotations.coco.json", shown)


def coco_whole(root):
    save(root / "set" / "images", SPLITS["train"])
    coco(root / "set" / "result.json", SPLITS["train"], "images\\")


def voc_2007(root):
    here = root / "VOCdevkit" / "VOC2007"
    for split, shown in SPLITS.items():
        save(here / "JPEGImages", shown)
        for picture in shown[:2]:
            picture.save(here / "SegmentationClass", ".bmp")
        for picture in shown:
            voc(here / "Annotations", picture)
        names = "\n".join(picture.name for picture in shown)
        write(here / "ImageSets" / "Main" / f"{'trainval' if split == 'train' else split}.txt", names)
        write(here / "ImageSets" / "Main" / f"dog_{split}.txt", "p1 -1\n")


def voc_beside(root):
    for split, shown in SPLITS.items():
        save(root / split, shown)
        for picture in shown:
            voc(root / split, picture)


def voc_whole(root):
    save(root / "images", SPLITS["train"])
    for picture in SPLITS["train"]:
        voc(root / "annotations", picture)


def yolo_split_below(root):
    for split, shown in SPLITS.items():
        save(root / "images" / split, shown)
        for picture in shown:
            yolo(root / "labels" / split, picture)
    write(root / "data.yaml", "path: .\ntrain: images/train\nnc: 2\nnames: [cat, dog]\n")


def yolo_split_above(root):
    for split, shown in SPLITS.items():
        save(root / split / "images", shown)
        for picture in shown:
            yolo(root / split / "labels", picture)
    write(root / "data.yaml", "names:\n  0: cat\n  1: dog\n")


def yolo_split_words(root):
    """Folders of splits that are called so by one word of their names."""
    for split, shown in SPLITS.items():
        save(root / f"seg_{split}" / "images", shown)
        for picture in shown:
            yolo(root / f"seg_{split}" / "labels", picture)
    write(root / "data.yaml", "names: [cat, dog]\n")


def yolo_whole(root):
    save(root / "Images", SPLITS["train"])
    for picture in SPLITS["train"]:
        if picture.boxes:
            yolo(root / "labels", picture)
    write(root / "labels" / "classes.txt", "cat\ndog\n")


def yolo_named_whole(root):
    """A folder whose name has the word for one split, and holds the whole set."""
    save(root / "training_data" / "images", SPLITS["train"])
    for picture in SPLITS["train"]:
        yolo(root / "training_data" / "labels", picture)
    write(root / "data.yaml", "names: [cat, dog]\n")


def yolo_inner_whole(root):
    """Folders images in one of that name, of which the last has labels in its place."""
    save(root / "images" / "images", SPLITS["train"])
    for picture in SPLITS["train"]:
        yolo(root / "images" / "labels", picture)
    write(root / "data.yaml", "names: [cat, dog]\n")


def yolo_beside(root):
    save(root, SPLITS["train"])
    for picture in SPLITS["train"]:
        yolo(root, picture)


LAYOUTS = (
    coco_2017,
    coco_beside,
    coco_whole,
    voc_2007,
    voc_beside,
    voc_whole,
    yolo_split_below,
    yolo_split_above,
    yolo_split_words,
    yolo_named_whole,
    yolo_inner_whole,
    yolo_whole,
    yolo_beside,
)


def opened(root, **options):
    return open_dataset(f"folder:{root}", reads=READS, **options)


def told(data, word):
    return [remark for remark in data.remarks if word in remark]


def check(split):
    """Asserts that each box is around a rectangle of its class, and that nothing else is bright."""
    examples = split.load()
    for image, boxes, classes in zip(*(examples[name] for name in READS), strict=True):
        expected = np.zeros_like(image)
        for (top, left, bottom, right), number in zip(np.rint(boxes).astype(int), classes, strict=True):
            expected[top:bottom, left:right] = VALUES[number] if number >= 0 else 0
        assert_array_equal(image, expected)
        assert_allclose(boxes, np.rint(boxes), atol=1e-4)
    return sorted((examples["label"] >= 0).sum(1).tolist())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_boxes_in_every_layout(tmp_path, layout):
    layout(tmp_path)
    data = opened(tmp_path)
    split = layout.__name__.rsplit("_", 1)[1] not in ("whole",) and layout is not yolo_beside
    assert {name: len(each) for name, each in data.splits.items()} == (
        {"train": 8, "test": 4} if split else {"train": 6, "test": 2}
    )
    assert data.features["label"].names == (("0", "1") if layout is yolo_beside else NAMES)
    assert data.features["boxes"].shape == (2, 4)
    counts = [count for each in data.splits.values() for count in check(each)]
    assert sorted(counts) == sorted([0, 1, 1, 2] * (3 if split else 2))
    assert told(data, "images have no boxes")
    assert bool(told(data, "label file")) == (layout is yolo_whole)
    if layout not in (coco_2017, voc_2007, yolo_split_below):
        assert data.left_out == ()


def test_annotations_belong_to_the_data(tmp_path):
    voc_whole(tmp_path)
    before = opened(tmp_path)
    (tmp_path / "annotations" / "p1.xml").write_text((tmp_path / "annotations" / "p2.xml").read_text())
    after = opened(tmp_path)
    assert before.fingerprint != after.fingerprint
    changed = set(dict(zip(after.files, after.digests, strict=True)).items())
    changed -= set(dict(zip(before.files, before.digests, strict=True)).items())
    assert [name for name, _ in changed] == ["images/p1.png"]


WIDE = Picture("wide", [((10, 40, 20, 60), 1)], (40, 80))
TALL = Picture("tall", [((30, 10, 60, 30), 0)], (80, 40))


@pytest.mark.parametrize("resize", [None, "pad", "crop", "stretch"])
def test_boxes_move_with_images_of_any_size(tmp_path, resize):
    for picture in (WIDE, TALL, Picture("same", WIDE.boxes, (40, 40))):
        picture.save(tmp_path / "images")
        yolo(tmp_path / "labels", picture)
    with pytest.raises(UserError, match=r"same\.txt"):  # its box lies beyond column 40
        opened(tmp_path, image_size=32, resize=resize)
    data = opened(tmp_path, image_size=32, resize=resize, skip_bad=True, train_split="train+test")
    assert data.features["image"].resize == (resize or "pad")
    examples = data.splits["train"].load()
    there = examples["label"][:, 0] >= 0
    seen, bright = around(examples["image"][..., 0] > 50)
    assert_array_equal(bright, there)
    assert there.sum() == 2
    assert_allclose(examples["boxes"][there][:, 0], seen[there], atol=1)
    (rejected,) = [each for each in data.left_out if each.what == "box"]
    assert rejected.path.name == "same.txt" and "1 box left out: 1 outside the image" in counted(data.left_out)


def test_a_box_that_a_crop_cuts_off_is_counted(tmp_path):
    for name in ("a", "b"):
        Picture(name, [((10, 0, 20, 15), 1), ((10, 30, 30, 50), 0)], (40, 80)).save(tmp_path / "images")
        yolo(tmp_path / "labels", Picture(name, [((10, 0, 20, 15), 1), ((10, 30, 30, 50), 0)], (40, 80)))
    data = opened(tmp_path, image_size=40, resize="crop")
    assert data.splits["train"].load()["label"].tolist() == [[0, -1]]
    (line,) = told(data, "--resize crop")
    assert "2 of 4 boxes" in line


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_boxes_follow_the_orientation_tag(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Picture("stored", [((10, 50, 20, 70), 0)], (40, 80))
    stored.save(tmp_path, ".jpg", exif=exif, quality=100)
    with Image.open(tmp_path / "stored.jpg") as image:
        pixels = np.asarray(ImageOps.exif_transpose(image))
    upright = Picture("upright", [(around(pixels > 50)[0].tolist(), 0)], pixels.shape)
    stored._replace(name="upright").save(tmp_path, ".jpg", exif=exif, quality=100)
    voc(tmp_path, upright, ".jpg")
    # A file that states the size as it is stored means the image as it is stored; on its head, it cannot be told.
    voc(tmp_path, upright._replace(name="stored") if orientation == 3 else stored, ".jpg")
    data = opened(tmp_path, train_split="train+test", image_size=(80, 80))
    examples = data.splits["train"].load()
    assert_allclose(examples["boxes"][:, 0], around(examples["image"][..., 0] > 50)[0], atol=1)
    assert bool(told(data, "2 of 2 images have an orientation tag")) == (orientation == 3)


def test_images_whose_orientation_cannot_be_told_are_counted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    square = [Picture(f"s{number}", BOXES[0], (16, 16)) for number in range(3)]
    for picture in (*square, *SPLITS["train"][:2]):
        picture.save(tmp_path, ".jpg", exif=exif)
    for picture in square:
        voc(tmp_path, picture, ".jpg")
    for picture in SPLITS["train"][:2]:
        voc(tmp_path, picture, ".jpg")
    assert told(opened(tmp_path), "3 of 5 images have an orientation tag")
    for path in tmp_path.glob("*.xml"):
        path.unlink()
    for picture in square:
        yolo(tmp_path, picture)
    data = opened(tmp_path)
    assert told(data, "3 of 5 images have an orientation tag") and told(data, "2 of 5 images have no label file")


def text(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def no_area(root):
    text(root / "annotations" / "p0.xml", "<xmax>9</xmax>", "<xmax>2</xmax>")


def outside(root):
    text(root / "annotations" / "p0.xml", "<ymax>12</ymax>", "<ymax>14</ymax>")


def no_number(root):
    text(root / "annotations" / "p0.xml", "<ymin>2</ymin>", "<ymin>two</ymin>")


def other_size(root):
    text(root / "annotations" / "p0.xml", "<width>16</width>", "<width>32</width>")


def broken(root):
    text(root / "annotations" / "p0.xml", "</annotation>", "")


def entities(root):
    declared = '<!DOCTYPE a [<!ENTITY e "x">]><annotation>'
    text(root / "annotations" / "p0.xml", "<annotation>", declared)


def hidden_entities(root):
    entities(root)
    path = root / "annotations" / "p0.xml"
    path.write_bytes(path.read_text().encode("utf-16"))


def no_image(root):
    (root / "images" / "p0.png").unlink()


def no_annotations(root):
    (root / "annotations" / "p0.xml").unlink()


def bad_image(root):
    (root / "images" / "p0.png").write_bytes(b"no image")


def yolo_class(root):
    text(root / "labels" / "p0.txt", "1 0.", "7 0.")


def yolo_words(root):
    text(root / "labels" / "p0.txt", "1 0.", "dog 0.")


def yolo_no_image(root):
    (root / "Images" / "p0.png").unlink()


def coco_category(root):
    text(root / "set" / "result.json", '"category_id": 8', '"category_id": 9')


def coco_box(root):
    text(root / "set" / "result.json", '"bbox": [2, 1, 7, 4]', '"bbox": null')


def coco_huge(root):
    text(root / "set" / "result.json", '"bbox": [2, 1, 7, 4]', f'"bbox": [2, 1, 7, 4{"0" * 400}]')


def coco_no_image(root):
    text(root / "set" / "result.json", "p0.png", "q0.png")


FAULTS = [
    # What spoils a set, the file that is named, and the images and boxes that are left of 8 and 8.
    (voc_whole, no_area, "p0.xml", 8, 7),
    (voc_whole, outside, "p0.xml", 8, 7),
    (voc_whole, no_number, "p0.xml", 8, 7),
    (voc_whole, other_size, "p0.png", 7, 6),
    (voc_whole, broken, "p0.xml", 7, 6),
    (voc_whole, entities, "p0.xml", 7, 6),
    (voc_whole, hidden_entities, "p0.xml", 7, 6),
    (voc_whole, no_image, "p0.xml", 7, 6),
    (voc_whole, no_annotations, "p0.png", 7, 6),
    (voc_whole, bad_image, "p0.png", 7, 6),
    (yolo_whole, yolo_class, "p0.txt", 8, 7),
    (yolo_whole, yolo_words, "p0.txt", 8, 7),
    (yolo_whole, yolo_no_image, "p0.txt", 7, 6),
    (coco_whole, coco_category, "result.json", 8, 4),
    (coco_whole, coco_box, "result.json", 8, 6),
    (coco_whole, coco_huge, "result.json", 8, 6),
    (coco_whole, coco_no_image, "result.json", 7, 6),
]


@pytest.mark.parametrize(("layout", "spoil", "file", "images", "boxes"), FAULTS)
def test_what_is_amiss_is_named_or_left_out(tmp_path, layout, spoil, file, images, boxes):
    layout(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=rf"{file}.*--skip-bad") as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)
    data = opened(tmp_path, skip_bad=True)
    assert sum(len(split) for split in data.splits.values()) == images
    assert sum((split.load()["label"] >= 0).sum() for split in data.splits.values()) == boxes
    assert any(each.path.name == file and each.reason for each in data.left_out)


def test_an_image_without_a_label_file_is_not_an_error_in_yolo(tmp_path):
    yolo_whole(tmp_path)
    (tmp_path / "labels" / "p0.txt").unlink()
    # Some editors put a mark of the byte order before the first line.
    marked = tmp_path / "labels" / "p3.txt"
    marked.write_bytes(b"\xef\xbb\xbf" + marked.read_bytes())
    data = opened(tmp_path)
    assert sum(len(split) for split in data.splits.values()) == 8 and told(data, "3 of 8 images have no label file")


def test_polygons_are_boxes_around_them(tmp_path):
    yolo_whole(tmp_path)
    (tmp_path / "labels" / "p3.txt").write_text("1 0.25 0.5 0.5 0.3333333 0.5625 0.6666667 0.3 0.4\n")
    assert [check(split) for split in opened(tmp_path).splits.values()]


def test_crowds_are_left_out_and_listed(tmp_path):
    coco_whole(tmp_path)
    text(tmp_path / "set" / "result.json", '"bbox": [2, 1, 7, 4], "iscrowd": 0', '"bbox": [2, 1, 7, 4], "iscrowd": 1')
    data = opened(tmp_path)
    assert [(each.what, each.kind) for each in data.left_out] == [("box", "around a crowd")] * 2


def test_classes_without_boxes_are_named(tmp_path):
    yolo_split_below(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [cat, dog, bird]")
    for picture in SPLITS["train"]:
        yolo(tmp_path / "labels" / "train", picture._replace(boxes=[each for each in picture.boxes if each[1] == 0]))
    data = opened(tmp_path)
    assert data.features["label"].names == ("cat", "dog", "bird")
    (unused,) = told(data, "have no box: bird")
    (untrained,) = told(data, "have no box to train on: dog")
    assert "1 of 3" in unused and "1 of 3" in untrained


def test_files_that_name_other_classes_are_both_told(tmp_path):
    yolo_split_below(tmp_path)
    for name, classes in (("one", "[cat, dog]"), ("two", "[cat, bird]")):
        write(tmp_path / f"{name}.yaml", f"names: {classes}\n")
    with pytest.raises(UserError, match=r"data\.yaml and .*two\.yaml name different classes"):
        opened(tmp_path)


@pytest.mark.parametrize("names", ["names: [cat", "names: {1: cat, 2: dog}", "names: cat", "names: [cat, cat]"])
def test_classes_that_cannot_be_read(tmp_path, names):
    yolo_split_below(tmp_path)
    (tmp_path / "data.yaml").write_text(names)
    with pytest.raises(UserError, match=r"data\.yaml"):
        opened(tmp_path)


def test_two_files_for_one_split(tmp_path):
    coco_2017(tmp_path)
    coco(tmp_path / "instances_train.json", SPLITS["train"])
    with pytest.raises(UserError, match=r"instances_train.*\.json.*instances_train.*\.json"):
        opened(tmp_path)


def test_what_no_file_lists_is_left_out(tmp_path):
    coco_whole(tmp_path)
    Picture("more", []).save(tmp_path / "set" / "images")
    others = {
        "notes.md": "",
        "settings.xml": "<settings",
        "other.json": '{"images": 1, "categories": [], "annotations": 2}',
    }
    for name, content in others.items():
        write(tmp_path / name, content)
    assert sorted(each.path.name for each in opened(tmp_path).left_out) == sorted([*others, "more.png"])


def test_no_boxes_at_all(tmp_path):
    save(tmp_path, SPLITS["train"])
    with pytest.raises(UserError, match=r"COCO.*VOC.*YOLO"):
        opened(tmp_path)
    write(tmp_path / "p0.txt", "")
    with pytest.raises(UserError, match="no boxes") as error:
        opened(tmp_path)
    assert "train on" not in str(error.value)


def test_a_run_knows_its_classes_and_has_room_for_its_boxes(tmp_path):
    voc_whole(tmp_path / "one")
    known = Known(opened(tmp_path / "one").features)
    few = [Picture(f"d{number}", BOXES[3]) for number in range(3)]
    save(tmp_path / "two", few)
    for picture in few:
        voc(tmp_path / "two", picture)
    data = opened(tmp_path / "two", known=known)
    assert data.features == known.features
    assert check(data.splits["train"]) == [1, 1, 1] if "test" not in data.splits else True
    text(tmp_path / "two" / "d0.xml", "dog", "cow")
    with pytest.raises(UserError, match="'cow'"):
        opened(tmp_path / "two", known=known)


def sizes(data):
    return {name: len(each) for name, each in data.splits.items()}


def voc_lists(root, lists, names=None):
    """One folder of images p0 to p7 and their XML files, and lists of these numbers."""
    voc_whole(root)
    for path, numbers in lists.items():
        write(root / "ImageSets" / f"{path}.txt", "\n".join(f"p{number}" for number in numbers))


def test_the_lists_for_boxes_are_those_in_main(tmp_path):
    lists = {"Main/train": range(5), "Main/val": (5, 6), "Main/test": [7], "Main/trainval": range(7)}
    others = {"Layout/train": [0], "Segmentation/train": [0], "Segmentation/val": [1], "Segmentation/test": [0]}
    voc_lists(tmp_path, lists | others)
    data = opened(tmp_path)
    assert sizes(data) == {"train": 5, "validation": 2, "test": 1}
    assert {each.path.parent.name for each in data.left_out} == {"Layout", "Segmentation"}


def test_lists_that_leave_it_open_which_are_meant(tmp_path):
    voc_lists(tmp_path, {"Layout/train": range(6), "Segmentation/train": range(5)})
    with pytest.raises(UserError, match=r"Layout.*Segmentation.*Main"):
        opened(tmp_path)
    write(tmp_path / "ImageSets" / "train.txt", "p0 1\np1 1\np2 1")
    write(tmp_path / "ImageSets" / "test.txt", "p3\np99\n")
    with pytest.raises(UserError, match=r"'p99'.*--skip-bad"):
        opened(tmp_path)
    assert sizes(opened(tmp_path, skip_bad=True)) == {"train": 3, "test": 1}


def test_an_xml_file_may_name_its_image(tmp_path):
    voc_whole(tmp_path)
    for path in (tmp_path / "annotations").iterdir():
        path.rename(path.with_stem(f"label_{path.stem}"))
    data = opened(tmp_path)
    assert sizes(data) == {"train": 6, "test": 2} and data.left_out == ()
    assert all(check(split) for split in data.splits.values())
    for path in (tmp_path / "images").iterdir():
        path.rename(tmp_path / f"other_{path.name}")
    with pytest.raises(UserError, match=r"label_p0\.xml.*no image"):
        opened(tmp_path)
    save(tmp_path / "images", SPLITS["train"])
    # No image belongs to two files.
    voc(tmp_path / "annotations", SPLITS["train"][0])
    with pytest.raises(UserError, match=r"label_p0\.xml.*p0\.png"):
        opened(tmp_path)


def test_difficult_objects_are_left_out(tmp_path):
    voc_whole(tmp_path)
    text(tmp_path / "annotations" / "p0.xml", "<name>dog</name>", "<name>dog</name><difficult>1</difficult>")
    text(tmp_path / "annotations" / "p1.xml", "</annotation>", "<difficult>1</difficult></annotation>")
    text(tmp_path / "annotations" / "p3.xml", "<name>dog</name>", "<name>dog</name><difficult>0</difficult>")
    data = opened(tmp_path)
    assert [(each.path.name, each.what, each.kind) for each in data.left_out] == [("p0.xml", "box", "marked difficult")]
    assert sum((split.load()["label"] >= 0).sum() for split in data.splits.values()) == 7


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [('"id": 101, "file', '"id": 100, "file', "p0.png.*p1.png"), ("p1.png", "p0.png", "p0.png.*twice")],
    ids=["an id of two images", "an image with two ids"],
)
def test_a_json_file_lists_each_image_once(tmp_path, old, new, named):
    coco_whole(tmp_path)
    text(tmp_path / "set" / "result.json", old, new)
    with pytest.raises(UserError, match=rf"(result\.json)?.*{named}"):
        opened(tmp_path)


def test_numbers_in_json_may_be_text(tmp_path):
    coco_whole(tmp_path)
    path = tmp_path / "set" / "result.json"
    path.write_text(re.sub(r'"(id|image_id|category_id|height|width|iscrowd)": (\d+)', r'"\1": "\2"', path.read_text()))
    data = opened(tmp_path)
    assert data.features["label"].names == NAMES and data.left_out == ()
    assert sorted(count for split in data.splits.values() for count in check(split)) == [0, 0, 1, 1, 1, 1, 2, 2]
    text(path, '"height": "12"', '"height": "13"')
    with pytest.raises(UserError, match=r"p0\.png.*13x16"):
        opened(tmp_path)


@pytest.mark.parametrize("layout", [coco_whole, voc_whole, yolo_whole])
def test_copies_of_a_box_are_left_out_and_listed(tmp_path, layout):
    twice = SPLITS["train"][0]._replace(boxes=2 * BOXES[0])
    layout(tmp_path)
    if layout is coco_whole:
        coco(tmp_path / "set" / "result.json", [twice, *SPLITS["train"][1:]])
    elif layout is voc_whole:
        voc(tmp_path / "annotations", twice)
    else:
        yolo(tmp_path / "labels", twice)
    data = opened(tmp_path)
    assert [(each.what, each.kind) for each in data.left_out] == [("box", "stated twice")] * 2
    assert data.features["boxes"].shape == (2, 4)
    assert sorted(count for split in data.splits.values() for count in check(split)) == [0, 0, 1, 1, 1, 1, 2, 2]


def yolo_in(root, folders):
    """Images p0, p1, ... with their texts, as many in each folder as it says."""
    first = 0
    for folder, count in folders.items():
        shown = pictures(count, first)
        first += count
        save(root / "images" / folder, shown)
        for picture in shown:
            yolo(root / "labels" / folder, picture)


def stated(root, *lines):
    write(root / "data.yaml", "\n".join(("names: [cat, dog]", *lines)))


FOLDERS = ("train: images/a", "val: [images/b, images/c]", "test:")


@pytest.mark.parametrize(
    "lines",
    [
        FOLDERS,
        ("path: images", "train: a", "val: [./b, c/]"),
        ("path: ../datasets/elsewhere", *FOLDERS),
        ("train: ../images/a", "val: [../images/b, ../images/c]", "test: ../images/test"),
        ("train: train.txt", "val: [lists/val.txt, images/c]"),
    ],
    ids=["folders", "a path", "a path elsewhere", "from a folder beside", "lists"],
)
def test_splits_that_a_yaml_file_states(tmp_path, lines):
    yolo_in(tmp_path, {"a": 4, "b": 2, "c": 1})
    stated(tmp_path, *lines)
    write(tmp_path / "train.txt", "\n".join(f"./images/a/p{number}.png" for number in range(4)))
    write(tmp_path / "lists" / "val.txt", f"{tmp_path}/images/b/p4.png\nimages\\b\\p5.png\n\n")
    data = opened(tmp_path, test_split="val")
    assert sizes(data) == {"train": 4, "test": 3}
    assert sorted(data.splits["train"].file(row) for row in range(4)) == [f"images/a/p{row}.png" for row in range(4)]
    assert bool(told(data, "images/test")) == ("test: ../images/test" in lines)


def test_a_yaml_file_is_asked_before_the_names_of_folders(tmp_path):
    yolo_in(tmp_path, {"train": 4, "holdout": 2, "more": 1, "test": 1})
    stated(tmp_path, "train: images/train", "val: images/holdout")
    data = opened(tmp_path)
    assert sizes(data) == {"train": 4, "validation": 2, "test": 1}
    assert [each.path.name for each in data.left_out] == ["p6.png"]
    # What training leaves behind has a key of that name, too.
    write(tmp_path / "args.yaml", "val: true\nmode: train\n")
    assert sizes(opened(tmp_path)) == sizes(data)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (("train: images/a", "val: images/d"), "val.*images/d"),
        (("train: images/a", "val: ../other/b"), "val.*other/b"),
        (("train: images/a", "val: .."), r"val: \.\."),
        (("train: images/a", "val: 7"), "val.*7"),
        (("train: images/a", "val: images/a"), "p0.*train.*val"),
        (("train: images", "val: images/b"), "p4.*train.*val"),
        (("train: train.txt", "val: images/b"), r"train\.txt.*p9\.png.*--skip-bad"),
    ],
    ids=["not there", "outside", "above", "no path", "twice", "one in the other", "a list"],
)
def test_splits_that_cannot_be_followed(tmp_path, lines, named):
    root = tmp_path / "set"
    yolo_in(root, {"a": 4, "b": 2})
    yolo_in(tmp_path / "other", {"b": 2})
    stated(root, *lines)
    write(root / "train.txt", "images/a/p0.png\nimages/a/p9.png\n../other/images/b/p1.png\n")
    with pytest.raises(UserError, match=named) as error:
        opened(root)
    assert "\n" not in str(error.value)
