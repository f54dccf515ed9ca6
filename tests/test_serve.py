"""`jaxrec serve`: a page and JSON on localhost, asked by a browser, by many at once, and with what is no image."""

import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.error import HTTPError

import numpy as np
import pytest
from conftest import surroundings
from PIL import Image

from jaxrec.cli.serve import main
from jaxrec.errors import UserError
from jaxrec.run.serve import LARGEST
from jaxrec.run.trained import load

BROWSERS = [path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path]


@pytest.fixture(scope="module")
def address(trained):
    """The address of a running server."""
    command = [sys.executable, "-m", "jaxrec", "serve", str(trained("cnn")), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings()) as server:
        assert server.stdout is not None
        yield server.stdout.readline().partition(" at ")[2].partition(";")[0]
        server.terminate()


@pytest.fixture(scope="module")
def photo():
    """The bytes of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(content, "PNG")
    return content.getvalue()


def ask(address, content):
    """The status and the answer to bytes that are sent."""
    request = urllib.request.Request(f"{address}/predict", data=content)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def test_the_answer_is_what_the_run_predicts(address, photo, trained, tmp_path, as_users_run_it):
    status, answer = ask(address, photo)
    assert status == 200
    (tmp_path / "photo.png").write_bytes(photo)
    expected = load(trained("cnn")).predict([tmp_path / "photo.png"])["probabilities"][0]
    np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=1e-5)
    assert answer["prediction"] == str(expected.argmax())
    assert answer["pictures"]["explained"].startswith("data:image/png;base64,")
    with urllib.request.urlopen(f"{address}/about") as about:
        assert json.load(about)["classes"] == list("0123456789")


def test_what_is_no_image_is_refused_and_the_next_one_answered(address, photo):
    for content in (b"", b"not an image", photo[:40]):
        status, answer = ask(address, content)
        assert status == 400 and answer["error"]
        assert "/tmp" not in answer["error"]
    assert ask(address, photo)[0] == 200


def test_large_bodies_are_refused(address, photo):
    status, answer = ask(address, bytes(LARGEST + 1))
    assert status == 413 and str(LARGEST // 2**20) in answer["error"]
    assert ask(address, photo)[0] == 200


def test_fifty_at_once_are_all_answered(address, photo):
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: ask(address, photo), range(50)))
    assert {status for status, _ in answers} == {200}
    assert len({answer["prediction"] for _, answer in answers}) == 1


def test_a_taken_port_and_a_run_that_reads_no_images_are_refused(address, trained):
    with pytest.raises(UserError, match="--port"):
        main([str(trained("cnn")), "--port", address.rpartition(":")[2]])
    with pytest.raises(UserError, match="gan"):
        main([str(trained("gan"))])


@contextmanager
def browser(folder, address):
    """A page in a headless browser: a function that runs JavaScript there and gives its value."""
    commands, answers = os.pipe(), os.pipe()
    # The browser reads commands from its third file and writes answers to its fourth.
    redirected = f'exec "$@" 3<&{commands[0]} 4>&{answers[1]}'
    command = ["bash", "-c", redirected, "bash", BROWSERS[0], "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--remote-debugging-pipe", f"--user-data-dir={folder}", address]
    with (
        subprocess.Popen(command, pass_fds=(commands[0], answers[1]), stderr=subprocess.DEVNULL) as process,
        open(commands[1], "wb") as send,
        open(answers[0], "rb") as receive,
    ):
        os.close(commands[0])
        os.close(answers[1])
        numbers = iter(range(1, 1000))

        def call(method, **message):
            number = next(numbers)
            send.write(json.dumps({"id": number, "method": method, **message}).encode() + b"\0")
            send.flush()
            while True:
                text = b""
                while not text.endswith(b"\0"):
                    text += receive.read(1)
                answer = json.loads(text[:-1])
                if answer.get("id") == number:
                    return answer["result"]

        pages = []
        while not pages:
            pages = [each for each in call("Target.getTargets")["targetInfos"] if each["url"].startswith(address)]
        session = call("Target.attachToTarget", params={"targetId": pages[0]["targetId"], "flatten": True})["sessionId"]

        def run(script):
            params = {"expression": script, "awaitPromise": True, "returnByValue": True}
            answer = call("Runtime.evaluate", sessionId=session, params=params)
            assert "exceptionDetails" not in answer, answer
            return answer["result"].get("value")

        try:
            yield run
        finally:
            process.terminate()


DROP = """new Promise(done => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(%s)], "photo.png", {type: "image/png"}));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: carried}));
  new MutationObserver(() => {
    if (document.querySelector("#pictures img")) done([
      document.getElementById("verdict").textContent,
      document.querySelectorAll("#pictures img").length,
      document.querySelectorAll("#table tr").length,
    ]);
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
})"""


@pytest.mark.skipif(not BROWSERS, reason="no Chromium is installed")
def test_an_image_is_dropped_on_the_page_in_a_browser(address, photo, tmp_path):
    with browser(tmp_path, address) as run:
        while not run('document.readyState === "complete" && document.getElementById("drop") !== null'):
            pass
        verdict, pictures, rows = run(DROP % list(photo))
    assert verdict == ask(address, photo)[1]["prediction"]
    assert pictures >= 1 and rows > 5
