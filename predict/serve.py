"""Serve a model by HTTP: posts in, entities out.

    python -m smcl.predict.serve --model FOLDER_OR_NAME [--host 127.0.0.1] [--port 8000]

`POST /predict` tags a post or a list of posts, `POST /explain` tells what the images of a post did; /docs describes
both, /healthz answers while the server does, /metrics is for Prometheus. Posts that come together share batches. What
comes in is bounded (see the arguments), images are taken as content alone, and on SIGTERM all that is in work is
answered first. Needs `pip install "smcl[serve]"`.
"""

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Annotated, Any, Literal

from transformers.utils import logging

from ..dataset_scripts.command_line import CommandParser
from ..images_smcl import MAX_IMAGE_PIXELS, ImageError, content_of, fetch_image, size_of
from ..pipeline_smcl import CHOICES, Explanation, MultiImageNERPipeline
from . import load_pipeline
from .handler import with_bytes
from .serve_queue import ModelError, QueueFullError, TaggingQueue
from .serve_requests import RequestError, read_request

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

logger = logging.get_logger(__name__)

PACKAGES = ("fastapi", "uvicorn", "multipart", "prometheus_client")
# On SIGTERM, connections are taken until none has brought a request for so long, but not for longer than that.
QUIET_SECONDS, DRAIN_SECONDS = 0.3, 5.0
# Then for answers to be made and read: who does not read its own keeps no server from stopping.
ANSWER_SECONDS = 60
MAX_PATCH_GRID = 6
URL_READERS = 8
OnBadImage, OnExtraImages, OnError = (Literal[CHOICES[f"on_{name}"]] for name in ("bad_image", "extra_images", "error"))
KEYS = ("text", "words", "tokens", "images", "image")
IMAGES_SCHEMA = {
    "type": "array",
    "items": {"type": "string"},
    "description": "In the post's order: base64 of image files, or data URIs (data:image/png;base64,...).",
}
POST_SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "The post as it was written."},
        "words": {"type": "array", "items": {"type": "string"}, "description": "Or its words."},
        "images": IMAGES_SCHEMA,
        "image": {"type": "string", "description": "Or one image."},
    },
    "example": {"text": "i will never forget Verona", "images": []},
}
FORM_SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "words": {"type": "array", "items": {"type": "string"}},
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
    },
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may bring.

    Attributes:
        characters (`int`, *optional*, defaults to 10000): Of a text; of words, joined by spaces.
        pixels (`int`, *optional*, defaults to 2**25): Of an image.
        body (`int`, *optional*, defaults to 20 * 2**20): Bytes of a request.
        posts (`int`, *optional*, defaults to 32): Of a list.
    """

    characters: int = 10_000
    pixels: int = 2**25
    body: int = 20 * 2**20
    posts: int = 32

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"The limit of {name} must be at least 1, got {value}.")
        if self.pixels > MAX_IMAGE_PIXELS:
            raise ValueError(f"The limit of pixels must be at most {MAX_IMAGE_PIXELS}, got {self.pixels}.")


def check_installed() -> None:
    """See that the packages of the extra `serve` are there.

    Raises:
        ImportError: if one is missing; says how to get it.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join("python-multipart" if name == "multipart" else name for name in missing)
        raise ImportError(f'The server needs packages that are not installed ({names}): pip install "smcl[serve]"')


class Service:
    """What the server does with requests.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        limits ([`Limits`], *optional*): What a request may bring.
        allow_urls (`bool`, *optional*, defaults to `False`): Whether images may be URLs of public hosts.
        **settings: Those of [`TaggingQueue`].
    """

    def __init__(
        self, pipe: MultiImageNERPipeline, limits: Limits | None = None, allow_urls: bool = False, **settings: Any
    ):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.limits = limits or Limits()
        self.allowed = {"allow_paths": False, "allow_urls": allow_urls, "allow_private_urls": False}
        self.draining = False
        self.last_request = time.monotonic()
        self.registry = CollectorRegistry()
        sizes = Histogram("smcl_batch_size", "Windows computed at once.", buckets=(1, 2, 4, 8, 16, 32, 64, 128),
                          registry=self.registry)  # fmt: skip
        if allow_urls:
            # Readers then wait for other hosts, and one that does must not hold up the rest.
            settings = {"num_readers": URL_READERS} | settings
        self.queue = TaggingQueue(pipe, on_batch=sizes.observe, check=self._check, **settings)
        self.answers = Counter(
            "smcl_requests", "Answers by what was asked.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram("smcl_request_seconds", "Time to an answer.", ["path"], registry=self.registry)
        self.posts = Counter("smcl_posts", "Posts that were tagged.", registry=self.registry)
        waiting = Gauge("smcl_posts_in_work", "Posts that are read, wait or are computed.", registry=self.registry)
        waiting.set_function(lambda: self.queue.in_work)

    async def predict(self, request: "Request", threshold: float, on_error: str, settings: dict[str, str]) -> Any:
        """Answer `POST /predict`; see the page /docs."""
        with self._room() as room:
            posts = await read_request(request, self.limits.body)
            is_list = isinstance(posts, list)
            posts = posts if is_list else [posts]
            most = min(self.limits.posts, self.queue.max_posts)
            if len(posts) > most:
                raise RequestError(422, f"Expected at most {most} posts in a list, got {len(posts)}.")
            room(len(posts) - 1)
            futures = [self.queue.tag(post, threshold=threshold, **settings) for post in posts]
            tagged = await asyncio.gather(*map(self._attempt, futures))
        failed = [number for number, result in enumerate(tagged) if "error" in result]
        if failed and not (is_list and on_error == "return"):
            result = tagged[failed[0]]
            where = f"Post {failed[0]} of the list: " if is_list else ""
            raise RequestError(result["status"], where + result["error"])
        self.posts.inc(len(tagged) - len(failed))
        results = [{name: value for name, value in result.items() if name != "status"} for result in tagged]
        return results if is_list else results[0]

    async def explain(self, request: "Request", patch_grid: int, settings: dict[str, str]) -> dict[str, Any]:
        """Answer `POST /explain`; see the page /docs."""
        with self._room():
            post = await read_request(request, self.limits.body)
            if isinstance(post, list):
                raise RequestError(422, "Expected one post to explain, got a list.")
            result = await self._attempt(self.queue.explain(post, patch_grid=patch_grid, **settings))
        if isinstance(result, dict):
            raise RequestError(result["status"], result["error"])
        return explanation_to_json(result)

    @contextlib.contextmanager
    def _room(self):
        """Hold room for the posts of a request, at first for one; yields what makes room for more."""
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            try:
                self.queue.reserve(max(0, count))
            except QueueFullError:
                message = f"The server has {self.queue.max_posts} posts in work, which is all it takes. Try again soon."
                raise RequestError(429, message, {"Retry-After": "1"}) from None
            held += max(0, count)

        try:
            hold(1)
            yield hold
        finally:
            self.queue.release(held)

    async def _attempt(self, future: Future) -> Any:
        """Wait for what is made of a post; return it, or `{"error": ..., "status": ...}`."""
        try:
            return await asyncio.wrap_future(future)
        except ValueError as error:
            return {"error": str(error), "status": 422}
        except ModelError as error:
            return {"error": str(error), "status": 500}
        except Exception as error:
            logger.error("A post could not be worked on.", exc_info=error)
            return {"error": "the server failed on this post; its log says why", "status": 500}

    def _check(self, post: Any, on_extra_images: str = "error", **settings: Any) -> Any:
        """See that a post is within the limits; return it with the bytes of those images that are read."""
        if isinstance(post, str):
            post = {"text": post}
        if not isinstance(post, dict) or post.keys() - set(KEYS):
            found = sorted(map(str, post)) if isinstance(post, dict) else type(post).__name__
            raise ValueError(
                f"Expected a post with 'text' or 'words' and, if it has any, 'images', got {ascii(found)[:200]}."
            )
        texts = [name for name in ("text", "words", "tokens") if post.get(name) is not None]
        if len(texts) != 1:
            raise ValueError("Expected a post with 'text' or with 'words'.")
        text = post[texts[0]]
        if isinstance(text, list):
            length = sum(len(word) if isinstance(word, str) else 1 for word in text) + len(text)
        else:
            length = len(text) if isinstance(text, str) else 0
        if length > self.limits.characters:
            raise ValueError(f"Expected a text of at most {self.limits.characters} characters, got {length}.")
        post = with_bytes({"text": text} | {name: post[name] for name in ("images", "image") if name in post})
        if isinstance(post.get("images"), list):
            read = self._limit(post["images"], on_extra_images)
            post["images"] = [*map(self._fetch, read), *post["images"][len(read) :]]
        elif post.get("images") is not None:
            raise ValueError("Expected 'images' to be a list.")
        if post.get("image") is not None:
            post["image"] = self._fetch(post["image"])
        return post

    def _limit(self, images: list[Any], on_extra_images: str) -> list[Any]:
        """Return the images that the model reads; none if these are too many, which the pipeline says of the post."""
        try:
            return self.queue.pipe.processor.limit_images([images], on_extra_images)[0]
        except ValueError:
            return []

    def _fetch(self, image: Any) -> Any:
        """Take an image as content, and see how large it is before it is decoded."""
        try:
            image = fetch_image(image, **self.allowed)
        except ImageError as error:
            # Said by the pipeline, which knows what is to be done about it.
            return error
        content = content_of(image)
        width, height = (isinstance(content, bytes) and size_of(content)) or (0, 0)
        if width * height > self.limits.pixels:
            raise ValueError(f"Expected images of at most {self.limits.pixels} pixels, got {width} x {height}.")
        return image


class Meter:
    """Count answers, and the time that they take.

    Args:
        app (`Callable`): The application, as ASGI has it.
        service ([`Service`]): Holds the counters.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        self.service.last_request = start = time.monotonic()
        path = scope["path"] if scope["path"] in ("/predict", "/explain") else "other"

        async def count_and_send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.service.answers.labels(path, message["status"]).inc()
                self.service.seconds.labels(path).observe(time.monotonic() - start)
            await send(message)

        await self.app(scope, receive, count_and_send)


def explanation_to_json(explanation: Explanation) -> dict[str, Any]:
    """Write an explanation as JSON can be; images are left out, since whoever asks has them."""
    entities = []
    for found in explanation.entities:
        images = [vars(image) | {"patch_effects": _to_list(image.patch_effects)} for image in found.images]
        entities.append({**vars(found), "images": images})
    return {
        "words": explanation.words,
        "types": explanation.types,
        "entities": entities,
        "fusion_attention": _to_list(explanation.fusion_attention),
        "guidance_attention": _to_list(explanation.guidance_attention),
        "skipped_images": explanation.skipped_images,
    }


def _to_list(values: Any) -> Any:
    return None if values is None else values.tolist()


def make_app(pipe: "MultiImageNERPipeline | str", **settings: Any) -> "FastAPI":
    """Build the application of the server.

    Args:
        pipe ([`MultiImageNERPipeline`] or `str`): The pipeline, or the folder or Hub name of a saved SMCL.
        **settings: Those of [`Service`]: `limits`, `allow_urls`, `batch_size`, `wait_seconds`, `max_posts`,
            `num_readers`.

    Returns:
        `FastAPI`: the application; its `state.service` is the [`Service`].

    Raises:
        ImportError: if a package of the extra `serve` is missing.
    """
    check_installed()
    # A form that is no form is told to its sender, not to the log.
    logging.get_logger("python_multipart").setLevel("ERROR")
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response
    from starlette.exceptions import HTTPException

    service = Service(load_pipeline(pipe, dtype="auto") if isinstance(pipe, str) else pipe, **settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.queue.close)

    about = "Named entities of posts with images, by SMCL (symmetric multi-image fusion with contrastive learning)."
    app = FastAPI(title="smcl", summary=about, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Meter, service=service)

    def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        # In ASCII: half a surrogate pair of a request may come back in a message.
        return Response(json.dumps(content), status, headers, media_type="application/json")

    @app.exception_handler(RequestError)
    async def refuse(request: "Request", error: RequestError) -> Response:
        return answer({"detail": str(error)}, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def refuse_arguments(request: "Request", error: RequestValidationError) -> Response:
        parts = [f"{part['loc'][-1]}: {part['msg']}" for part in error.errors()]
        return answer({"detail": ". ".join(parts)}, 422)

    @app.exception_handler(HTTPException)
    async def refuse_path(request: "Request", error: HTTPException) -> Response:
        return answer({"detail": error.detail}, error.status_code, error.headers)

    _add_routes(app, service, answer)
    return app


def _add_routes(app: "FastAPI", service: Service, answer: Callable[..., Any]) -> None:
    """Add what the server answers to."""
    import fastapi
    from fastapi import Query, Request, Response
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    bodies = {"application/json": {"schema": {"oneOf": [POST_SCHEMA, {"type": "array", "items": POST_SCHEMA}]}}}
    bodies["multipart/form-data"] = {"schema": FORM_SCHEMA}
    alone = bodies | {"application/json": {"schema": POST_SCHEMA}}
    refusals = {400: "No JSON, or no form.", 408: "The request came in too slowly.", 413: "The body is too large."}
    refusals |= {415: "Neither JSON nor a form.", 422: "The post can't be used; `detail` says why."}
    refusals |= {429: "Too many posts are in work; try again after `Retry-After` seconds.", 500: "The model failed."}
    responses = {status: {"description": text} for status, text in refusals.items()}

    def check_names(request: Request, *known: str) -> None:
        if unknown := sorted(request.query_params.keys() - set(known)):
            message = f"Expected {', '.join(known)} in the query, got {ascii(unknown)[:200]}."
            raise RequestError(422, message)
        if len(request.query_params.multi_items()) > len(request.query_params):
            raise RequestError(422, "Expected each name in the query once.")

    of_images = ("on_bad_image", "on_extra_images")

    @app.post("/predict", responses=responses, openapi_extra={"requestBody": {"content": bodies, "required": True}})
    async def predict(
        request: Request,
        threshold: Annotated[float, Query(ge=0, le=1, description="Leave out entities of a lower score.")] = 0.0,
        on_bad_image: OnBadImage = "error",
        on_extra_images: OnExtraImages = "error",
        on_error: OnError = "raise",
    ) -> Response:
        """Tag a post, or a list of posts.

        A post is answered by `entities` (`entity_group`, `word`, `start` and `end` in the text, `score`, first and last
        of the `words`), its `words`, their `tags`, and why images were left out; a list by a list. With
        `on_error=return`, a post of a list that can't be used is answered by `error`.
        """
        check_names(request, "threshold", "on_error", *of_images)
        settings = service.allowed | {"on_bad_image": on_bad_image, "on_extra_images": on_extra_images}
        return answer(await service.predict(request, threshold, on_error, settings))

    @app.post("/explain", responses=responses, openapi_extra={"requestBody": {"content": alone, "required": True}})
    async def explain(
        request: Request,
        patch_grid: Annotated[int, Query(ge=0, le=MAX_PATCH_GRID, description="Patches on a side of an image.")] = 0,
        on_bad_image: OnBadImage = "error",
        on_extra_images: OnExtraImages = "error",
    ) -> Response:
        """Tell what each image of a post did for each of its entities."""
        check_names(request, "patch_grid", *of_images)
        settings = service.allowed | {"on_bad_image": on_bad_image, "on_extra_images": on_extra_images}
        return answer(await service.explain(request, patch_grid, settings))

    @app.get("/healthz")
    async def healthz() -> Response:
        """Tell whether the server takes requests."""
        return answer({"status": "draining" if service.draining else "ok"}, 503 if service.draining else 200)

    @app.get("/metrics")
    async def metrics() -> fastapi.Response:
        """Count requests, batches and time for Prometheus."""
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)


def take_address(host: str, port: int) -> socket.socket:
    """Take an address to listen at, before anything is loaded.

    Args:
        host (`str`): The address.
        port (`int`): The port; 0 for any that is free.

    Returns:
        `socket.socket`: bound, not listening yet.

    Raises:
        ValueError: if it can't be had; says why.
    """
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        place.close()
        raise ValueError(
            f"--host {host} --port {port} can't be listened at: {error.strerror}. Choose an address of this machine, "
            "and a port that is free."
        ) from error
    return place


def run(app: "FastAPI", place: socket.socket) -> None:
    """Serve an application until SIGTERM or SIGINT, and then until all that came in is answered.

    Args:
        app (`FastAPI`): Of `make_app`.
        place (`socket.socket`): Of `take_address`.
    """
    import uvicorn

    service = app.state.service

    class Server(uvicorn.Server):
        async def main_loop(self) -> None:
            await super().main_loop()
            # Requests on their way are taken still, and told that no more go over their connection.
            service.draining = True
            self.server_state.default_headers.append((b"connection", b"close"))
            begin = time.monotonic()
            while not self.force_exit and (now := time.monotonic()) - begin < DRAIN_SECONDS:
                if not service.queue.in_work and now - max(begin, service.last_request) > QUIET_SECONDS:
                    break
                await asyncio.sleep(0.02)

    # h11, since httptools loses the body of a request that offers HTTP/2, as Java's client does with each.
    config = uvicorn.Config(app, http="h11", access_log=False, server_header=False)
    config.timeout_graceful_shutdown = ANSWER_SECONDS
    Server(config).run([place])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__)
    limits = Limits()
    parser.add_argument("--model", required=True, help="folder or Hub name of a saved SMCL")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at (%(default)s)")
    parser.add_argument("--device", help="where to compute, such as cuda:0 or cpu (a GPU, if there is one)")
    parser.add_argument("--batch_size", type=int, default=8, help="posts computed at once (%(default)s)")
    parser.add_argument("--max_queue", type=int, default=64, help="posts in work at most; beyond, 429 (%(default)s)")
    parser.add_argument("--max_posts", type=int, default=limits.posts, help="posts of a list (%(default)s)")
    parser.add_argument("--max_characters", type=int, default=limits.characters, help="of a text (%(default)s)")
    parser.add_argument("--max_pixels", type=int, default=limits.pixels, help="of an image (%(default)s)")
    parser.add_argument("--max_body", type=int, default=limits.body, help="bytes of a request (%(default)s)")
    parser.add_argument("--allow_urls", action="store_true", help="fetch images from URLs, of public hosts alone")
    given = parser.parse_args(argv)
    with parser.errors_in_one_line():
        check_installed()
        for name in ("batch_size", "max_queue"):
            if getattr(given, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(given, name)}.")
        if not 0 <= given.port <= 65535:
            raise ValueError(f"--port must be a number from 0 to 65535, got {given.port}.")
        limits = Limits(given.max_characters, given.max_pixels, given.max_body, given.max_posts)
        place = take_address(given.host, given.port)
        pipe = load_pipeline(given.model, dtype="auto", **({"device": given.device} if given.device else {}))
    settings = {"limits": limits, "allow_urls": given.allow_urls, "batch_size": given.batch_size}
    run(make_app(pipe, max_posts=given.max_queue, **settings), place)


if __name__ == "__main__":
    main()
