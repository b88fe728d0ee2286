"""Reading image files so that every one embedded in a data set can be opened."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFile, ImageOps

from ..images_smcl import DECODE_ERRORS, MAX_FILE_BYTES, load_image, open_image

# Where PIL keeps what a file says of how it is turned.
METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")


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
    """Read an image file, and load it once as training will, to see whether it is whole.

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
    with warnings.catch_warnings():
        # PIL warns of odd metadata and of large files; neither keeps an image from being used.
        warnings.simplefilter("ignore")
        with contextlib.suppress(*DECODE_ERRORS):
            load_image(data)
            return "ok", data
        with contextlib.suppress(*DECODE_ERRORS), truncated_images_allowed():
            return "repaired", encode_png(load_image(_without_damaged_exif(data)))
    return "broken", None


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as PNG, without loss.

    Args:
        image (`PIL.Image.Image`): An image of 8 bits; modes PNG lacks, such as CMYK, become RGB.

    Returns:
        `bytes`: the PNG file.
    """
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _without_damaged_exif(data: bytes) -> Image.Image:
    """Open an image file; where its EXIF can't be read, leave out what tells how it is turned."""
    image = open_image(io.BytesIO(data))
    try:
        ImageOps.exif_transpose(image)
    except DECODE_ERRORS:
        if image.format == "TIFF":
            # Its other tags say what its values mean.
            raise
        image = image.copy()
        image.info = {name: value for name, value in image.info.items() if name not in METADATA}
    return image
