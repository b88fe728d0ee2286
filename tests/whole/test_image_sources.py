"""Where images may be taken from: the image itself, paths, addresses of public hosts and of private ones."""

import base64
import http.server
import io
import os
import socket
import threading
import urllib.parse
from pathlib import Path

import pytest
from factories import make_model
from PIL import Image
from systems import make_context, make_system, own_processor

from smcl import MultiImageNERPipeline, images_smcl
from smcl.baselines.ita import ITAProcessor
from smcl.images_smcl import ImageError, decode_base64, fetch_image, load_image, take_images

REFUSED = {"allow_paths": False, "allow_urls": False}
PRIVATE = (
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "localhost",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "2852039166",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:a9fe:a9fe]",
    "[fe80::1]",
    "[fec0::1]",
    "[fd00:ec2::254]",
    "[64:ff9b::10.0.0.1]",
    "[2002:7f00:1::]",
    "[ff02::1]",
)


def png(colour="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
TEXT = base64.b64encode(PNG).decode()


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with an image, or sends to the address that the query names."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        target = urllib.parse.unquote(self.path.partition("?to=")[2])
        self.send_response(302 if target else 200)
        if target:
            self.send_header("Location", target)
        self.end_headers()
        self.wfile.write(b"" if target else PNG)

    def log_message(self, *args):
        pass


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(images_smcl, "is_offline_mode", lambda: False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def server(online, monkeypatch):
    """A server on this machine; `port` is its own."""
    monkeypatch.setattr(Server, "asked", [])
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def connections(monkeypatch):
    """Attempts to connect; none gets through."""
    attempts = []

    def refuse(address, *settings, **more):
        attempts.append(address)
        raise OSError("no way out")

    monkeypatch.setattr(socket, "create_connection", refuse)
    return attempts


@pytest.fixture(scope="module")
def pipe(processor) -> MultiImageNERPipeline:
    return MultiImageNERPipeline(make_model(), processor)


def message(image, **allowed) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(image, **allowed)
    return str(caught.value)


def reason(image, **allowed) -> str:
    """Why an image is not taken, without the name that it was given."""
    return message(image, **allowed).partition(" can't be used: ")[2]


# The image itself


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/png;BASE64,{TEXT}",
        f"data:;base64,{TEXT.rstrip('=')}",
        f"data:image/png;charset=x; base64,{TEXT[:40]}\n {TEXT[40:]}",
        f"data:image/png;base64,{urllib.parse.quote(TEXT, safe='')}",
        f"data:image/png,{urllib.parse.quote_from_bytes(PNG)}",
        f"data:image/jpeg;base64,{base64.urlsafe_b64encode(PNG).decode()}",
    ],
)
def test_data_uris_are_read_also_where_nothing_else_is(uri):
    image = load_image(uri, **REFUSED)
    assert (image.size, image.getpixel((0, 0))) == ((8, 6), (255, 0, 0))


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("data:image/png;base64", "can't be used: no comma ends its head"),
        ("data:image/png;base64,!!!", "can't be used: it is no base64"),
        ("data:image/png;base64,abcde", "can't be used: it is no base64"),
        ("data:image/png;base64,bild\u00fc", "can't be used: it is no base64|is no image"),
        (f"data:text/plain;base64,{base64.b64encode(b'hello').decode()}", "is no image"),
        ("data:,", "is no image"),
    ],
)
def test_data_uris_that_are_no_image_are_named_and_not_repeated(uri, why):
    with pytest.raises(ImageError, match=f"^the image of a data URI {why}"):
        load_image(uri)


def test_base64_that_has_been_cut_is_refused():
    assert decode_base64(TEXT) == PNG
    with pytest.raises(ValueError, match="it is no base64"):
        decode_base64(TEXT.rstrip("=")[:-3] + "*")


def test_images_as_content_are_taken_where_nothing_else_is(photo):
    for image in (PNG, photo, {"bytes": PNG, "path": "name.png"}, f"data:,{urllib.parse.quote_from_bytes(PNG)}"):
        assert load_image(image, **REFUSED).mode == "RGB"


# Paths


def test_refused_paths_are_not_looked_at_and_their_errors_are_all_alike(tmp_path, monkeypatch):
    (tmp_path / "photo.png").write_bytes(PNG)
    missing = str(tmp_path / "nothing.png")
    places = [str(tmp_path / "photo.png"), tmp_path / "photo.png", missing, str(tmp_path), "/etc/passwd", "a\0b", ""]
    places += ["file:///etc/passwd", "~/photo.png", "x" * 5000, "http:/x", "ftp://h/x.png", "photo.PNG"]
    places += [{"bytes": missing, "path": None}, {"bytes": "/etc/passwd", "path": "x"}]
    places += [{"bytes": None, "path": missing}, {"bytes": None, "path": str(tmp_path / "photo.png")}]

    def spy(*args, **kwargs):
        raise AssertionError(f"looked at {args}")

    for place in (os.path, "isfile"), (os.path, "isdir"), (os, "scandir"), (os, "stat"), (Path, "exists"):
        monkeypatch.setattr(*place, spy)
    monkeypatch.setattr("builtins.open", spy)
    reasons = {reason(place, **REFUSED) for place in places}
    reasons |= {reason(place, **REFUSED) for place in ("http://127.0.0.1/x.png", "https://example.org/x.png")}
    monkeypatch.undo()
    assert reasons == {
        "expected the image itself (its bytes, a PIL image or a data URI). Nothing else is opened or asked for here, "
        "unless `allow_paths`, `allow_urls` and `allow_private_urls` say so."
    }


def test_paths_are_read_where_nothing_is_said(tmp_path):
    (tmp_path / "photo.png").write_bytes(PNG)
    assert load_image(tmp_path / "photo.png").size == (8, 6)
    assert "found nothing; there is 'photo.png'" in message(str(tmp_path / "photo.jpg"))


# Addresses


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_not_connected_to_in_any_form(host, online, connections):
    expected = reason("name.png", allow_paths=False)
    assert "an http(s) URL whose host is a public one" in expected
    for address in (f"http://{host}/x.png", f"https://{host}:8443/x.png", f"HTTP://me@{host}/x.png"):
        assert reason(address, allow_paths=False) == expected
    assert connections == []


def look_up(**hosts):
    """A `getaddrinfo` that knows these hosts, by one list of numbers for each time that it is asked."""

    def answer(host, port, *settings, **more):
        if host not in hosts:
            raise socket.gaierror(-2, "Name or service not known")
        numbers = hosts[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, port)) for number in numbers]

    return answer


def test_names_are_judged_by_what_they_lead_to_and_connected_to_by_that(online, connections, monkeypatch):
    hosts = {"public": [["93.184.215.14"]], "inside": [["10.1.2.3"]], "both": [["93.184.215.14", "10.1.2.3"]]}
    hosts["turning"] = [["93.184.215.14"], ["127.0.0.1"]]
    monkeypatch.setattr(socket, "getaddrinfo", look_up(**hosts))
    refused = {reason(f"http://{name}/x.png") for name in ("inside", "both", "unknown")}
    assert len(refused) == 1
    assert connections == []
    for name in ("public", "turning"):
        assert "the download failed: <urlopen error no way out>" in message(f"http://{name}/x.png")
    # The second look-up, which would lead elsewhere, is never made.
    assert connections == [("93.184.215.14", 80)] * 2
    assert len(hosts["turning"]) == 1


def test_each_number_of_a_host_is_tried(online, monkeypatch):
    tried = []

    def connect(address, *settings):
        tried.append(address)
        raise OSError(f"{address[0]} is away")

    numbers = ["93.184.215.14", "2606:2800:21f::1", "93.184.215.15"]
    monkeypatch.setattr(socket, "getaddrinfo", look_up(public=[numbers]))
    monkeypatch.setattr(socket, "create_connection", connect)
    assert "93.184.215.15 is away" in message("http://public/x.png")
    assert tried == [(number, 80) for number in numbers]


def test_private_addresses_are_fetched_where_that_is_asked_for(server):
    address = f"http://127.0.0.1:{server.server_port}/photo.png"
    assert reason(address) == reason("http://unknown.invalid/x.png")
    assert Server.asked == []
    assert load_image(address, allow_private_urls=True).size == (8, 6)
    assert fetch_image(address, allow_private_urls=True) == {"bytes": PNG, "path": address}
    Server.asked.clear()
    # That URLs are refused at all goes before.
    assert reason(address, allow_private_urls=True, **REFUSED) == reason("x", allow_private_urls=True, **REFUSED)
    assert Server.asked == []


@pytest.mark.parametrize("to", ["http://127.0.0.2:{}/x.png", "http://2130706434:{}/x.png", "http://[::1]:{}/x.png"])
def test_redirects_into_private_networks_are_refused_like_these_themselves(server, monkeypatch, to):
    is_public = images_smcl._is_public
    # The server stands for a public one.
    monkeypatch.setattr(images_smcl, "_is_public", lambda number: number == "127.0.0.1" or is_public(number))
    start = f"http://127.0.0.1:{server.server_port}"
    assert load_image(f"{start}/photo.png").size == (8, 6)
    assert load_image(f"{start}/a?to={urllib.parse.quote(start + '/photo.png')}").size == (8, 6)
    Server.asked.clear()
    target = to.format(server.server_port)
    assert reason(f"{start}/a?to={urllib.parse.quote(target)}") == reason(target)
    assert len(Server.asked) == 1


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://127.0.0.1/x.png", "data:image/png;base64,AAAA"])
@pytest.mark.parametrize("allow_private_urls", [False, True])
def test_redirects_lead_to_web_addresses_alone(server, monkeypatch, to, allow_private_urls):
    monkeypatch.setattr(images_smcl, "_is_public", lambda number: True)
    address = f"http://127.0.0.1:{server.server_port}/a?to={urllib.parse.quote(to)}"
    assert "the download failed" in message(address, allow_private_urls=allow_private_urls)


def test_behind_a_proxy_nothing_is_taken_for_public(online, connections, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    assert "this machine reaches others by a proxy" in message("http://93.184.215.14/x.png")
    assert connections == []
    message("http://93.184.215.14/x.png", allow_private_urls=True)
    assert connections == [("proxy.invalid", 3128)]
    monkeypatch.setenv("no_proxy", "93.184.215.14")
    message("http://93.184.215.14/x.png")
    assert connections[1:] == [("93.184.215.14", 80)]


@pytest.mark.parametrize(
    "number", ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::"]
)
def test_public_addresses_are_told_from_private_ones(number):
    assert images_smcl._is_public(number)


# Posts


def test_the_pipeline_takes_where_images_may_be_from(pipe, processor, tmp_path):
    (tmp_path / "photo.png").write_bytes(PNG)
    path, content = str(tmp_path / "photo.png"), f"data:image/png;base64,{TEXT}"
    expected = pipe({"text": "joey and niko", "images": [PNG]})
    assert pipe({"text": "joey and niko", "images": [content]}, **REFUSED) == expected
    assert pipe({"text": "joey and niko", "image": content}) == expected
    strict = MultiImageNERPipeline(pipe.model, processor, **REFUSED)
    post = {"text": "joey and niko", "images": [content, path]}
    calls = (lambda: pipe(post, allow_paths=False), lambda: strict(post), lambda: strict.explain(post))
    for call in (*calls, lambda: pipe.explain(post, allow_paths=False)):
        with pytest.raises(ValueError, match="The post 'joey and niko', image 1: .*photo.png' can't be used: expected"):
            call()
    (result,) = strict([post], on_error="return")
    assert list(result) == ["error"]
    result = strict(post, on_bad_image="skip", return_tags=True)
    assert [*result["entities"]] == expected
    assert "Image 1: " in result["skipped_images"][0]
    with pytest.raises(ValueError, match="`allow_paths` must be one of False, True, got 'no'"):
        pipe(post, allow_paths="no")


@pytest.mark.parametrize("name", ["visualpt-moe", "umgf", "ita", "umt-mi"])
def test_systems_that_look_at_images_in_their_own_ways_open_none_that_is_refused(name, processor, tmp_path):
    (tmp_path / "photo.png").write_bytes(PNG)
    own = ITAProcessor(processor.tokenizer) if name == "ita" else own_processor(name, processor)
    pipe = MultiImageNERPipeline(make_system(name), own)
    post = {"text": "joey and niko", "images": [str(tmp_path / "photo.png")]}
    post |= {column: rows[0] for column, rows in make_context(pipe.processor.context_columns, [1]).items()}
    pipe.explain(post)
    with pytest.raises(ValueError, match="photo.png' can't be used: expected the image itself"):
        pipe.explain(post, **REFUSED)
    pipe.explain({**post, "images": [PNG]}, **REFUSED)


def test_an_address_is_fetched_once_however_long_the_post(pipe, server):
    address = f"http://127.0.0.1:{server.server_port}/photo.png"
    text = "joey and niko rest " * 40
    found = pipe({"text": text, "images": [address]}, allow_private_urls=True)
    assert Server.asked == ["/photo.png"]
    assert found == pipe({"text": text, "images": [PNG]})


def test_images_are_named_by_where_they_were_from():
    assert message({"bytes": b"no image", "path": "https://example.org/a.png"}).startswith(
        "'https://example.org/a.png'"
    )
    assert message({"bytes": b"no image", "path": None}).startswith("the image of 8 bytes")


def test_images_that_are_left_out_are_told(tmp_path):
    images, notes = take_images([PNG, str(tmp_path / "a.png"), b"no image"], skips=True, allow_paths=False)
    assert (list(images), len(notes)) == ([0], 2)
    assert notes[0].startswith("Image 1: ")
    with pytest.raises(ImageError, match="Post 0 of the batch, image 1"):
        take_images([PNG, str(tmp_path / "a.png")], allow_paths=False)
