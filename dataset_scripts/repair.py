"""Reading image files so that every one embedded in a data set can be opened."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFile, ImageOps

from ..images_smcl import DECODE_ERRORS, MAX_FILE_BYTES, open_image


@contextlib.contextmanager
def truncated_images_allowed() -> Iterator[None]:
    """Let PIL decode truncated files inside the `with` block only. Not safe beside other decoding threads."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_image(path: Path) -> tuple[str, bytes | None]:
    """Read an image file and decode it once to see whether it is whole.

    Args:
        path (`Path`): The file.

    Returns:
        `tuple[str, bytes | None]`: `"ok"` and the file's own bytes; `"repaired"` and a PNG of what a truncated or
        otherwise damaged file still shows; `"missing"` or `"broken"` and `None`.
    """
    if not path.is_file():
        return "missing", None
    if path.stat().st_size > MAX_FILE_BYTES:
        return "broken", None
    data = path.read_bytes()
    with contextlib.suppress(*DECODE_ERRORS):
        # Readers of the data set turn photographs by their EXIF orientation, and stumble over damaged EXIF.
        ImageOps.exif_transpose(_decode(data))
        return "ok", data
    with contextlib.suppress(*DECODE_ERRORS), truncated_images_allowed():
        return "repaired", encode_png(_turn_upright(_decode(data)))
    return "broken", None


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as PNG, without loss.

    Args:
        image (`PIL.Image.Image`): Any image; modes PNG lacks, such as CMYK, become RGB.

    Returns:
        `bytes`: the PNG file.
    """
    if image.mode.startswith("I;16"):
        # The one mode of 16 bits that PNG has, whatever the order of the bytes was.
        image = image.convert("I").convert("I;16")
    elif image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _decode(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        # PIL warns of odd metadata and of large files; neither keeps an image from being used.
        warnings.simplefilter("ignore")
        # Refuses what is too large for the processor too.
        image = open_image(io.BytesIO(data))
        image.load()
    return image


def _turn_upright(image: Image.Image) -> Image.Image:
    """Turn a photograph by its EXIF orientation, which a new file does not carry."""
    try:
        return ImageOps.exif_transpose(image)
    except DECODE_ERRORS:
        return image
