import json

import pytest
from datasets import load_dataset
from PIL import Image

from smcl.dataset_scripts import mner_mi, writer
from smcl.dataset_scripts.mner_mi import convert, parse_record


def record(post_id=1, text=("Hi", "Rio"), label=("O", "B-LOC"), images=()):
    return {"id": post_id, "text": list(text), "images": list(images), "label": list(label), "url": "there"}


def write_text(source, stem, **splits):
    (source / "text").mkdir(exist_ok=True)
    for split in ("train", "val", "test"):
        text = "\n".join(splits.get(split, [json.dumps(record())])) + "\n"
        (source / "text" / f"{stem}_{split}.txt").write_text(text, encoding="utf-8")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "published"
    for name in ("images", "twitter2017_images"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "images" / "1_0.jpg")
    whole = (folder / "images" / "1_0.jpg").read_bytes()
    (folder / "images" / "1_1.jpg").write_bytes(whole[:-2])
    (folder / "images" / "1_2.jpg").write_bytes(b"")
    (folder / "images" / "notes.txt").write_text("no image")
    (folder / "images" / ".hidden").mkdir()
    Image.new("RGB", (40, 30), "blue").save(folder / "twitter2017_images" / "O_538.jpg")
    write_text(folder, "MNER-MI")
    return folder


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_json_and_python_literals_give_the_same_post(write):
    published = record(text=["It's", '"Rio"', "é😀", ""], label=["O", "B-MIS", "I-MISC", "O"], images=["1_0.jpg"])
    post = parse_record(write(published), "here")
    assert post.id == "1"
    assert post.tokens == ["It's", '"Rio"', "é😀", ""]
    assert post.tags == ["O", "B-MISC", "I-MISC", "O"]
    assert post.image_names == ["1_0.jpg"]
    assert post.source == "mner_mi"


@pytest.mark.parametrize(
    "line",
    [
        "__import__('os').mkdir('{folder}')",
        "{{'id': __import__('os').mkdir('{folder}'), 'text': ['a'], 'images': [], 'label': ['O']}}",
        "[c for c in ().__class__.__base__.__subclasses__()]",
        "no record",
        "[1, 2]",
        '{{"id": 1, "text": ["Hi"',
        "((((((" * 2000,
        "[" * 200_000,
    ],
)
def test_a_line_that_is_no_record_is_refused_and_never_run(source, tmp_path, line):
    victim = tmp_path / "made"
    write_text(source, "MNER-MI", train=[json.dumps(record()), line.format(folder=victim)])
    with pytest.raises(ValueError, match=r"MNER-MI_train\.txt:2: expected a record as JSON or as a Python literal"):
        convert(source, tmp_path / "out")
    assert not victim.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("first", ['"id": 1', "'id': 1"])
def test_a_key_that_stands_twice_is_refused(first):
    twice = "{" + first + ", 'text': ['Hi'], 'text': ['Bye'], 'images': [], 'label': ['O']}"
    with pytest.raises(ValueError, match=r"here: .* stands twice"):
        parse_record(twice.replace("'", '"') if '"' in first else twice, "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "'id' that is a number or a text, got None"),
        ({"id": True}, "'id' that is a number or a text, got True"),
        ({"id": ""}, "id is empty"),
        ({"text": "Hi Rio"}, "'text' to be a list of strings, got 'Hi Rio'"),
        ({"text": ["Hi", 5]}, "'text' to be a list of strings"),
        ({"images": None}, "'images' to be a list of strings"),
        ({"images": ["../report.json"]}, "or below it"),
        ({"label": ["O"]}, "2 words and 1 tags"),
        ({"label": ["O", "B-TIME"]}, "unknown tag 'B-TIME'"),
    ],
)
def test_a_bad_record_is_refused_with_file_and_line(source, tmp_path, changes, message):
    write_text(source, "MNER-MI", val=[json.dumps(record()), json.dumps({**record(), **changes})])
    with pytest.raises(ValueError, match=rf"MNER-MI_val\.txt:2: .*{message}"):
        convert(source, tmp_path / "out")


def test_missing_truncated_and_empty_images_are_reported(source, tmp_path):
    images = ["1_0.jpg", "1_1.jpg", "1_2.jpg", "1_3.jpg", "notes.txt", ".hidden"]
    write_text(source, "MNER-MI", train=[json.dumps(record(images=images))])
    report = convert(source, tmp_path / "out")["splits"]["train"]
    assert report["repaired_images"]["files"] == ["1: 1_1.jpg"]
    assert report["broken_images"]["files"] == ["1: 1_2.jpg", "1: notes.txt"]
    assert report["missing_images"]["files"] == ["1: 1_3.jpg", "1: .hidden"]
    assert report["images_per_post"] == {"2": 1}
    row = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"][0]
    assert [image.size for image in row["images"]] == [(40, 30), (40, 30)]


def test_several_processes_write_what_one_does(source, tmp_path, monkeypatch):
    # Few posts ahead, so that reading has to go on while posts are written.
    monkeypatch.setattr(writer, "POSTS_AHEAD", 1)
    kinds = ["1_0.jpg", "1_1.jpg", "1_2.jpg", "lost.jpg"]
    posts = [json.dumps(record(number, images=kinds[number % 4 :] * (number % 2))) for number in range(40)]
    write_text(source, "MNER-MI", train=posts, val=posts[1:2], test=posts[2:9])
    written = []
    for processes in (1, 3):
        output = tmp_path / str(processes)
        convert(source, output, processes=processes)
        files = sorted(path for path in output.rglob("*") if path.is_file())
        written.append({path.relative_to(output): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert len(written[0]) == 4


def test_no_process_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="Expected at least one process, got 0"):
        convert(source, tmp_path / "out", processes=0)


def test_plus_finds_the_images_of_twitter2017_without_their_prefix(source, tmp_path):
    single = record("twitter2017-O_538", images=["twitter2017-O_538.jpg"])
    write_text(source, "MNER-UNI", test=[json.dumps(record(images=["1_0.jpg"])), repr(single)])
    report = convert(source, tmp_path / "out", plus=True)
    assert report["name"] == "mner_mi_plus"
    assert report["splits"]["test"]["missing_images"]["count"] == 0
    rows = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["test"]
    assert rows["id"][:] == ["1", "twitter2017-O_538"]
    assert rows["source"][:] == ["mner_mi", "twitter2017"]
    assert rows[1]["images"][0].getpixel((5, 5))[2] > 200


def test_empty_lines_are_no_posts(source, tmp_path):
    write_text(source, "MNER-MI", train=["", json.dumps(record()), "  ", repr(record(2)), ""])
    assert convert(source, tmp_path / "out")["splits"]["train"]["posts"] == 2


def test_an_empty_split_is_named(source, tmp_path):
    write_text(source, "MNER-MI", val=[""])
    with pytest.raises(ValueError, match="The validation split of mner_mi has no posts"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize("folder", ["images", "twitter2017_images"])
def test_a_missing_image_folder_is_named(source, tmp_path, folder):
    (source / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"Expected the image folder at .*{folder}, found nothing there. Unpack"):
        convert(source, tmp_path / "out", plus=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--source", "nowhere"], "Expected the published data set at nowhere"), (["--plus"], "MNER-UNI_train.txt")],
)
def test_the_command_ends_with_a_message_for_a_wrong_source(source, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        mner_mi.main(["--source", str(source), "--output", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_converts_and_prints_the_report(source, tmp_path, capsys):
    mner_mi.main(["--source", str(source), "--output", str(tmp_path / "out")])
    assert "mner_mi:" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.json").is_file()
