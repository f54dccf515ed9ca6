"""Video files, decoded by PyAV."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrec.data.images import Header, Unreadable

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ogv")
"""Of video files, in lower case."""
EXTRA = "videos are read with PyAV only: pip install 'jaxrec[video]'"
"""What to do to read them."""


def is_video(path: Path) -> bool:
    """Whether a file is a video by its suffix."""
    return path.suffix.lower() in SUFFIXES


@cache
def video_is_read() -> bool:
    """Whether PyAV is there."""
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    av.logging.set_level(av.logging.PANIC)  # FFmpeg would write into the run's lines.
    return True


def probe_video(path: Path) -> Header:
    """What a video says of itself, its frames as pages; raises UserError if it cannot be read."""
    count = _count(path)
    first = next(_decoded(path), None)
    if first is None:
        raise Unreadable(path, f"{path} is not a readable video (it has no frames); replace it or remove it")
    return Header((first.height, first.width), True, "uint8", 1, count, False)


def video_frames(path: Path) -> Iterator["PIL.Image.Image"]:
    """The frames of a video; raises UserError if it cannot be decoded, or only in part."""
    count = _count(path)
    found = 0
    for image in _decoded(path):
        found += 1
        if found <= count:
            yield image
    if found != count:
        raise Unreadable(path, f"{path} has {count} frames, and {found} can be decoded; replace it or remove it")


def _count(path: Path) -> int:
    """How many frames a video has; raises UserError if it states more, for then it was cut off."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        stated = stream.frames  # 0 in files that do not state it
        count = sum(packet.size > 0 for packet in container.demux(stream))
    if count < stated:
        raise Unreadable(path, f"{path} states {stated} frames and has {count}; replace it or remove it")
    return count


def _decoded(path: Path) -> Iterator["PIL.Image.Image"]:
    """The frames as viewers show them."""
    with _opened(path) as container:
        for frame in container.decode(video=0):
            yield frame.to_image().rotate(getattr(frame, "rotation", 0), expand=True)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A video's container; raises UserError if it cannot be opened or, inside, decoded."""
    if not video_is_read():
        raise Unreadable(path, f"{path} cannot be read: {EXTRA}")
    import av  # pyright: ignore[reportMissingImports]

    try:
        with av.open(str(path)) as container:
            yield container
    except Exception as error:  # FFmpeg's errors are a dozen kinds, and a file may hold no video at all.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(path, f"{path} is not a readable video ({reason}); replace it or remove it") from error
