import pytest

from smcl.dataset_scripts.schema import (
    FEATURES,
    LABELS,
    DataError,
    make_post,
    normalise_tag,
    read_lines,
    require_folder,
)


def make(**changes):
    arguments = {"post_id": "7", "tokens": ["Hi", "Rio"], "tags": ["O", "B-LOC"], "image_names": ["7_0.jpg"]}
    return make_post(**{**arguments, "source": "demo", "where": "posts.txt:3", **changes})


def test_labels_stand_in_the_order_of_the_schema():
    assert LABELS == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-MISC", "I-MISC"]
    assert FEATURES["ner_tags"].feature.names == LABELS
    assert list(FEATURES) == ["id", "tokens", "ner_tags", "images", "source"]


@pytest.mark.parametrize(
    ("published", "expected"),
    [("O", "O"), ("B-PER", "B-PER"), ("B-OTHER", "B-MISC"), ("I-OTHER", "I-MISC"), ("B-MIS", "B-MISC")],
)
def test_published_types_map_to_the_four_types(published, expected):
    assert normalise_tag(published) == expected


@pytest.mark.parametrize("tag", ["", "PER", "B-", "b-PER", "B-TIME", "S-PER", "OTHER", "B-PER-X", "O-PER"])
def test_unknown_tags_are_refused(tag):
    with pytest.raises(DataError, match="unknown tag"):
        normalise_tag(tag)


def test_a_post_keeps_its_published_tags_beside_the_mapped_ones():
    post = make(tags=["O", "B-OTHER"])
    assert post.tags == ["O", "B-MISC"]
    assert post.published_tags == ["O", "B-OTHER"]


def test_empty_words_are_kept():
    assert make(tokens=["", "Rio"]).tokens == ["", "Rio"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"post_id": ""}, "id is empty"),
        ({"tokens": [], "tags": []}, "no words"),
        ({"tags": ["O"]}, "2 words and 1 tags"),
        ({"tags": ["O", "B-TIME"]}, r"post 7 has an unknown tag 'B-TIME'\. Expected O"),
        ({"tokens": ["Hi", "\ud83d"]}, "surrogate"),
        ({"image_names": ["../secret.jpg"]}, "or below it"),
        ({"image_names": ["/etc/secret.jpg"]}, "or below it"),
        ({"image_names": [""]}, "or below it"),
    ],
)
def test_bad_posts_are_refused_with_file_and_line(changes, message):
    with pytest.raises(ValueError, match=r"posts\.txt:3: .*" + message):
        make(**changes)


def test_only_line_feeds_end_a_line(tmp_path):
    path = tmp_path / "posts.txt"
    path.write_bytes("\ufeffone\u2028still one\x85\x0b\r\ntwo\rtoo\n\nfour".encode())
    lines = list(read_lines(path))
    assert [line for _, line in lines] == ["one\u2028still one\x85\x0b", "two\rtoo", "", "four"]
    assert lines[3][0] == f"{path}:4"


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "posts.txt"
    path.write_bytes(b"fine\n\xff\n")
    with pytest.raises(DataError, match=r"posts\.txt:2: expected UTF-8"):
        list(read_lines(path))


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="There is no file .*posts.txt"):
        list(read_lines(tmp_path / "posts.txt"))
    with pytest.raises(DataError, match="Expected the image folder at .*found nothing there. Unpack it."):
        require_folder(tmp_path / "images", "image folder", "Unpack it.")
