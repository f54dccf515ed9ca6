"""Image files of every kind, and folders of them as sets."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from jaxrec.cli.predict import find_images
from jaxrec.data import Feature, class_names, convert_image, image_shape, images, open_dataset, read_image
from jaxrec.data.files import Known, Options
from jaxrec.data.folder import open_folder
from jaxrec.data.walk import walk
from jaxrec.errors import UserError
from jaxrec.run.data import open_data
from jaxrec.settings import Train
from jaxrec.tasks.system import system_of


def solid(path, color=(200, 10, 30), size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def classes(root, names=("cat", "dog"), count=5):
    """Class folders of PNG images whose red value tells the image."""
    for i, name in enumerate(names):
        for j in range(count):
            solid(root / name / f"{j}.png", (100 * i + j, 0, 0))
    return root


def opened(root, **kwargs):
    return open_dataset(f"folder:{root}", **kwargs)


def reds(split):
    return split.load()["image"][:, 0, 0, 0].tolist()


WHITE, RED, GREY = (255, 255, 255), (255, 0, 0), (128, 128, 128)


def palette():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    return image


def clear_palette():
    image = palette()
    image.info["transparency"] = b"\xff\x00"
    return image


@pytest.mark.parametrize(
    ("image", "color"),
    [
        (Image.new("RGB", (4, 4), RED), RED),
        (Image.new("L", (4, 4), 128), GREY),
        (Image.new("1", (4, 4), 1), WHITE),
        (palette(), RED),
        (clear_palette(), WHITE),
        (Image.new("RGBA", (4, 4), (*RED, 0)), WHITE),
        (Image.new("RGBA", (4, 4), (*RED, 255)), RED),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 127)), GREY),
        (Image.new("LA", (4, 4), (0, 0)), WHITE),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), RED),
        (Image.new("HSV", (4, 4), (0, 255, 255)), RED),
        (Image.new("F", (4, 4), 128.0), GREY),
        (Image.new("I", (4, 4), 65535), WHITE),
        (Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)), GREY),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_modes(image, color):
    got = convert_image(image, (4, 4, 3))
    assert got.dtype == np.uint8 and got.shape == (4, 4, 3)
    np.testing.assert_array_equal(got, np.broadcast_to(np.array(color, np.uint8), (4, 4, 3)))
    grey = convert_image(image, (4, 4, 1))
    assert grey.shape == (4, 4, 1)
    np.testing.assert_allclose(grey.astype(float), np.dot(color, [0.299, 0.587, 0.114]), atol=1)


def test_lab_becomes_gray(tmp_path):
    path = solid(tmp_path / "lab.tif", (128, 140, 150), mode="LAB")
    color, gray = read_image(path, (8, 8, 3)), read_image(path, (8, 8, 1))
    assert len(np.unique(color)) == 3
    np.testing.assert_allclose(gray[..., 0], np.dot(color, [0.299, 0.587, 0.114]), atol=1)


def test_sixteen_bits_survive_a_file(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", (1, 4, 1)).ravel().tolist() == [0, 1, 128, 255]


def test_resizing_covers_and_crops_about_the_center():
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 255
    assert (convert_image(Image.fromarray(wide), (4, 4, 3)) == 255).all()
    assert (convert_image(Image.fromarray(wide.swapaxes(0, 1)), (4, 4, 3)) == 255).all()
    assert convert_image(Image.fromarray(wide), (2, 6, 1)).shape == (2, 6, 1)
    gradient = Image.fromarray(np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1)))
    want = np.asarray(gradient.resize((12, 12), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(convert_image(gradient, (12, 12, 1))[..., 0], want)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(upright).save(tmp_path / "a.png", exif=exif)
    want = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    got = read_image(tmp_path / "a.png", want.shape)
    np.testing.assert_array_equal(got, want)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "set" / name / f"{i}.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert image_shape(opened(tmp_path / "set").features) == want.shape
    assert want.shape[:2] == ((16, 32) if orientation < 5 else (32, 16))


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path, kind):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, (0, 255, 0))]
    path = tmp_path / f"moving.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "webp" else {}))
    np.testing.assert_array_equal(read_image(path, (4, 4, 3)), np.broadcast_to(np.array(RED, np.uint8), (4, 4, 3)))


def truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def bomb(path):
    side = int(images.LARGEST**0.5) + 1
    solid(path, 0, (side, side), "1")


def lying_header(path):
    """A PNG whose header claims 40000 x 40000 pixels: an error to Pillow."""
    solid(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (40000).to_bytes(4, "big") * 2
    data[29:33] = PngImagePlugin._crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(data)


BAD = {
    "text": (lambda path: path.write_text("hello"), "its content is none of PNG, JPEG"),
    "empty": (lambda path: path.write_bytes(b""), "its content is none of PNG, JPEG"),
    "truncated": (truncated, "truncated"),
    "bomb": (bomb, "more than"),
    "lying": (lying_header, "decompression bomb"),
    "PostScript": (lambda path: Image.new("RGB", (8, 8)).save(path, "EPS"), "its content is none of PNG, JPEG"),
    "pipe": (os.mkfifo, "not a file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_unreadable_images(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(images, "LARGEST", 2**20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2**20)
    write, reason = BAD[kind]
    root = classes(tmp_path / "set")
    path = root / "dog" / "9.png"
    write(path)
    with pytest.raises(UserError, match=rf"^{path} is not a readable image \(.*{reason}.*\); replace it or remove it$"):
        read_image(path, (8, 8, 3))
    with pytest.raises(UserError, match=rf"^{path} is not .*remove it, or leave out all such files with --skip-bad$"):
        opened(root)
    data = opened(root, skip_bad=True)
    values = [*reds(data.splits["train"]), *reds(data.splits["test"])]
    assert len(data.left_out) == 1 and sorted(values) == [0, 1, 2, 3, 4, *range(100, 105)]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"a\.png is not a readable image \(No such file or directory\); replace it"):
        read_image(tmp_path / "a.png", (8, 8, 3))


def test_a_class_of_bad_images_alone(tmp_path):
    root = classes(tmp_path)
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="has no readable training image of class 'dog'"):
        opened(root, skip_bad=True)
    for path in (root / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^none of the 10 image files can be read"):
        opened(root, skip_bad=True)


def test_cut_is_stratified_and_seeded(tmp_path):
    data = opened(classes(tmp_path, ("dog", "cat", "ant"), 10))
    assert (
        class_names(data.features) == ("ant", "cat", "dog")
        and image_shape(data.features) == (8, 8, 3)
        and len(data.left_out) == 0
    )
    train, test = data.splits["train"].load(), data.splits["test"].load()
    assert np.bincount(train["label"]).tolist() == [8, 8, 8] and np.bincount(test["label"]).tolist() == [2, 2, 2]
    values = [*reds(data.splits["train"]), *reds(data.splits["test"])]
    assert sorted(values) == [*range(10), *range(100, 110), *range(200, 210)]
    np.testing.assert_array_equal(train["image"][:, 0, 0, 0] // 100, 2 - train["label"])
    assert len(set(train["label"][:8].tolist())) > 1
    assert reds(opened(tmp_path).splits["train"]) == reds(data.splits["train"])
    assert len(opened(tmp_path, train_split="train[:50%]").splits["train"]) == 12


def test_small_folders_are_cut(tmp_path):
    data = opened(classes(tmp_path, count=2))
    assert {name: sorted(split.load()["label"].tolist()) for name, split in data.splits.items()} == {
        "train": [0, 1],
        "test": [0, 1],
    }


def test_train_and_test_folders(tmp_path):
    classes(tmp_path / "train", count=3)
    classes(tmp_path / "test", count=2)
    classes(tmp_path / "val", count=1)
    (tmp_path / "notes").mkdir()
    data = opened(tmp_path)
    assert sorted(reds(data.splits["train"])) == [0, 1, 2, 100, 101, 102]
    assert sorted(reds(data.splits["test"])) == [0, 1, 100, 101]
    assert len(opened(tmp_path, test_split="val").splits["test"]) == 2
    with pytest.raises(UserError, match=r"has no split 'tests', only test, train, val: .* did you mean 'test'"):
        opened(tmp_path, test_split="tests")
    classes(tmp_path / "test", ("emu",))
    with pytest.raises(UserError, match="no readable training image of class 'emu'"):
        opened(tmp_path)


SPLIT_LAYOUTS = {
    "Kaggle": ("training_set/training_set/{}", "test_set/test_set/{}"),
    "Intel": ("seg_train/seg_train/{}", "seg_test/seg_test/{}"),
    "words": ("my-train2017/{}", "Test images/{}"),
    "doubled": ("train/train/{}", "test/test/{}"),
    "inner": ("train/images/{}", "test/images/{}"),
    "classes first": ("{}/train", "{}/test"),
    "a space": ("train /{}", "TEST/{}"),
}


@pytest.mark.parametrize("layout", SPLIT_LAYOUTS)
def test_layouts_with_splits(tmp_path, layout):
    train, test = SPLIT_LAYOUTS[layout]
    for number, name in enumerate(("cat", "dog")):
        for count, place in ((3, train), (2, test)):
            for image in range(count):
                solid(tmp_path / place.format(name) / f"{image}.png", (100 * number + image, 0, 0))
    if layout == "Intel":
        solid(tmp_path / "seg_pred" / "seg_pred" / "0.png")
    data = opened(tmp_path)
    assert len(data.left_out) == (layout == "Intel")
    assert class_names(data.features) == ("cat", "dog")
    assert sorted(reds(data.splits["train"])) == [0, 1, 2, 100, 101, 102]
    assert sorted(reds(data.splits["test"])) == [0, 1, 100, 101]
    labels = data.splits["train"].load()["label"]
    np.testing.assert_array_equal(labels, np.array(reds(data.splits["train"])) // 100)


def test_a_class_in_one_split_is_not_entered(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "test" / "cat", ("old", "young"))
    assert len(opened(tmp_path).splits["test"]) == 10


@pytest.mark.parametrize(
    ("places", "named"),
    [
        (("fold0/cat", "fold0/dog", "fold1/cat", "fold1/dog"), ("fold0", "fold1", "cat", "dog")),
        (("train/fold0/cat", "train/fold0/dog", "train/fold1/cat", "train/fold1/dog"), ("fold0", "dog")),
        (("cat/train", "cat/test", "dog"), ("cat", "dog", "train")),
        (("cat_train", "dog_train", "cat_test"), ("cat_train", "dog_train")),
        (("train_images", "test_images"), ("train_images",)),
    ],
)
def test_layouts_that_may_mean_several_things_are_refused(tmp_path, places, named):
    for place in places:
        for image in range(2):
            solid(tmp_path / place / f"{image}.png")
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    for name in named:
        assert name in str(caught.value).replace(str(tmp_path), "")


def test_classes_may_be_called_like_splits_in_part(tmp_path):
    names = ("bullet_train", "bus", "test_tube")
    assert class_names(opened(classes(tmp_path, names)).features) == names


def test_splits_of_images_without_classes(tmp_path):
    solid(tmp_path / "train_images" / "0.png", (1, 0, 0))
    solid(tmp_path / "test_images" / "0.png", (2, 0, 0))
    data = without_classes(tmp_path)
    assert (reds(data.splits["train"]), reds(data.splits["test"])) == ([1], [2])


@pytest.mark.parametrize("inside", [None, "0.png", "cat/0"])
def test_a_split_without_examples(tmp_path, inside):
    classes(tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    if inside is not None:
        solid(tmp_path / "0.png").rename(tmp_path / "test" / inside)
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert f"{tmp_path / 'test'} holds" in str(caught.value)
    assert ("1 file left out" in str(caught.value)) == (inside is not None)
    classes(tmp_path / "val")
    data = opened(tmp_path, test_split="val")
    assert any(f"{tmp_path / 'test'} holds" in remark for remark in data.remarks)


def test_what_to_give_without_a_test_split(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "dev")
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert "--test-split dev" in str(caught.value)
    assert len(opened(tmp_path, train_split="train[:80%]", test_split="train[80%:]").splits["test"]) == 2
    assert "--train-split 'train[:80%]' --test-split 'train[80%:]'" in str(caught.value)


def test_classes_that_seem_to_be_one(tmp_path):
    (remark,) = opened(classes(tmp_path, ("Cat", "cat", "dog"))).remarks
    assert "'Cat' and 'cat'" in remark


def test_a_class_may_be_called_train(tmp_path):
    assert class_names(opened(classes(tmp_path, ("train", "bus"))).features) == ("bus", "train")


def test_links_hidden_files_and_other_files(tmp_path):
    root = classes(tmp_path / "set")
    (root / "link").symlink_to(classes(tmp_path / "elsewhere", ("x",)) / "x")
    (root / "cat" / ".hidden.png").write_text("no image")
    (root / "cat" / "Thumbs.db").write_text("no image")
    (root / ".git").mkdir()
    solid(root / "dog" / "UPPER.JPG", (100, 0, 0))
    data = opened(root)
    assert class_names(data.features) == ("cat", "dog", "link")
    assert sum(map(len, data.splits.values())) == 16
    assert [(each.path.name, each.kind) for each in data.left_out] == [(".hidden.png", "hidden")]


def test_grey_or_color(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            solid(tmp_path / name / f"{i}.png", 50 * i, mode="L")
    assert image_shape(opened(tmp_path).features) == (8, 8, 1)
    grey_palette = Image.new("L", (8, 8), 7).convert("P")
    grey_palette.save(tmp_path / "a" / "p.png")
    assert image_shape(opened(tmp_path).features) == (8, 8, 1)
    solid(tmp_path / "b" / "z.png")
    data = opened(tmp_path, image_size=5)
    assert image_shape(data.features) == (5, 5, 3)
    assert data.splits["train"].load()["image"].shape[1:] == (5, 5, 3)


def test_sizes_follow_the_first_image(tmp_path):
    root = classes(tmp_path)
    solid(root / "cat" / "0.png", size=(9, 6))
    assert image_shape(opened(root).features) == (6, 9, 3)


def test_large_folders_are_read_from_disk(tmp_path):
    root = classes(tmp_path)
    reads = {"image": "image", "label": "class"}
    held = open_folder(str(root), reads, Options())
    streamed = open_folder(str(root), reads, Options(held=0))
    rows = np.arange(10)
    for key, value in held.read(rows).items():
        np.testing.assert_array_equal(streamed.read(rows)[key], value)
    assert (streamed.identity, streamed.sizes) == (held.identity, held.sizes)
    truncated(root / "cat" / "5.png")
    source = open_folder(str(root), reads, Options(held=0))
    with pytest.raises(UserError, match=r"5\.png is not a readable image \(.*truncated"):
        source.read(np.arange(11))
    assert open_folder(str(root), reads, Options(held=0, skip_bad=True)).left_out[0].path.name == "5.png"


def test_fingerprint_follows_the_content(tmp_path):
    root = classes(tmp_path / "a")
    first = opened(root).fingerprint
    assert opened(classes(tmp_path / "b")).fingerprint == first
    assert opened(root, image_size=4).fingerprint != first
    solid(root / "cat" / "new.png")
    assert opened(root).fingerprint != first


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda root: root.rmdir(),
            "folder {root} does not exist: expected a folder of images",
        ),
        (lambda root: None, "folder {root} holds no class folders: expected images in {root}/CLASS/"),
        (lambda root: solid(root / "a.png"), "folder {root} holds no class folders: expected images in {root}/CLASS/"),
        (
            lambda root: (classes(root) / "emu").mkdir(),
            "class folder {root}/emu holds no images: "
            "add PNG, JPEG, WebP, TIFF or other image files, or remove the folder",
        ),
        (
            lambda root: classes(root, ("cat",)),
            "folder {root} holds only one class, 'cat': expected at least two class folders",
        ),
    ],
)
def test_folders_that_are_no_sets(tmp_path, build, message):
    root = tmp_path / "set"
    root.mkdir()
    build(root)
    with pytest.raises(UserError) as caught:
        opened(root)
    assert str(caught.value) == message.format(root=root)


def without_classes(root, **kwargs):
    return open_dataset(f"folder:{root}", reads={"image": "image"}, **kwargs)


def test_any_images_without_classes(tmp_path):
    for number in range(5):
        solid(tmp_path / f"{number}.png", (number, 0, 0))
    classes(tmp_path, ("cat", "deep/inside"), 3)
    solid(tmp_path / ".hidden" / "a.png")
    data = without_classes(tmp_path)
    assert data.features.keys() == {"image"} and class_names(data.features) == ()
    assert [len(split) for split in data.splits.values()] == [9, 2]
    values = [*reds(data.splits["train"]), *reds(data.splits["test"])]
    assert sorted(values) == [0, 0, 1, 1, 2, 2, 3, 4, 100, 101, 102]
    assert reds(without_classes(tmp_path).splits["train"]) == reds(data.splits["train"])


def test_train_and_test_folders_without_classes(tmp_path):
    for number in range(3):
        solid(tmp_path / "train" / f"{number}.png", (number, 0, 0))
    classes(tmp_path / "test", count=2)
    data = without_classes(tmp_path)
    assert sorted(reds(data.splits["train"])) == [0, 1, 2]
    assert sorted(reds(data.splits["test"])) == [0, 1, 100, 101]


def test_folders_without_images(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        without_classes(tmp_path)
    solid(tmp_path / "a.png")
    with pytest.raises(UserError, match="a single image"):
        without_classes(tmp_path)
    with pytest.raises(UserError, match=r"no number for 'age', only 'image'"):
        open_dataset(f"folder:{tmp_path}", reads={"image": "image", "age": "number"})


def test_sixteen_bits_are_kept_if_all_images_have_them(tmp_path):
    for number in range(4):
        values = np.full((4, 6), 20000 * number + 7, np.uint16)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    data = without_classes(tmp_path)
    assert data.features["image"] == Feature("image", (4, 6, 1), "uint16")
    assert sorted([*reds(data.splits["train"]), *reds(data.splits["test"])]) == [7, 20007, 40007, 60007]
    assert without_classes(tmp_path, image_size=3).splits["train"].load()["image"].dtype == np.uint16
    solid(tmp_path / "8bit.png", 9, size=(6, 4), mode="L")
    data = without_classes(tmp_path)
    assert data.features["image"].dtype == "uint8"
    assert sorted([*reds(data.splits["train"]), *reds(data.splits["test"])]) == [0, 9, 78, 156, 233]


def test_resizing_sixteen_bits_is_resizing_eight():
    values = np.random.default_rng(0).integers(0, 256, (24, 36), np.uint8)
    deep = convert_image(Image.fromarray(values.astype(np.uint16) * 257), (8, 8, 1), "uint16")
    plain = convert_image(Image.fromarray(values), (8, 8, 1))
    assert deep.dtype == np.uint16 and deep.shape == (8, 8, 1)
    np.testing.assert_allclose(deep / 257, plain, atol=1)
    spread = convert_image(Image.fromarray(values), (24, 36, 1), "uint16")
    np.testing.assert_array_equal(spread[..., 0], values.astype(np.uint16) * 257)


def test_one_walk_for_training_and_prediction(tmp_path):
    """Sub-folders are walked, clutter is passed over, and what is no image is named."""
    root = classes(tmp_path)
    deep = solid(root / "cat" / "more" / "still.more" / "a.TIFF", (50, 0, 0))
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "__MACOSX/cat/1.png", ".hidden/b.png"):
        (root / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cat" / name).write_text("no image")
    (root / "dog" / "notes.txt").write_text("a dog")
    (root / "dog" / "raw").write_bytes(b"raw")
    solid(root / "beside.png")
    (root / "dog" / "round").symlink_to(root)
    data = opened(root)
    assert sorted(reds(data.splits["train"]) + reds(data.splits["test"])) == [*range(5), 50, *range(100, 105)]
    left_out = {each.path.relative_to(root).as_posix(): each.kind for each in data.left_out}
    assert left_out == {
        "dog/notes.txt": ".txt",
        "dog/raw": "without a suffix",
        "beside.png": "outside the class folders",
    }
    found, others = find_images((str(root),))
    assert deep in found and len(found) == 12
    assert {each.path.name for each in others} == {"notes.txt", "raw"}


@pytest.mark.parametrize("suffix", [".tif", ".avif", ".jp2", ".ppm", ".pgm", ".jfif", ".jpe", ".webp", ".bmp", ".gif"])
def test_suffixes(tmp_path, suffix):
    path = solid(tmp_path / f"a{suffix}", 200, mode="L")
    assert walk(tmp_path) == ([path], [])
    np.testing.assert_allclose(read_image(path, (8, 8, 1)), 200, atol=2)


def test_heic_by_an_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 64), RED)).save(tmp_path / "a.heic")
    assert walk(tmp_path).images == [tmp_path / "a.heic"]
    assert read_image(tmp_path / "a.heic", (64, 64, 3))[32, 32, 0] > 240


def test_heic_without_the_extra_is_left_out_with_what_mends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrec.data.walk.heif_is_read", lambda: False)
    (tmp_path / "a.HEIC").write_bytes(b"")
    (left_out,) = walk(tmp_path).left_out
    assert left_out.kind == ".heic" and "jaxrec[heic]" in left_out.reason


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("test", ["test", "Testing"])
def test_names_of_splits(tmp_path, train, test):
    classes(tmp_path / "around" / train, count=3)
    classes(tmp_path / "around" / test, count=2)
    (tmp_path / "readme.txt").write_text("about")
    data = opened(tmp_path)
    assert sorted(reds(data.splits["train"])) == [0, 1, 2, 100, 101, 102]
    assert sorted(reds(data.splits["test"])) == [0, 1, 100, 101]
    assert any("around" in note for note in data.remarks)
    assert len(opened(tmp_path, train_split="train[:50%]").splits["train"]) == 3


def test_classes_one_folder_deeper(tmp_path):
    assert class_names(opened(classes(tmp_path / "animals").parent).features) == ("cat", "dog")


def test_two_folders_for_one_split(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "Training")
    with pytest.raises(UserError, match="Training and train"):
        opened(tmp_path)


def test_all_bad_files_are_named(tmp_path):
    root = classes(tmp_path)
    for number in range(3):
        (root / "dog" / f"bad{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"bad0.*--skip-bad.*2 more.*bad1.*bad2"):
        opened(root)


def test_a_single_image_of_a_class_is_trained_on_and_said(tmp_path):
    classes(tmp_path)
    solid(tmp_path / "emu" / "a.png")
    data = opened(tmp_path)
    assert np.bincount(data.splits["train"].load()["label"]).tolist() == [4, 4, 1]
    assert any("test" in remark and "emu" in remark for remark in data.remarks)


def cut(root, **settings):
    return open_data(Train(dataset=f"folder:{root}", batch_size=4, **settings), system_of(Train().task))


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_the_own_validation_split_is_used(tmp_path, name):
    for split, count in (("train", 5), (name, 2), ("test", 1), ("extra", 3)):
        classes(tmp_path / split, count=count)
    data = opened(tmp_path)
    sizes = {split: len(examples) for split, examples in data.splits.items()}
    assert sizes == {"train": 10, "test": 2, "validation": 4}
    assert any("extra (6)" in remark for remark in data.remarks)
    assert set(opened(tmp_path, train_split="train+val").splits) == {"train", "test"}
    own, held = cut(tmp_path), cut(tmp_path, validation=0.2)
    assert own.validation is not None and held.validation is not None
    assert (len(own.train), len(own.validation)) == (10, 4)
    assert any("test split has 2" in remark for remark in own.remarks)
    assert (len(held.train), len(held.validation)) == (8, 2)
    assert any("validation split of 4" in remark for remark in held.remarks)
    with pytest.raises(UserError, match="--validation-split"):
        cut(tmp_path, validation=0.2, validation_split="val")


def test_the_validation_cut_keeps_rare_classes(tmp_path):
    for name, count in (("bars", 58), ("rows", 20), ("zebra", 2), ("yak", 1)):
        classes(tmp_path / "train", (name,), count)
        classes(tmp_path / "test", (name,), 1)
    data = cut(tmp_path)
    assert data.validation is not None
    train, validation = data.train.load()["label"], data.validation.load()["label"]
    # bars, rows, yak, zebra
    assert np.bincount(train, minlength=4).tolist() == [53, 18, 1, 1]
    assert np.bincount(validation, minlength=4).tolist() == [5, 2, 0, 1]
    assert any("validation" in remark and "yak" in remark and "zebra" not in remark for remark in data.remarks)


def test_examples_that_splits_share_are_counted(tmp_path):
    classes(tmp_path)

    def shared(**splits):
        return [remark for remark in cut(tmp_path, **splits).remarks if "--" in remark]

    assert shared() == []
    assert shared(train_split="train[:4]", validation_split="train[4:6]", test_split="train[6:]+test") == []
    (remark,) = shared(test_split="train[6:]+test")
    assert remark.startswith("2 of the 4 ") and "--test-split" in remark and "--train-split" in remark
    (remark,) = shared(validation_split="test")
    assert remark.startswith("2 of the 2 ") and "--test-split" in remark and "--validation-split" in remark


def test_copies_are_counted_in_a_set_held_in_memory(tmp_path):
    classes(tmp_path / "train")
    for name, number in (("cat", 7), ("dog", 8), ("dog", 9)):
        solid(tmp_path / "test" / name / f"{number}.png", (number, 7, 7))

    def copies():
        data = open_data(Train(dataset=f"folder:{tmp_path}", batch_size=4), system_of(Train().task), trains=True)
        return [remark for remark in data.remarks if "cop" in remark]

    assert copies() == []
    shutil.copy(tmp_path / "test" / "cat" / "7.png", tmp_path / "train" / "cat")
    for number in range(5):
        shutil.copy(tmp_path / "train" / "cat" / "7.png", tmp_path / "train" / "cat" / f"seven-{number}.png")
    (remark,) = copies()
    assert remark.startswith("1 of the 3 ")


def test_what_files_lose_is_counted(tmp_path):
    """Pages after the first, colors that training had not, and white drawings on nothing."""
    for number in range(3):
        solid(tmp_path / "gray" / f"{number}.png", number, mode="L")
    known = Known(without_classes(tmp_path / "gray").features, unknown="test")
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    (tmp_path / "new").mkdir()
    frames[0].save(tmp_path / "new" / "moving.gif", save_all=True, append_images=frames[1:])
    solid(tmp_path / "new" / "red.png")
    drawing = Image.new("LA", (8, 8), (255, 0))
    drawing.putpixel((3, 3), (255, 255))
    drawing.save(tmp_path / "new" / "drawing.png")
    drawing.putpixel((3, 3), (0, 255))
    drawing.save(tmp_path / "new" / "ink.png")
    moving, gray, blank = without_classes(tmp_path / "new", known=known, only_test=True).remarks
    assert moving.startswith("1 of 4 ") and "moving.gif" in moving
    assert gray.startswith("1 of 4 ") and "gray" in gray
    assert blank.startswith("1 of 2 ") and "drawing.png" in blank
