"""Answer requests of the Hub's hosted inference endpoints.

`python -m smcl.publish` puts a copy of this file beside a model, so that it needs nothing of this package.
"""

import base64
import binascii
from typing import Any

from transformers import pipeline

# What a request may set. Where images may be taken from is not among it.
PARAMETERS = ("threshold", "return_tags", "on_bad_image", "on_extra_images", "on_error")


class EndpointHandler:
    """Tag the posts of requests.

    Args:
        path (`str`): The folder of the model.

    Example:
    ```python
    >>> handler = EndpointHandler("demo/published")
    >>> handler({"inputs": {"text": "i will never forget Verona", "images": ["data:image/png;base64,iVBORw0..."]}})
    [{'entity_group': 'LOC', 'word': 'Verona', 'start': 20, 'end': 26, 'score': 0.998, 'words': [4, 4]}]
    ```
    """

    def __init__(self, path: str = "."):
        # The code that is trusted here lies beside this file.
        self.pipe = pipeline("multi-image-ner", model=path, trust_remote_code=True, allow_paths=False, allow_urls=False)

    def __call__(self, data: dict[str, Any]) -> list[Any] | dict[str, Any]:
        """Tag the posts of a request.

        Args:
            data (`dict`): `inputs`, a post or a list of posts as the pipeline takes them, with images as data URIs or
                base64; and, if need be, `parameters`: `threshold`, `return_tags`, `on_bad_image`, `on_extra_images` and
                `on_error`, as of the pipeline.

        Returns:
            What the pipeline returns.

        Raises:
            ValueError: if the request or a post can't be used; says why.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('Expected a request {"inputs": a post or a list of posts, "parameters": {...}}.')
        # `options` are for the host.
        if unknown := sorted(map(str, data.keys() - {"inputs", "parameters", "options"})):
            raise ValueError(f"Expected `inputs` and `parameters`, got {unknown[:10]}. Put these into `parameters`.")
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict) or parameters.keys() - set(PARAMETERS):
            found = sorted(map(str, parameters)) if isinstance(parameters, dict) else type(parameters).__name__
            raise ValueError(f"Expected `parameters` of {', '.join(PARAMETERS)}, got {found}.")
        if not isinstance(parameters.get("return_tags", False), bool):
            raise ValueError(f"`return_tags` must be true or false, got {parameters['return_tags']!r}.")
        inputs = data["inputs"]
        posts = inputs if isinstance(inputs, list) else [inputs]
        results = self.pipe([with_bytes(post) for post in posts], **parameters)
        results = [_to_json(result) for result in results]
        return results if isinstance(inputs, list) else results[0]


def with_bytes(post: Any) -> Any:
    """Decode the images of a post that are base64; a data URI, or anything that is no text, is left as it is.

    Args:
        post (`Any`): A post.

    Returns:
        The post, with the bytes of these images in their places.
    """
    if not isinstance(post, dict):
        return post
    decoded = dict(post)
    for name in ("images", "image"):
        images = post.get(name)
        if isinstance(images, str):
            # One alone, which the pipeline takes under either key.
            decoded[name] = _to_bytes(images)
        elif isinstance(images, list):
            decoded[name] = [_to_bytes(image) for image in images]
    return decoded


def _to_bytes(image: Any) -> Any:
    # What is no base64 either is refused by the pipeline like all paths and addresses.
    if not isinstance(image, str) or ":" in image[:10]:
        return image
    text = "".join(image.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        # Shorter ones are names that happen to have letters and digits alone.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True) if len(text) > 32 else image
    except (binascii.Error, ValueError):
        return image


def _to_json(result: Any) -> Any:
    """Write the tuples of a result as lists."""
    if isinstance(result, dict):
        return {name: _to_json(value) for name, value in result.items()}
    return [_to_json(value) for value in result] if isinstance(result, list | tuple) else result


__all__ = ["EndpointHandler"]
