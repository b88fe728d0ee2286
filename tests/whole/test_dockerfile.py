import os
import re
import sys
from pathlib import Path

import dockerfile
from factories import make_model

import smcl
from smcl import MultiImageNERPipeline

ROOT = Path(smcl.__file__).parent


def test_the_steps_of_the_image_give_a_server_that_answers(tmp_path, processor):
    """All but what pip fetches, for which the packages of this environment stand in."""
    steps = dockerfile.read_steps()
    pipe = MultiImageNERPipeline(make_model(), processor)
    pipe.save_pretrained(tmp_path / "model")
    # The root of the repository is the package.
    dockerfile.copy_context(tmp_path / "site" / "smcl", dockerfile.tracked_files())
    paths = [str(tmp_path / "site"), *(path for path in sys.path if path.endswith("site-packages"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    (tmp_path / "home").mkdir()
    answer = dockerfile.serve_and_ask(steps, sys.executable, str(tmp_path / "model"), environment, tmp_path / "home")
    assert answer["tags"] == pipe("joey and niko", return_tags=True)["tags"]


def test_the_image_is_built_from_what_an_installation_reads_and_nothing_else(tmp_path):
    dockerfile.copy_context(tmp_path, dockerfile.tracked_files())
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in re.findall(r'^    "smcl\.([\w.]+)",', text, re.MULTILINE):
        assert (tmp_path / package.replace(".", "/") / "__init__.py").is_file(), package
    for name in ("pyproject.toml", "README.md", "LICENSE", "py.typed", "__init__.py", "publish/model_card.md"):
        assert (tmp_path / name).is_file(), name
    rooms = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert rooms == {"baselines", "dataset_scripts", "experiments", "predict", "publish", "train"}
    assert not list(tmp_path.rglob("__pycache__"))


def test_the_image_runs_as_nobody_in_particular_and_installs_the_extra(tmp_path):
    steps = dockerfile.read_steps()
    kinds = [kind for kind, _ in steps]
    assert kinds[0] == "FROM"
    assert dict(steps)["USER"] == "smcl"
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
    runs = " ".join(rest for kind, rest in steps if kind == "RUN")
    assert '"/src[serve]"' in runs
    assert "serve = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert dockerfile.settings(steps)["TORCH"].startswith("torch==")


def test_ignored_files_are_told_as_docker_does():
    patterns = ["*", "!*.py", "!train", "**/__pycache__"]
    for name, ignored in (
        ("a.py", False),
        ("docs/a.py", True),
        ("train/a.py", False),
        ("train/deep/a.md", False),
        ("train/__pycache__/a.pyc", True),
        ("README.md", True),
    ):
        assert dockerfile.is_ignored(name, patterns) == ignored, name
