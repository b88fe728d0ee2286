import contextlib
import json
import os
import resource
import signal

import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from factories import make_model
from post_files import NUM_POSTS, read_lines, run, write_lines

import smcl.predict.predict_file as prediction
from smcl import MultiImageNERPipeline
from smcl.predict.part_files import PartFile, merge_parts


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


def test_two_runs_do_not_write_the_same_output(pipe, folder, tmp_path):
    with (
        PartFile(str(tmp_path / "out.jsonl.part-00000-of-00001"), {}),
        pytest.raises(ValueError, match="is being written by another process"),
    ):
        run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")


@pytest.mark.parametrize("content", ["[]\n", "garbage\n", "5\n", '{"input": "\udcff\n'])
def test_files_that_are_no_parts_are_named(pipe, folder, tmp_path, content):
    part = tmp_path / "out.jsonl.part-00000-of-00001"
    part.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="part-00000-of-00001 is not what an unfinished run writes: remove it"):
        run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")
    part.unlink()
    part.mkdir()
    with pytest.raises(ValueError, match="part-00000-of-00001 must be a file of this run, and is a folder"):
        run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")
    part.rename(tmp_path / "out.jsonl.part-old")
    assert run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")["posts"] == NUM_POSTS


def test_a_full_disk_is_said_with_the_file_and_the_room(pipe, folder, tmp_path):
    child = os.fork()
    if child == 0:
        message = ""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")
        except OSError as error:
            message = str(error)
        os._exit("part-00000-of-00001 can't be written on" in message and "MB are free there" in message)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert run(pipe, folder / "posts.jsonl", tmp_path / "out.jsonl")["posts"] == NUM_POSTS


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "b")]
    for path, count in zip(paths, (1, 3), strict=True):
        with PartFile(path, {}) as part:
            for number in range(count):
                part.append([{"id": str(number), "error": "none"}], 0)
    with pytest.raises(ValueError, match="unequal length"):
        merge_parts(paths, str(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()
