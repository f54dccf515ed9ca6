"""Images of 16 bits and floats, with odd metadata, and very large ones."""

import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from jaxrec.data import convert_image, image_shape, images, open_dataset, read_image
from jaxrec.data.files import Known
from jaxrec.data.images import probe_file, read_as
from jaxrec.data.levels import Extent, find_levels
from jaxrec.errors import UserError

RNG = np.random.default_rng(0)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png(path, values):
    """A PNG of 16 bits a channel, which Pillow cannot write in color: values uint16 [h, w, 1, 3 or 4]."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def folder(root, images):
    root.mkdir()
    for number, values in enumerate(images):
        write_png(root / f"{number}.png", values.astype(np.uint16))
    return open_dataset(f"folder:{root}", reads={"image": "image"})


def pixels(data):
    return np.concatenate([data.splits[split].load()["image"].ravel() for split in ("train", "test")])


@pytest.mark.parametrize("channels", [1, 3])
def test_all_sixteen_bits_are_read(tmp_path, channels):
    values = RNG.integers(0, 65536, (4, 5, 7, channels))
    data = folder(tmp_path / "set", values)
    assert data.features["image"].dtype == "uint16" and image_shape(data.features) == (5, 7, channels)
    assert not data.remarks and data.features["image"].levels == ()
    assert_array_equal(np.sort(pixels(data)), np.sort(values.ravel()))
    # With 8 bits, the nearest of 256 values is taken, not the upper byte.
    read = read_image(tmp_path / "set" / "0.png", (5, 7, channels))
    assert_array_equal(read, np.rint(values[0] / 257))


@pytest.mark.parametrize("channels", [1, 3])
def test_twelve_bits_are_spread_over_the_range(tmp_path, channels):
    values = RNG.integers(0, 4096, (4, 5, 7, channels))
    values[0, 0, 0] = 4080
    data = folder(tmp_path / "set", values)
    feature = data.features["image"]
    assert feature.levels == (0, 4095) and "4095" in data.remarks[0]
    assert_array_equal(np.sort(pixels(data)), np.sort(np.rint(values / 4095 * 65535).ravel()))
    # A photo from elsewhere is read alike, whatever its own largest value is.
    write_png(tmp_path / "dark.png", np.full((5, 7, channels), 1000, np.uint16))
    assert (read_as(tmp_path / "dark.png", feature) == round(1000 / 4095 * 65535)).all()
    # Among values of 8 bits, they have 8.
    Image.fromarray(np.full((5, 7), 9, np.uint8)).save(tmp_path / "set" / "plain.png")
    mixed = open_dataset(f"folder:{tmp_path / 'set'}", reads={"image": "image"})
    assert mixed.features["image"].dtype == "uint8" and any("4 of 5" in remark for remark in mixed.remarks)
    expected = np.concatenate([np.rint(values / 4095 * 255).ravel(), np.full(35 * channels, 9)])
    assert_array_equal(np.sort(pixels(mixed)), np.sort(expected))


def test_levels_follow_the_training_set():
    whole = [Extent(3, 900, False), Extent(0, 1023, False)]
    assert find_levels(whole).values == (0, 1023)
    assert find_levels([*whole, Extent(0, 1024, False)]).values == (0, 4095)
    assert find_levels([Extent(0, 65535, False)]) == ((), ())
    assert find_levels([Extent(-1024, 3071, False)]).values == (-1024, 3071)
    assert find_levels([Extent(0, 70000, False)]).values == (0, 70000)
    assert find_levels([Extent(0.2, 0.9, True)]).values == (0, 1)
    assert find_levels([Extent(0.2, 9, True), Extent(-1, 0, True)]).values == (-1, 9)
    assert find_levels([]) == ((), ())


def test_floats():
    values = RNG.random((6, 8)).astype(np.float32)
    assert_allclose(convert_image(Image.fromarray(values), (6, 8, 1), "float32")[..., 0], values)
    assert_array_equal(convert_image(Image.fromarray(values), (6, 8, 1))[..., 0], np.rint(values * 255))
    temperatures = Image.fromarray(values * 50 - 10)
    assert_allclose(convert_image(temperatures, (6, 8, 1), "float32", levels=(-10, 40))[..., 0], values, atol=1e-6)


def test_sets_of_floats_and_of_whole_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "FORMATS", (*images.FORMATS, "TIFF"))  # whatever a file's name says
    for number in range(4):
        Image.fromarray((RNG.random((4, 4)) * 300 - 50).astype(np.float32)).save(tmp_path / f"{number}.png", "TIFF")
    data = open_dataset(f"folder:{tmp_path}", reads={"image": "image"})
    assert data.features["image"].dtype == "float32"
    assert pixels(data).min() == 0 and pixels(data).max() == 1
    write_png(tmp_path / "5.png", RNG.integers(0, 4096, (4, 4, 1)))
    with pytest.raises(UserError, match=r"5\.png"):
        open_dataset(f"folder:{tmp_path}", reads={"image": "image"})


def test_opacity_of_sixteen_bits(tmp_path):
    values = np.zeros((1, 3, 4), np.uint16)
    values[0, :, 3] = 0, 32768, 65535
    write_png(tmp_path / "a.png", values)
    assert read_image(tmp_path / "a.png", (1, 3, 1)).ravel().tolist() == [255, 127, 0]


def test_exif_that_is_none_does_not_spoil_an_image(tmp_path):
    image = Image.fromarray(RNG.integers(0, 256, (6, 9, 3), np.uint8))
    image.save(tmp_path / "good.png")
    png = (tmp_path / "good.png").read_bytes()
    (tmp_path / "a.png").write_bytes(png[:33] + chunk(b"eXIf", b"no tiff here") + png[33:])
    image.save(tmp_path / "b.webp", lossless=True, exif=b"no tiff here")
    for name in ("a.png", "b.webp"):
        assert probe_file(tmp_path / name).size == (6, 9)
        assert_array_equal(read_image(tmp_path / name, (6, 9, 3)), np.asarray(image))


def test_large_photos_are_read_at_a_fraction_of_their_size(tmp_path):
    """More pixels than Pillow lets pass, wide color fields, and lying on its side."""
    fields = Image.fromarray(RNG.integers(0, 256, (8, 12), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    large = fields.resize((12000, 8000), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.jpg", exif=exif)
    assert probe_file(tmp_path / "large.jpg").size == (12000, 8000)
    got = read_image(tmp_path / "large.jpg", (12, 8, 1))[..., 0]
    want = np.asarray(large.resize((12, 8), Image.Resampling.BILINEAR))
    assert_allclose(got, np.rot90(want, -1).astype(int), atol=4)


def test_values_beyond_those_of_training_are_counted(tmp_path):
    for split, values in (("train", (100, 4000)), ("test", (4095, 4096, 5000, 0))):
        (tmp_path / split).mkdir()
        for number, value in enumerate(values):
            write_png(tmp_path / split / f"{number}.png", np.full((4, 4, 1), value, np.uint16))
    data = open_dataset(f"folder:{tmp_path}", reads={"image": "image"})
    assert data.features["image"].levels == (0, 4095)
    assert any(line.startswith("2 of 6") and "4095" in line and "test/1.png" in line for line in data.remarks)
    again = open_dataset(f"folder:{tmp_path}", reads={"image": "image"}, known=Known(data.features))
    assert any(line.startswith("2 of 6") and "4095" in line for line in again.remarks)
