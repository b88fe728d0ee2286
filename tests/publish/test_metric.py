"""The published metric: strangers load it without the package, and it gives the scores of training."""

import json
import os
import random
import re
import subprocess
import sys

import pytest
from factories import LABELS
from hub_server import HubServer
from huggingface_hub import constants

from smcl.publish.upload import main as publish_main
from smcl.publish.upload import publish_metric
from smcl.train.metrics import entity_metrics

NAME = "someone/strict-entity-f1"
STRANGER = """
import json, sys, evaluate
assert not [name for name in sys.modules if name.startswith("smcl")]
gold, predicted = json.loads(sys.stdin.readline())
metric = evaluate.load(sys.argv[1])
assert metric.__module__.startswith("evaluate_modules."), metric.__module__
print(json.dumps(metric.compute(predictions=predicted, references=gold)))
"""


@pytest.fixture(scope="module")
def tags() -> tuple[list[list[str]], list[list[str]]]:
    rng = random.Random(0)
    gold = [rng.choices(LABELS, k=rng.randint(0, 9)) for _ in range(40)]
    return gold, [[tag if rng.random() < 0.7 else rng.choice(LABELS) for tag in post] for post in gold]


def load_as_stranger(cache, name, tags, program=STRANGER, **environment) -> str:
    """Load the metric by a name in a process with an empty cache, outside the package; return the last line printed."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = inherited | {"HF_HOME": str(cache / "home"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", program, name],
        cwd=cache,
        env=environment,
        input=json.dumps(tags) + "\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_folder_is_loaded_without_the_package_or_a_network(tags, tmp_path, capsys):
    folder = tmp_path / "strict-entity-f1"
    publish_main(["--metric", NAME, "--output", str(folder)])
    assert f"hf upload {NAME} {folder} . --type space" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "index.html",
        "requirements.txt",
        "strict-entity-f1.py",
    }
    scores = json.loads(load_as_stranger(tmp_path, str(folder), tags, HF_HUB_OFFLINE="1"))
    assert scores == entity_metrics(*tags)
    with pytest.raises(SystemExit):
        publish_main(["--metric", NAME, "--output", str(folder)])
    assert "Expected an empty or a new folder" in capsys.readouterr().err


def test_published_metric_is_loaded_by_its_name_and_the_code_of_its_card_runs(tags, tmp_path, monkeypatch):
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        address = publish_metric(NAME)
        assert f"/spaces/{NAME}/commit/" in address
        reached = {"HF_ENDPOINT": server.url, "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        assert json.loads(load_as_stranger(tmp_path, NAME, tags, **reached)) == entity_metrics(*tags)
        card = server.repositories["spaces", NAME].files()["README.md"].content.decode()
        assert "sdk: static" in card
        code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
        assert load_as_stranger(tmp_path, NAME, tags, program=code, **reached) == "0.5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected FOLDER and NAME, or --metric NAME"),
        (["folder"], "expected FOLDER and NAME"),
        (["folder", "name", "--metric", "x"], "--metric takes no FOLDER"),
        (["--metric", "x", "--license", "mit"], "and no --license"),
        (["--metric", "a/b/c", "--output", "x"], "can't be a name on the Hub"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        publish_main(arguments)
    assert message in capsys.readouterr().err
