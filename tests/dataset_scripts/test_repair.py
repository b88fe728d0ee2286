import io
import struct

import pytest
from PIL import Image, ImageFile, ImageOps

from smcl.dataset_scripts.repair import encode_png, read_image


def photograph(image_format="JPEG", mode="RGB", size=(40, 30), **options):
    image = Image.linear_gradient("L").resize(size).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path):
    def write_and_read(data):
        path = tmp_path / "photo.jpg"
        path.write_bytes(data)
        return read_image(path)

    return write_and_read


def pixels(data):
    image = Image.open(io.BytesIO(data))
    return image.mode, image.size, image.tobytes()


@pytest.mark.parametrize(
    ("image_format", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("GIF", "P")]
)
def test_a_whole_image_keeps_its_own_bytes(read, image_format, mode):
    data = photograph(image_format, mode)
    assert read(data) == ("ok", data)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("lost", [2, 60])
def test_a_truncated_image_is_repaired_so_that_it_opens_without_the_flag(read, mode, lost):
    data = photograph(mode=mode, size=(200, 100))[:-lost]
    with pytest.raises(OSError, match="truncated"):
        pixels(data)
    state, repaired = read(data)
    assert state == "repaired"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert pixels(repaired)[1] == (200, 100)


def test_a_repaired_image_has_the_pixels_of_the_whole_one(read):
    data = photograph()
    assert pixels(read(data[:-2])[1]) == pixels(data)


def test_a_repaired_photograph_stands_upright(read):
    exif = Image.Exif()
    exif[0x0112] = 6
    repaired = Image.open(io.BytesIO(read(photograph(exif=exif)[:-2])[1]))
    assert repaired.size == (30, 40)
    assert 0x0112 not in repaired.getexif()


def test_damaged_exif_does_not_cost_the_image(read):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hello"
    # The description, a text, becomes a list of numbers whose type says they are bytes.
    data = photograph(exif=exif.tobytes().replace(b"\x01\x0e\x00\x02", b"\x01\x07\x00\x02"))
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    state, repaired = read(data)
    assert state == "repaired"
    assert Image.open(io.BytesIO(repaired)).getexif() == {}
    assert pixels(repaired) == pixels(photograph())


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"\xff\xd8\xff", photograph("PNG")[:20]])
def test_what_is_no_image_is_broken(read, data):
    assert read(data) == ("broken", None)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_an_image_too_large_to_decode_is_broken(read, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read(photograph()) == ("broken", None)


def test_a_missing_file_or_a_folder_is_missing(tmp_path):
    assert read_image(tmp_path / "photo.jpg") == ("missing", None)
    assert read_image(tmp_path) == ("missing", None)


def test_the_flag_of_the_user_is_left_as_it_is(read, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    read(b"")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_keeps_every_mode_it_has(mode):
    image = Image.linear_gradient("L").convert(mode)
    assert pixels(encode_png(image)) == (mode, image.size, image.tobytes())
