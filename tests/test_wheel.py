"""The wheel holds all that an installed jaxrec needs and trains away from the clone; its companions are up to date."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from conftest import surroundings

import jaxrec

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
    environment = surroundings(PYTHONPATH=str(installed))
    options = ["--experiment", "digits_cnn", "--steps", "2", "--name", "first"]
    command = [sys.executable, "-m", "jaxrec", "train", *options]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


def test_what_names_the_version_names_this_one():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == jaxrec.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest and jaxrec.__version__.startswith(newest[1])


def test_the_recipes_of_other_services_name_what_is_there():
    steps = yaml.safe_load((ROOT / ".github/workflows/gate.yml").read_text("utf-8"))["jobs"]["gate"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    manual = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text("utf-8"))
    assert (ROOT / manual["sphinx"]["configuration"]).is_file()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = re.search(r"separated by commas: (.*)\.$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert named and set(named[1].split(", ")) <= set(extras)
    assert set(manual["python"]["install"][0]["extra_requirements"]) <= set(extras)
