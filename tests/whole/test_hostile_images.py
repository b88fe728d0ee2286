import io
import random
import struct
import tracemalloc
import weakref
import zlib

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as DatasetImage
from factories import LABELS, make_model, noise
from PIL import Image, ImageFile
from transformers import CLIPImageProcessorPil

from smcl import SMCLProcessor, images_smcl
from smcl.dataset_scripts.gate import prepare_posts
from smcl.dataset_scripts.repair import read_image
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.collator import SMCLDataCollator
from smcl.train.image_cache import ImageFeatures
from smcl.train.trainer import SMCLTrainer

EXIF_ORIENTATION = 0x0112
HELD = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_90",
    7: "TRANSVERSE",
    8: "ROTATE_270",
}


def encode(image, image_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def picture(size=(64, 48)):
    return noise(size).convert("RGB")


def png_of_size(width, height):
    """A small file whose header promises a large image: PIL believes it until it decodes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * 10)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def rotated(image, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encode(image, "JPEG", exif=exif, quality=95)


def animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.fixture
def pixels(processor):
    """The pixel values of one image, from -1 to 1."""

    def process(image):
        return processor(words=["joey"], images=[image])["pixel_values"][0, 0]

    return process


def colour(pixel_values):
    return [round(value) for value in ((pixel_values.mean(dim=(1, 2)) + 1) * 127.5).tolist()]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_file_cut_at_any_tenth_is_refused_by_post_and_image(processor, tmp_path, image_format):
    data = encode(picture(), image_format)
    path = tmp_path / "photo"
    for tenth in range(10):
        path.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(ValueError, match=r"Post 1 of the batch, image 1: .*photo.* is (no image|cut or damaged)"):
            processor(words=[["joey"], ["niko"]], images=[[], [picture(), str(path)]])
        with pytest.raises(ValueError, match=r"image 0: the image of \d+ bytes is"):
            processor(words=["joey"], images=[path.read_bytes()])


def test_a_file_cut_at_any_tenth_is_repaired_or_broken_for_the_converters(tmp_path):
    data = encode(picture(), "JPEG")
    path = tmp_path / "photo.jpg"
    states = []
    for tenth in range(11):
        path.write_bytes(data[: len(data) * tenth // 10])
        state, kept = read_image(path)
        states.append(state)
        assert (kept is None) == (state == "broken")
        assert kept is None or images_smcl.load_image(kept).size == (64, 48)
    assert states[0] == "broken" and states[-2:] == ["repaired", "ok"]
    assert set(states[1:-1]) <= {"broken", "repaired"}


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"<html>not found</html>", b"\xff\xd8\xff", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_image_is_refused(pixels, tmp_path, data):
    (tmp_path / "photo.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=r"image 0: .*photo\.jpg' is no image\. Expected one of AVIF, BMP, .*Replace"):
        pixels(tmp_path / "photo.jpg")
    assert read_image(tmp_path / "photo.jpg") == ("broken", None)


def test_formats_that_start_other_programs_are_not_even_tried(pixels, tmp_path):
    picture().save(tmp_path / "photo.eps")
    with pytest.raises(ValueError, match="is no image"):
        pixels(tmp_path / "photo.eps")
    assert read_image(tmp_path / "photo.eps") == ("broken", None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jpg", "missing.jpg' can't be used: expected a file there, found nothing"),
        ("", "'' can't be used: expected a file there, found nothing"),
        ("a\0b.jpg", r"a\\x00b.jpg' can't be used: expected a file there, found nothing"),
        ("\ud83d.jpg", r"'\\ud83d.jpg' can't be used: expected a file there, found nothing"),
        (".", "'.' can't be used: expected a file there, found a folder"),
        ("x" * 9999, r"x\.\.\. (can't be used|is cut or damaged)"),
        (None, "of type NoneType. Expected a PIL image, a path"),
        (3, "of type int"),
        (torch.zeros(3, 4, 4), "of type Tensor.*fromarray"),
        ({"bytes": None, "path": None}, "of type NoneType"),
        ({"url": "photo.jpg"}, "of type dict"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels, expected at least 1"),
    ],
)
def test_what_can_be_no_image_is_named(processor, source, message):
    with pytest.raises(ValueError, match=rf"Post 0 of the batch, image 1: .*{message}"):
        processor(words=["joey"], images=[picture(), source])


def test_an_image_comes_as_path_bytes_or_as_data_sets_have_it(pixels, tmp_path):
    image = picture()
    path = tmp_path / "photo.png"
    path.write_bytes(encode(image))
    data = path.read_bytes()
    sources = [path, str(path), data, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]
    assert all(torch.equal(pixels(source), pixels(image)) for source in sources)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(pixels, tmp_path, monkeypatch):
    data = png_of_size(20_000, 20_000)
    (tmp_path / "bomb.png").write_bytes(data)
    assert len(data) < 1000
    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="image 0: .*bomb.png' can't be used: .*400000000 pixels.*Scale it down"):
        pixels(str(tmp_path / "bomb.png"))
    assert read_image(tmp_path / "bomb.png") == ("broken", None)
    assert Image.MAX_IMAGE_PIXELS == limit


# PIL itself opens the first without a word, warns of the second, and decodes both.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8192, 8193), (12_000, 12_000)])
def test_an_image_above_the_limit_is_refused_though_pil_would_decode_it(pixels, tmp_path, size, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    data = png_of_size(*size)
    message = f"{size[0]} x {size[1]} pixels, expected at least 1 and at most 67108864"
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(ValueError, match=message):
            pixels(source)
    (tmp_path / "bomb.png").write_bytes(data)
    assert read_image(tmp_path / "bomb.png") == ("broken", None)


def test_an_image_at_the_limit_is_taken(pixels, monkeypatch):
    monkeypatch.setattr(images_smcl, "MAX_IMAGE_PIXELS", 64 * 48)
    assert torch.isfinite(pixels(picture((64, 48)))).all()
    with pytest.raises(ValueError, match="64 x 49 pixels"):
        pixels(picture((64, 49)))


@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_by_name_where_warnings_are_errors(pixels):
    with pytest.raises(ValueError, match="144000000 pixels"):
        pixels(png_of_size(12_000, 12_000))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 30_000), (30_000, 1), (3, 3)])
def test_one_pixel_and_extreme_shapes_work(pixels, size):
    # Three pixels in a row, one pixel high, look like an array with the channels first or last.
    assert colour(pixels(Image.new("RGB", size, (255, 0, 51)))) == [255, 0, 51]


@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1), (7, 900), (900, 8)])
def test_extreme_shapes_do_not_blow_up_where_the_shorter_edge_is_scaled(tokenizer, size):
    cropping = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = SMCLProcessor(cropping, tokenizer)
    gradient = Image.linear_gradient("L").resize(size).convert("RGB")
    tracemalloc.start()
    pixel_values = processor(words=["joey"], images=[gradient])["pixel_values"][0, 0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixel_values.shape == (3, 32, 32)
    assert peak < 10_000_000
    if max(size) < 1000:
        whole = cropping(gradient, return_tensors="pt")["pixel_values"][0]
        assert (pixel_values - whole).abs().max() < 0.1


def test_a_size_may_be_a_number(tokenizer, image_processor):
    cropping = CLIPImageProcessorPil(crop_size={"height": 32, "width": 32})
    for part in (cropping, image_processor):
        batch = SMCLProcessor(part, tokenizer)(words=["joey"], images=[picture((9, 900))], size=32)
        assert batch["pixel_values"].shape == (1, 1, 3, 32, 32)


def test_images_that_stay_of_different_sizes_are_refused(tokenizer):
    processor = SMCLProcessor(CLIPImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False), tokenizer)
    with pytest.raises(ValueError, match="must scale all images to one size, got the shapes"):
        processor(words=["joey"], images=[picture((40, 50)), picture((50, 40))])


@pytest.mark.parametrize("mode", ["CMYK", "P", "YCbCr", "RGBX", "HSV"])
def test_colours_of_any_mode_are_kept(pixels, mode):
    image = Image.new("RGB", (9, 9), (255, 0, 51))
    assert colour(pixels(image.convert(mode))) == pytest.approx([255, 0, 51], abs=3)


def test_a_cmyk_file_keeps_its_colour(pixels):
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    red, green, blue = colour(pixels(data))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_sixteen_bits_are_scaled_not_clipped_to_white(pixels, mode):
    steps = [Image.new(mode, (4, 4), value) for value in (0, 20_000, 40_000, 65_535)]
    assert [colour(pixels(image)) for image in steps] == [[0] * 3, [78] * 3, [156] * 3, [255] * 3]


def test_a_file_of_sixteen_bits_is_scaled_by_processor_and_converter(pixels, tmp_path):
    # Noise keeps the file long enough to be cut and still show something.
    image = noise((64, 48)).convert("I").point(lambda value: value * 256 + 0.0).convert("I;16")
    data = encode(image)
    assert colour(pixels(data))[0] == pytest.approx(128, abs=3)
    (tmp_path / "photo.png").write_bytes(data[:-40])
    state, repaired = read_image(tmp_path / "photo.png")
    assert state == "repaired"
    assert colour(pixels(repaired))[0] == pytest.approx(128, abs=6)


@pytest.mark.parametrize(("mode", "value"), [("I", 70_000), ("I", -1), ("F", 1e6), ("F", float("inf"))])
def test_values_without_a_range_are_refused_outside_eight_bits(pixels, mode, value):
    with pytest.raises(ValueError, match=f"its mode '{mode}' has no fixed range.*Expected 0 to 255. Scale them"):
        pixels(Image.new(mode, (4, 4), value))
    assert colour(pixels(Image.new(mode, (4, 4), 51))) == [51] * 3


@pytest.mark.parametrize("place", [(0, 0), (3, 3)])
def test_a_value_that_is_no_number_is_refused_wherever_it_stands(pixels, place):
    image = Image.new("F", (4, 4), 51)
    image.putpixel(place, float("nan"))
    with pytest.raises(ValueError, match="its values go from nan to nan"):
        pixels(image)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA"])
def test_transparent_parts_are_white(pixels, mode):
    assert colour(pixels(Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode))) == [255] * 3
    assert colour(pixels(Image.new("RGBA", (8, 8), (0, 0, 0, 255)).convert(mode))) == [0] * 3


def test_a_transparent_palette_colour_is_white(pixels):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert colour(pixels(encode(image, "GIF", transparency=0))) == [255] * 3
    assert colour(pixels(encode(image, "PNG", transparency=b"\x00\xff"))) == [255] * 3
    assert colour(pixels(encode(image, "GIF"))) == [0] * 3


def test_a_transparent_grey_of_sixteen_bits_is_white(pixels):
    image = Image.new("I;16", (8, 8), 20_001)
    assert colour(pixels(encode(image, transparency=20_001))) == [255] * 3
    assert colour(pixels(encode(image, transparency=20_000))) == [78] * 3


def test_of_an_animation_the_first_frame_is_taken(pixels, tmp_path):
    assert colour(pixels(animation())) == [255, 0, 0]
    (tmp_path / "photo.gif").write_bytes(animation())
    assert read_image(tmp_path / "photo.gif") == ("ok", animation())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(pixels, orientation):
    down = Image.linear_gradient("L").resize((32, 16))
    across = Image.linear_gradient("L").rotate(90).resize((32, 16))
    upright = Image.merge("RGB", (down, across, down))
    # What a camera held another way stores: the inverse of the turn that its note asks for.
    stored = upright.transpose(Image.Transpose[HELD[orientation]]) if orientation > 1 else upright
    assert (pixels(rotated(stored, orientation)) - pixels(upright)).abs().mean() < 0.05


def test_zero_images_and_the_most_images_are_taken_and_more_refused(processor):
    images = [picture((5, 5)) for _ in range(5)]
    batch = processor(words=[["a"], ["b"], ["c"]], images=[[], None, images[:4]])
    assert batch["image_mask"].sum(dim=1).tolist() == [0, 0, 4]
    with pytest.raises(ValueError, match="Post 2 of the batch has 5 images, but `max_images` is 4"):
        processor(words=[["a"], ["b"], ["c"]], images=[[], None, images])


def test_images_above_the_limit_of_a_post_are_not_even_opened(processor):
    batch = processor(words=["a"], images=[*[picture((5, 5))] * 4, b"no image"], on_extra_images="first")
    assert batch["image_mask"].tolist() == [[True] * 4]


def test_images_that_are_no_list_are_refused(processor):
    with pytest.raises(ValueError, match="`images` must be a list with a list for each post, got Image"):
        processor(words=[["a"]], images=picture())


def test_one_full_size_image_at_a_time_is_held(processor, tmp_path, monkeypatch):
    held, most = [], 0
    load = images_smcl.load_image

    def counting(source):
        nonlocal most
        image = load(source)
        held.append(weakref.ref(image))
        most = max(most, sum(reference() is not None for reference in held))
        return image

    monkeypatch.setattr("smcl.processing_smcl.load_image", counting)
    data = encode(picture((300, 300)))
    processor(words=["a"], images=[data] * 4)
    assert len(held) == 4
    assert most <= 2


def test_urls_are_refused_offline_and_bounded_online(pixels, monkeypatch):
    with pytest.raises(ValueError, match="'https://example.org/a.png' can't be used: HF_HUB_OFFLINE is set. Download"):
        pixels("https://example.org/a.png")
    monkeypatch.setattr(images_smcl, "is_offline_mode", lambda: False)
    answer = encode(Image.new("RGB", (8, 8), "red"))
    opened = []

    def open_address(self, url, timeout):
        opened.append(url)
        return io.BytesIO(answer)

    monkeypatch.setattr(images_smcl.urllib.request.OpenerDirector, "open", open_address)
    assert colour(pixels("https://example.org/a.png")) == [255, 0, 0]
    assert opened == ["https://example.org/a.png"]
    monkeypatch.setattr(images_smcl, "MAX_FILE_BYTES", len(answer) - 1)
    with pytest.raises(ValueError, match="more than .* bytes"):
        pixels("https://example.org/a.png")

    def fail(self, url, timeout):
        raise TimeoutError("timed out")

    monkeypatch.setattr(images_smcl.urllib.request.OpenerDirector, "open", fail)
    with pytest.raises(ValueError, match="the download failed: timed out"):
        pixels("https://example.org/a.png")


def test_a_huge_file_is_broken_for_the_converters_without_reading_it(tmp_path, monkeypatch):
    (tmp_path / "photo.png").write_bytes(encode(picture()))
    monkeypatch.setattr("smcl.dataset_scripts.repair.MAX_FILE_BYTES", 100)
    assert read_image(tmp_path / "photo.png") == ("broken", None)


def posts_with(image):
    """A data set whose second post has this image."""
    columns = {"id": ["fine", "odd"], "tokens": [["a"], ["b"]], "ner_tags": [[0], [0]]}
    kinds = {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=LABELS))}
    images = [[{"bytes": encode(picture()), "path": None}], [image]]
    return Dataset.from_dict({**columns, "images": images}, Features({**kinds, "images": List(DatasetImage())}))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"bytes": b"", "path": None}, "is no image"),
        ({"bytes": png_of_size(9000, 9000), "path": None}, "9000 x 9000 pixels"),
        ({"bytes": None, "path": "missing.jpg"}, "'missing.jpg' can't be used: expected a file there"),
    ],
)
def test_an_image_of_a_data_set_is_refused_by_its_post_before_it_is_decoded(
    processor, tmp_path, monkeypatch, image, message
):
    monkeypatch.setattr(DatasetImage, "decode_example", lambda *args, **kwargs: pytest.fail("decoded by datasets"))
    posts, model = posts_with(image), make_model()
    arguments = SMCLTrainingArguments(str(tmp_path), use_cpu=True, eval_strategy="no", load_best_model_at_end=False)
    trainer = SMCLTrainer(model, arguments, data_collator=SMCLDataCollator(processor), train_dataset=posts)
    for loader in (trainer.get_train_dataloader(), trainer.get_test_dataloader(posts)):
        with pytest.raises(ValueError, match=rf"image 0: .*{message}.* ids \[.*'odd'"):
            list(loader)
    with pytest.raises(ValueError, match=rf"Post with the id 'odd': .*{message}"):
        ImageFeatures(model, processor).replace_images(posts)


def test_a_missing_image_of_a_data_set_is_refused_before_training(processor, tmp_path):
    arguments = SMCLTrainingArguments(str(tmp_path), use_cpu=True, eval_strategy="no", load_best_model_at_end=False)
    options = {"data_collator": SMCLDataCollator(processor), "train_dataset": posts_with(None)}
    with pytest.raises(ValueError, match="`train_dataset`, post 'odd': Image 0 of `images` is empty"):
        SMCLTrainer(make_model(), arguments, **options)


def test_images_of_a_data_set_look_the_same_to_the_processor_as_decoded_by_it(processor):
    turned, deep = rotated(picture(), 6), encode(Image.new("I;16", (8, 8), 40_000))
    for data in (turned, deep, animation()):
        posts = posts_with({"bytes": data, "path": None})
        encoded = prepare_posts(posts)
        assert encoded[1]["images"] == [{"bytes": data, "path": None}]
        batches = [SMCLDataCollator(processor)([rows[0], rows[1]]) for rows in (posts, encoded)]
        assert torch.equal(*(batch["pixel_values"] for batch in batches))
    # The data set that was given is left as it was.
    assert isinstance(posts[1]["images"][0], Image.Image)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_damaged_bytes_give_an_image_or_a_named_error(image_format):
    random_bytes = random.Random(0)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION], exif[0x010E] = 6, "hello"
    data = encode(picture((40, 30)), image_format, **({"exif": exif} if image_format in ("JPEG", "WEBP") else {}))
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(random_bytes.choice([1, 2, 5, 20])):
            damaged[random_bytes.randrange(min(len(data), random_bytes.choice([60, 200, len(data)])))] = (
                random_bytes.randrange(256)
            )
        try:
            image = images_smcl.load_image(bytes(damaged))
        except images_smcl.ImageError as error:
            assert f"the image of {len(data)} bytes" in str(error)
        else:
            assert image.mode == "RGB"
