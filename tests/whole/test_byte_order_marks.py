"""A byte order mark, as editors of Windows put it in front of a text, changes nothing wherever a text is read."""

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset
from factories import make_model

from smcl.baselines.word_vectors import read_word_vectors
from smcl.dataset_scripts import conll, jsonl, label_studio
from smcl.dataset_scripts.context_files import ContextFile
from smcl.dataset_scripts.enrich import _read_report
from smcl.dataset_scripts.knowledge import read_examples
from smcl.experiments.image_dependent import read_predictions
from smcl.experiments.plan import read_mentions
from smcl.predict.figures import plot
from smcl.predict.inputs import Columns, open_input, read_row
from smcl.publish.run_record import command_line, read_object
from smcl.train.arguments import parse_arguments
from smcl.train.data import load_posts

POST = {"id": "a", "tokens": ["Joey", "sleeps"], "ner_tags": ["B-PER", "O"]}
LINES = "".join(json.dumps(POST | {"id": name}) + "\n" for name in "ab")
CONLL = "IMGID:1\nJoey\tB-PER\nsleeps\tO\n\n"


def converted(convert, *options):
    """What a converter makes of a file."""

    def read(path):
        convert([*options, str(path), "--output", str(path.parent / "out"), "--name", "own"])
        (file,) = (path.parent / "out").glob("**/*.parquet")
        return Dataset.from_parquet(str(file), cache_dir=str(path.parent / "cache")).remove_columns("images")[:]

    return read


def arguments_of(path):
    return vars(parse_arguments([str(path)]).data), command_line([str(path)])


def plotted(path, monkeypatch):
    seen = []
    processor = SimpleNamespace(context_columns=())
    pipe = SimpleNamespace(model=make_model(), processor=processor, explain=lambda post, grid: seen.append(post))
    monkeypatch.setattr(plot, "load_pipeline", lambda name: pipe)
    monkeypatch.setattr(plot, "plot_explanation", lambda *args: None)
    plot.main(["--model", "m", "--post", str(path), "--output", "out.png"])
    return seen


def predicted(path):
    source = open_input(str(path))
    return [read_row(line, 0, None, Columns()) for block in source.blocks(1) for line in block]


def loaded(path):
    return load_posts(str(path.parent), ["test"])["test"][:]


TASK = {"id": 1, "data": {"text": "Joey sleeps", "images": []}}
RESULT = {"type": "labels", "value": {"start": 0, "end": 4, "text": "Joey", "labels": ["PER"]}}
TASKS = [TASK | {"annotations": [{"result": [RESULT | {"from_name": "label", "to_name": "text"}]}]}]

READERS = {
    "arguments.yaml": ("dataset: x\noutput_dir: y\n", arguments_of),
    "arguments.yml": ("output_dir: y\ndataset: x\n", arguments_of),
    "arguments.json": ('{\n\t"dataset": "x",\n\t"output_dir": "y"\n}', arguments_of),
    "posts.jsonl": (LINES, predicted),
    "train.jsonl": (LINES, converted(jsonl.main, "--train")),
    "train.json": (json.dumps([POST]), lambda path: list(jsonl.read_records(path))),
    "train.txt": (CONLL, converted(conll.main, "--id_prefix", "IMGID:", "--train")),
    "test.jsonl": (LINES, loaded),
    "test.json": (json.dumps([POST]), loaded),
    "export.json": (json.dumps(TASKS), converted(label_studio.main, "import", "--export")),
    "captions.jsonl": ('{"file_name": "a.jpg", "captions": ["a cat"]}\n', lambda p: ContextFile(p, "captions").values),
    "examples.jsonl": ('{"id": "a", "answer": "Joey is a cat."}\n', read_examples),
    "vectors.txt": ("joey 1 2\nand 3 4\n", lambda path: read_word_vectors(str(path)).rows),
    "mentions.json": ('{"a": [[0, 1]]}', read_mentions),
    "predictions.jsonl": ('{"id": "a", "gold": ["B-PER"], "predicted": ["O"]}\n', read_predictions),
    "report.json": ('{"name": "own"}', lambda path: _read_report(path.parent)),
    "run.json": ('{"runs": []}', lambda path: read_object(path, {"runs"})),
    "post.json": ('{"text": "Joey sleeps"}', plotted),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_and_other_line_ends_change_nothing(name, end, tmp_path, monkeypatch):
    text, read = READERS[name]
    more = (monkeypatch,) if read is plotted else ()
    found = []
    for folder, encoding, line_end in (("plain", "utf-8", "\n"), ("marked", "utf-8-sig", end)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(text.replace("\n", line_end).encode(encoding))
        monkeypatch.chdir(tmp_path / folder)
        found.append(read(tmp_path / folder / name, *more))
    assert found[0] and repr(found[1]).replace("/marked/", "/plain/") == repr(found[0])
