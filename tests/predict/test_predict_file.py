import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
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
from smcl import MultiImageNERPipeline
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
        ({"id": "c", "text": "joey", "images": "x.png"}, "c", "`images` must be a list"),
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
        ("posts.jsonl", "out.csv", "`output` must be a .jsonl or .parquet file"),
        ("posts.jsonl", "none/out.jsonl", "there is no folder"),
        ("nothing", "out.jsonl", "neither a file, nor a folder with data, nor a data set"),
        ("images/post-1-0.png", "out.jsonl", "`input` must be a .jsonl or .parquet file"),
        ("broken.parquet", "out.jsonl", "can't be read as Parquet"),
        ("textless.parquet", "out.jsonl", r"columns \['id'\]. Expected `text`"),
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
