import pytest
from datasets import load_dataset
from PIL import Image

from smcl.dataset_scripts import twitter
from smcl.dataset_scripts.twitter import convert, read_posts

POST = "IMGID:7\nHi\tO\nRio\tB-LOC\n\n"


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "twitter2099"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(POST, encoding="utf-8")
    return folder


def read(tmp_path, text):
    path = tmp_path / "posts.txt"
    path.write_bytes(text.encode("utf-8"))
    return list(read_posts(path, "demo"))


def test_posts_are_read_with_ids_words_and_mapped_tags(tmp_path):
    first, second = read(tmp_path, POST + "IMGID:17_06_1\nOscars\tB-OTHER\n2017\tI-OTHER\n")
    assert (first.id, first.tokens, first.tags) == ("7", ["Hi", "Rio"], ["O", "B-LOC"])
    assert (second.id, second.tokens, second.tags) == ("17_06_1", ["Oscars", "2017"], ["B-MISC", "I-MISC"])
    assert second.image_names == ["17_06_1.jpg"]


def test_odd_words_are_kept_as_they_are(tmp_path):
    words = ["", " ", "\xa0", "a\u2028b", "c\x85d", "\x1c", "\ufe0f", "\u200d", " x ", "a\rb"]
    text = "IMGID:7\n" + "".join(f"{word}\tO\n" for word in words)
    (post,) = read(tmp_path, text)
    assert post.tokens == words


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n\n\n\n"])
def test_the_end_of_the_file_may_have_any_number_of_empty_lines(tmp_path, end):
    assert [post.id for post in read(tmp_path, POST + "IMGID:8\nHi\tO" + end)] == ["7", "8"]


def test_a_post_may_follow_without_an_empty_line(tmp_path):
    assert [len(post.tokens) for post in read(tmp_path, "IMGID:7\nHi\tO\nIMGID:8\nHi\tO\nyou\tO\n")] == [1, 2]


def test_windows_line_ends_change_nothing(tmp_path):
    assert read(tmp_path, POST.replace("\n", "\r\n")) == read(tmp_path, POST)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("IMGID:7\nHi O\n", 2, "expected 'IMGID:<id>', 'word<TAB>tag' or an empty line, got 'Hi O'"),
        ("IMGID:7\nHi\tX\tO\n", 2, "'word<TAB>tag'"),
        ("Hi\tO\n", 1, "expected 'IMGID:<id>' in front"),
        (POST + "Hi\tO\n", 5, "expected 'IMGID:<id>' in front"),
        (POST + "IMGID:8\nHi\tB-TIME\n", 5, "post 8 has an unknown tag 'B-TIME'"),
        (POST + "IMGID:8\n\n" + POST, 5, "post 8 has no words"),
        ("IMGID:\nHi\tO\n", 1, "id is empty"),
        ("IMGID:../x\nHi\tO\n", 1, "or below it"),
    ],
)
def test_bad_lines_are_refused_with_file_and_line(tmp_path, text, line, message):
    with pytest.raises(ValueError, match=rf"posts\.txt:{line}: .*{message}"):
        read(tmp_path, text)


def test_without_an_image_folder_all_images_are_reported_missing(source, tmp_path):
    report = convert(source, tmp_path / "out")
    assert report["name"] == "twitter2099"
    for split in report["splits"].values():
        assert split["missing_images"] == {"count": 1, "files": ["7: 7.jpg"]}
        assert split["images_per_post"] == {"0": 1}


def test_images_are_found_by_the_id_of_the_post(source, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "images" / "7.jpg")
    report = convert(source, tmp_path / "out", tmp_path / "images")
    assert report["splits"]["train"]["images"] == 1
    row = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["validation"][0]
    assert row["images"][0].size == (40, 30)
    assert row["source"] == "twitter2099"


def test_repeated_ids_are_kept_and_reported(source, tmp_path):
    (source / "test.txt").write_text(POST + POST, encoding="utf-8")
    report = convert(source, tmp_path / "out")
    assert report["splits"]["test"]["posts"] == 2
    assert report["duplicate_ids"] == {"7": ["train", "validation", "test", "test"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda source: {"source": source / "nowhere"}, "Expected the data set at .*nowhere"),
        (lambda source: {"images": source / "nowhere"}, "Expected the image folder at .*nowhere"),
        (lambda source: (source / "valid.txt").unlink(), "There is no file .*valid.txt"),
        (lambda source: (source / "test.txt").write_text("\n") and None, "The test split of twitter2099 has no posts"),
    ],
)
def test_missing_parts_are_named(source, tmp_path, change, message):
    arguments = {"source": source, "output": tmp_path / "out", **(change(source) or {})}
    with pytest.raises(ValueError, match=message):
        convert(**arguments)


def test_the_command_converts_and_prints_the_report(source, tmp_path, capsys):
    twitter.main(["--source", str(source), "--output", str(tmp_path / "out")])
    assert "twitter2099:" in capsys.readouterr().out


def test_the_command_ends_with_a_message_for_a_bad_line(source, tmp_path, capsys):
    (source / "train.txt").write_text("Hi O\n")
    with pytest.raises(SystemExit) as stop:
        twitter.main(["--source", str(source), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "train.txt:1: expected" in capsys.readouterr().err
