import gzip
import http.server
import io
import json
import re
import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image as PILImage
from post_files import read_lines, run, write_lines

import smcl.predict.predict_file as prediction
import smcl.run_ner_multiimage as command
from smcl.predict.inputs import ParquetFiles, open_input, place_image
from smcl.predict.predict_file import predict_file
from smcl.run_ner_multiimage import main


def test_bytes_that_are_no_unicode_are_an_error_and_a_mark_at_the_beginning_is_none(pipe, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "joey"}\n\n  \n{"text": "\xff"}\n{"id": 7, "text": ""}')
    run(pipe, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    one, two, three = read_lines(tmp_path / "out.jsonl")
    assert (one["id"], one["words"]) == ("0", ["joey"])
    assert (two["id"], "utf-8" in two["error"]) == ("1", True)
    assert three == {"id": "7", "words": [], "tags": [], "entities": []}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_missing_id_is_not_that_of_another_post(pipe, tmp_path, caplog, form):
    rows = [{"n": post_id, "text": "joey"} for post_id in ("1", None, "03", None, "x", None)]
    rows = rows if form == "parquet" else [*rows[:3], "no JSON", {"text": "niko"}, {"n": "3", "text": "joey"}]
    path, output = tmp_path / f"in.{form}", tmp_path / "out.jsonl"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    run(pipe, path, output, columns="id=n")
    found = [record["id"] for record in read_lines(output)]
    if form == "parquet":
        assert found == ["1", "row 1", "03", "3", "x", "5"]
        assert "1 posts have no id, and their numbers are the ids of others. They are called 'row 1'." in caplog.text
    else:
        assert found == ["1", "row 1", "03", "row 3", "4", "3"]


def test_one_of_several_configurations_is_predicted_by_name(pipe, tmp_path):
    card = "---\nconfigs:\n" + "".join(f"- config_name: {x}\n  data_files: {x}/*.parquet\n" for x in "ab") + "---\n"
    for name in "ab":
        Dataset.from_dict({"id": [name], "text": ["joey"]}).to_parquet(tmp_path / name / "test.parquet")
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(ValueError, match=r"Expected as `--dataset_config_name` .* one of .*\['a', 'b'\]"):
        run(pipe, tmp_path, tmp_path / "out.jsonl")
    run(pipe, tmp_path, tmp_path / "out.jsonl", config_name="b")
    assert [record["id"] for record in read_lines(tmp_path / "out.jsonl")] == ["b"]
    with pytest.raises(ValueError, match="`config_name` is for data sets"):
        run(pipe, tmp_path / "b" / "test.parquet", tmp_path / "more.jsonl", config_name="b")


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


@pytest.mark.parametrize(
    "address", ["HTTP://example.org/a.png", "https://example.org/a b.png", " http://example.org/ü"]
)
def test_addresses_in_any_case_are_no_relative_paths(address):
    assert place_image(address, "/folder") == address
    assert place_image("http/a.png", "/folder") == "/folder/http/a.png"


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


def test_two_columns_of_one_name_are_refused(pipe, tmp_path):
    table = pa.table([pa.array(["joey"]), pa.array(["niko"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "posts.parquet")
    with pytest.raises(ValueError, match="Several columns are called 'text'"):
        predict_file(pipe, str(tmp_path / "posts.parquet"), str(tmp_path / "out.jsonl"))
