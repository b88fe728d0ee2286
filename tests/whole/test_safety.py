import ast
import json
import os
import socket
from pathlib import Path

import pytest

import smcl
from smcl.dataset_scripts.icons import convert
from smcl.run_ner_multiimage import main

ROOT = Path(smcl.__file__).parent
ROOMS = ("baselines", "dataset_scripts", "examples", "experiments", "predict", "publish", "train")
SOURCES = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
# Modules that run what they read, and calls that do.
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def dangers(source: str) -> list[str]:
    """Name what in a module's source could run code from data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(node.func.id)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save"):
            found.append(ast.unparse(node.func))
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found.append("trust_remote_code")
    return found


def test_sources_run_nothing_that_they_read():
    assert len(SOURCES) > 30
    found = {path.name: found for path in SOURCES if (found := dangers(path.read_text(encoding="utf-8")))}
    # Beside a published model, where the Hub's endpoints run it, the code that it trusts is its own neighbour.
    assert found == {"handler.py": ["trust_remote_code"]}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "eval(line)", "torch.load(path)", "f(x, trust_remote_code=True)"],
)
def test_the_check_of_sources_finds_what_it_is_for(source):
    assert len(dangers(source)) == 1


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to reach anything by a socket is noted and fails."""
    attempts = []

    def refuse(self, address, *args):
        attempts.append(address)
        raise OSError(f"a socket was about to be connected to {address}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: refuse(None, args[:2]))
    return attempts


def test_whole_path_needs_no_network(no_network, encoder_folders, tmp_path):
    convert(tmp_path / "data", train=8, validation=2, test=4)
    encoders = ["--text_model", encoder_folders[0], "--vision_model", encoder_folders[1]]
    common = ["--dataset", str(tmp_path / "data"), "--do_predict", "--use_cpu", "--disable_tqdm", "true"]
    main([*common, *encoders, "--do_train", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "model")])
    main([*common, "--model", str(tmp_path / "model"), "--output_dir", str(tmp_path / "again")])
    assert (tmp_path / "again" / "predictions.jsonl").exists()
    assert no_network == []


@pytest.mark.parametrize("part", [0, 1])
def test_encoder_that_brings_its_own_code_is_refused_and_not_run(part, encoder_folders, tmp_path):
    convert(tmp_path / "data", train=4, validation=2, test=2)
    folder, trace = tmp_path / "encoder", tmp_path / "trace"
    folder.mkdir()
    config = json.loads(Path(encoder_folders[part], "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {"AutoConfig": "stranger.Config", "AutoModel": "stranger.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "stranger.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    folders = [*encoder_folders]
    folders[part] = str(folder)
    arguments = ["--text_model", folders[0], "--vision_model", folders[1], "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="trust_remote_code|stranger"):
        main(["--dataset", str(tmp_path / "data"), *arguments, "--do_train", "--use_cpu"])
    assert not os.path.exists(trace)
