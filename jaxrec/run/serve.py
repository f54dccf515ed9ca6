"""A trained run behind a web page and a JSON endpoint, for one machine."""

import base64
import tempfile
import threading
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from jaxrec.data import class_names, image_shape, pictured
from jaxrec.errors import UserError
from jaxrec.run.explained import Explainer
from jaxrec.run.show.overlays import draw_explained
from jaxrec.run.show.page import STYLE
from jaxrec.run.show.predicted import describe, draw_sheet
from jaxrec.run.store.folder import plain_value
from jaxrec.run.trained import Trained

LARGEST = 32 * 2**20
"""Most bytes of an image that is sent."""
METHOD = "integrated-gradients"
"""How answers are explained: it suits every network, and takes two dozen times what an answer takes."""
TYPES = {".png": "image/png", ".gif": "image/gif"}
"""What pictures are written as."""


class TooLarge(Exception):
    """A body of more than ``LARGEST`` bytes."""


def application(trained: Trained) -> Starlette:
    """The web application: ``GET /`` is a page, ``GET /about`` says what the run is, ``POST /predict`` answers.

    The body of ``/predict`` is the bytes of an image file, or of an animated one if the run reads clips. The answer is
    JSON: what ``jaxrec predict`` tells of the file, and ``pictures`` by name, as data URLs, ``explained`` among them if
    the system's answers can be explained. It answers 413 to a body of more than ``LARGEST`` bytes and 400 to one that
    is no image, each with a sentence as ``error``.

    Raises UserError if the run reads no images.
    """
    trained.check_reads_images()
    answer = Answer(trained)
    facts = {
        "run": trained.folder.name,
        "model": trained.config.task.model,
        "step": trained.step,
        "classes": list(class_names(trained.features)),
        "image_shape": list(image_shape(trained.features)),
        "reads": pictured(trained.features).kind,
    }

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE.replace("$RUN", escape(trained.folder.name)).replace("$STYLE", STYLE))

    async def about(request: Request) -> Response:
        return JSONResponse(facts)

    async def predict(request: Request) -> Response:
        try:
            content = await _body(request)
            return JSONResponse(await run_in_threadpool(answer, content))
        except TooLarge:
            sentence = f"the image has more than {LARGEST // 2**20} MiB; send a smaller one"
            return JSONResponse({"error": sentence}, status_code=413)
        except UserError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return Starlette(routes=[Route("/", page), Route("/about", about), Route("/predict", predict, methods=["POST"])])


async def _body(request: Request) -> bytes:
    """The body, read no further than its largest size: the length that a client states may be false."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)


class Answer:
    """Answers for a run, one image at a time: the cores are busy with one."""

    def __init__(self, trained: Trained) -> None:
        """``trained`` reads images or clips."""
        self._trained = trained
        self._explainer = None
        if trained.system.explained is not None:
            self._explainer = Explainer(trained, [METHOD])
        self._turn = threading.Lock()

    def __call__(self, content: bytes) -> dict[str, Any]:
        """What the run tells of the bytes of an image file, and its ``pictures`` by name, as data URLs.

        Raises UserError if they are no image.
        """
        if not content:
            raise UserError("the body is empty; send the bytes of an image file")
        with tempfile.TemporaryDirectory() as folder, self._turn:
            path, drawn = Path(folder) / "image", Path(folder) / "drawn"
            path.write_bytes(content)
            try:
                shown = self._trained.together([self._trained.read(path)])
            except UserError as error:
                # Who sent the image knows nothing of the file.
                raise UserError(str(error).replace(str(path), "the image")) from error
            row = self._told(path, shown, drawn)
            pictures = {picture.stem.removeprefix("image-"): _data_url(picture) for picture in sorted(drawn.glob("*"))}
        told = {name: _plain(value) for name, value in row.items() if name not in ("path", "pictures")}
        return {**told, "pictures": pictures}

    def _told(self, path: Path, shown: list[np.ndarray], drawn: Path) -> dict[str, Any]:
        """What is told of the image at ``path``, read as ``shown``; its pictures are written into ``drawn``."""
        outputs = self._trained.predict(*shown)
        (row,) = describe(self._trained, [path], shown[0], outputs, drawn, set())
        if "pictures" not in row:
            draw_sheet(self._trained, shown[0], outputs, drawn)
        if self._explainer is not None:
            drawn.mkdir(exist_ok=True)
            draw_explained(self._explainer, shown, self._explainer(*shown), 0, drawn / "explained.png")
        return row


def _data_url(picture: Path) -> str:
    content = base64.b64encode(picture.read_bytes()).decode()
    return f"data:{TYPES[picture.suffix]};base64,{content}"


def _plain(value: Any) -> Any:
    """The value as JSON holds it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool) or value is None else plain_value(value)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$RUN</title>
<style>$STYLE
label { display: block; border: 2px dashed var(--line); border-radius: 8px; padding: 2rem; text-align: center;
  cursor: pointer; margin: 1.25rem 0; }
label.over { border-color: var(--accent); }
img { max-width: 100%; margin: .5rem 1rem .5rem 0; vertical-align: top; image-rendering: pixelated; }
#given { max-height: 20rem; }
</style>
</head>
<body>
<main>
<h1>$RUN</h1>
<label id="drop">Drop an image here, or click to choose one.<br><input type="file" id="file" accept="image/*"></label>
<p class="verdict" id="verdict" role="status"></p>
<div><img id="given" alt=""><span id="pictures"></span></div>
<div class="wide"><table id="table"></table></div>
</main>
<script>
const at = id => document.getElementById(id);
const written = value => typeof value === "number" ? Number(value.toPrecision(4)) : String(value);

function show(answer) {
  at("table").replaceChildren();
  at("pictures").replaceChildren();
  at("verdict").textContent = answer.error ?? answer.prediction ?? "";
  const scores = Object.entries(answer.probabilities ?? {}).sort((a, b) => b[1] - a[1]).slice(0, 10);
  const plain = Object.entries(answer).filter(([, value]) => typeof value !== "object");
  for (const [name, value] of [...plain, ...scores]) {
    const row = at("table").insertRow();
    row.insertCell().textContent = name;
    row.insertCell().textContent = written(value);
  }
  for (const [name, source] of Object.entries(answer.pictures ?? {})) {
    const picture = new Image();
    picture.src = source;
    picture.alt = name;
    at("pictures").append(picture);
  }
}

async function ask(file) {
  at("given").src = URL.createObjectURL(file);
  at("verdict").textContent = "...";
  try {
    show(await (await fetch("/predict", {method: "POST", body: file})).json());
  } catch (error) {
    show({error: "the server does not answer; is it still running?"});
  }
}

at("file").addEventListener("change", event => event.target.files[0] && ask(event.target.files[0]));
at("drop").addEventListener("dragover", event => { event.preventDefault(); at("drop").classList.add("over"); });
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", event => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) ask(event.dataTransfer.files[0]);
});
</script>
</body>
</html>
"""
