"""jaxrec explain RUN PATH...: which parts of images a trained run's answers come from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from jaxrec.cli.evaluate import tell
from jaxrec.cli.opened_run import OpenedModel, read_options
from jaxrec.cli.predict import find_clips, find_images, named_paths, read_images, without_videos
from jaxrec.cli.prediction_files import unwritable
from jaxrec.data.walk import LeftOut, counted
from jaxrec.errors import UserError, nearest
from jaxrec.run.store.listing import LEFT_OUT, write_left_out
from jaxrec.settings.ranges import AT_LEAST_ONE, SEED

if TYPE_CHECKING:
    from jaxrec.run.explained import Explained, Explainer
    from jaxrec.run.trained import Trained

EXAMPLES = (
    "jaxrec explain runs/cnn-mnist-1 photo.png",
    "jaxrec explain runs/cnn-mnist-1 photos --method grad-cam rise --class 7",
    "jaxrec explain runs/unet-1 --split 'test[:20]' --method lime --superpixels",
)
LISTED = 50
"""Images in the table on the screen."""
Method = Literal[
    "gradient",
    "smoothgrad",
    "integrated-gradients",
    "grad-cam",
    "hires-cam",
    "occlusion",
    "multi-scale",
    "rise",
    "lime",
    "kernel-shap",
    "shapley",
]


@dataclass(frozen=True)
class Explain(OpenedModel):
    """Show which parts of images or clips a trained run's answers come from."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH")] = ()
    """Images, or folders of images; if the run reads clips, animated images, videos, or folders of frames. - reads
    paths from standard input, one a line."""
    method: tuple[Method, ...] = ("multi-scale", "integrated-gradients")
    """How to explain; several may be given."""
    test_split: Annotated[str | None, tyro.conf.arg(name="split")] = None
    """Explain the examples of a split instead of files; TFDS slices such as test[:20] are allowed."""
    dataset: str | None = None
    """Data set of the split: the run's own in another place, or another one of the same classes. Default: the run's
    own."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """Explain what speaks for this class. Default: what the run says of each image."""
    baseline: Literal["black", "mean", "blur"] = "black"
    """What is seen of covered parts: black, the image's mean color, or the image blurred."""
    samples: Annotated[int, AT_LEAST_ONE] = 1000
    """Variants of each image that rise, lime and kernel-shap look at."""
    cells: Annotated[int, AT_LEAST_ONE] = 8
    """Parts along each side that lime and kernel-shap tell apart."""
    superpixels: bool = False
    """Cut parts along the image's edges instead of in squares."""
    seed: Annotated[int, SEED] = 0
    """Determines what is random."""
    out: str | None = None
    """Folder for pictures, explained.html and explanations.npz. Default: RUN/explained."""
    skip_bad: bool = False
    """Leave out unreadable images instead of stopping; skipped.csv lists them."""


class Part(NamedTuple):
    """Some images to explain."""

    names: list[str]
    """Path, or number in the split, of each."""
    shown: tuple[Any, ...]
    """Images [N, H, W, C], or clips [N, T, H, W, C] and their lengths [N]."""
    truth: Mapping[str, Any]
    """The examples as the split has them; empty for files."""


def main(argv: list[str]) -> None:
    """Writes pictures, a page and arrays of explanations, and prints what was explained."""
    options = read_options(Explain, argv, "jaxrec explain", EXAMPLES)
    of_split = options.test_split is not None or options.dataset is not None
    if of_split == bool(options.paths):
        raise UserError("give either the paths of images, or --split or --dataset, to say what is to be explained")
    from jaxrec.host import tune_cpu
    from jaxrec.run.explained import Explainer
    from jaxrec.run.trained import load

    tune_cpu()
    trained = load(options.run, checkpoint=options.checkpoint)
    explainer = Explainer(trained, options.method, _settings(options), _wanted(trained, options), options.seed)
    left_out: list[LeftOut] = []
    parts = _of_split(trained, options) if of_split else _of_files(trained, options, left_out)
    out = Path(options.out) if options.out else trained.folder / "explained"
    try:
        _write(explainer, parts, out)
        write_left_out(out, left_out)
    except OSError as error:
        raise unwritable(out, error) from error
    if left_out:
        print(f"{counted(left_out)}; {out / LEFT_OUT} names them")


def _settings(options: Explain) -> Any:
    from jaxrec.after.explain import Settings

    segments = "slic" if options.superpixels else "grid"
    return Settings(options.baseline, options.samples, segments, options.cells)


def _wanted(trained: "Trained", options: Explain) -> int | None:
    """The number of the class that --class names."""
    from jaxrec.data import class_names

    if options.class_name is None:
        return None
    names = class_names(trained.features)
    if options.class_name not in names:
        hint = nearest(options.class_name, names) or f"; expected one of {', '.join(names[:20])}"
        raise UserError(f"--class '{options.class_name}' is not a class of the run{hint}")
    return names.index(options.class_name)


def _of_files(trained: "Trained", options: Explain, left_out: list[LeftOut]) -> Iterator[Part]:
    named = named_paths(options.paths)
    files, others = find_images(named)
    left_out += others
    for remark in trained.remarks(files):
        tell(remark)
    paths = find_clips(named, left_out) if trained.reads_clips else without_videos(files, named, left_out)
    for some, *shown in read_images(trained, paths, options.skip_bad, left_out):
        yield Part([str(path) for path in some], tuple(shown), {})


def _of_split(trained: "Trained", options: Explain) -> Iterator[Part]:
    import numpy as np

    split = trained.open_data(options.test_split, options.dataset, tell, skip_bad=options.skip_bad).test
    for start in range(0, len(split), trained.at_once):
        index = np.arange(start, min(start + trained.at_once, len(split)))
        examples = split.read(index)
        kinds = ("clip", "length") if trained.reads_clips else ("image",)
        names = [split.file(number) or str(number) for number in index.tolist()]
        yield Part(names, tuple(examples[kind] for kind in kinds), examples)


def _write(explainer: "Explainer", parts: Iterator[Part], out: Path) -> None:
    """Writes all explanations, and prints a table of the first and where they are."""
    import numpy as np

    from jaxrec.files import open_atomically
    from jaxrec.run.show.overlays import write_page

    rows: list[dict[str, Any]] = []
    arrays: dict[str, list[Any]] = {}
    measures: dict[str, list[Any]] = {}
    labels: set[str] = set()
    for part in parts:
        found = explainer(*part.shown)
        out.mkdir(parents=True, exist_ok=True)
        rows += _draw(explainer, part, found, out, labels)
        for name, values in {"class": found.target["class"], "score": found.score, **found.maps}.items():
            arrays.setdefault(name, []).append(values)
        for method, values in measured(explainer, part, found).items():
            measures.setdefault(method, []).append(values)
    joined = {name: np.concatenate(values) for name, values in arrays.items()}
    joined["path"] = np.array([row["path"] for row in rows])
    with open_atomically(out / "explanations.npz") as file:
        np.savez_compressed(file, allow_pickle=False, **joined)
    told = summary({method: np.concatenate(values) for method, values in measures.items()})
    write_page(out / "explained.html", f"{explainer.trained.folder.name}, explained", rows, told)
    _print(rows, told, out)


def _draw(explainer: "Explainer", part: Part, found: "Explained", out: Path, labels: set[str]) -> list[dict[str, Any]]:
    """Writes a picture of each image, and gives a row of each."""
    from jaxrec.run.show.overlays import draw_explained
    from jaxrec.run.show.predicted import free_label

    rows = []
    for place, path in enumerate(part.names):
        picture = f"{free_label(Path(path), labels)}-explained.png"
        told = draw_explained(explainer, part.shown, found, place, out / picture)
        rows.append({"path": path, **told, "picture": picture})
    return rows


def measured(explainer: "Explainer", part: Part, found: "Explained") -> dict[str, Any]:
    """Whether each method points at a true object, and the share of its relevance there: [n, 2] by method.

    Of the examples whose true objects are known by boxes or masks, and that have one of the class that was explained.
    """
    import numpy as np

    from jaxrec.after.explain.truth import pointing, relevance_mass
    from jaxrec.run.explained import true_regions

    regions = true_regions(explainer.trained.features, part.truth, found.target["class"])
    if regions is None:
        return {}
    known = [place for place, region in enumerate(regions) if region.any() and found.target["class"][place] >= 0]
    measures = {}
    for method, maps in found.maps.items():
        pairs = [(pointing(maps[each], regions[each]), relevance_mass(maps[each], regions[each])) for each in known]
        measures[method] = np.array(pairs, float).reshape(-1, 2)
    return measures


def summary(measures: Mapping[str, Any]) -> list[list[str]]:
    """A heading and a row for each method; nothing if no example tells where its objects are."""
    if not measures or not len(next(iter(measures.values()))):
        return []
    rows = [["method", "examples", "points at a true object", "relevance in true objects"]]
    for method, values in measures.items():
        hit, mass = values.mean(0)
        rows.append([method, str(len(values)), f"{hit:.1%}", f"{mass:.1%}"])
    return rows


def _print(rows: list[dict[str, Any]], told: list[list[str]], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("image", "class", "score")
    for row in rows[:LISTED]:
        cells = (row["path"], row["class"], row.get("score", ""))
        table.add_row(*(Text(cell.encode("utf-8", "backslashreplace").decode()) for cell in cells))
    console.print(table)
    if told:
        measures = Table(*told[0])
        for line in told[1:]:
            measures.add_row(*line)
        console.print(measures)
    more = f"; the first {LISTED} of {len(rows)} are shown" if len(rows) > LISTED else ""
    console.print(
        f"read {out / 'explained.html'}; explanations.npz holds the arrays{more}", markup=False, soft_wrap=True
    )
