"""Bodies of requests to the server: JSON or forms, whole, bounded in size and time."""

import asyncio
import email.message
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..dataset_scripts.schema import parse_json

if TYPE_CHECKING:
    from fastapi import Request

# For the whole of a request to come in.
READ_SECONDS = 30
# A body that is too large is read to its end if it is at most so many times the limit.
DROPPED_BODIES = 4


class RequestError(Exception):
    """A request is refused.

    Args:
        status (`int`): The status of the answer.
        message (`str`): Why.
        headers (`dict[str, str]`, *optional*): Of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers


async def read_request(request: "Request", most: int) -> Any:
    """Read the body of a request: JSON, or a form.

    Args:
        request (`Request`): The request.
        most (`int`): Bytes of its body at most.

    Returns:
        What it holds: of a form, a post.

    Raises:
        RequestError: if it can't be read, or is too large or too slow.
    """
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request

    request = Request(request.scope, bounded(request.receive, most))
    header = request.headers.get("content-type", "application/json")
    kind = header.partition(";")[0].strip().lower()
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise RequestError(400, "The request was broken off.") from error
    if kind == "multipart/form-data":
        try:
            return await read_form(as_whole_form(request.scope, header, body), most)
        except HTTPException as error:
            raise RequestError(400, f"Expected a form: {error.detail}") from error
    # The second is what curl and others say of any body by themselves.
    if kind not in ("application/json", "application/x-www-form-urlencoded") and not kind.endswith("+json"):
        raise RequestError(415, f"Expected application/json or multipart/form-data, got {kind[:100]}.")
    try:
        return parse_json(body)
    except ValueError as error:
        raise RequestError(400, f"Expected a post or a list of posts as JSON in UTF-8: {error}") from error


def bounded(receive: Callable[[], Awaitable[dict]], most: int) -> Callable[[], Awaitable[dict]]:
    """Return a `receive` of ASGI that raises a `RequestError` beyond so many bytes, and after `READ_SECONDS`."""
    seen, end = 0, time.monotonic() + READ_SECONDS

    async def take() -> dict:
        nonlocal seen
        try:
            message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise RequestError(408, f"The request took more than {READ_SECONDS} s to come in.") from error
        seen += len(message.get("body", b""))
        return message

    async def receive_within() -> dict:
        message = await take()
        if seen > most:
            # Who is cut off while sending does not hear why: up to a point, the rest is read and dropped.
            while message.get("more_body") and seen < DROPPED_BODIES * most:
                message = await take()
            raise RequestError(413, f"Expected at most {most} bytes, got more.")
        return message

    return receive_within


def as_whole_form(scope: dict[str, Any], header: str, body: bytes) -> "Request":
    """Return a request whose form is there to its end, and whose texts are read byte by byte.

    The parser takes a form that was cut off for whole, and texts in another encoding than is said as Latin-1.
    """
    from starlette.requests import Request

    message = email.message.Message()
    message["content-type"] = header
    boundary = message.get_boundary()
    line = re.escape(f"--{boundary}".encode("latin-1", "replace"))
    # Where a part begins or, with two more dashes, the form ends: within a line the same is text.
    ends = re.findall(rb"(?:\A|\r\n)" + line + rb"(--)?[ \t]*(?=\r\n|\Z)", body)
    if boundary is None or not ends or not ends[-1]:
        raise RequestError(400, "Expected a form that ends with its closing boundary: it was cut off.")
    parts = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    parts.append((b"content-type", f'multipart/form-data; boundary="{boundary}"; charset=latin-1'.encode("latin-1")))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({**scope, "headers": parts}, receive)


def _decode(values: list[str], name: str) -> list[str]:
    """Read the texts of a form as UTF-8, whatever it says."""
    try:
        return [value.encode("latin-1").decode("utf-8") for value in values]
    except UnicodeError as error:
        raise RequestError(400, f"Expected the field {name} in UTF-8: {error}") from error


async def read_form(request: "Request", most: int) -> dict[str, Any]:
    """Read a post from a form: `text`, or `words` again and again, and files `images` or one `image`."""
    async with request.form(max_files=64, max_fields=20_000, max_part_size=most) as form:
        unknown = set(form) - {"text", "words", "images", "image"}
        if unknown:
            raise RequestError(
                422, f"Expected the fields text or words, and images, got {ascii(sorted(unknown))[:200]}."
            )
        texts, words = form.getlist("text"), form.getlist("words")
        if len(texts) > 1 or not all(isinstance(x, str) for x in texts + words):
            raise RequestError(422, "Expected one field text, or fields words, none of them a file.")
        texts, words = _decode(texts, "text"), _decode(words, "words")
        post: dict[str, Any] = {"text": texts[0]} if texts else {}
        if words:
            post["words"] = words
        images, alone = form.getlist("images"), form.getlist("image")
        if len(alone) > 1 or (images and alone):
            raise RequestError(422, "Expected fields images, or one field image, got several of them or both.")
        images += alone
        post["images"] = [image if isinstance(image, str) else await image.read() for image in images]
    return post
