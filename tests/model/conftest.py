import pytest
from factories import make_pipeline, noise
from PIL import Image

from smcl import MultiImageNERPipeline


@pytest.fixture(scope="module")
def pipe(processor) -> MultiImageNERPipeline:
    return make_pipeline(processor)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [noise((20, 30), seed=slot).convert("RGB") for slot in range(4)]


@pytest.fixture(scope="module")
def posts(photos) -> list[dict]:
    """Posts of different lengths and numbers of images."""
    texts = ["joey and niko rest", "the", "", "a bc def ghij klmno and the", "niko"]
    return [{"text": text, "images": photos[:count]} for text, count in zip(texts, (2, 0, 1, 4, 3), strict=True)]
