"""Run by test_onnx.py in a process of its own: raw texts and photographs to entities, with torch and smcl blocked."""

import json
import sys

sys.modules["torch"] = sys.modules["torchvision"] = sys.modules["smcl"] = None

folder, posts = sys.argv[1:]
sys.path.insert(0, folder)

from onnx_tagger import OnnxTagger  # noqa: E402
from transformers import AutoProcessor  # noqa: E402

processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
tagger = OnnxTagger(folder, processor=processor)
with open(posts, encoding="utf-8") as file:
    found = tagger(json.load(file))
assert sys.modules["torch"] is sys.modules["smcl"] is None
print(json.dumps(found))  # noqa: T201
