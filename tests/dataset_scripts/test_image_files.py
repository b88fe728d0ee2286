import io
import unicodedata

import pytest
from PIL import Image

from smcl.dataset_scripts.image_files import ImagePattern, find_image, find_rivals, read_image_of
from smcl.dataset_scripts.schema import make_post


@pytest.fixture
def fill(tmp_path):
    def make(*names):
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
            file.write_bytes(buffer.getvalue())
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("there", "name"),
    [
        ("2.jpg", "2.jpg"),
        ("2.JPG", "2.jpg"),
        ("2.jpeg", "2.jpg"),
        ("2.png", "2.jpg"),
        ("2.webp", "2.JPEG"),
        ("2.jpg", "2"),
        ("a.b.jpg", "A.B.png"),
        ("Ärger.jpg", unicodedata.normalize("NFD", "ärger.jpg")),
        ("sub/2.JPG", "sub/2.jpg"),
    ],
)
def test_a_file_of_another_case_or_suffix_is_found(fill, there, name):
    folder = fill(there, "3.jpg")
    assert find_image(folder, name) == folder / there
    assert read_image_of(folder, name)[0] == "ok"


@pytest.mark.parametrize("name", ["4.jpg", "2.jpg.txt", "22.jpg", "sub/2.jpg"])
def test_a_file_that_is_not_there_is_missing(fill, name):
    folder = fill("2.jpg", "notes.txt")
    assert find_image(folder, name) is None
    assert read_image_of(folder, name) == ("missing", None)
    assert read_image_of(None, name) == ("missing", None)


@pytest.mark.parametrize("there", [("2.png", "2.webp"), ("2.JPG", "2.Jpg"), ("2.jpeg", "2.png", "2.gif")])
def test_names_that_could_be_several_files_are_not_guessed(fill, there):
    folder = fill(*there)
    with pytest.raises(ValueError, match="would all do"):
        find_image(folder, "2.jpg")
    assert read_image_of(folder, "2.jpg") == ("ambiguous", None)
    # The very name, or the same but for its case, is none of a guess.
    assert find_image(folder, there[0]) == folder / there[0]


def test_a_file_that_came_later_is_found(fill):
    folder = fill("1.jpg")
    assert find_image(folder, "2.jpg") is None
    assert find_image(fill("2.JPG"), "2.jpg") == folder / "2.JPG"


@pytest.mark.parametrize(
    ("pattern", "there", "expected"),
    [
        ("{id}.jpg", (), ["7.jpg"]),
        ("{id}_{n}.jpg", (), []),
        ("{id}_{n}.jpg", ("7_0.jpg", "7_1.JPG", "7_10.png", "77_2.jpg"), [f"7_{n}.jpg" for n in range(11)]),
        ("{id}_{n}.jpg", ("7_2.jpg", "8_1.jpg"), ["7_1.jpg", "7_2.jpg"]),
        ("{id}-{n}.png", ("7-01.png", "7-02.png"), ["7-01.png", "7-02.png"]),
        ("{id}_*", ("7_b.jpg", "7_a.PNG", "77_a.jpg", "7.jpg", "7_x.txt"), ["7_a.PNG", "7_b.jpg"]),
        ("img_{id}_*", ("img_7_b.jpg",), ["img_7_b.jpg"]),
        ("{id}_*", ("7_10.jpg", "7_2.png", "7_0.jpg"), ["7_0.jpg", "7_2.png", "7_10.jpg"]),
        ("{id}_*", ("7_p10-9.jpg", "7_p2-10.jpg", "7_p2-9.jpg"), ["7_p2-9.jpg", "7_p2-10.jpg", "7_p10-9.jpg"]),
        ("{id}_*", ("7_10.jpg", "7_2.jpg", "7_x.jpg"), ["7_10.jpg", "7_2.jpg", "7_x.jpg"]),
        ("IMG_{id}_*", ("img_7_b.jpg",), ["img_7_b.jpg"]),
        ("{n}_{id}.jpg", ("0_7.jpg", "1_7.jpg", "0_8.jpg"), ["0_7.jpg", "1_7.jpg"]),
    ],
)
def test_images_are_found_by_the_id_of_their_post(fill, pattern, there, expected):
    assert ImagePattern(fill(*there), pattern).names("7") == expected


def test_an_image_that_fits_two_posts_is_refused(fill):
    pattern = ImagePattern(fill("7_1_0.jpg"), "{id}_*")
    assert pattern.names("7_1") == ["7_1_0.jpg"]
    with pytest.raises(ValueError, match="fits the posts '7_1' and '7'"):
        pattern.names("7")


@pytest.mark.parametrize("pattern", ["photo.jpg", "{id}_{id}.jpg", "{id}_{x}.jpg", "{id}_{n}_*", "a/{id}.jpg"])
def test_patterns_that_make_no_sense_are_refused(tmp_path, pattern):
    with pytest.raises(ValueError, match="pattern of images"):
        ImagePattern(tmp_path, pattern)


@pytest.mark.parametrize("pattern", ["{id}_{n}.jpg", "{id}_*"])
def test_posts_whose_ids_differ_in_case_keep_their_own_images(fill, pattern):
    names = ImagePattern(fill("CxY_0.jpg", "CxY_1.jpg", "cxy_0.jpg"), pattern).names
    assert [names("CxY"), names("cxy")] == [["CxY_0.jpg", "CxY_1.jpg"], ["cxy_0.jpg"]]


@pytest.mark.parametrize("names", [["aB.jpg", "ab.jpg"], ["ab.png", "ab.jpg"], ["AB.jpg", "Ab.jpg"]])
def test_a_file_is_not_taken_for_the_images_of_two_posts(fill, names):
    folder = fill("ab.jpg")
    posts = [make_post(str(number), ["a"], ["O"], [name], "demo", "here") for number, name in enumerate(names)]
    rivals = find_rivals({"train": posts, "test": posts})
    states = [read_image_of(folder, name, rivals)[0] for name in names]
    assert states == ["ok" if name == "ab.jpg" else "ambiguous" for name in names]
    assert read_image_of(folder, "Ab.jpg", find_rivals({"train": posts[:1]}))[0] == "ok"
    assert read_image_of(folder, "other.jpg", ["other.jpg", "Other.jpg"])[0] == "missing"


def test_numbers_that_are_no_sequence_are_refused(fill):
    with pytest.raises(ValueError, match="two images of the number 1"):
        ImagePattern(fill("7_1.jpg", "7_01.jpg"), "{id}_{n}.jpg").names("7")
    with pytest.raises(ValueError, match=r"2 images, with numbers up to 3000000.*--image_pattern '{id}_\*.jpg'"):
        ImagePattern(fill("8_1000000.jpg", "8_3000000.jpg"), "{id}_{n}.jpg").names("8")
