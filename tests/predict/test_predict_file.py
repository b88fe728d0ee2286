import contextlib
import gzip
import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value
from factories import make_model
from PIL import Image as PILImage

import smcl
import smcl.predict.predict_file as prediction
import smcl.run_ner_multiimage as command
from smcl import MultiImageNERPipeline
from smcl.dataset_scripts.conll import Layout, convert, format_post, read_posts
from smcl.predict import part_files
from smcl.predict.inputs import ParquetFiles, open_input, place_image
from smcl.predict.part_files import PartFile, merge_parts
from smcl.predict.predict_file import predict_file
from smcl.run_ner_multiimage import main

RUN = Path(smcl.__file__).with_name("run_ner_multiimage.py")
NUM_POSTS = 23
WORDS = ["joey", "and", "niko", "rest", "after", "wrestling", "in", "verona"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pipe(processor):
    return MultiImageNERPipeline(make_model(), processor)


@pytest.fixture(scope="module")
def posts():
    """Posts with 0 to 3 images, as bytes; one of them longer than the text encoder's window."""
    found = []
    for number in range(NUM_POSTS):
        images = []
        for slot in range(number % 4):
            buffer = io.BytesIO()
            PILImage.new("RGB", (16, 16), (10 * number, 60 * slot, 99)).save(buffer, "PNG")
            images.append(buffer.getvalue())
        words = WORDS[number % 5 :] * (12 if number == 9 else 1)
        found.append({"id": f"post-{number}", "tokens": [*words, "abc"[number % 3]], "images": images})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, posts):
    """The posts as JSON lines with image files, as a Parquet file and as a data set."""
    root = tmp_path_factory.mktemp("posts")
    (root / "images").mkdir()
    lines = []
    for post in posts:
        names = [f"images/{post['id']}-{slot}.png" for slot in range(len(post["images"]))]
        for name, image in zip(names, post["images"], strict=True):
            (root / name).write_bytes(image)
        lines.append(json.dumps({**post, "images": names}) + "\n")
    (root / "posts.jsonl").write_text("".join(lines))
    image = {"bytes": Value("binary"), "path": Value("string")}
    features = {"id": Value("string"), "tokens": List(Value("string")), "images": List(image)}
    rows = [{**post, "images": [{"bytes": image, "path": None} for image in post["images"]]} for post in posts]
    dataset = Dataset.from_list(rows, Features(features)).cast_column("images", List(Image(decode=False)))
    dataset.to_parquet(root / "posts.parquet", batch_size=8)
    dataset.to_parquet(root / "set" / "data" / "test-00000-of-00001.parquet")
    dataset.select([0]).to_parquet(root / "set" / "data" / "train-00000-of-00001.parquet")
    return root


@pytest.fixture(scope="module")
def expected(pipe, folder, tmp_path_factory):
    """The output of an undisturbed run, which `run` repeats."""
    output = tmp_path_factory.mktemp("expected") / "out.jsonl"
    assert run(pipe, folder / "posts.jsonl", output) == {"posts": NUM_POSTS, "errors": 0, "skipped_images": 0}
    return output.read_bytes()


def run(pipe, source, output, batch_size=4, **options):
    return predict_file(pipe, str(source), str(output), batch_size=batch_size, disable_tqdm=True, **options)


def write_lines(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


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


def test_bytes_that_are_no_unicode_are_an_error_and_a_mark_at_the_beginning_is_none(pipe, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "joey"}\n\n  \n{"text": "\xff"}\n{"id": 7, "text": ""}')
    run(pipe, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    one, two, three = read_lines(tmp_path / "out.jsonl")
    assert (one["id"], one["words"]) == ("0", ["joey"])
    assert (two["id"], "utf-8" in two["error"]) == ("1", True)
    assert three == {"id": "7", "words": [], "tags": [], "entities": []}


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


def test_parts_of_several_processes_are_joined_to_conll_in_order(tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "b")]
    for rank, path in enumerate(paths):
        with PartFile(path, {}) as part:
            for number in range(rank, 5, 2):
                record = {"id": str(number), "words": ["joey"], "tags": ["B-PER"]}
                part.append([record if number != 3 else {"id": "3", "error": "bad"}], 0)
    assert merge_parts(paths, str(tmp_path / "out.conll"))["errors"] == 1
    ids = [line for line in (tmp_path / "out.conll").read_text().splitlines() if line.startswith("IMGID")]
    assert ids == ["IMGID:0", "IMGID:1", "IMGID:2", "IMGID:4"]
    assert read_lines(tmp_path / "out.conll.left_out.jsonl") == [{"id": "3", "error": "bad"}]


def test_conll_is_the_same_after_a_kill(monkeypatch, pipe, folder, tmp_path):
    source = folder / "posts.jsonl"
    run(pipe, source, tmp_path / "whole.conll")
    for die_at in (lambda patch: die_while_writing_block(patch, 3), die_before_renaming, die_before_removing_parts):
        output = tmp_path / "out.conll"
        run_and_die(monkeypatch, die_at, pipe, source, output)
        run(pipe, source, output)
        assert output.read_bytes() == (tmp_path / "whole.conll").read_bytes()
        output.unlink()


RENAMED = "id=number tokens=words images=photo ner_tags=gold"


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_columns_of_other_names_are_read(pipe, folder, expected, tmp_path, ending):
    rows = read_lines(folder / "posts.jsonl")
    rows = [{"number": row["id"], "words": row["tokens"], "photo": row["images"], "more": 1} for row in rows]
    source = tmp_path / f"posts.{ending}"
    (tmp_path / "images").symlink_to(folder / "images")
    write_lines(source, rows) if ending == "jsonl" else pq.write_table(pa.Table.from_pylist(rows), source)
    run(pipe, source, tmp_path / "out.jsonl", columns=RENAMED)
    assert (tmp_path / "out.jsonl").read_bytes() == expected


IMAGES_ELSEWHERE = [
    [{"text": "joey", "photo": "a.png"}],
    [{"text": "niko"}, {"text": "joey", "image_path": ["a.png"]}],
    [{"tokens": ["joey"], "Image": {"bytes": None, "path": "a.png"}}],
    [{"text": "joey", "images": None, "img_urls": ["http://example.org/a.png"]}],
]


@pytest.mark.parametrize("rows", IMAGES_ELSEWHERE)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_images_under_another_name_are_refused_before_the_model_is_loaded(
    monkeypatch, pipe, model_folder, tmp_path, rows, ending
):
    source = tmp_path / f"in.{ending}"
    keys = dict.fromkeys(key for row in rows for key in row)
    table = pa.Table.from_pylist([{key: row.get(key) for key in keys} for row in rows])
    write_lines(source, rows) if ending == "jsonl" else pq.write_table(table, source)
    arguments = ["--model", model_folder, "--do_predict", "--use_cpu", "--disable_tqdm", "true", "--input", str(source)]
    arguments += ["--output", str(tmp_path / "out.jsonl")]
    with monkeypatch.context() as patch:
        patch.setattr(command, "load_saved_model", lambda *_: pytest.fail("the model was loaded"))
        with pytest.raises(ValueError, match=r"no images in a column `images`, but '\w+'.*`--columns images="):
            main(arguments)
    assert main([*arguments, "--ignore_images"])["errors"] == 0
    assert [path.name for path in tmp_path.iterdir() if path.suffix != f".{ending}"] in ([], ["out.jsonl"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "joey"}\n'.encode("utf-16"), "none of the first 2 lines can be read"),
        (gzip.compress(b'{"text": "joey"}\n', mtime=0), "can be read.*not compressed"),
        (b'[{"text": "joey"}, {"text": "niko"}]', "Expected an object"),
        (b'[\n  {\n    "text": "joey"\n  }\n]\n', "none of the first 5 lines"),
        (b"id,text\n1,joey\n" * 200, "none of the first 100 lines"),
        (b'{"text": "joey"}\r{"text": "niko"}\r', "Extra data"),
        (b'{"text": "joey", "words": ["a"]}\n', "has no column 'photo', which `--columns images=photo` names"),
        (b'{"text": "joey", "photo": "a", "images": []}\n', "has a column 'images' already"),
    ],
)
def test_files_that_are_no_lines_of_json_are_refused(pipe, tmp_path, content, message):
    (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        run(pipe, tmp_path / "in.jsonl", tmp_path / "out.jsonl", columns="images=photo")
    with pytest.raises(ValueError, match="must be a .jsonl or .parquet file"):
        run(pipe, (tmp_path / "in.jsonl").rename(tmp_path / "in.jsonl.gz"), tmp_path / "out.jsonl")


def test_a_key_that_few_posts_have_is_found_however_late(pipe, folder, tmp_path):
    image = str(folder / "images" / "post-1-0.png")
    rows = [{"text": "joey"}] * 130 + [{"text": "joey", "photo": image}]
    source = write_lines(tmp_path / "in.jsonl", rows)
    # Without the argument, the post that has the key tells of it.
    counts = run(pipe, source, tmp_path / "out.jsonl", batch_size=64)
    assert counts["errors"] == 1
    assert "no `images`, but 'photo'" in read_lines(tmp_path / "out.jsonl")[-1]["error"]
    assert run(pipe, source, tmp_path / "named.jsonl", batch_size=64, columns="images=photo")["errors"] == 0


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("tokens", ["['joey']"], "column `tokens`: expected a list of words, found a text"),
        ("id", [0.5], "column `id`: expected a text or a whole number"),
        ("images", [[[1.0]]], "column `images`: expected a list of images"),
        ("text", [5], "column `text`: expected a string"),
    ],
)
def test_columns_of_parquet_of_other_types_are_refused(pipe, tmp_path, column, values, message):
    rest = {"text": ["joey"]} if column in ("id", "images") else {}
    pq.write_table(pa.table({**rest, column: values}), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=message):
        run(pipe, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert not list(tmp_path.glob("out*"))


def test_words_of_parquet_may_be_of_any_kind_of_list_and_an_image_alone(pipe, folder, tmp_path):
    image = (folder / "images" / "post-1-0.png").read_bytes()
    words = pa.array([["joey", "and"], []], pa.large_list(pa.large_string()))
    image = pa.array([image, None], pa.binary())
    table = pa.table({"tokens": words, "text": pa.array([None, "niko"]).dictionary_encode(), "images": image})
    pq.write_table(table, tmp_path / "in.parquet")
    assert run(pipe, tmp_path / "in.parquet", tmp_path / "out.jsonl")["errors"] == 0
    one, two = read_lines(tmp_path / "out.jsonl")
    assert (one["words"], two["words"]) == (["joey", "and"], ["niko"])
    found = pipe({"text": ["joey", "and"], "images": [image[0].as_py()]}, return_tags=True)
    assert one["tags"] == found["tags"]


@pytest.mark.parametrize("name", ["A.PNG", "a.jpg", "a"])
def test_an_image_of_another_case_or_suffix_is_named(pipe, tmp_path, name):
    PILImage.new("RGB", (16, 16)).save(tmp_path / "a.png")
    source = write_lines(tmp_path / "in.jsonl", [{"text": "joey", "images": [name]}])
    run(pipe, source, tmp_path / "out.jsonl")
    (record,) = read_lines(tmp_path / "out.jsonl")
    assert re.search("found nothing; there is 'a.png'. Correct the path", record["error"])


@pytest.mark.parametrize("address", ["HTTP://{}/a%20b.png", "http://{}/a b.png", "http://{}/bild ü.png?x=é&y=1"])
def test_addresses_of_json_lines_are_fetched(pipe, tmp_path, address):
    buffer = io.BytesIO()
    PILImage.new("RGB", (16, 16), (200, 0, 0)).save(buffer, "PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(buffer.getvalue())

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("smcl.images_smcl.is_offline_mode", lambda: False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        row = {"text": "joey", "images": [address.format(f"127.0.0.1:{server.server_port}")]}
        source = write_lines(tmp_path / "in.jsonl", [row])
        refused = run(pipe, source, tmp_path / "refused.jsonl")
        counts = run(pipe, source, tmp_path / "out.jsonl", allow_private_urls=True)
        server.shutdown()
    assert refused == {"posts": 1, "errors": 1, "skipped_images": 0}
    assert counts == {"posts": 1, "errors": 0, "skipped_images": 0}
    (record,) = read_lines(tmp_path / "out.jsonl")
    (other,) = [pipe({"text": "joey", "images": [buffer.getvalue()]}, return_tags=True)]
    assert record["tags"] == other["tags"]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing_block(monkeypatch, number):
    write = PartFile._write

    def cut(self, line):
        if self.num_blocks == number and "records" in line:
            self.file.write(json.dumps(line).encode()[:-20])
            self.file.flush()
            die()
        write(self, line)

    monkeypatch.setattr(PartFile, "_write", cut)


def die_while_writing_the_header(monkeypatch):
    monkeypatch.setattr(PartFile, "_write", lambda self, line: (self.file.write(b'{"inp'), self.file.flush(), die()))


def die_before_merging(monkeypatch):
    monkeypatch.setattr(prediction, "merge_parts", lambda *args: die())


def die_before_renaming(monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *args: die())


def die_before_removing_parts(monkeypatch):
    monkeypatch.setattr(os, "remove", lambda *args: die())


MOMENTS = {
    "in the first line": die_while_writing_the_header,
    "in the first block": lambda monkeypatch: die_while_writing_block(monkeypatch, 0),
    "in the fourth block": lambda monkeypatch: die_while_writing_block(monkeypatch, 3),
    "in the last block": lambda monkeypatch: die_while_writing_block(monkeypatch, 5),
    "before merging": die_before_merging,
    "before renaming": die_before_renaming,
    "before removing parts": die_before_removing_parts,
}


def run_and_die(monkeypatch, die_at, pipe, source, output):
    """Run in a forked process that kills itself."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            die_at(monkeypatch)
            run(pipe, source, output)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_called_again_it_writes_the_same_file(monkeypatch, pipe, folder, expected, tmp_path, moment):
    source, output = folder / "posts.jsonl", tmp_path / "out.jsonl"
    run_and_die(monkeypatch, MOMENTS[moment], pipe, source, output)
    run(pipe, source, output)
    assert output.read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_killed_again_and_again_it_predicts_no_post_twice(monkeypatch, pipe, folder, expected, tmp_path):
    source, output = folder / "posts.jsonl", tmp_path / "out.jsonl"
    for number in range(1, 6):
        run_and_die(monkeypatch, lambda patch, n=number: die_while_writing_block(patch, n), pipe, source, output)
    numbers = []
    predict_rows = prediction.predict_rows

    def note(pipe, rows, first, *args, **kwargs):
        numbers.append(first)
        return predict_rows(pipe, rows, first, *args, **kwargs)

    monkeypatch.setattr(prediction, "predict_rows", note)
    run(pipe, source, output)
    assert numbers == [20]
    assert output.read_bytes() == expected


def test_going_on_reads_no_images_of_row_groups_that_are_done(monkeypatch, pipe, folder, tmp_path):
    source, output = folder / "posts.parquet", tmp_path / "out.jsonl"
    run_and_die(monkeypatch, lambda patch: die_while_writing_block(patch, 3), pipe, source, output)
    read, iter_batches = [], pq.ParquetFile.iter_batches

    def note(self, *args, columns, **kwargs):
        read.append("images" in columns)
        return iter_batches(self, *args, columns=columns, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    run(pipe, source, output)
    assert read == [False, True, True]
    run(pipe, source, tmp_path / "whole.jsonl")
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.fixture
def killed(monkeypatch, pipe, folder, tmp_path):
    """A run that was killed after 12 of its posts, on a copy of the input."""
    source = tmp_path / "posts.jsonl"
    source.write_bytes((folder / "posts.jsonl").read_bytes())
    options = {"ignore_images": True}
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            die_while_writing_block(monkeypatch, 3)
            run(pipe, source, tmp_path / "out.jsonl", **options)
        os._exit(0)
    os.waitpid(child, 0)
    return source, tmp_path / "out.jsonl", options


@pytest.mark.parametrize(("old", "new"), [('"post-2"', '"other"'), ('"post-2"', '"post-two"'), ('"verona"', '"rome"')])
def test_a_changed_input_is_refused(pipe, killed, old, new):
    source, output, options = killed
    source.write_text(source.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match="no longer the same in the input: undo the change, or remove"):
        run(pipe, source, output, **options)
    assert not output.exists()


def test_another_file_of_the_same_length_and_time_is_refused(pipe, killed):
    source, output, options = killed
    before, content = source.stat(), source.read_bytes()
    source.write_bytes(content.replace(b"niko", b"nika", 1))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source.stat().st_size == before.st_size
    with pytest.raises(ValueError, match="no longer the same in the input"):
        run(pipe, source, output, **options)


@pytest.mark.parametrize(
    "changed", [{"columns": "images=photo"}, {"ignore_images": False}, {"on_extra_images": "first"}]
)
def test_other_columns_or_images_are_refused(pipe, killed, changed):
    source, output, options = killed
    source.write_text(source.read_text().replace('"images"', '"photo"') if "columns" in changed else source.read_text())
    with pytest.raises(ValueError, match="run that was different: `options` was"):
        run(pipe, source, output, **options | changed)


def test_a_shortened_input_is_refused(pipe, killed):
    source, output, options = killed
    write_lines(source, source.read_text().splitlines(keepends=True)[:11])
    with pytest.raises(ValueError, match="no longer the same in the input"):
        run(pipe, source, output, **options)


def test_posts_may_be_added_to_the_input(pipe, killed):
    source, output, options = killed
    source.write_text(source.read_text() + '{"id": "more", "text": "joey"}\n')
    assert run(pipe, source, output, **options)["posts"] == NUM_POSTS + 1
    assert read_lines(output)[-1]["id"] == "more"


@pytest.mark.parametrize(
    ("kept", "added"),
    [
        # The last block of 4 grows to its size, and beyond it.
        (22, b'{"id": "more", "text": "joey"}\n'),
        (22, b"".join(b'{"id": "more-%d", "text": "joey and niko"}\n' % number for number in range(9))),
        # One that is full, and whose last line had no end.
        (20, b'\n{"id": "more", "text": "joey"}\n'),
        (20, b"\n"),
        # A last line that was still being written.
        (20, b', "images": []}\n{"id": "more", "text": "niko"}'),
        (21, b', "text": "verona"}\n'),
        # One that was cut within a letter.
        (20, b'\xbc", "images": []}\n{"id": "more", "text": "niko"}\r\n\r\n'),
    ],
)
def test_a_last_block_that_has_grown_is_predicted_anew(monkeypatch, pipe, folder, tmp_path, kept, added):
    source, output = tmp_path / "posts.jsonl", tmp_path / "out.jsonl"
    (tmp_path / "images").symlink_to(folder / "images")
    lines = (folder / "posts.jsonl").read_bytes().splitlines(keepends=True)[:kept]
    if added.startswith(b"\n"):
        lines[-1] = lines[-1].removesuffix(b"\n")
    elif added.startswith(b","):
        lines[-1] = b'{"id": "cut", "text": "verona"' if b"images" in added else b'{"id": "cut"'
    elif added.startswith(b"\xbc"):
        lines[-1] = b'{"id": "cut", "text": "z\xc3'
    source.write_bytes(b"".join(lines))
    run_and_die(monkeypatch, die_before_merging, pipe, source, output)
    source.write_bytes(b"".join(lines) + added)
    run(pipe, source, output)
    run(pipe, source, tmp_path / "whole.jsonl")
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not any("error" in record for record in read_lines(output))


def test_a_last_block_of_parquet_that_has_grown_is_predicted_anew_with_its_images(monkeypatch, pipe, folder, tmp_path):
    source, output = tmp_path / "posts.parquet", tmp_path / "out.jsonl"
    posts = Dataset.from_parquet(str(folder / "posts.parquet"))
    posts.select(range(21)).to_parquet(source)
    run_and_die(monkeypatch, die_before_merging, pipe, source, output)
    posts.to_parquet(source)
    run(pipe, source, output)
    run(pipe, source, tmp_path / "whole.jsonl")
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_change_before_the_last_block_is_refused_though_that_has_grown(monkeypatch, pipe, folder, tmp_path):
    source, output = tmp_path / "posts.jsonl", tmp_path / "out.jsonl"
    source.write_bytes((folder / "posts.jsonl").read_bytes())
    run_and_die(monkeypatch, die_before_merging, pipe, source, output)
    source.write_text(source.read_text().replace('"post-2"', '"other"', 1) + '{"id": "more", "text": "joey"}\n')
    with pytest.raises(ValueError, match="no longer the same in the input"):
        run(pipe, source, output)


@pytest.mark.parametrize(
    "address", ["HTTP://example.org/a.png", "https://example.org/a b.png", " http://example.org/ü"]
)
def test_addresses_in_any_case_are_no_relative_paths(address):
    assert place_image(address, "/folder") == address
    assert place_image("http/a.png", "/folder") == "/folder/http/a.png"


def test_another_model_or_setting_is_refused(pipe, processor, killed):
    source, output, options = killed
    with pytest.raises(ValueError, match=r"run that was different: `options` was .*skip.*or remove the file"):
        run(pipe, source, output, **options, on_bad_image="skip")
    with pytest.raises(ValueError, match="`batch_size` was 4 and is 5"):
        run(pipe, source, output, batch_size=5, **options)
    other = MultiImageNERPipeline(make_model(seed=1), processor)
    with pytest.raises(ValueError, match="`model` was"):
        run(other, source, output, **options)
    assert run(pipe, source, output, **options)["posts"] == NUM_POSTS


def test_another_number_of_processes_is_refused(pipe, folder, tmp_path):
    (tmp_path / "out.jsonl.part-00001-of-00003").touch()
    with pytest.raises(ValueError, match="unfinished run of 3 processes, and this is one of 1"):
        run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")


def test_an_output_that_is_complete_is_not_overwritten(pipe, folder, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="exists already: remove it, or give another name"):
        run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine"


def test_two_runs_do_not_write_the_same_output(pipe, folder, tmp_path):
    with (
        PartFile(str(tmp_path / "out.jsonl.part-00000-of-00001"), {}),
        pytest.raises(ValueError, match="is being written by another process"),
    ):
        run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "b")]
    for path, count in zip(paths, (1, 3), strict=True):
        with PartFile(path, {}) as part:
            for number in range(count):
                part.append([{"id": str(number), "error": "none"}], 0)
    with pytest.raises(ValueError, match="unequal length"):
        merge_parts(paths, str(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


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


def test_splits_are_chosen_by_name(folder):
    assert [Path(path).name[:5] for path in open_input(str(folder / "set")).paths] == ["test-"]
    assert [Path(path).name[:5] for path in open_input(str(folder / "set"), "train").paths] == ["train"]
    with pytest.raises(ValueError, match=r"no split 'dev', but \['test', 'train'\]"):
        open_input(str(folder / "set"), "dev")
    with pytest.raises(ValueError, match="`split` is for data sets"):
        open_input(str(folder / "posts.jsonl"), "test")


def test_files_from_elsewhere_are_streamed_and_name_no_file_here(pipe, folder):
    """As those of the Hub, which fsspec opens likewise."""
    path = "memory://posts.parquet"
    rows = [{"text": "joey", "images": ["a.png"]}, {"text": "joey", "images": []}]
    with fsspec.open(path, "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    source = ParquetFiles([path])
    assert source.count() is None
    (batch,) = source.blocks(4)
    one, two = prediction.predict_rows(pipe, batch.to_pylist(), folder=source.folder)
    assert "relative path, and there is no folder" in one["error"]
    assert two["words"] == ["joey"]


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


@pytest.mark.parametrize(
    "line",
    ['{"text": "joey", "text": "niko"}', '{"text": "joey", "images": ["a"], "images": []}', '{"id": 1, "id": 2}'],
)
def test_a_line_with_a_key_twice_is_an_error_in_its_place(pipe, tmp_path, line):
    (tmp_path / "in.jsonl").write_text(f'{{"text": "niko"}}\n{line}\n')
    assert run(pipe, tmp_path / "in.jsonl", tmp_path / "out.jsonl")["errors"] == 1
    records = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert "error" not in records[0] and "stands twice" in records[1]["error"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("value", ["a.png", ["a.JPG", "b.webp"], "http://host/a.png?b"])
def test_images_under_a_key_of_any_name_are_refused(pipe, tmp_path, ending, value):
    rows = [{"text": "joey", "media": value}] * 3
    source = tmp_path / f"in.{ending}"
    if ending == "jsonl":
        write_lines(source, rows)
    else:
        Dataset.from_list(rows).to_parquet(source)
    with pytest.raises(ValueError, match="no images in a column `images`, but 'media'"):
        run(pipe, source, tmp_path / "out.jsonl")
    assert run(pipe, source, tmp_path / "out.jsonl", ignore_images=True)["errors"] == 0


@pytest.mark.parametrize("batch_size", [0, -1, None, 2.5, True])
def test_a_batch_size_that_is_none_is_refused_before_anything_is_written(pipe, folder, tmp_path, batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be a whole number of at least 1, got"):
        predict_file(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl", batch_size=batch_size)
    assert not list(tmp_path.iterdir())


def test_places_may_be_paths(pipe, folder, tmp_path):
    counts = predict_file(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl", disable_tqdm=True)
    assert counts["posts"] == len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())


def test_two_columns_of_one_name_are_refused(pipe, tmp_path):
    table = pa.table([pa.array(["joey"]), pa.array(["niko"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "posts.parquet")
    with pytest.raises(ValueError, match="Several columns are called 'text'"):
        predict_file(pipe, str(tmp_path / "posts.parquet"), str(tmp_path / "out.jsonl"))
