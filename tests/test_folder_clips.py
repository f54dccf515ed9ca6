"""Folders of clips: folders of frames and animated files, in class folders, with and without splits."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from jaxrec.cli.predict import find_images, without_videos
from jaxrec.data import Feature, open_dataset
from jaxrec.data.folder_clips import clips_below, read_clip
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

READS = {"clip": "clip", "length": "length", "label": "class"}


def opened(root, reads=READS, **kwargs):
    return open_dataset(f"folder:{root}", reads=reads, **kwargs)


def frames(first, count, size=(6, 8), color=False):
    """Images of which each is as bright as its number, from ``first`` on."""
    shape = (*size, 3) if color else size
    return [Image.fromarray(np.full(shape, first + place, np.uint8)) for place in range(count)]


def as_folder(path, images):
    path.mkdir(parents=True)
    for place, image in enumerate(images):
        image.save(path / f"frame{place + 1}.png")


def as_file(path, images):
    path.parent.mkdir(parents=True, exist_ok=True)
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], **lossless)


def walks(root, clips=5):
    """Two classes of clips in folders, with the same names in both, of 1, 3, 5, ... frames."""
    for number, name in enumerate(("run", "walk")):
        for clip in range(clips):
            as_folder(root / name / f"{clip:03}", frames(100 * number + 20 * clip, 1 + 2 * clip))
    return root


def test_folders_of_frames(tmp_path):
    data = opened(walks(tmp_path, 6))
    assert data.features["clip"] == Feature("clip", (11, 6, 8, 1), "uint8")
    assert data.features["label"].names == ("run", "walk")
    assert [len(split) for split in data.splits.values()] == [10, 2]
    for split in data.splits.values():
        examples = split.load()
        for place in range(len(split)):
            clip, length = examples["clip"][place], int(examples["length"][place])
            name, number = split.file(place).split("/")
            assert name == ("run", "walk")[examples["label"][place]] and length == 1 + 2 * int(number)
            # Frame 10 comes after frame 9, not after frame 1.
            first = 100 * examples["label"][place] + 20 * int(number)
            expected = np.pad(first + np.arange(length), (0, 11 - length))
            assert_array_equal(clip, np.broadcast_to(expected[:, None, None, None], clip.shape))
    assert len(set(data.digests)) == 12


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animated_files_in_splits(suffix, tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for number, name in enumerate(("run", "walk")):
            for clip in range(count):
                as_file(tmp_path / split / name / f"{clip}{suffix}", frames(100 * number + 40 * clip, 2 + clip))
    Image.new("L", (8, 6)).save(tmp_path / "train" / "run" / "still.png")
    data = opened(tmp_path)
    assert {split: len(each) for split, each in data.splits.items()} == {"train": 6, "test": 4}
    assert [each.path.name for each in data.left_out] == ["still.png"]
    train = data.splits["train"].load()
    order = np.lexsort([train["length"], train["label"]])
    assert_array_equal(train["length"][order], [2, 3, 4] * 2)
    assert_array_equal(train["label"][order], [0, 0, 0, 1, 1, 1])
    there = np.arange(4) < train["length"][order][:, None]
    expected = there * (np.array([0, 40, 80, 100, 140, 180])[:, None] + np.arange(4))
    assert_allclose(train["clip"][order].mean((2, 3, 4)), expected, atol=1)


def test_color_size_and_deeper_folders(tmp_path):
    as_folder(tmp_path / "a" / "someone" / "1", frames(10, 2))
    as_folder(tmp_path / "a" / "someone" / "2", frames(10, 3))
    as_folder(tmp_path / "b" / "another" / "1", frames(10, 2, (12, 16), color=True))
    as_file(tmp_path / "b" / "files" / "1.gif", frames(10, 4))
    data = opened(tmp_path, image_size=4)
    assert data.features["clip"].shape == (4, 4, 4, 3)
    assert sorted(data.files) == ["a/someone/1", "a/someone/2", "b/another/1", "b/files/1.gif"]


def test_frames_of_16_bits_keep_their_depth(tmp_path):
    for name in ("a", "b"):
        for clip in range(2):
            deep = [Image.fromarray(np.full((4, 4), 1000 * place + clip, np.uint16)) for place in range(4)]
            as_folder(tmp_path / name / str(clip), deep)
    data = opened(tmp_path)
    assert data.features["clip"] == Feature("clip", (4, 4, 4, 1), "uint16", levels=(0, 4095))
    shown = data.splits["train"].load()["clip"][0, :, 0, 0, 0]
    assert_allclose(np.diff(shown.astype(float)), 1000 * 65535 / 4095, atol=1)


def test_clips_without_classes(tmp_path):
    for clip in range(3):
        as_folder(tmp_path / f"clip{clip}", frames(10 * clip, 2))
    as_file(tmp_path / "clip3.gif", frames(200, 2))
    data = opened(tmp_path, {"clip": "clip"})
    assert sorted(data.files) == ["clip0", "clip1", "clip2", "clip3.gif"]
    assert data.features.keys() == {"clip"}


def test_what_was_decoded_stays_and_is_told_apart(tmp_path):
    first = opened(walks(tmp_path / "set"))
    again = opened(tmp_path / "set")
    assert_array_equal(first.splits["train"].load()["clip"], again.splits["train"].load()["clip"])
    assert first.fingerprint == again.fingerprint
    frames(7, 1)[0].save(tmp_path / "set" / "run" / "004" / "frame9.png")
    changed = opened(tmp_path / "set")
    assert changed.fingerprint != first.fingerprint
    assert any((split.load()["clip"] == 7).any() for split in changed.splits.values())


def test_a_bad_frame_is_named_or_its_clip_left_out(tmp_path):
    bad = walks(tmp_path) / "walk" / "003" / "frame4.png"
    bad.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"003/frame4.png.*--skip-bad"):
        opened(tmp_path)
    data = opened(tmp_path, skip_bad=True)
    assert len(data.files) == 9 and [each.path for each in data.left_out] == [bad]


def test_what_most_files_of_a_folder_are_decides(tmp_path):
    inner = walks(tmp_path) / "run" / "004"
    as_file(inner / "a preview.gif", frames(200, 3))
    as_file(tmp_path / "walk" / "files" / "1.gif", frames(200, 2))
    as_file(tmp_path / "walk" / "files" / "2.gif", frames(220, 2))
    frames(7, 1)[0].save(tmp_path / "walk" / "files" / "0.png")
    data = opened(tmp_path, train_split="train+test")
    assert {each.path.name: each.kind for each in data.left_out} == {
        "a preview.gif": "animated among frames",
        "0.png": "single images",
    }
    assert {"run/004", "walk/files/1.gif", "walk/files/2.gif"} < set(data.files) and len(data.files) == 12
    examples = data.splits["train"].load()
    (row,) = [place for place, file in enumerate(data.files) if file == "run/004"]
    assert examples["length"][row] == 9
    assert_array_equal(examples["clip"][row, :, 0, 0, 0], 80 + np.arange(9))
    # Prediction finds and reads the same.
    clips, left_out = clips_below(tmp_path / "run")
    assert inner in clips and [each.path for each in left_out] == [inner / "a preview.gif"]
    assert_array_equal(read_clip(inner, Feature("image", (6, 8, 1), "uint8"))[:, 0, 0, 0], 80 + np.arange(9))


def test_folders_of_single_images_hold_no_clips(tmp_path):
    for name in ("a", "b"):
        as_folder(tmp_path / name, frames(1, 3))
    with pytest.raises(UserError, match="no clips"):
        opened(tmp_path)
    as_file(tmp_path / "a" / "1.gif", frames(1, 3))
    with pytest.raises(UserError, match=r"class folder .*b.* no clips.*GIF") as error:
        opened(tmp_path)
    assert "JPEG" not in str(error.value)
    with pytest.raises(UserError, match=r"expected clips in .*CLASS"):
        opened(tmp_path / "a")


def as_video(path, levels):
    """A video whose frames are as bright as ``levels``; red in their upper half."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for level in levels:
            pixels = np.full((16, 32, 3), level, np.uint8)
            pixels[:8, :, 1:] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_videos_by_an_extra(tmp_path):
    for number, name in enumerate(("run", "walk")):
        for clip, kind in enumerate(("mp4", "avi", "mkv")):
            as_video(tmp_path / name / f"{clip}.{kind}", 60 + 40 * number + 20 * np.arange(3 + clip))
    data = opened(tmp_path)
    assert data.features["clip"].shape == (5, 16, 32, 3)
    for split in data.splits.values():
        examples = split.load()
        for place in range(len(split)):
            clip = int(split.file(place)[-5])
            assert examples["length"][place] == 3 + clip
            expected = np.pad(60 + 40 * examples["label"][place] + 20 * np.arange(3 + clip), (0, 2 - clip))
            assert_allclose(examples["clip"][place][:, 12:].mean((1, 2, 3)), expected, atol=8)
            assert_allclose(examples["clip"][place][:, :4, :, 1:].mean((1, 2, 3)), 0, atol=8)
    cut = tmp_path / "run" / "1.avi"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2 + 2000])
    (tmp_path / "run" / "0.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"0\.mp4.*--skip-bad.*1\.avi"):
        opened(tmp_path)
    assert [each.path.name for each in opened(tmp_path, skip_bad=True).left_out] == ["0.mp4", "1.avi"]


def test_videos_without_the_extra_are_left_out_with_what_mends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrec.data.folder_clips.video_is_read", lambda: False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.mp4").write_bytes(b"a video")
    with pytest.raises(UserError, match=r"jaxrec\[video\]"):
        opened(tmp_path)
    data = opened(walks(tmp_path))
    assert [each.kind for each in data.left_out] == [".mp4"] and "jaxrec[video]" in data.left_out[0].reason


def test_prediction_finds_videos_in_folders_if_the_run_reads_clips(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a video")
    frames(0, 1)[0].save(tmp_path / "still.png")
    clips, no_clips = clips_below(tmp_path)
    assert clips == [tmp_path / "a.mp4"] and [each.path.name for each in no_clips] == ["still.png"]

    given = (str(tmp_path),)
    paths, left_out = find_images(given)
    assert without_videos(paths, given, left_out) == [tmp_path / "still.png"]
    assert [each.path.name for each in left_out] == ["a.mp4"]
    assert without_videos(paths, (*given, str(tmp_path / "a.mp4")), []) == paths
    (tmp_path / "still.png").unlink()
    paths, left_out = find_images(given)
    with pytest.raises(UserError, match="no images"):
        without_videos(paths, given, left_out)
