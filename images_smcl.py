"""Reading an image of a post: whole, upright, of bounded size, as RGB."""

import http.client
import io
import os
import struct
import urllib.request
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from transformers.utils.hub import is_offline_mode

# About 200 MB as RGB. PIL itself only warns below 179 million pixels.
MAX_IMAGE_PIXELS = 2**26
# More than an uncompressed file of so many pixels needs.
MAX_FILE_BYTES = 2**28
DOWNLOAD_SECONDS = 30
# PIL also knows formats that start other programs (EPS) or that no browser shows.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Longer images are cut to their middle where a centre crop throws away the rest anyway.
MAX_CROPPED_RATIO = 16

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


def check_size(image: Image.Image) -> None:
    """Refuse an image with no pixel, or with more than `MAX_IMAGE_PIXELS`; raises an `ImageError`."""
    if not 0 < image.width * image.height <= MAX_IMAGE_PIXELS:
        raise ImageError(
            f"it has {image.width} x {image.height} pixels, expected at least 1 and at most {MAX_IMAGE_PIXELS}. Scale "
            "it down, or leave it out."
        )


def load_image(image: Any) -> Image.Image:
    """Read an image as RGB, turned upright by its EXIF orientation.

    Args:
        image (`PIL.Image.Image`, `str`, `Path`, `bytes` or `dict`): An image of any mode, a path, an `http(s)` URL, the
            content of an image file, or `{"bytes": ..., "path": ...}` as in `datasets`, with one of them `None`.

    Returns:
        `PIL.Image.Image`: in RGB. Of animations the first frame, transparent parts on white, 16-bit grey values scaled
        to 8 bits.

    Raises:
        ImageError: if the image is of another kind, missing, cut, damaged, no image, too large or without a pixel.
    """
    source = image
    if isinstance(image, dict) and image.keys() == {"bytes", "path"}:
        source = image["path"] if image["bytes"] is None else image["bytes"]
    try:
        if isinstance(source, Image.Image):
            check_size(source)
            return _to_rgb(source)
        with _open_source(source) as file:
            return _to_rgb(open_image(file))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{_name(source)} can't be used: {error} Scale it down, or leave it out.") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{_name(source)} is no image. Expected one of {', '.join(FORMATS)}. Replace it, or leave it out."
        ) from error
    except ImageError as error:
        raise ImageError(f"{_name(source)} can't be used: {error}") from error
    except DECODE_ERRORS as error:
        raise ImageError(
            f"{_name(source)} is cut or damaged: {error}. Replace it, or leave it out; the converters of "
            "smcl.dataset_scripts keep what such a file still shows."
        ) from error


def _open_source(source: Any) -> BinaryIO:
    """Open a path, a URL or bytes."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return io.BytesIO(_download(source))
    if not isinstance(source, str | Path):
        raise ImageError(
            f"it is of type {type(source).__name__}. Expected a PIL image, a path, a URL or the bytes of an image "
            "file; arrays become images by `PIL.Image.fromarray`."
        )
    # No name has a NUL in it, and the system's own check for files stumbles over one.
    if "\0" in str(source) or not os.path.isfile(source):
        kind = "a folder" if "\0" not in str(source) and os.path.isdir(source) else "nothing"
        raise ImageError(f"expected a file there, found {kind}. Correct the path, or leave the image out.")
    return open(source, "rb")


def _download(url: str) -> bytes:
    if is_offline_mode():
        raise ImageError("HF_HUB_OFFLINE is set. Download it first and give its path.")
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as response:
            data = response.read(MAX_FILE_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError(f"the download failed: {error}. Download it yourself and give its path.") from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"it has more than {MAX_FILE_BYTES} bytes. Scale it down, or leave it out.")
    return data


def _name(source: Any) -> str:
    if isinstance(source, str | Path):
        text = ascii(str(source))
        return text if len(text) <= 200 else f"{text[:197]}..."
    return f"the image of {len(source)} bytes" if isinstance(source, bytes) else "the image"


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # `convert` would clip all values above 255 to white.
        values = np.asarray(image.convert("I"))
        transparent = values == image.info.get("transparency")
        return Image.fromarray(np.where(transparent, 255, values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        # PIL's own extremes pass over NaN.
        if not ((values >= 0) & (values <= 255)).all():
            raise ImageError(
                f"its mode {image.mode!r} has no fixed range, and its values go from {values.min()} to {values.max()}. "
                "Expected 0 to 255. Scale them and convert it to 'L'."
            )
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        # Without it, a black drawing on a transparent ground would turn black all over.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
    "load_image",
    "open_image",
]
