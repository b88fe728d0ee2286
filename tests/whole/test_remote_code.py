import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from factories import make_model

import smcl
from smcl import MultiImageNERPipeline

PROGRAM = """
import json
import sys

# What a machine without the package looks like, wherever this Python finds its modules.
sys.modules["smcl"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForTokenClassification, AutoProcessor, pipeline

folder, out = sys.argv[1:]
# Sums in another number of threads round differently.
torch.set_num_threads(1)
model = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
base = AutoModel.from_pretrained(folder, trust_remote_code=True)
for part in (model, processor, base):
    assert type(part).__module__.startswith("transformers_modules."), type(part)
inputs = load_file(folder + "/inputs")
tags = model.decode(model(**inputs).logits, inputs["word_mask"])
words = processor(words=[["joey", "and", "niko"]])
save_file({"logits": model(**inputs).logits, "tags": tags, "input_ids": words["input_ids"]}, out)
tasks = (None, "multi-image-ner", "token-classification", "ner")
pipes = [pipeline(task, model=folder, trust_remote_code=True) for task in tasks]
for pipe in pipes:
    assert type(pipe).__module__.startswith("transformers_modules."), type(pipe)
    print("pipeline:", json.dumps(pipe({"text": "joey and niko"}, return_tags=True)["tags"]))
assert len(str(pipes[0].model.config)) > 1000
# transformers gives a model that is loaded already to its own pipelines.
stocks = [pipeline(task, model=model, tokenizer=processor.tokenizer) for task in ("ner", "token-classification")]
for pipe in stocks:
    assert type(pipe).__name__ == "TokenClassificationPipeline", type(pipe)
    pipe(["joey and niko", "joey"])
pipes[0].save_pretrained(folder + "/piped")
model.save_pretrained(folder + "/again")
processor.save_pretrained(folder + "/again")
"""


def run_without_package(folder, out, cache) -> list[list[str]]:
    """Load a folder where the package is not; return what the pipelines tagged."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    command = [sys.executable, "-c", PROGRAM, str(folder), str(out)]
    result = subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stderr.count("it reads no images, and labels each token by itself, without the CRF") == 1
    lines = result.stdout.splitlines()
    return [json.loads(line.removeprefix("pipeline:")) for line in lines if line.startswith("pipeline:")]


def test_saved_folder_gives_the_same_logits_bit_for_bit_without_the_package(tmp_path, processor):
    from factories import make_inputs
    from safetensors.torch import load_file, save_file

    folder, cache = tmp_path / "saved", tmp_path / "cache"
    cache.mkdir()
    model, inputs = make_model(), make_inputs()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_file(inputs, folder / "inputs")
    tags = run_without_package(folder, tmp_path / "out", cache)
    assert tags == [MultiImageNERPipeline(model, processor)({"text": "joey and niko"}, return_tags=True)["tags"]] * 4
    outputs = load_file(tmp_path / "out")
    logits = model(**inputs).logits
    assert torch.equal(outputs["logits"], logits)
    assert torch.equal(outputs["tags"], model.decode(logits, inputs["word_mask"]))
    assert torch.equal(outputs["input_ids"], processor(words=[["joey", "and", "niko"]])["input_ids"])
    # What was loaded as remote code can be saved and loaded so again.
    for again in ("again", "piped"):
        save_file(inputs, folder / again / "inputs")
        assert run_without_package(folder / again, tmp_path / again, cache) == tags
        assert torch.equal(load_file(tmp_path / again)["logits"], logits)


def test_the_code_that_travels_is_what_the_names_say(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    travelling = {path.name for path in Path(smcl.__file__).parent.glob("*_smcl.py")}
    assert len(travelling) == 8
    assert {path.name for path in (tmp_path / "model").glob("*.py")} == travelling
