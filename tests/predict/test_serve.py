import base64
import concurrent.futures
import http.client
import importlib.util
import io
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import psutil
import pytest
import uvicorn
from factories import make_model
from PIL import Image, PngImagePlugin
from systems import make_system
from web import free_port

from smcl import MultiImageNERPipeline, images_smcl
from smcl.baselines.text_only import TextProcessor
from smcl.images_smcl import ImageError
from smcl.predict import serve, serve_requests
from smcl.predict.serve import Limits, make_app

TEXTS = ("joey and niko", "the light", "and", "niko " * 70, "ein Bär \u2764 \U0001f600", "")
LIMITS = Limits(characters=2000, pixels=4000, body=300_000, posts=5)


def png(size=(8, 6), colour="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


PNG = png()


def make_posts(count: int) -> list[tuple[dict, dict]]:
    """Posts as the pipeline takes them, and the same as they are sent."""
    draw, pairs = random.Random(0), []
    for number in range(count):
        images = [png(colour=(draw.randrange(256), 90, 30)) for _ in range(number % 4)]
        text = draw.choice(TEXTS)
        text = text.split() if number % 5 == 4 else text
        key = "words" if isinstance(text, list) else "text"
        forms = (base64_of, lambda data: f"data:image/png;base64,{base64_of(data)}")
        sent = {key: text, "images": [draw.choice(forms)(image) for image in images]}
        pairs.append(({"text": text, "images": images}, sent))
    return pairs


def hostile(number: int) -> tuple[bytes, set[int]]:
    """A body that no server should stumble over, and the statuses that are right."""
    bodies = [
        (b"{", {400}),
        (b"[" * 100_000, {400}),
        (b"\xff\xfe\x00", {400}),
        (b"9" * 10_000, {400, 422}),
        (json.dumps({"text": "a " * 2000}).encode(), {422}),
        (json.dumps({"text": "a", "images": ["/etc/passwd"]}).encode(), {422}),
        (json.dumps({"text": "a", "images": ["http://127.0.0.1/x.png"]}).encode(), {422}),
        (json.dumps({"text": "a", "images": [base64_of(png((100, 100)))]}).encode(), {422}),
        (json.dumps({"text": "a", "images": [base64_of(PNG[:45])]}).encode(), {422}),
        (json.dumps({"text": "a", "images": [base64_of(PNG)] * 5}).encode(), {422}),
        (json.dumps({"text": "\ud83d", "images": []}).encode(), {422}),
        (json.dumps({"text": "a", "\ud83d": 1}).encode(), {422}),
        (json.dumps({"text": "a" * 400_000}).encode(), {413}),
        (json.dumps(["a"] * 6).encode(), {422}),
        (b'{"text": "a", "text": "b"}', {400}),
        ('{"text": "a"}'.encode("utf-16"), {400}),
        (json.dumps({"text": {"a": 1}, "images": 3}).encode(), {422}),
    ]
    return bodies[number % len(bodies)]


class Client:
    """Asks a server on this machine."""

    def __init__(self, port: int):
        self.port = port

    def ask(self, method: str, path: str, body=None, **headers) -> tuple[int, object, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = json.dumps(body) if body is not None and not isinstance(body, bytes) else body
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        data, kind = answer.read(), answer.headers.get_content_type()
        connection.close()
        return answer.status, json.loads(data) if kind == "application/json" else data.decode(), dict(answer.headers)

    def post(self, path: str, body, **headers) -> tuple[int, object]:
        return self.ask("POST", path, body, **headers)[:2]


@pytest.fixture(scope="module")
def pipe(processor) -> MultiImageNERPipeline:
    return MultiImageNERPipeline(make_model(), processor)


def start(pipe, **settings):
    app = make_app(pipe, limits=LIMITS, **settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    return app.state.service, Client(port), lambda: (setattr(server, "should_exit", True), thread.join())


@pytest.fixture(scope="module")
def served(pipe):
    service, client, stop = start(pipe)
    yield service, client
    stop()


@pytest.fixture
def client(served) -> Client:
    return served[1]


def same(found: dict, expected: dict) -> None:
    """Compare an answer with the pipeline's: equal but for rounding in other batches."""
    assert {name: found[name] for name in ("words", "tags", "skipped_images")} == {
        name: expected[name] for name in ("words", "tags", "skipped_images")
    }
    for entity, other in zip(found["entities"], expected["entities"], strict=True):
        assert entity["score"] == pytest.approx(other["score"], abs=1e-4)
        assert entity | {"score": 0} == other | {"score": 0, "words": list(other["words"])}


def test_a_post_or_a_list_in_any_form_is_answered_as_the_pipeline_does(client, pipe):
    pairs = make_posts(5)
    expected = [pipe(post, return_tags=True) for post, _ in pairs]
    for (_, sent), right in zip(pairs, expected, strict=True):
        status, found = client.post("/predict", sent)
        assert status == 200
        same(found, right)
    status, found = client.post("/predict", [sent for _, sent in pairs])
    assert status == 200
    for answer, right in zip(found, expected, strict=True):
        same(answer, right)
    status, found = client.post("/predict", "joey and niko")
    same(found, pipe("joey and niko", return_tags=True))
    status, found = client.post("/predict", {"text": "joey", "image": base64_of(PNG)})
    same(found, pipe({"text": "joey", "images": [PNG]}, return_tags=True))
    assert client.post("/predict?threshold=1", pairs[0][1])[1]["entities"] == []


def form(parts: list[tuple[str, str | bytes]]) -> tuple[bytes, str]:
    border, body = uuid.uuid4().hex, b""
    for name, value in parts:
        file = '; filename="a.png"' if isinstance(value, bytes) else ""
        body += f'--{border}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + f"--{border}--\r\n".encode(), f"multipart/form-data; boundary={border}"


def test_a_form_with_files_is_answered_as_the_pipeline_does(client, pipe):
    images = [png(colour="blue"), png(colour="green")]
    right = pipe({"text": "joey and niko", "images": images}, return_tags=True)
    for texts in ([("text", "joey and niko")], [("words", word) for word in ("joey", "and", "niko")]):
        body, kind = form([*texts, *(("images", image) for image in images)])
        status, found = client.post("/predict", body, content_type=kind)
        assert status == 200
        same(found, right)
    for parts in ([("text", "a"), ("x", "y")], [("text", "a"), ("text", "b")], [("text", b"a")]):
        body, kind = form(parts)
        assert client.post("/predict", body, content_type=kind)[0] == 422
    assert client.post("/predict", b"", content_type="multipart/form-data")[0] == 400
    assert client.post("/predict", b"text", content_type="text/plain")[0] == 415


def test_a_form_that_is_cut_off_is_refused(client):
    body, kind = form([("text", "joey"), ("images", PNG), ("images", png(colour="blue"))])
    assert client.post("/predict", body, content_type=kind)[0] == 200
    for size in (len(body) - 6, len(body) - 60, 120, 0):
        status, found = client.post("/predict", body[:size], content_type=kind)
        assert (status, found["detail"]) == (
            400,
            "Expected a form that ends with its closing boundary: it was cut off.",
        )


def test_a_form_that_is_cut_off_is_refused_though_its_text_looks_like_an_end(client):
    body, kind = form([("text", "joey"), ("images", PNG)])
    border = kind.partition("=")[2].encode()
    body = body.replace(b"joey", b"joey --" + border + b"-- niko")
    assert client.post("/predict", body, content_type=kind)[1]["words"][-1] == "niko"
    assert client.post("/predict", body[:-60], content_type=kind)[0] == 400


def test_images_of_a_form_keep_their_order_or_are_refused(client):
    for names in (("image", "images"), ("image", "image")):
        body, kind = form([("text", "joey"), *((name, PNG) for name in names)])
        status, found = client.post("/predict", body, content_type=kind)
        assert status == 422 and "Expected fields images, or one field image" in found["detail"]


def test_a_large_png_is_refused_whatever_texts_it_has(client):
    buffer, texts = io.BytesIO(), PngImagePlugin.PngInfo()
    texts.add_text("comment", "a" * 2 * PngImagePlugin.MAX_TEXT_CHUNK, zip=True)
    Image.new("L", (100, 100)).save(buffer, "PNG", pnginfo=texts)
    status, found = client.post("/predict", {"text": "joey", "images": [base64_of(buffer.getvalue())]})
    assert status == 422 and "at most 4000 pixels, got 100 x 100" in found["detail"]


def test_answers_do_not_repeat_what_is_long(client):
    for post in ({"words": [["x" * 200_000]]}, {"words": [{"x" * 200_000: 1}]}):
        status, found = client.post("/predict", post)
        assert status == 422 and len(found["detail"]) < 500
    status, found = client.post("/predict", b'{"%s": 1, "%s": 2}' % ((b"x" * 100_000,) * 2))
    assert status == 400 and len(found["detail"]) < 500


def test_a_host_is_asked_for_no_more_images_than_are_read_and_once_for_each(pipe, monkeypatch):
    asked = []

    def download(url, allow_private):
        asked.append(url)
        raise ImageError("the host says no")

    monkeypatch.setattr(images_smcl, "_download", download)
    queue = serve.Service(pipe, allow_urls=True).queue
    queue.reserve(3)
    post = {"text": "joey", "images": [f"https://example.org/{number}.png" for number in range(100)]}
    with pytest.raises(ValueError, match="has 100 images, but `max_images` is 4"):
        queue.tag(post).result(30)
    assert not asked
    with pytest.raises(ValueError, match="image 0: .*the host says no"):
        queue.tag(post, on_extra_images="first").result(30)
    assert len(asked) == 4
    found = queue.tag(post, on_extra_images="first", on_bad_image="skip").result(30)
    assert len(asked) == 8 and len(found["skipped_images"]) == 4 and "the host says no" in found["skipped_images"][0]
    queue.close()


@pytest.mark.parametrize("on_extra_images", ["error", "first"])
def test_a_model_that_reads_text_alone_is_served_posts_with_images(processor, on_extra_images):
    pipe = MultiImageNERPipeline(make_system("bert-crf"), TextProcessor(processor.tokenizer))
    queue = serve.Service(pipe).queue
    queue.reserve(1)
    post = {"text": "joey and niko", "images": [base64_of(PNG)] * 9}
    found = queue.tag(post, on_extra_images=on_extra_images).result(30)
    assert found == pipe("joey and niko", return_tags=True)
    queue.close()


@pytest.mark.parametrize("charset", ["", "; charset=latin-1", "; charset=foo", "; charset=utf-8"])
def test_texts_of_forms_are_read_as_utf_8_or_refused(client, charset):
    body, kind = form([("text", "saw Köln “x” 👍")])
    status, found = client.post("/predict", body, content_type=kind + charset)
    assert (status, found["words"]) == (200, ["saw", "Köln", "“", "x", "”", "👍"])
    body = body.replace("ö".encode(), b"\xf6")
    status, found = client.post("/predict", body, content_type=kind + charset)
    assert status == 400 and "Expected the field text in UTF-8" in found["detail"]


def test_unknown_names_in_the_query_are_refused(client):
    for path in ("/predict?treshold=0.9", "/explain?threshold=0.9"):
        status, found = client.post(path, {"text": "joey"})
        assert status == 422 and "in the query, got" in found["detail"]
    status, found = client.post("/predict?threshold=0&threshold=1", {"text": "joey"})
    assert status == 422 and "each name in the query once" in found["detail"]


def test_an_address_that_can_not_be_had_is_said_before_the_model_is_loaded(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        used = str(taken.getsockname()[1])
        for host, port in (("127.0.0.1", used), ("203.0.113.1", "0"), ("no.such.host.invalid", "0")):
            with pytest.raises(SystemExit):
                serve.main(["--model", "none", "--host", host, "--port", port])
            assert f"--host {host} --port {port} can't be listened at: " in capsys.readouterr().err


def test_an_upload_that_is_broken_off_leaves_no_traceback(served, caplog):
    service, client = served
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    counter = service.answers.labels("/predict", 400)
    before = counter._value.get()
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head + b'{"text":')
    end = time.monotonic() + 20
    while counter._value.get() == before and time.monotonic() < end:
        time.sleep(0.01)
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert counter._value.get() == before + 1 and not caplog.records


def test_an_explanation_is_that_of_the_pipeline(client, pipe):
    status, found = client.post("/explain?patch_grid=2", {"text": "joey and niko", "images": [base64_of(PNG)]})
    right = pipe.explain({"text": "joey and niko", "images": [PNG]}, patch_grid=2)
    assert status == 200
    assert found["types"] == right.types
    for entity, other in zip(found["entities"], right.entities, strict=True):
        assert entity["entity"]["word"] == other.entity["word"]
        assert entity["score_without_images"] == pytest.approx(other.score_without_images, abs=1e-4)
        assert entity["images"][0]["patch_effects"] == pytest.approx(other.images[0].patch_effects, abs=1e-3)
    assert client.post("/explain", ["a"])[0] == 422
    assert client.post("/explain?patch_grid=99", {"text": "a"})[0] == 422


def test_hostile_bodies_are_refused_by_one_line_each(client):
    for number in range(15):
        body, right = hostile(number)
        status, found = client.post("/predict", body)
        assert status in right, (body[:80], status, found)
        assert found.keys() == {"detail"}
        assert "Traceback" not in found["detail"]
    assert client.post("/predict", {"text": "joey"})[0] == 200


def test_errors_of_images_tell_nothing_about_this_machine(client, tmp_path):
    (tmp_path / "photo.png").write_bytes(PNG)
    places = [str(tmp_path / "photo.png"), str(tmp_path / "none.png"), "/etc/passwd", "http://localhost/x.png"]
    places += [f"http://127.0.0.1:{client.port}/healthz", "file:///etc/passwd"]
    details = set()
    for place in places:
        for image in (place, {"bytes": place, "path": None}, {"bytes": None, "path": place}):
            status, found = client.post("/predict", {"text": "joey", "images": [image]})
            assert status == 422
            details.add(found["detail"].partition("can't be used: ")[2])
    assert len(details) == 1


def test_a_bad_post_of_a_list_is_named_or_answered_in_place(client):
    posts = [{"text": "joey"}, {"text": "a", "images": ["x"]}, {"words": ["niko"]}]
    status, found = client.post("/predict", posts)
    assert (status, found["detail"][:20]) == (422, "Post 1 of the list: ")
    status, found = client.post("/predict?on_error=return", posts)
    assert status == 200
    assert [list(result)[0] for result in found] == ["entities", "error", "entities"]
    skipped = client.post("/predict?on_bad_image=skip", posts[1])[1]["skipped_images"]
    assert len(skipped) == 1
    assert client.post("/predict?on_bad_image=guess", posts[0])[0] == 422


def test_health_metrics_and_the_description_are_there(client):
    client.post("/predict", {"text": "joey"})
    client.post("/predict", b"{")
    assert client.ask("GET", "/healthz")[:2] == (200, {"status": "ok"})
    text = client.ask("GET", "/metrics")[1]
    assert 'smcl_requests_total{path="/predict",status="400"}' in text
    assert "smcl_batch_size_bucket" in text
    assert "smcl_posts_in_work 0.0" in text
    paths = client.ask("GET", "/openapi.json")[1]["paths"]
    assert paths.keys() == {"/predict", "/explain", "/healthz", "/metrics"}
    assert paths["/predict"]["post"]["requestBody"]["content"].keys() == {"application/json", "multipart/form-data"}
    assert client.ask("GET", "/docs")[0] == 200
    assert client.ask("GET", "/nothing")[:2] == (404, {"detail": "Not Found"})


def test_beyond_the_queue_requests_are_asked_to_come_again(pipe, monkeypatch):
    service, client, stop = start(pipe, max_posts=2)
    gate, tag = threading.Event(), service.queue._forward
    monkeypatch.setattr(service.queue, "_forward", lambda windows: (gate.wait(), tag(windows))[1])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.post, "/predict", {"text": "joey"}) for _ in range(2)]
        while service.queue.in_work < 2:
            time.sleep(0.01)
        status, found, headers = client.ask("POST", "/predict", {"text": "niko"})
        assert (status, headers["retry-after"]) == (429, "1")
        assert "2 posts in work" in found["detail"]
        assert client.ask("GET", "/healthz")[0] == 200
        gate.set()
        assert [future.result()[0] for future in held] == [200, 200]
    status, found = client.post("/predict", ["a", "b", "c"])
    assert (status, found["detail"]) == (422, "Expected at most 2 posts in a list, got 3.")
    assert client.post("/predict", ["a", "b"])[0] == 200
    assert service.queue.in_work == 0
    stop()


def test_posts_that_come_together_share_batches_and_wait_no_longer_than_that(pipe):
    sizes = []
    queue = serve.TaggingQueue(pipe, on_batch=sizes.append)
    futures = [queue.tag({"text": "joey and niko"}) for _ in range(8) if queue.reserve() is None]
    assert len({json.dumps(future.result()["tags"]) for future in futures}) == 1
    assert len(sizes) < 8
    queue.close()


def test_a_post_that_the_model_fails_on_takes_no_other_with_it(pipe, monkeypatch):
    queue = serve.TaggingQueue(pipe, wait_seconds=0.5)
    forward = queue._forward

    def fail(windows):
        if any("niko" in window["post"].text for window in windows):
            raise RuntimeError("out of memory")
        return forward(windows)

    monkeypatch.setattr(queue, "_forward", fail)
    queue.reserve(3)
    futures = [queue.tag({"text": text}) for text in ("joey", "niko", "and")]
    with pytest.raises(serve.ModelError, match="the server's log says why"):
        futures[1].result()
    assert [futures[i].result()["words"] for i in (0, 2)] == [["joey"], ["and"]]
    queue.close()


def test_a_post_that_is_given_up_before_it_is_read_takes_no_other_with_it(pipe):
    begin = threading.Event()
    queue = serve.TaggingQueue(pipe, num_readers=1, check=lambda post: post if begin.wait(60) else None)
    queue.reserve(3)
    futures = [queue.tag({"text": text}) for text in ("joey", "niko", "and")]
    assert futures[1].cancel()
    begin.set()
    assert [futures[i].result(60)["words"] for i in (0, 2)] == [["joey"], ["and"]]
    queue.close()
    assert not queue.worker.is_alive()


def test_a_slow_host_of_images_holds_up_no_other_post(pipe, monkeypatch):
    answers = threading.Event()
    monkeypatch.setattr(serve, "fetch_image", lambda image, **allowed: answers.wait(60) and b"no image")
    queue = serve.Service(pipe, allow_urls=True).queue
    queue.reserve(2)
    slow = queue.tag({"text": "joey", "images": ["https://example.org/a.png"]})
    assert queue.tag({"text": "niko"}).result(30)["words"] == ["niko"]
    assert not slow.done()
    answers.set()
    with pytest.raises(ValueError, match="image"):
        slow.result(30)
    queue.close()


def test_explanations_beside_tagging_change_nothing(served, pipe):
    _, client = served
    pairs = make_posts(6)
    expected = [pipe(post, return_tags=True) for post, _ in pairs]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        explained = [pool.submit(client.post, "/explain", sent) for _, sent in pairs]
        tagged = [pool.submit(client.post, "/predict", sent) for _, sent in pairs]
    assert {future.result()[0] for future in explained} == {200}
    for future, right in zip(tagged, expected, strict=True):
        same(future.result()[1], right)


def test_a_request_that_drips_in_is_given_up(served, monkeypatch):
    monkeypatch.setattr(serve_requests, "READ_SECONDS", 0.3)
    service, client = served
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b"408" in connection.recv(1000)
    assert service.queue.in_work == 0


def test_a_missing_package_is_said_before_anything_is_loaded(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "uvicorn" else find(name, *more)
    )
    monkeypatch.setattr(serve, "load_pipeline", lambda name: pytest.fail("loaded"))
    with pytest.raises(SystemExit) as caught:
        serve.main(["--model", "anything"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith('not installed (uvicorn): pip install "smcl[serve]"')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch_size", "0"], "--batch_size must be at least 1"),
        (["--max_body", "0"], "limit of body"),
        (["--port", "70000"], "--port must be a number from 0 to 65535, got 70000"),
        (["--device", "foo"], "`device` 'foo' can't be used"),
        ([], "nothing"),
    ],
)
def test_arguments_that_cannot_be_used_are_said_in_one_line(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        serve.main(["--model", str(tmp_path / "nothing"), *arguments])
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pipe) -> str:
    folder = tmp_path_factory.mktemp("served")
    pipe.save_pretrained(folder)
    return str(folder)


def test_under_load_nothing_is_wrong_lost_or_kept_until_the_last_answer(folder, pipe):
    port = free_port()
    command = [sys.executable, "-m", "smcl.predict.serve", "--model", folder, "--port", str(port)]
    command += ["--max_pixels", "4000", "--max_body", "300000", "--max_characters", "2000", "--max_posts", "5"]
    server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    client, pairs = Client(port), make_posts(40)
    expected = [pipe(post, return_tags=True) for post, _ in pairs]
    end = time.monotonic() + 120
    while True:
        try:
            client.ask("GET", "/healthz")
            break
        except OSError:
            assert server.poll() is None, server.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)

    def load(number: int) -> None:
        if number % 4 == 3:
            body, right = hostile(number // 4)
            assert client.post("/predict", body)[0] in right
        status, found = client.post("/predict", pairs[number][1])
        assert status == 200
        same(found, expected[number])

    sent, answered = threading.Semaphore(0), []

    def last(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/predict", json.dumps(pairs[number][1]))
        sent.release()
        answer = connection.getresponse()
        answered.append((number, answer.status, json.loads(answer.read())))

    # Clients that know HTTP/2, Java's among them, offer it so.
    offer = {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAM"}
    assert client.post("/predict", pairs[0][1], **offer)[0] == 200
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(load, range(40)))
        before = psutil.Process(server.pid).memory_info().rss
        list(pool.map(load, range(40)))
        assert psutil.Process(server.pid).memory_info().rss < before + 20 * 2**20
        lasting = [pool.submit(last, number) for number in range(8)]
        for _ in lasting:
            sent.acquire()
        server.send_signal(signal.SIGTERM)
        for future in lasting:
            future.result()
    assert server.wait(timeout=30) in (0, -signal.SIGTERM)
    server.stderr.close()
    assert len(answered) == 8
    for number, status, found in answered:
        assert status == 200
        same(found, expected[number])
