import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from post_files import NUM_POSTS, read_lines, run, write_lines

import smcl
import smcl.predict.predict_file as prediction
from smcl.dataset_scripts.conll import Layout, convert, format_post, read_posts
from smcl.predict import part_files
from smcl.predict.predict_file import predict_file
from smcl.run_ner_multiimage import main

RUN = Path(smcl.__file__).with_name("run_ner_multiimage.py")


def test_records_are_what_the_pipeline_finds_in_order(pipe, posts, expected):
    records = [json.loads(line) for line in expected.decode().splitlines()]
    assert [record["id"] for record in records] == [post["id"] for post in posts]
    assert any(record["entities"] for record in records)
    for record, post in zip(records, posts, strict=True):
        found = pipe({"text": post["tokens"], "images": post["images"]}, return_tags=True)
        assert record.keys() == {"id", "words", "tags", "entities"}
        assert (record["words"], record["tags"]) == (post["tokens"], found["tags"])
        for entity, other in zip(record["entities"], found["entities"], strict=True):
            assert entity.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
            assert entity == other | {"words": list(other["words"])}


@pytest.mark.parametrize("source", ["posts.jsonl", "posts.parquet", "set"])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_every_format_gives_the_same_records(pipe, folder, expected, tmp_path, source, ending):
    output = tmp_path / f"out.{ending}"
    run(pipe, folder / source, output)
    records = read_lines(output) if ending == "jsonl" else pq.read_table(output).to_pylist()
    same = [json.loads(line) for line in expected.decode().splitlines()]
    for record, other in zip(records, same, strict=True):
        assert {key: value for key, value in record.items() if value is not None and key != "entities"} == {
            key: value for key, value in other.items() if key != "entities"
        }
        for entity, twin in zip(record["entities"], other["entities"], strict=True):
            assert entity.pop("score") == pytest.approx(twin.pop("score"), abs=1e-5)
            assert entity == twin
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_a_bad_row_becomes_an_error_in_its_place(pipe, folder, tmp_path):
    good = {"id": "good", "text": "joey and niko"}
    bad = [
        ("{broken\n", "1", "can't be read: Expecting"),
        ("[" * 100_000 + "\n", "2", "recursion"),
        ("[1]\n", "3", "Expected an object with `text` or `tokens`, got"),
        ({"id": "a", "images": []}, "a", "Expected `text` or `tokens`, got the keys"),
        ({"id": "b", "text": 5}, "b", "`text` must be a string or a list of words, got 5"),
        ({"id": "c", "text": "joey", "images": 5}, "c", "`images` must be a list"),
        ({"id": "d", "text": "joey", "images": ["nothing.png"]}, "d", "nothing.png.*expected a file there"),
        ({"id": "e", "text": "half \ud83d"}, "e", "surrogate"),
        ({"id": "\ud83d", "text": "joey"}, "9", "surrogates not allowed"),
        ({"id": ["f"], "text": "joey"}, "10", "`id` must be a string or a number"),
        ({"id": "g", "text": "joey", "images": ["a.png"] * 5}, "g", "5 images.*max_images"),
    ]
    source = write_lines(tmp_path / "in.jsonl", [good, *(row for row, _, _ in bad), good])
    counts = run(pipe, source, tmp_path / "out.jsonl")
    assert counts == {"posts": 13, "errors": 11, "skipped_images": 0}
    first, *errors, last = read_lines(tmp_path / "out.jsonl")
    assert first == last
    assert first["words"] == ["joey", "and", "niko"]
    for record, (_, name, message) in zip(errors, bad, strict=True):
        assert record.keys() == {"id", "error"}
        assert record["id"] == name
        assert re.search(message, record["error"]), record["error"]
    run(pipe, source, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["error"] for row in table[1:-1]] == [record["error"] for record in errors]
    assert table[0]["error"] is None


def test_images_that_are_skipped_are_named_and_counted(pipe, folder, tmp_path):
    row = {"id": "a", "text": "joey", "images": ["nothing.png", str(folder / "images" / "post-1-0.png")]}
    source = write_lines(tmp_path / "in.jsonl", [row])
    counts = run(pipe, source, tmp_path / "out.jsonl", on_bad_image="skip")
    assert counts == {"posts": 1, "errors": 0, "skipped_images": 1}
    (record,) = read_lines(tmp_path / "out.jsonl")
    assert "Image 0" in record["skipped_images"][0]
    run(pipe, source, tmp_path / "out.parquet", on_bad_image="skip")
    assert pq.read_table(tmp_path / "out.parquet").to_pylist()[0]["skipped_images"] == record["skipped_images"]


def test_ignored_images_are_not_read(pipe, tmp_path):
    rows = [{"text": "joey", "images": ["nothing.png"]}, {"text": "joey"}]
    run(pipe, write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", ignore_images=True)
    one, two = read_lines(tmp_path / "out.jsonl")
    assert one | {"id": "1"} == two


ODD_WORDS = [
    "IMGID:7",
    "a\tb",
    "a b",
    "\\u0041",
    "\u2028",
    "",
    "#",
    "\ufeff",
    "IMGID:",
    "\x85x",
    "\xa0",
    "-DOCSTART-",
    "\r",
]


@pytest.mark.parametrize("ending", ["conll", "bio"])
def test_conll_output_is_read_back_by_the_converter(pipe, folder, expected, tmp_path, ending):
    output = tmp_path / f"out.{ending}"
    assert run(pipe, folder / "posts.jsonl", output)["posts"] == NUM_POSTS
    layout = Layout(id_prefix="IMGID:", escaped=True)
    found = [(post.id, post.tokens, post.tags) for post in read_posts(output, "x", layout, lambda name: [])]
    records = [json.loads(line) for line in expected.decode().splitlines()]
    assert found == [(record["id"], record["words"], record["tags"]) for record in records]
    assert any(tag != "O" for _, _, tags in found for tag in tags)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_odd_words_and_ids_come_back_from_conll_and_what_can_not_stand_there_is_named_beside_it(pipe, folder, tmp_path):
    good = str(folder / "images" / "post-1-0.png")
    rows = [
        {"id": "IMGID: \t7", "tokens": ODD_WORDS},
        {"id": "bad", "text": 5},
        {"id": "none", "tokens": []},
        {"id": "", "text": "joey"},
        {"id": "last", "text": "joey", "images": ["nothing.png", good]},
    ]
    source, output = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.conll"
    counts = run(pipe, source, output, on_bad_image="skip")
    assert counts == {"posts": 5, "errors": 1, "skipped_images": 1}
    one, two = read_posts(output, "x", Layout(id_prefix="IMGID:", escaped=True), lambda name: [])
    assert (one.id, one.tokens, two.id, two.tokens) == ("IMGID: \t7", ODD_WORDS, "last", ["joey"])
    notes = read_lines(tmp_path / "out.conll.left_out.jsonl")
    assert [note["id"] for note in notes] == ["bad", "none", "", "last"]
    reasons = ["`text` must be", "It has no words", "Its id is empty"]
    assert all(reason in note["error"] for note, reason in zip(notes, reasons, strict=False))
    assert notes[-1].keys() == {"id", "skipped_images"} and "nothing.png" in notes[-1]["skipped_images"][0]
    output.unlink()
    with pytest.raises(ValueError, match=r"out.conll.left_out.jsonl exists already: remove it"):
        run(pipe, source, output)
    convert(
        tmp_path / "back", {"train": write_conll_copy(tmp_path, one, two)}, Layout(id_prefix="IMGID:", escaped=True)
    )
    assert Dataset.from_parquet(str(tmp_path / "back/data/train-*.parquet"))["tokens"][:] == [ODD_WORDS, ["joey"]]


def write_conll_copy(folder, *posts):
    text = "".join(format_post(post.id, post.tokens, ["B-PER", *post.tags[1:]]) for post in posts)
    (folder / "copy.conll").write_bytes(text.encode())
    return folder / "copy.conll"


def test_an_output_that_is_complete_is_not_overwritten(pipe, folder, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="exists already: remove it, or give another name"):
        run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("posts.jsonl", "out.csv", "`output` must be a file that ends in .jsonl, .parquet"),
        ("posts.jsonl", "none/out.jsonl", "there is no folder"),
        ("nothing", "out.jsonl", "neither a file, nor a folder with data, nor a data set"),
        ("images/post-1-0.png", "out.jsonl", "`input` must be a .jsonl or .parquet file"),
        ("broken.parquet", "out.jsonl", "can't be read as Parquet"),
        ("textless.parquet", "out.jsonl", r"lacks the column `tokens` .* or `text` .*it has \['id'\]"),
        ("images", "out.jsonl", "Expected a data set of Parquet files"),
    ],
)
def test_input_and_output_that_do_not_work_are_named(pipe, folder, tmp_path, source, output, message):
    (folder / "broken.parquet").write_text("PAR1")
    pq.write_table(pa.table({"id": ["a"]}), folder / "textless.parquet")
    with pytest.raises(ValueError, match=message):
        run(pipe, folder / source, tmp_path / output)


def test_an_output_that_may_not_be_written_is_named_before_anything_is_predicted(monkeypatch, pipe, folder, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ValueError, match="`output` is .*no folder that can be written to: nothing may be written in"):
        run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_number_of_posts(monkeypatch, pipe, tmp_path, ending):
    record = {"words": ["joey"] * 20, "tags": ["O"] * 20, "entities": []}
    monkeypatch.setattr(prediction, "predict_rows", lambda pipe, rows, *_, **__: [{"id": "a"} | record for _ in rows])
    monkeypatch.setattr(part_files, "ROW_GROUP", 100)
    peaks = []
    for count in (500, 5000):
        rows = [{"text": "joey " * 20, "images": []}] * count
        source = tmp_path / f"{count}.{ending}"
        if ending == "jsonl":
            write_lines(source, rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=100)
        tracemalloc.start()
        run(pipe, source, tmp_path / f"out-{count}.{ending}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000


def test_command_line_tags_a_file(model_folder, folder, expected, tmp_path):
    arguments = ["--model", model_folder, "--do_predict", "--use_cpu", "--disable_tqdm", "true"]
    arguments += ["--per_device_eval_batch_size", "4", "--input", str(folder / "posts.jsonl")]
    assert main([*arguments, "--output", str(tmp_path / "out.jsonl")])["posts"] == NUM_POSTS
    assert (tmp_path / "out.jsonl").read_bytes() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected `--dataset`, or `--input`"),
        (["--input", "x"], "`--input` goes with `--do_predict` alone"),
        (["--input", "x", "--do_predict", "--do_train"], "`--input` goes with `--do_predict` alone"),
        (["--input", "x", "--do_predict", "--output", "x.jsonl"], "expected `--model`"),
        (["--input", "x", "--do_predict", "--model", "x"], "and `--output`"),
        (["--input", "x", "--do_predict", "--model", "x", "--output", "y", "--dataset", "z"], "leave out `--dataset`"),
    ],
)
def test_command_line_names_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        main(arguments)


def test_two_processes_write_the_same_file_as_one(model_folder, folder, expected, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(RUN)]
    command += ["--model", model_folder, "--do_predict", "--use_cpu", "--per_device_eval_batch_size", "4"]
    command += ["--input", str(folder / "posts.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("options", [{"on_bad_image": "skp"}, {"on_error": "raise"}, {"allow_paths": {1}}, {"x": 1}])
def test_options_that_are_none_are_refused_before_anything_is_written(pipe, folder, tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch_size", [0, -1, None, 2.5, True])
def test_a_batch_size_that_is_none_is_refused_before_anything_is_written(pipe, folder, tmp_path, batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be a whole number of at least 1, got"):
        predict_file(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl", batch_size=batch_size)
    assert not list(tmp_path.iterdir())


def test_places_may_be_paths(pipe, folder, tmp_path):
    counts = predict_file(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl", disable_tqdm=True)
    assert counts["posts"] == len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())
