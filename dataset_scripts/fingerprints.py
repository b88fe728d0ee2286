"""What an image and a model folder are known by, in caches and reports: their content."""

import hashlib
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..images_smcl import load_image

# The files of a model folder that say what the model computes.
MODEL_FILES = (".json", ".txt", ".safetensors", ".bin", ".model", ".jinja")


def image_digest(image: Any) -> bytes:
    """Identify an image by its content.

    Args:
        image (`Any`): An image as `load_image` takes it.

    Returns:
        `bytes`: SHA-256 of its file, undecoded; of its size and pixels where it is no file here.

    Raises:
        ImageError: if an image that is no file here can't be used.
    """
    if isinstance(image, dict) and image.keys() == {"bytes", "path"}:
        image = image["path"] if image["bytes"] is None else image["bytes"]
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    if isinstance(image, str | Path) and os.path.isfile(image):
        return file_digest(Path(image))
    pixels = load_image(image)
    digest = hashlib.sha256(f"{pixels.width} x {pixels.height}:".encode())
    digest.update(pixels.tobytes())
    return digest.digest()


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, read in blocks.

    Args:
        path (`Path`): The file.

    Returns:
        `bytes`: 32 of them.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()


def is_hub_name(name: str) -> bool:
    """Tell whether a name may be that of a repository on the Hub.

    Args:
        name (`str`): A name or a path.

    Returns:
        `bool`.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(name)


def fingerprint(name: str) -> str:
    """Identify a model: a folder by the SHA-256 of its files, a Hub name by itself.

    Args:
        name (`str`): A folder, or a name on the Hub.

    Returns:
        `str`: 64 hexadecimal digits, or the name.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in MODEL_FILES:
            digest.update(path.name.encode())
            digest.update(file_digest(path))
    return digest.hexdigest()
