import io

import pytest
from datasets import load_dataset
from factories import noise
from PIL import Image

from smcl.dataset_scripts import cmner, conll, cp_mner, jsonl
from smcl.dataset_scripts.conll import Layout, convert, format_post, read_posts
from smcl.dataset_scripts.schema import DataError


def read(tmp_path, text, names=lambda post_id: [], **layout):
    path = tmp_path / "posts.txt"
    path.write_bytes(text.encode("utf-8"))
    return list(read_posts(path, "demo", Layout(**layout), names, prefix="train-"))


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("Hi\tO\nRio\tB-LOC\n\n", {}),
        ("\ufeffHi\tO\r\nRio\tB-LOC\r\n", {}),
        ("Hi O\nRio B-LOC\n", {"separator": " "}),
        ("Hi   O\nRio \t B-LOC\n \n", {"separator": None}),
        ("Hi UH O O\nRio NNP I-NP B-LOC\n", {"separator": " "}),
        ("1\tHi\tO\tx\n2\tRio\tB-LOC\tx\n", {"word_column": 1, "tag_column": 2}),
        ("O,Hi\nB-LOC,Rio\n", {"separator": ",", "word_column": 1, "tag_column": 0}),
        ("-DOCSTART- -X- O\n\nHi O\n# note\nRio B-LOC\n", {"separator": " ", "comments": ("# ",)}),
        ("\t\nHi\tO\nRio\tB-LOC\n \t\n", {}),
        ('"Hi","O"\n"Rio",B-LOC\n,\n', {"separator": ","}),
    ],
)
def test_posts_are_read_from_other_columns_and_separators(tmp_path, text, layout):
    (post,) = read(tmp_path, text, **layout)
    assert (post.id, post.tokens, post.tags) == ("train-1", ["Hi", "Rio"], ["O", "B-LOC"])


@pytest.mark.parametrize(
    ("line", "separator", "word"),
    [
        ("10\u00a0000 O", None, "10\u00a0000"),
        ("\u3000 \t O", None, "\u3000"),
        ('"1,000",O', ",", "1,000"),
        ('",",O', ",", ","),
        ('"say ""hi""",O', ",", 'say "hi"'),
        ('5",O', ",", '5"'),
    ],
)
def test_words_stay_whole(tmp_path, line, separator, word):
    (post,) = read(tmp_path, f"{line}\n", separator=separator)
    assert (post.tokens, post.tags) == ([word], ["O"])


def test_lines_that_part_documents_are_no_posts(tmp_path):
    text = "-DOCSTART-\tO\nHi\tO\n-DOCSTART-\tO\n\nRio\tB-LOC\n"
    assert [post.tokens for post in read(tmp_path, text)] == [["Hi"], ["Rio"]]


def test_comments_that_read_like_words_are_said(tmp_path, caplog):
    read(tmp_path, "#\tnote\nHi\tO\n# note\n#Rio\tB-LOC\n", comments=("#",))
    assert "3 lines were left out as comments, and 1 of them" in caplog.text and "posts.txt:4: '#Rio" in caplog.text
    caplog.clear()
    read(tmp_path, "#\tnote\nHi\tO\n", comments=("#",))
    assert not caplog.text


def test_ids_are_read_and_images_named_after_them(tmp_path):
    text = "# id = a\nHi\tO\n\n# id = b\nRio\tB-LOC\n"
    posts = read(tmp_path, text, lambda post_id: [f"{post_id}.jpg"], id_prefix="# id = ")
    assert [(post.id, post.image_names) for post in posts] == [("a", ["a.jpg"]), ("b", ["b.jpg"])]


@pytest.mark.parametrize(
    ("text", "layout", "message"),
    [
        (
            "Hi O\n",
            {},
            r"posts.txt:1: expected 'word<TAB>tag' or an empty line, got 'Hi O', which has 1 columns \(tab\)",
        ),
        ("a\tO\nb\tx\tO\n", {"num_columns": 2}, "posts.txt:2: .*has 3 columns"),
        ("New York B-LOC\nis O\n", {"separator": " "}, "posts.txt:2: .*has 2 columns .space. in place of 3"),
        ("is O\nNew York B-LOC\n", {"separator": None}, "posts.txt:2: .*has 3 columns"),
        ("a\tO\rb\tB-X\r", {}, "posts.txt:1: there is a carriage return"),
        ("a\tO\nb\t\n", {}, "posts.txt:2: 'b.*has no tag"),
        ('",O\n', {"separator": ","}, "posts.txt:1: .*comma-separated values"),
        ("Hi O\n", {"separator": " ", "tag_column": 3}, "Correct the line, or the arguments about columns"),
        ("Hi O\n", {"separator": " ", "tag_column": 0}, "arguments about columns"),
        ("Hi\tO\n", {"id_prefix": "WID:"}, "expected 'WID:<id>' in front"),
        ("WID:\nHi\tO\n", {"id_prefix": "WID:"}, "id is empty"),
    ],
)
def test_lines_that_can_not_be_read_are_named(tmp_path, text, layout, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, **layout)


def write(folder, text, **others):
    for split in ("train", "validation", "test"):
        (folder / f"{split}.txt").write_text(others.get(split, text), encoding="utf-8")
    return {split: folder / f"{split}.txt" for split in ("train", "validation", "test")}


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("bio2", "B-PET I-PET O B-LOC"),
        ("iob1", "I-PET I-PET O I-LOC"),
        ("BIOES", "B-PET E-PET O S-LOC"),
        ("bilou", "B-PET L-PET O U-LOC"),
        ("io", "PET PET O LOC"),
        ("bio2", "PET-B PET-I O LOC-B"),
        ("bio2", "b_PET i_PET o b_LOC"),
    ],
)
def test_any_types_and_schemes_become_bio2(tmp_path, scheme, tags):
    text = "".join(f"w\t{tag}\n" for tag in tags.split())
    report = convert(tmp_path / "out", write(tmp_path, text), tag_scheme=scheme)
    posts = load_dataset(str(tmp_path / "out"), split="test", cache_dir=str(tmp_path / "cache"))
    labels = posts.features["ner_tags"].feature
    assert labels.names == ["O", "B-LOC", "I-LOC", "B-PET", "I-PET"]
    assert labels.int2str(posts[0]["ner_tags"]) == ["B-PET", "I-PET", "O", "B-LOC"]
    assert report["splits"]["train"]["entities"] == {"LOC": 1, "PET": 1, "total": 2}
    assert bool(report["splits"]["train"]["mapped_tags"]) == (tags != "B-PET I-PET O B-LOC")


@pytest.mark.parametrize(
    ("tags", "scheme", "message"),
    [
        ("B-PET E-PET", "bio2", "--tag_scheme iobes"),
        ("PET O", "bio2", "--tag_scheme io"),
        ("B-PET O", "bilou", "Split 'train', post 'train-1': word 1 has the tag 'O' after 'B-PET'"),
        ("B-PET", "bieo", "must be one of bio2"),
    ],
)
def test_tags_of_another_scheme_are_refused(tmp_path, tags, scheme, message):
    text = "".join(f"w\t{tag}\n" for tag in tags.split())
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "out", write(tmp_path, text), tag_scheme=scheme)


def test_all_images_of_a_post_are_embedded_in_order_and_missing_ones_counted(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, width in (("7_0.jpg", 4), ("7_2.PNG", 6)):
        buffer = io.BytesIO()
        Image.new("RGB", (width, 4)).save(buffer, "PNG")
        (folder / name).write_bytes(buffer.getvalue())
    files = {"train": tmp_path / "train.txt"}
    files["train"].write_text("IMGID:7\nHi\tO\n\nIMGID:8\nHi\tB-X\n")
    layout = Layout(id_prefix="IMGID:")
    report = convert(tmp_path / "out", files, layout, folder, "{id}_{n}.jpg", name="own")
    posts = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [[image.width for image in post["images"]] for post in posts] == [[4, 6], []]
    assert report["splits"]["train"]["missing_images"] == {"count": 1, "files": ["7: 7_1.jpg"]}
    assert (report["name"], posts[0]["source"]) == ("own", "own")


def test_the_command_converts_one_split(tmp_path, capsys):
    (tmp_path / "train.txt").write_text("Hi O\nRio B-LOC\n")
    arguments = ["--train", str(tmp_path / "train.txt"), "--output", str(tmp_path / "out"), "--separator", "space"]
    conll.main(arguments)
    assert "LOC" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        conll.main(["--output", str(tmp_path / "none")])
    assert "Expected the file of at least one split" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        conll.main([*arguments, "--tag_scheme", "bieo"])
    assert "`--tag_scheme` must be one of bio2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "head", "separator", "names"),
    [(cp_mner, "IMGID:", " ", cp_mner.FILES), (cmner, "WID:", "\t", cmner.FILES)],
)
def test_published_chinese_sets_are_read_by_character(tmp_path, module, head, separator, names):
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    image = "故1.jpg" if module is cp_mner else "故1_x.jpeg"
    Image.new("RGB", (4, 4)).save(source / "images" / image)
    for file in names.values():
        lines = [f"{char}{separator}{tag}" for char, tag in (("画", "B-PER"), ("家", "I-PER"), ("。", "O"))]
        (source / file).write_text("\r\n".join([f"{head}故1", *lines, ""]), encoding="utf-8", newline="")
    report = module.convert(source, tmp_path / "out", source / "images")
    posts = load_dataset(str(tmp_path / "out"), split="validation", cache_dir=str(tmp_path / "cache"))
    assert posts[0]["tokens"] == ["画", "家", "。"]
    assert posts.features["ner_tags"].feature.int2str(posts[0]["ner_tags"]) == ["B-PER", "I-PER", "O"]
    assert len(posts[0]["images"]) == 1
    assert report["published"] == module.PUBLISHED
    (source / "test.txt").write_text(f"{head}a\nw{separator}B-FILM\n")
    with pytest.raises(ValueError, match="unknown tag 'B-FILM'"):
        module.convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    "words", [["a", "b"], ["a b", "\tc", "d\u2028e", "\\u0020", "¯\\_(ツ)_/¯"], ["", "\n", "\u3000"]]
)
def test_posts_written_as_lines_are_read_back(tmp_path, words):
    tags = ["O"] * len(words)
    text = format_post("7 8", words, tags)
    assert len(text.splitlines()) == len(words) + 2
    (post,) = read(tmp_path, text, id_prefix="IMGID:", escaped=True)
    assert (post.id, post.tokens, post.tags) == ("7 8", words, tags)


@pytest.mark.parametrize("convert_file", [convert, jsonl.convert])
def test_types_of_which_no_entity_begins_are_refused(tmp_path, convert_file):
    posts = {convert: "w\tI-PET\n", jsonl.convert: '{"tokens": ["w"], "ner_tags": ["I-PET"]}\n'}
    with pytest.raises(DataError, match=r"found \['I-PET'\] without the `B-` .*--tag_scheme io`"):
        convert_file(tmp_path / "out", write(tmp_path, posts[convert_file]))
    report = convert_file(tmp_path / "out", write(tmp_path, posts[convert_file]), tag_scheme="io")
    assert report["splits"]["test"]["entities"] == {"PET": 1, "total": 1}


def test_inner_tags_that_continue_nothing_are_said_with_their_number(tmp_path, caplog):
    report = convert(tmp_path / "out", write(tmp_path, "w\tI-PET\nw\tO\n", test="w\tB-PET\nw\tI-PET\n"))
    assert report["splits"]["train"]["illegal_transitions"]["count"] == 1
    told = [record.message for record in caplog.records if "continue no entity" in record.message]
    assert ["Split 'train': 1 I- tags in 1 posts" in told[0], "'validation'" in told[1], len(told)] == [True, True, 2]


@pytest.mark.parametrize("pattern", ["{id}.jpg", "{id}_{n}.jpg", "{id}_*"])
def test_a_folder_without_an_image_of_any_post_is_said(tmp_path, caplog, pattern):
    (tmp_path / "images" / "train").mkdir(parents=True)
    noise((4, 4)).save(tmp_path / "images" / "train" / "1_0.jpg")
    options = {"layout": Layout(id_prefix="IMGID:"), "images": tmp_path / "images", "image_pattern": pattern}
    report = convert(tmp_path / "out", write(tmp_path, "IMGID:1\nw\tO\n"), **options)
    assert report["splits"]["train"]["images"] == 0
    assert [record.message.count("no post has one") for record in caplog.records] == [1]
