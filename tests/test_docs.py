"""The documentation's Python runs, its commands parse, its files exist, and the check of public names can fail."""

import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
import yaml

from jaxrec.cli import COMMANDS, MODULES
from jaxrec.cli.arguments import parse
from jaxrec.cli.plan import Plan
from jaxrec.cli.training_arguments import read_arguments
from jaxrec.run.store.folder import write_json
from jaxrec.settings import Classifier, Sweep, Train, to_dict
from jaxrec.settings.draws import draws

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
ADDRESSES = ["https://github.com/jaxrec/jaxrec/blob/main/", "https://raw.githubusercontent.com/jaxrec/jaxrec/main/"]
"""Where this folder is published. The README links to it in full, because the package index shows the README alone."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def shown_files(page: str) -> dict[str, str]:
    """The Python files that a page shows with their names as captions."""
    shown = r"\{code-block\} python\n:caption: (\S+)\n\n(.*?)"
    text = next(each for each in PAGES if each.name == page).read_text("utf-8")
    return dict(re.findall(rf"^```{shown}^```", text, re.DOTALL | re.MULTILINE))


def scripts() -> dict[str, str]:
    """The Python of each page, by the page's name; a translation with the same Python stands for both."""
    by_code = {}
    for page in PAGES:
        if code := "\n".join(blocks(page, "python")):
            by_code.setdefault(code, page.name)
    return {name: code for code, name in by_code.items()}


def commands() -> list[str]:
    """Every jaxrec command that a page shows, in a block or in its text."""
    text = "\n".join(page.read_text("utf-8") for page in PAGES).replace("\\\n", " ")
    shown = "\n".join(block for page in PAGES for block in blocks(page, "bash")).replace("\\\n", " ")
    found = re.findall(r"(?:python -m jaxrec[. ]|`jaxrec )([a-z][^`\n|&]*)", text)
    found += re.findall(r"^jaxrec ([a-z][^\n|&]*)", shown, re.MULTILINE)
    return sorted({command.strip() for command in found})


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """What one who tries a page has: standard promotion, as optax's Adam needs; and a cache of the tests' own."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setenv("JAXREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("name", scripts())
def test_python_runs(name, reader, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for file, code in shown_files(name).items():
        (tmp_path / file).write_text(code)
    exec(compile(scripts()[name], name, "exec"), {"__name__": "__main__"})


def test_the_conformance_suite_runs_for_a_shown_file(tmp_path):
    file = tmp_path / "softmax.py"
    file.write_text(shown_files("add_a_system.md")[file.name])
    suite = [sys.executable, "-m", "pytest", "tests/test_conformance.py", "-p", "no:cacheprovider", "-q"]
    chosen = [*suite, "--system", str(file), "-k", "softmax and (learn or pmap)"]
    done = subprocess.run(chosen, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells(notebook: Path, kind: str) -> list[str]:
    return [
        "".join(cell["source"])
        for cell in json.loads(notebook.read_text("utf-8"))["cells"]
        if cell["cell_type"] == kind
    ]


# A cell shows a picture by opening its file, and leaves it open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_notebook_runs(notebook, reader, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = {"__name__": "__main__"}
    exec(compile("\n".join(cells(notebook, "code")), notebook.name, "exec"), seen)
    assert seen["run"].results["accuracy"] > 0.9
    assert (seen["run"].folder / "report.html").is_file()


@pytest.mark.parametrize("command", commands())
def test_command_parses(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("experiments", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for page in PAGES:
        for file, code in shown_files(page.name).items():
            (tmp_path / file).write_text(code)
    for resumed in ("first", "second"):
        run = tmp_path / "runs" / resumed
        run.mkdir(parents=True)
        write_json(run / "config.json", to_dict(Train(task=Classifier(), name=resumed)))
    name, *argv = shlex.split(command)
    assert name in COMMANDS
    if name == "train":
        assert isinstance(read_arguments(argv), Train)
    elif name == "plan":
        assert isinstance(read_arguments(argv, Plan, name), Plan)
    elif name == "sweep" and argv:
        assert draws(read_arguments(argv, Sweep, name))
    elif argv:
        module = importlib.import_module(f"jaxrec.cli.{MODULES.get(name, name)}")
        parse(getattr(module, name.capitalize()), argv, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_exist(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    for address in ADDRESSES:
        links = [link.replace(address, f"{ROOT}/") for link in links]
    files = [link for link in links if "://" not in link]
    assert [file for file in files if not (page.parent / file).exists()] == []
    programs = re.findall(r"(?:scripts|experiments)/\w+\.py", page.read_text("utf-8"))
    missing = [program for program in programs if not (ROOT / program).exists()]
    assert missing == []


def test_readme_opens_with_two_commands():
    found = dict(
        re.findall(r"^<!-- (main|test)-command -->\n```bash\n(.*)\n```$", READMES[0].read_text("utf-8"), re.MULTILINE)
    )
    assert found["main"].startswith("pip install -e . && python -m jaxrec.train")
    assert found["test"].startswith('pip install -e ".[test]" && python -m pytest')
    chinese = READMES[1].read_text("utf-8")
    assert all(command in chinese for command in found.values())


def test_readmes_name_every_dependency():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[\[>=]", each)[0] for each in project["dependencies"]] + list(project["optional-dependencies"])
    for page in READMES:
        text = page.read_text("utf-8")
        assert [name for name in names if f"| {name} |" not in text and f"`{name}`" not in text] == []


@pytest.fixture
def checker():
    path = ROOT / "docs" / "public_names.py"
    spec = importlib.util.spec_from_file_location("public_names", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_undocumented_names_are_found(checker, monkeypatch):
    code = '''
class Told:
    """A class."""
    def __call__(self): ...
    def said(self):
        """A method."""
    def _hidden(self): ...
    @property
    def silent(self): ...
def absent():
    """A function."""
def mute(): ...
'''
    module = types.ModuleType("jaxrec.sample")
    exec(code, module.__dict__)
    monkeypatch.setattr(checker, "modules", lambda: [module])
    known = {f"jaxrec.sample.{name}" for name in ("Told", "Told.said", "Told.silent", "mute")}
    assert [line.split(":")[0] for line in checker.complaints(known)] == [
        "jaxrec.sample.Told.__call__ has no docstring",
        "jaxrec.sample.Told.silent has no docstring",
        "jaxrec.sample.absent stands on no page",
        "jaxrec.sample.mute has no docstring",
    ]


def test_every_public_name_is_documented(checker):
    """As the build checks it, but for what autodoc finds: each name has a docstring, each module a place."""
    listed = set(re.findall(r"automodule:: (\S+)", (ROOT / "docs" / "api.md").read_text("utf-8")))
    assert {module.__name__ for module in checker.modules()} <= listed
    names = {name for module in checker.modules() for name, _ in checker.public_names(module)}
    assert len(names) > 100
    assert checker.complaints(names) == []


LAUNCH = sorted((ROOT / "scripts" / "launch").iterdir())


@pytest.mark.parametrize("file", LAUNCH, ids=lambda file: file.name)
def test_launch_files_are_read_and_their_commands_parse(file):
    text = file.read_text("utf-8")
    if file.suffix == ".py":
        compile(text, file.name, "exec")
        commands = [text.partition("scripts/launch/ray_train.py ")[2].splitlines()[0]]
    elif file.suffix == ".yaml":
        workers = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert workers["parallelism"] == workers["completions"] == 2
        commands = [workers["template"]["spec"]["containers"][0]["command"][2]]
    else:
        assert subprocess.run(["bash", "-n", str(file)], check=False).returncode == 0
        commands = [text]
    if file.suffix != ".py":
        commands = re.findall(r"-m jaxrec\.train (.*)", commands[0].replace("\\\n", " "))
        assert commands
    for command in commands:
        # What the shell would fill in: no other options, and a number.
        plain = re.sub(r'"\$@"|\$options"?', "", command)
        plain = plain.replace('"$JOB_COMPLETION_INDEX"', "1")
        config = read_arguments(shlex.split(plain))
        assert config.runs != "runs" or file.name == "slurm.sbatch"
        if file.suffix == ".yaml":
            assert (config.processes, config.process) == (2, 1)
