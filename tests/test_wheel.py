"""The wheel holds all that an installed jaxrec needs, and trains from another folder than the clone."""

import os
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel of this clone is unpacked into, as an installation does."""
    built = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(built)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = built.glob("jaxrec-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(built / "site")
    return built / "site"


def test_every_file_of_the_package_is_in_the_wheel(installed):
    def tracked(folder: str) -> set[Path]:
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(ROOT / folder) for path in files}

    held = {path.relative_to(installed / "jaxrec") for path in (installed / "jaxrec").rglob("*") if path.is_file()}
    experiments = {Path("experiments") / path for path in tracked("experiments")}
    launch = {Path("launch") / path for path in tracked("scripts/launch")}
    assert {Path("py.typed"), Path("experiments/mnist_cnn.py"), Path("launch/slurm.sbatch")} <= held
    assert held == tracked("jaxrec") | experiments | launch


def test_metadata_says_who_where_and_what(installed):
    (file,) = installed.glob("jaxrec-*.dist-info/METADATA")
    metadata = message_from_string(file.read_text("utf-8"))
    assert metadata["Author"] == "The jaxrec authors"
    assert metadata["License-Expression"] == "Apache-2.0"
    urls = dict(each.split(", ") for each in metadata.get_all("Project-URL", []))
    assert {"Homepage", "Documentation", "Changelog"} <= set(urls)
    assert all(url.startswith("https://") for url in urls.values())
    # The page of the package index shows the README, where a relative link leads nowhere.
    assert "](docs/" not in metadata.get_payload()


@pytest.mark.slow
def test_an_experiment_runs_by_its_name_away_from_the_clone(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    options = ["--experiment", "digits_cnn", "--steps", "2", "--name", "first"]
    command = [sys.executable, "-m", "jaxrec", "train", *options]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
