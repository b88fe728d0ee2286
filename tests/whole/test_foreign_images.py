"""Images as other people's cameras, scanners and servers make them: read for what the file says, or refused by name."""

import http.server
import io
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from factories import noise
from PIL import Image, ImageCms, PngImagePlugin

from smcl import images_smcl
from smcl.dataset_scripts.repair import read_image
from smcl.images_smcl import ImageError, load_image

# A dark step and a light one, of a range from 0 to 1.
STEPS = [0.0, 0.1, 0.2, 0.5, 1.0]
GREYS = [0, 26, 51, 128, 255]


def greys(image, **allowed) -> list[int]:
    """The greys of an image's first row; its channels must agree."""
    row = np.asarray(load_image(image, **allowed)).astype(int)[0]
    assert (row.max(axis=1) - row.min(axis=1)).max() <= 1
    return row[:, 0].tolist()


def pgm(maxval: int, kind: str = "P5") -> bytes:
    values = [round(step * maxval) for step in STEPS]
    head = f"{kind}\n# made by hand\n{len(values)} 1\n{maxval}\n".encode()
    if kind == "P2":
        return head + " ".join(map(str, values)).encode() + b"\n"
    return head + b"".join(struct.pack(">H" if maxval > 255 else ">B", value) for value in values)


def tiff(values, kind: str, order: str = "<", photometric: int | None = 1, bits=None, **tags) -> bytes:
    """Write a TIFF of one row; `kind` is the numbers' kind as `struct` and the specification name it."""
    code, sample_format = kind[0], {"u": 1, "i": 2, "f": 3}[kind[1]]
    data = b"".join(struct.pack(order + code, value) for value in values)
    bits = bits or 8 * struct.calcsize(order + code)
    if bits == 12:
        packed = "".join(f"{value:012b}" for value in values)
        packed += "0" * (-len(packed) % 8)
        data = int(packed, 2).to_bytes(len(packed) // 8, "big")
    entries = {256: ("L", len(values)), 257: ("L", 1), 258: ("H", bits), 259: ("H", 1), 277: ("H", 1)}
    entries |= {273: ("L", 8), 278: ("L", 1), 279: ("L", len(data)), 339: ("H", sample_format)}
    entries |= {} if photometric is None else {262: ("H", photometric)}
    entries |= {{"low": 340, "high": 341}[name]: value for name, value in tags.items()}
    data += b"\0" * (-len(data) % 2)
    numbers = {"H": 3, "L": 4, "f": 11, "h": 8, "l": 9}
    directory = struct.pack(order + "H", len(entries))
    for tag, (letter, value) in sorted(entries.items()):
        directory += struct.pack(order + "HHL", tag, numbers[letter], 1)
        directory += struct.pack(order + letter, value).ljust(4, b"\0")
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8 + len(data))
    return start + data + directory + b"\0" * 4


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(bits: int, colour: int, rows: bytes, width: int, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(b"\0" + rows)), chunk(b"IEND", b"")]
    return images_smcl.PNG_START + b"".join(parts)


def scaled(top: float, low: float = 0) -> list[int]:
    return [round(low + step * (top - low)) for step in STEPS]


@pytest.mark.parametrize("kind", ["P5", "P2"])
@pytest.mark.parametrize("maxval", [15, 100, 255, 1023, 4095, 50_000, 65_535])
def test_a_pgm_is_scaled_by_the_largest_value_of_its_header(maxval, kind):
    assert greys(pgm(maxval, kind)) == pytest.approx(GREYS, abs=9 if maxval == 15 else 2)


@pytest.mark.parametrize("maxval", [1023, 65_535])
def test_a_dark_pgm_stays_dark(maxval):
    data = f"P5 4 1 {maxval}\n".encode() + struct.pack(">4H", 0, 3, 5, 10)
    assert max(greys(data)) <= round(255 * 10 / maxval)
    # Handed over as PIL opened it, as `datasets` does, too.
    assert greys(Image.open(io.BytesIO(data))) == greys(data)


@pytest.mark.parametrize("extra", [(), (chunk(b"sBIT", b"\x0a"),), (chunk(b"sBIT", b"\x10"),)])
def test_a_png_of_sixteen_bits_is_scaled_by_its_depth_whatever_bits_it_calls_significant(extra):
    rows = struct.pack(">5H", *scaled(65_535))
    assert greys(png(16, 0, rows, 5, *extra)) == GREYS
    dark = struct.pack(">5H", 0, 100, 200, 300, 400)
    assert greys(png(16, 0, dark, 5, *extra)) == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_greys_of_sixteen_bits_without_a_file_are_scaled_by_their_mode(mode):
    image = Image.frombytes(mode, (5, 1), struct.pack(">5H" if mode == "I;16B" else "<5H", *scaled(65_535)))
    assert greys(image) == GREYS


@pytest.mark.parametrize(
    ("values", "kind", "settings"),
    [
        (scaled(65_535), "Hu", {}),
        (scaled(65_535), "Hu", {"order": ">"}),
        (scaled(1023), "Hu", {"low": ("H", 0), "high": ("H", 1023)}),
        (scaled(1023), "Hu", {"high": ("H", 1023)}),
        (scaled(65_535, 1000), "Hu", {"low": ("H", 1000)}),
        (scaled(3000, 1000), "Hu", {"order": ">", "low": ("H", 1000), "high": ("H", 3000)}),
        (scaled(4095), "Hu", {"bits": 12}),
        (scaled(32_767), "hi", {}),
        (scaled(500, -500), "hi", {"low": ("h", -500), "high": ("h", 500)}),
        (scaled(65_535), "li", {"low": ("l", 0), "high": ("l", 65_535)}),
        (scaled(255), "li", {}),
        (STEPS, "ff", {"low": ("f", 0.0), "high": ("f", 1.0)}),
        (STEPS, "ff", {"order": ">", "high": ("f", 1.0)}),
        (scaled(255), "ff", {}),
    ],
)
def test_a_tiff_is_scaled_by_the_range_of_its_tags_or_kind(values, kind, settings, tmp_path):
    data = tiff(values, kind, **settings)
    assert greys(data) == pytest.approx(GREYS, abs=1)
    (tmp_path / "scan.tif").write_bytes(data)
    assert read_image(tmp_path / "scan.tif") == ("ok", data)


@pytest.mark.parametrize(
    ("values", "kind", "settings"),
    [
        (scaled(65_535), "Hu", {}),
        (scaled(65_535), "Hu", {"photometric": None}),
        (scaled(1023), "Hu", {"low": ("H", 0), "high": ("H", 1023)}),
        (STEPS, "ff", {"low": ("f", 0.0), "high": ("f", 1.0)}),
        (scaled(255), "Bu", {}),
    ],
)
def test_a_tiff_whose_zero_is_white_is_turned_over(values, kind, settings):
    turned = [255 - grey for grey in GREYS]
    assert greys(tiff(values, kind, **({"photometric": 0} | settings))) == pytest.approx(turned, abs=1)


def test_values_beyond_the_stated_range_are_black_and_white():
    assert greys(tiff([0, 100, 600, 1100, 65_535], "Hu", low=("H", 100), high=("H", 1100))) == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(STEPS, "ff"), "'F' has no fixed range, and its values go from 0.0 to 1.0"),
        (tiff([0, 70_000], "li"), "'I' has no fixed range"),
        (tiff([0.0, 300.0], "ff", low=("f", 0.0)), "'F' has no fixed range"),
        (tiff([0.0, float("nan")], "ff", high=("f", 1.0)), "go from nan to nan. Expected finite"),
        (tiff([0, 5], "Hu", low=("H", 7), high=("H", 7)), "its tags say that its values go from 7 to 7. Correct them"),
        (tiff([0.0, 5.0], "ff", high=("f", float("inf"))), "its tags say .* from 0 to inf"),
        (tiff([0, 5], "Hu", high=("H", 0)), "its tags say .* from 0 to 0"),
        (b"Pf 2 1 -1.0\n" + struct.pack("<2f", 0, 0.5), "'F' has no fixed range"),
    ],
)
def test_greys_without_a_range_are_refused_by_processor_and_converter(data, message, tmp_path):
    with pytest.raises(ImageError, match=message):
        load_image(data)
    (tmp_path / "scan.tif").write_bytes(data)
    assert read_image(tmp_path / "scan.tif") == ("broken", None)


def test_colours_with_a_stated_range_that_would_come_out_dark_are_refused():
    buffer = io.BytesIO()
    info = {262: 2, 258: (16, 16, 16), 277: 3, 341: (1023, 1023, 1023)}
    Image.new("RGB", (2, 1)).save(buffer, "TIFF", tiffinfo={341: (1023, 1023, 1023)})
    assert load_image(buffer.getvalue()).size == (2, 1)
    image = Image.open(io.BytesIO(buffer.getvalue()))
    for tag, value in info.items():
        image.tag_v2[tag] = value
    with pytest.raises(ImageError, match="its colours go from 0 to 1023. Expected 0 to 65535"):
        load_image(image)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "LA", "La", "PA", "RGBa"]
)
def test_whatever_the_mode_a_grey_picture_is_read_as_it_looks(mode):
    image = Image.linear_gradient("L").resize((5, 4)).transpose(Image.Transpose.ROTATE_90)
    expected = greys(image)
    if mode == "1":
        image, expected = image.point(lambda value: 255 * (value > 99)), [255 * (grey > 99) for grey in expected]
    if mode == "LAB":
        profiles = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
        image = ImageCms.profileToProfile(image.convert("RGB"), *profiles, outputMode="LAB")
    elif mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    else:
        image = image.convert("RGB").convert(mode) if mode in ("YCbCr", "HSV", "CMYK", "RGBX") else image.convert(mode)
    assert image.mode == mode
    assert greys(image) == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa"])
def test_what_is_transparent_is_white_in_every_mode_with_alpha(mode):
    image = Image.new("LA" if mode in ("LA", "La") else "RGBA", (4, 1), 0)
    assert greys(image if image.mode == mode else image.convert(mode)) == [255] * 4


def test_a_palette_with_alpha_is_laid_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 0, 0, 0, 0, 255], "RGBA")
    image.putpixel((1, 0), 1)
    assert greys(image) == [255, 0]


def long_texts() -> dict[str, list[bytes]]:
    text = b"smcl " * 400_000
    many = [chunk(b"tEXt", b"Part\0" + b"x" * 900_000)] * 80
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {
        "zTXt": [chunk(b"zTXt", b"Comment\0\0" + zlib.compress(text))],
        "iTXt": [chunk(b"iTXt", b"Comment\0\1\0en\0Kommentar\0" + zlib.compress(text))],
        "iCCP": [chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile + bytes(2_000_000)))],
        "many tEXt": many,
        "large tEXt": [chunk(b"tEXt", b"Comment\0" + b"x" * (PngImagePlugin.MAX_TEXT_MEMORY + 10))],
    }


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP", "many tEXt", "large tEXt"])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_png_with_long_texts_or_profile_is_read(kind, place, tmp_path):
    texts = b"".join(long_texts()[kind])
    # What turns the picture stands among the texts, and is kept.
    exif = Image.Exif()
    exif[0x0112] = 3
    data = png(8, 0, bytes(GREYS), 5, chunk(b"eXIf", exif.tobytes()[6:]))
    cut = data.index(b"IDAT") - 4 if place == "before" else data.index(b"IEND") - 4
    data = data[:cut] + texts + data[cut:]
    if not (kind == "iCCP" and place == "behind"):
        with pytest.raises(ValueError, match="(?i)too large|too much"):
            Image.open(io.BytesIO(data)).load()
    assert greys(data) == GREYS[::-1]
    (tmp_path / "photo.png").write_bytes(data)
    assert greys(tmp_path / "photo.png") == GREYS[::-1]
    assert read_image(tmp_path / "photo.png")[0] == "ok"


def test_a_png_with_long_texts_is_still_bounded_and_whole(tmp_path):
    text = long_texts()["zTXt"]
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    bomb = images_smcl.PNG_START + chunk(b"IHDR", header) + text[0] + chunk(b"IDAT", zlib.compress(bytes(99)))
    with pytest.raises(ImageError, match="20000 x 20000|400000000 pixels"):
        load_image(bomb)
    buffer = io.BytesIO()
    noise((64, 64)).save(buffer, "PNG")
    data = buffer.getvalue()
    cut = data.index(b"IDAT") - 4
    data = (data[:cut] + text[0] + data[cut:])[:-600]
    with pytest.raises(ImageError, match="cut or damaged"):
        load_image(data)
    (tmp_path / "photo.png").write_bytes(data)
    assert read_image(tmp_path / "photo.png")[0] == "repaired"


class Server(http.server.BaseHTTPRequestHandler):
    """Answers by the path: an image, or one byte after the other of a header or a body that never ends."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        if "drip" in self.path:
            self.drip(b"HTTP/1.0 200 OK\r\n" if "head" not in self.path else b"HTTP/1.0 200 OK\r\nX-Slow: ")
        elif "moved" in self.path:
            self.send_response(302)
            self.send_header("Location", "/picture.png")
            self.end_headers()
        else:
            self.send_response(200 if "missing" not in self.path else 404)
            self.end_headers()
            self.wfile.write(png(8, 0, bytes(GREYS), 5) if "large" not in self.path else bytes(5000))

    def drip(self, start):
        self.wfile.write(start + (b"" if "head" in self.path else b"\r\n"))
        try:
            for _ in range(200):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server on this machine, for downloads that may take a second."""
    monkeypatch.setattr(images_smcl, "is_offline_mode", lambda: False)
    monkeypatch.setattr(images_smcl, "DOWNLOAD_SECONDS", 1)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Server, "asked", [])
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/picture.png", "/picture.png"),
        ("/two words.png", "/two%20words.png"),
        ("/two%20words.png", "/two%20words.png"),
        ("/100%.png", "/100%25.png"),
        ("/图片/größe.png?q=a b&r=ü", "/%E5%9B%BE%E7%89%87/gr%C3%B6%C3%9Fe.png?q=a%20b&r=%C3%BC"),
        ("/a+b,(c)@x.png?size=1:1#part", "/a+b,(c)@x.png?size=1:1"),
        ("/moved", "/moved"),
    ],
)
def test_addresses_are_sent_as_a_browser_sends_them(server, path, sent):
    assert greys(server + path, allow_private_urls=True) == GREYS
    assert Server.asked[0] == sent


def test_the_scheme_of_an_address_is_read_in_any_case_and_white_space_around_it_is_left_out(server):
    for address in (server.replace("http", "HTTP"), server.replace("http", "Http"), f" {server}", f"{server}/a.png\n"):
        path = f"{address.rstrip()}/b.png" if address.endswith("\n") else f"{address}/b.png"
        assert greys(path, allow_private_urls=True) == GREYS


def test_names_of_hosts_outside_ascii_are_written_in_idna():
    address = images_smcl._to_ascii("HTTP://me:pass word@bücher.example:8080/ü.png")
    assert address == "http://me:pass%20word@xn--bcher-kva.example:8080/%C3%BC.png"


@pytest.mark.parametrize("path", ["/drip", "/drip/head"])
def test_a_server_that_drips_is_cut_off(server, path):
    begin = time.monotonic()
    with pytest.raises(ImageError, match=r"the download failed: it takes more than 1 s\. Download it yourself"):
        load_image(server + path, allow_private_urls=True)
    assert time.monotonic() - begin < 3


def test_downloads_that_fail_are_named(server, monkeypatch):
    with pytest.raises(ImageError, match=r"missing\.png' can't be used: the download failed: HTTP Error 404"):
        load_image(f"{server}/missing.png", allow_private_urls=True)
    monkeypatch.setattr(images_smcl, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ImageError, match="it has more than 1000 bytes"):
        load_image(f"{server}/large.png", allow_private_urls=True)
    for address in ("http://", "http://[::1", "https://\ud83d.example/a.png", "http://a..b/x.png"):
        with pytest.raises(ImageError, match="the download failed"):
            load_image(address, allow_private_urls=True)
