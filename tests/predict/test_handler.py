import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from factories import make_model
from PIL import Image

import smcl
from smcl import MultiImageNERPipeline
from smcl.publish.upload import complete

# As the endpoints do: the folder on the path, and a request as they hand it over; the package is nowhere.
PROGRAM = """
import json
import sys

sys.modules["smcl"] = None
import torch

torch.set_num_threads(1)
folder = sys.argv[1]
sys.path.insert(0, folder)
from handler import EndpointHandler

handler = EndpointHandler(path=folder)
for line in sys.stdin:
    try:
        print("answer:", json.dumps(handler(json.loads(line))))
    except ValueError as error:
        print("answer:", json.dumps({"error": str(error)}))
"""
# Names of packages, where they are not those of modules.
PACKAGES = {"PIL": "pillow", "torchcrf": "pytorch-crf"}


@pytest.fixture(scope="module")
def pipe(processor) -> MultiImageNERPipeline:
    return MultiImageNERPipeline(make_model(), processor)


@pytest.fixture(scope="module")
def published(tmp_path_factory, pipe) -> Path:
    root = tmp_path_factory.mktemp("published")
    pipe.save_pretrained(root / "saved")
    complete(root / "saved", root / "published", "someone/smcl")
    return root / "published"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_published_model_answers_requests_of_hosted_endpoints_without_the_package(published, pipe, tmp_path):
    text = base64.b64encode(png()).decode()
    post = {"text": "joey and niko", "images": [text, f"data:image/png;base64,{text}"]}
    requests = [
        {"inputs": post},
        {"inputs": [post, "joey"], "parameters": {"return_tags": True}},
        {"inputs": {"text": "joey", "image": text}},
        {"inputs": {"text": "joey", "images": ["/etc/passwd"]}},
        {"inputs": {"text": "joey", "images": [str(published / "none.png")]}},
        {"inputs": {"text": "joey", "images": [{"bytes": "/etc/passwd", "path": None}]}},
        {"inputs": {"text": "joey", "images": ["http://127.0.0.1/x.png"]}},
        {"inputs": "joey", "parameters": {"allow_paths": True}},
        {"text": "joey"},
        {"inputs": "joey", "threshold": 0.9},
        {"inputs": "joey", "parameters": {"return_tags": "false"}},
        {"inputs": {"text": "joey", "images": text}},
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(published)],
        input="\n".join(map(json.dumps, requests)),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line for line in result.stdout.splitlines() if line.startswith("answer:")]
    answers = [json.loads(line.removeprefix("answer:")) for line in lines]
    given = {"text": "joey and niko", "images": [png(), png()]}
    assert answers[0] == json.loads(json.dumps(pipe(given)))
    assert answers[1] == json.loads(json.dumps(pipe([given, "joey"], return_tags=True)))
    assert answers[2] == json.loads(json.dumps(pipe({"text": "joey", "images": [png()]})))
    reasons = {answer["error"].partition("can't be used: ")[2] for answer in answers[3:7]}
    assert len(reasons) == 1
    assert reasons.pop().startswith("expected the image itself")
    assert "Expected `parameters` of threshold, return_tags" in answers[7]["error"]
    assert 'Expected a request {"inputs":' in answers[8]["error"]
    assert "got ['threshold']. Put these into `parameters`" in answers[9]["error"]
    assert "`return_tags` must be true or false, got 'false'" in answers[10]["error"]
    assert answers[11] == answers[2]


def test_requirements_of_a_published_model_are_what_its_code_imports(published):
    asked = {re.match(r"[\w-]+", line)[0] for line in (published / "requirements.txt").read_text().splitlines()}
    code = "".join(path.read_text() for path in published.glob("*.py"))
    modules = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
    third = {PACKAGES.get(name, name) for name in modules - sys.stdlib_module_names}
    # Both come with transformers.
    assert third - asked <= {"huggingface_hub", "tokenizers"}
    assert asked - third <= {"safetensors"}


def test_the_handler_that_is_published_is_the_packages_own(published):
    own = Path(smcl.__file__).parent / "predict" / "handler.py"
    assert (published / "handler.py").read_bytes() == own.read_bytes()
