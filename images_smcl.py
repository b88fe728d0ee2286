"""Reading an image of a post: whole, upright, of bounded size, as RGB."""

import base64
import concurrent.futures
import http.client
import io
import ipaddress
import itertools
import math
import os
import re
import socket
import struct
import threading
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from transformers.utils.hub import is_offline_mode

# About 200 MB as RGB. PIL itself only warns below 179 million pixels.
MAX_IMAGE_PIXELS = 2**26
# More than an uncompressed file of so many pixels needs.
MAX_FILE_BYTES = 2**28
# For the whole of a download.
DOWNLOAD_SECONDS = 30
# PIL also knows formats that start other programs (EPS) or that no browser shows.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Longer images are cut to their middle where a centre crop throws away the rest anyway.
MAX_CROPPED_RATIO = 16
PNG_START = b"\x89PNG\r\n\x1a\n"
# Chunks of a PNG that change no pixel, and of which PIL refuses long ones: texts and colour profile.
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
# Tags of a TIFF that tell what its values mean.
TIFF_TAGS = {
    "BitsPerSample": 258,
    "PhotometricInterpretation": 262,
    "SampleFormat": 339,
    "SMinSampleValue": 340,
    "SMaxSampleValue": 341,
}

# What PIL's readers raise on files that are cut, empty, huge or no image.
DECODE_ERRORS = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


T = TypeVar("T")


class ImageError(ValueError):
    """An image can't be used; the message says which, why and what to do."""


def open_image(file: BinaryIO) -> Image.Image:
    """Open an image file without decoding its pixels.

    Args:
        file (`BinaryIO`): The file.

    Returns:
        `PIL.Image.Image`: the image; its first frame, if it is animated.

    Raises:
        ImageError: if it has no pixel, or more than `MAX_IMAGE_PIXELS`.
        Exception: one of `DECODE_ERRORS`, if the file is no image.
    """
    Image.init()
    image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    check_size(image)
    return image


def size_of(content: bytes) -> tuple[int, int] | None:
    """Return width and height that the content of an image file states, without decoding it; `None` if it is none."""
    try:
        return _despite_long_texts(io.BytesIO(content), lambda file: open_image(file).size)
    except (ImageError, *DECODE_ERRORS):
        return None


def check_size(image: Image.Image) -> None:
    """Refuse an image with no pixel, or with more than `MAX_IMAGE_PIXELS`; raises an `ImageError`."""
    if not 0 < image.width * image.height <= MAX_IMAGE_PIXELS:
        raise ImageError(
            f"it has {image.width} x {image.height} pixels, expected at least 1 and at most {MAX_IMAGE_PIXELS}. Scale "
            "it down, or leave it out."
        )


def load_image(image: Any, **allowed: bool) -> Image.Image:
    """Read an image as RGB, turned upright by its EXIF orientation.

    Args:
        image (`PIL.Image.Image`, `str`, `Path`, `bytes` or `dict`): An image of any mode, a path, an `http(s)` URL, a
            data URI, the content of an image file, or `{"bytes": ..., "path": ...}` as in `datasets`, where the bytes
            or the path may be `None`.
        **allowed (`bool`): `allow_paths`, `allow_urls` and `allow_private_urls`, as in `fetch_image`.

    Returns:
        `PIL.Image.Image`: in RGB. Of animations the first frame, transparent parts on white; greys of more than 8 bits
        scaled by the range that the file states, or that its kind has.

    Raises:
        ImageError: if the image is of another kind, missing, cut, damaged, no image, too large or without a pixel, or
            may not be taken from where it is.
    """
    source = content_of(fetch_image(image, **allowed))
    name = _name(image)
    try:
        if isinstance(source, Image.Image):
            check_size(source)
            return _to_rgb(source)
        with _open_source(source) as file:
            return _despite_long_texts(file, lambda file: _to_rgb(open_image(file)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} can't be used: {error} Scale it down, or leave it out.") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is no image. Expected one of {', '.join(FORMATS)}. Replace it, or leave it out."
        ) from error
    except ImageError as error:
        raise ImageError(f"{name} can't be used: {error}") from error
    except DECODE_ERRORS as error:
        raise ImageError(
            f"{name} is cut or damaged: {error}. Replace it, or leave it out; the converters of "
            "smcl.dataset_scripts keep what such a file still shows."
        ) from error


def content_of(image: Any) -> Any:
    """Return the bytes or, without any, the path of `{"bytes": ..., "path": ...}`; anything else as it is."""
    if isinstance(image, dict) and image.keys() == {"bytes", "path"}:
        return image["path"] if image["bytes"] is None else image["bytes"]
    return image


def fetch_image(
    image: Any, *, allow_paths: bool = True, allow_urls: bool = True, allow_private_urls: bool = False
) -> Any:
    """Take an image from where it is, if that is allowed; its content is not looked at.

    What is refused is neither opened nor asked for anything, and all of it by the same words: they do not tell whether
    there is such a file, or such a host.

    Args:
        image (`Any`): An image, as of [`load_image`].
        allow_paths (`bool`, *optional*, defaults to `True`): Whether it may be a path.
        allow_urls (`bool`, *optional*, defaults to `True`): Whether it may be an `http(s)` URL.
        allow_private_urls (`bool`, *optional*, defaults to `False`): Whether the URL's host, or one that it redirects
            to, may be this machine or in a private network.

    Returns:
        `{"bytes": ..., "path": url}` for a URL, the `bytes` of a data URI, and anything else as it is.

    Raises:
        ImageError: if it may not be taken from there, a download fails, or a data URI can't be read.
    """
    if isinstance(image, ImageError):
        # Whoever tried to take it before says so again: no host is asked twice.
        raise image
    # Of a pair, either may be a text, which would be taken for a path or an address later.
    source = content_of(image)
    if not isinstance(source, str | Path):
        return image
    allowed = {"allow_paths": allow_paths, "allow_urls": allow_urls, "allow_private_urls": allow_private_urls}
    try:
        if isinstance(source, str) and is_data_uri(source):
            return _read_data_uri(source)
        if isinstance(source, str) and is_address(source):
            if not allow_urls:
                raise _NotAllowedError
            return {"bytes": _download(source.strip(), allow_private_urls), "path": source}
        if not allow_paths:
            raise _NotAllowedError
    except _NotAllowedError as error:
        raise ImageError(f"{_name(source)} can't be used: {_what_is_allowed(**allowed)}") from error
    except ImageError as error:
        raise ImageError(f"{_name(source)} can't be used: {error}") from error
    return image


def take_images(images: list[Any], skips: bool = False, **allowed: bool) -> tuple[dict[int, Any], list[str]]:
    """Take the images of a post from where they are.

    Args:
        images (`list`): Its images, as of [`load_image`].
        skips (`bool`, *optional*, defaults to `False`): Whether to read them at once, and to go on without those that
            can't be read.
        **allowed (`bool`): As in `fetch_image`.

    Returns:
        Images as of `load_image` by their number in the post, and for each that was left out, why.

    Raises:
        ImageError: if an image can't be taken and none is to be left out; names it.
    """
    good, notes = {}, []
    for slot, image in enumerate(images):
        try:
            good[slot] = load_image(image, **allowed) if skips else fetch_image(image, **allowed)
        except ImageError as error:
            if not skips:
                raise ImageError(f"Post 0 of the batch, image {slot}: {error}") from error
            notes.append(f"Image {slot}: {error}")
    return good, notes


class _NotAllowedError(Exception):
    """An image may not be taken from where it is said to be."""


def _what_is_allowed(allow_paths: bool, allow_urls: bool, allow_private_urls: bool) -> str:
    urls = "an http(s) URL" if allow_private_urls else "an http(s) URL whose host is a public one"
    kinds = ["the image itself (its bytes, a PIL image or a data URI)", *["a path"] * allow_paths, *[urls] * allow_urls]
    return (
        f"expected {' or '.join(kinds)}. Nothing else is opened or asked for here, unless `allow_paths`, `allow_urls` "
        "and `allow_private_urls` say so."
    )


def is_address(source: str) -> bool:
    """Tell whether an image is to be fetched from an `http(s)` address, in whatever case that is written."""
    return source.strip().lower().startswith(("http://", "https://"))


def is_data_uri(source: str) -> bool:
    """Tell whether a string is an image itself, as `data:image/png;base64,...`."""
    return source[:5].lower() == "data:"


def _read_data_uri(uri: str) -> bytes:
    """Return the content of `data:[<type>][;base64],<content>`, read as leniently as browsers do."""
    head, comma, content = uri.partition(",")
    data = urllib.parse.unquote_to_bytes(content)
    try:
        if not comma:
            raise ValueError("no comma ends its head")
        return decode_base64(data) if head.lower().replace(" ", "").endswith(";base64") else data
    except ValueError as error:
        raise ImageError(f"{error}. Expected 'data:image/png;base64,...'.") from error


def decode_base64(text: str | bytes) -> bytes:
    """Decode base64, its own alphabet or that of URLs, with or without white space and the padding at its end.

    Args:
        text (`str` or `bytes`): The text.

    Returns:
        `bytes`.

    Raises:
        ValueError: if it is none.
    """
    data = b"".join((text.encode() if isinstance(text, str) else text).split()).rstrip(b"=")
    data = data.replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except ValueError as error:
        raise ValueError("it is no base64") from error


def _open_source(source: Any) -> BinaryIO:
    """Open a path or bytes."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str | Path):
        raise ImageError(
            f"it is of type {type(source).__name__}. Expected a PIL image, a path, a URL or the bytes of an image "
            "file; arrays become images by `PIL.Image.fromarray`."
        )
    # No name has a NUL in it, and the system's own check for files stumbles over one.
    if "\0" in str(source) or not os.path.isfile(source):
        kind = "a folder" if "\0" not in str(source) and os.path.isdir(source) else "nothing"
        others = _similar_files(str(source)) if kind == "nothing" else []
        hint = f"; there is {' and '.join(map(repr, others))}" if others else ""
        raise ImageError(f"expected a file there, found {kind}{hint}. Correct the path, or leave the image out.")
    return open(source, "rb")


def _similar_files(path: str) -> list[str]:
    """List the files beside a path whose names differ from its own in case or suffix only."""
    folder, name = os.path.split(path)
    stem = os.path.splitext(name)[0].casefold()
    if not stem or "\0" in path or not os.path.isdir(folder or "."):
        return []
    with os.scandir(folder or ".") as entries:
        return sorted(entry.name for entry in entries if os.path.splitext(entry.name)[0].casefold() == stem)[:3]


def _download(url: str, allow_private: bool) -> bytes:
    """Download a file within `DOWNLOAD_SECONDS`, however slowly the server sends what."""
    if is_offline_mode():
        raise ImageError("HF_HUB_OFFLINE is set. Download it first and give its path.")
    future: concurrent.futures.Future[bytes] = concurrent.futures.Future()
    # A thread of its own: looking up the name, and each line of the header, may take any time.
    threading.Thread(target=_fetch, args=(url, allow_private, future), daemon=True).start()
    try:
        data = future.result(DOWNLOAD_SECONDS)
    except (TimeoutError, concurrent.futures.TimeoutError) as error:
        reason = str(error) or f"it takes more than {DOWNLOAD_SECONDS} s"
        raise ImageError(f"the download failed: {reason}. Download it yourself and give its path.") from error
    except ImageError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError(f"the download failed: {error}. Download it yourself and give its path.") from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"it has more than {MAX_FILE_BYTES} bytes. Scale it down, or leave it out.")
    return data


def _fetch(url: str, allow_private: bool, future: concurrent.futures.Future[bytes]) -> None:
    """Download a file; stop when it has become too large, or nobody waits for it any more."""
    end, data = time.monotonic() + DOWNLOAD_SECONDS, bytearray()
    try:
        with _make_opener(allow_private).open(_to_ascii(url), timeout=DOWNLOAD_SECONDS) as response:
            while time.monotonic() < end and len(data) <= MAX_FILE_BYTES and (block := response.read1(2**16)):
                data += block
    except Exception as error:
        future.set_exception(error)
    else:
        if time.monotonic() < end:
            future.set_result(bytes(data))


def _make_opener(allow_private: bool) -> urllib.request.OpenerDirector:
    """Make what opens `http(s)` addresses, and follows redirects to such alone: not to files or by FTP."""
    opener = urllib.request.OpenerDirector()
    kinds = (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler)
    for kind in (
        *(kinds if allow_private else (_PublicHandler,)),
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(kind())
    return opener


class _PublicHandler(urllib.request.HTTPSHandler):
    """Open `http(s)` addresses of public hosts alone. Those that a server redirects to come here as well."""

    http_request = urllib.request.AbstractHTTPHandler.do_request_

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(http.client.HTTPConnection, request)

    def do_open(self, http_class, req, **settings) -> http.client.HTTPResponse:
        if urllib.request.getproxies().get(req.type) and not urllib.request.proxy_bypass(req.host):
            raise ImageError(
                "this machine reaches others by a proxy, which looks up hosts by itself, so that nothing here can tell "
                "whether they are public. Pass `allow_private_urls=True` where the proxy sees to that."
            )

        def connect(host: str, **more) -> http.client.HTTPConnection:
            connection = http_class(host, **more)
            connection._create_connection = _connect_publicly
            return connection

        return super().do_open(connect, req, **settings)


def _connect_publicly(address: tuple[str, int], *settings: Any) -> socket.socket:
    """Connect to a host by the very numbers that were looked at: a second look-up may give others."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        found = []
    numbers = [place[0] for *_, place in found]
    if not numbers or not all(map(_is_public, numbers)):
        raise _NotAllowedError
    for left, number in enumerate(numbers, 1 - len(numbers)):
        try:
            return socket.create_connection((number, address[1]), *settings)
        except OSError:
            if not left:
                raise


def _is_public(number: str) -> bool:
    """Tell whether an address of the internet protocol is one of the public internet."""
    address = ipaddress.ip_address(number)
    if address.version == 6:
        # Ways to write an address of version 4, of which NAT64 is what some networks have for all.
        inner = address.ipv4_mapped or address.sixtofour
        if address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) % 2**32)
        if inner is not None:
            return _is_public(str(inner))
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _to_ascii(url: str) -> str:
    """Write an address as it is sent: spaces and letters outside ASCII by their codes, the host's name in IDNA."""
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    host = host if host.isascii() else host.encode("idna").decode("ascii")
    # What is written by its code already stays as it is.
    path, query = (
        urllib.parse.quote(re.sub("%(?![0-9a-fA-F]{2})", "%25", part), safe="%/:=&?~+!$,;'@()*[]")
        for part in (parts.path, parts.query)
    )
    return urllib.parse.urlunsplit((parts.scheme, f"{urllib.parse.quote(user, safe='%:')}{at}{host}", path, query, ""))


def _despite_long_texts(file: BinaryIO, read: Callable[[BinaryIO], T]) -> T:
    """Read an image file; a PNG that PIL refuses for the length of its texts is read without them."""
    try:
        return read(file)
    except (ImageError, *DECODE_ERRORS):
        shorter = _without_long_texts(file)
        if shorter is None:
            raise
    return read(shorter)


def _without_long_texts(file: BinaryIO) -> BinaryIO | None:
    """Return a PNG without the texts and the colour profile that PIL refuses for their length, if it has any."""
    is_large = file.seek(0, os.SEEK_END) > MAX_FILE_BYTES
    file.seek(0)
    if is_large or file.read(len(PNG_START)) != PNG_START:
        return None
    kept, left_out, room = [PNG_START], 0, PngImagePlugin.MAX_TEXT_MEMORY
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        chunk = file.read(length + 4)
        size = _text_size(chunk) if kind in PNG_TEXTS else 0
        if size > PngImagePlugin.MAX_TEXT_CHUNK or size > room:
            left_out += 1
        else:
            room -= size
            kept += [head, chunk]
    return io.BytesIO(b"".join(kept)) if left_out else None


def _text_size(chunk: bytes) -> int:
    """Return how long a text of a PNG is at most, as it stands or unpacked; one more than PIL takes is enough."""
    sizes = [len(chunk)]
    # The compressed part stands behind a name, two flags and up to two more texts, each closed by a NUL.
    for found in itertools.islice(re.finditer(b"\0", chunk[:1000]), 5):
        for start in (found.end(), found.end() + 1):
            try:
                text = zlib.decompressobj().decompress(chunk[start:], PngImagePlugin.MAX_TEXT_CHUNK + 1)
            except zlib.error:
                continue
            sizes.append(len(text))
    return max(sizes)


def _name(source: Any) -> str:
    if isinstance(source, dict) and source.keys() == {"bytes", "path"}:
        source = source["path"] or source["bytes"]
    if isinstance(source, str) and is_data_uri(source):
        return "the image of a data URI"
    if isinstance(source, str | Path):
        text = ascii(str(source))
        return text if len(text) <= 200 else f"{text[:197]}..."
    return f"the image of {len(source)} bytes" if isinstance(source, bytes) else "the image"


def _to_rgb(image: Image.Image) -> Image.Image:
    levels = _levels(image)
    # A copy in any case: what a caller gives stays as it is.
    image = ImageOps.exif_transpose(image)
    if levels is not None:
        return _grey_to_rgb(image, *levels)
    if image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "LAB":
        image = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    has_alpha = "A" in image.mode.upper() or (image.mode == "P" and image.palette.mode.endswith("A"))
    if has_alpha or "transparency" in image.info:
        # Without it, a black drawing on a transparent ground would turn black all over.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _levels(image: Image.Image) -> tuple[float, float, bool] | None:
    """Tell what greys of more than 8 bits mean; a copy of the image would no longer know its file.

    Never by the values themselves: a dark picture stays dark.

    Returns:
        The values of black and of white, and whether the file's kind or tags state them; `None` for other images.
    """
    is_grey = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if hasattr(image, "tag_v2"):
        levels = _tiff_levels(image, is_grey)
    elif image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # PIL has scaled a PGM by the largest value of its header, and a JPEG 2000 by its bits.
        levels = 0.0, 65535.0, True
    else:
        levels = 0.0, 255.0, False
    return levels if is_grey else None


def _tiff_levels(image: Image.Image, is_grey: bool) -> tuple[float, float, bool]:
    """Read from the tags of a TIFF what `_levels` returns."""
    tags = {name: np.atleast_1d(image.tag_v2.get(tag, ())) for name, tag in TIFF_TAGS.items()}
    bits, sample_format = (int(tags[name][0]) if len(tags[name]) else 1 for name in ("BitsPerSample", "SampleFormat"))
    # Of wider numbers and of floats, nobody uses the whole range.
    full = {1: 2**bits - 1, 2: 2 ** (bits - 1) - 1}.get(sample_format) if bits <= 16 else None
    low, high = (float(tags[name][0]) if len(tags[name]) else None for name in ("SMinSampleValue", "SMaxSampleValue"))
    if high is not None or (low is not None and full is not None):
        low, high = low or 0.0, float(full) if high is None else high
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ImageError(
                f"its tags say that its values go from {low:g} to {high:g}. Correct them, or leave it out."
            )
        if bits == 16 and not is_grey and (low, high) != (0, full):
            raise ImageError(
                f"its tags say that its colours go from {low:g} to {high:g}. Expected 0 to {full}. Scale them."
            )
        levels = low, high, True
    else:
        levels = (0.0, 255.0, False) if full is None else (0.0, float(full), True)
    # PIL turns over greys of up to 8 bits by itself. As there, 0 is white where nothing is said.
    is_white_0 = not len(tags["PhotometricInterpretation"]) or tags["PhotometricInterpretation"][0] == 0
    return (levels[1], levels[0], levels[2]) if is_white_0 else levels


def _grey_to_rgb(image: Image.Image, black: float, white: float, is_stated: bool) -> Image.Image:
    """Scale greys of more than 8 bits to 8, and put what is transparent on white."""
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    # PIL's own extremes pass over NaN, which is inside of nothing.
    is_inside = min(black, white) <= lowest and highest <= max(black, white)
    # Floats of at most 1 are meant as 0 to 1 by most, but not by all.
    if not is_stated and (not is_inside or (image.mode == "F" and 0 < highest <= 1)):
        raise ImageError(
            f"its mode {image.mode!r} has no fixed range, and its values go from {lowest} to {highest}. Expected 0 to "
            "255. Scale them and convert it to 'L'."
        )
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ImageError(f"its values go from {lowest} to {highest}. Expected finite ones. Scale them.")
    grey = np.subtract(values, black, dtype=np.float32)
    grey *= 255 / (white - black)
    np.rint(grey, out=grey)
    np.clip(grey, 0, 255, out=grey)
    if (transparent := image.info.get("transparency")) is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def cut_to_middle(image: Image.Image) -> Image.Image:
    """Cut an image more than `MAX_CROPPED_RATIO` times as long as wide to its middle.

    Image processors that scale the shorter edge and crop the centre would first blow such an image up: one pixel in
    width and a million in length takes gigabytes. The crop sees the same.

    Args:
        image (`PIL.Image.Image`): An image.

    Returns:
        `PIL.Image.Image`: the image, or its middle part.
    """
    width, height = (min(side, MAX_CROPPED_RATIO * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


__all__ = [
    "DECODE_ERRORS",
    "FORMATS",
    "MAX_FILE_BYTES",
    "MAX_IMAGE_PIXELS",
    "ImageError",
    "check_size",
    "cut_to_middle",
    "decode_base64",
    "fetch_image",
    "is_address",
    "is_data_uri",
    "load_image",
    "open_image",
    "size_of",
    "take_images",
]
