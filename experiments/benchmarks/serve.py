"""Compare the server's throughput with the pipeline's own, and see that under load nothing is wrong, lost or kept.

    python -m smcl.experiments.benchmarks.serve --model demo/model --dataset demo/data [--posts 500] [--clients 8]

The server runs in a process of its own. *Throughput*: posts of the test split, images as base64, by so many clients at
once, each of which waits for an answer before it asks again; and, in turn with that, a call of the pipeline with the
same posts at the same batch size. *Load*: the same again, with every fifth request a hostile one, each answer compared
with the pipeline's; then SIGTERM, while requests of all clients are on their way.
"""

import base64
import concurrent.futures
import http.client
import io
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil
import torch
from datasets import load_dataset

from smcl.dataset_scripts.command_line import run_main
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import markdown, written
from smcl.images_smcl import load_image
from smcl.pipeline_smcl import MultiImageNERPipeline
from smcl.predict import load_pipeline

from .measure import circumstances_line, save, summarise, take_turns, timing_parser

PIPELINE, SERVER = "pipeline", "server"
# Bodies that are refused, and as what.
HOSTILE = (
    (b"{", 400),
    (b"[" * 100_000, 400),
    (b'{"text": "' + b"a " * 10_000 + b'"}', 422),
    (b'{"text": "a", "images": ["/etc/passwd"]}', 422),
    (b'{"text": "a", "images": ["http://127.0.0.1/a.png"]}', 422),
    (b'{"text": "a", "images": ["iVBORw0KGgo="]}', 422),
    (b'{"text": "\\ud83d"}', 422),
    (b"x" * (21 * 2**20), 413),
)
TOLERANCE = 1e-4


def make_posts(dataset: str, count: int) -> list[dict]:
    """Take posts of a test split, again from the start where it has fewer; images as the bytes of PNG files."""
    posts = []
    for row in itertools.islice(itertools.cycle(load_dataset(dataset, split="test")), count):
        images = []
        for image in row["images"]:
            buffer = io.BytesIO()
            load_image(image).save(buffer, "PNG")
            images.append(buffer.getvalue())
        posts.append({"text": row["tokens"], "images": images})
    return posts


def to_body(post: dict) -> bytes:
    """Write a post as it is sent."""
    images = [base64.b64encode(image).decode() for image in post["images"]]
    return json.dumps({"words": post["text"], "images": images}).encode()


@contextmanager
def server(model: str, threads: int, batch_size: int) -> Iterator[tuple[subprocess.Popen, int]]:
    """Start a server, and wait until it answers; yields its process and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "smcl.predict.serve", "--model", model, "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen([*command, "--batch_size", str(batch_size)], env=environment, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield process, port
    finally:
        process.kill()
        process.wait()


def ask_all(port: int, bodies: Sequence[bytes], clients: int, sent: Callable = lambda: None) -> list[tuple]:
    """Send requests by several clients at once, and tell `sent` of each; return status and text of each answer."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    answers: list[tuple] = [(None, b"")] * len(bodies)
    for number in range(len(bodies)):
        waiting.put(number)

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return connection.close()
            connection.request("POST", "/predict", bodies[number], {"Content-Type": "application/json"})
            sent()
            answer = connection.getresponse()
            answers[number] = answer.status, answer.read()

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(work) for _ in range(clients)]:
            future.result()
    return answers


def is_right(answer: tuple, expected: dict) -> bool:
    """Tell whether an answer is the pipeline's, but for the rounding of scores."""
    status, text = answer
    found = json.loads(text) if status == 200 else {}
    if found.get("tags") != expected["tags"]:
        return False
    pairs = zip(found["entities"], expected["entities"], strict=True)
    return all(abs(a["score"] - b["score"]) < TOLERANCE for a, b in pairs)


def load_test(process: subprocess.Popen, port: int, posts: list[dict], expected: list[dict], clients: int) -> dict:
    """Mix hostile requests into the posts; count answers that are wrong or lost, and measure the server's memory."""
    bodies, rights = [], []
    for number, post in enumerate(posts):
        bodies.append(to_body(post))
        rights.append(expected[number])
        if number % 4 == 3:
            bad, status = HOSTILE[number // 4 % len(HOSTILE)]
            bodies.append(bad)
            rights.append(status)
    megabytes, answers = [], []
    # Twice: the first half of the time is what the server needs to get warm.
    for _ in range(2):
        answers = ask_all(port, bodies, clients)
        megabytes.append(psutil.Process(process.pid).memory_info().rss / 2**20)
    wrong = sum(
        answer[0] != right if isinstance(right, int) else not is_right(answer, right)
        for answer, right in zip(answers, rights, strict=True)
    )
    on_their_way = threading.Semaphore(0)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        last = pool.submit(ask_all, port, [to_body(post) for post in posts[:clients]], clients, on_their_way.release)
        for _ in range(min(clients, len(posts))):
            # One that can't be sent is told by its result.
            while not last.done() and not on_their_way.acquire(timeout=1):
                pass
        process.send_signal(signal.SIGTERM)
        finished = last.result()
    lost = sum(not is_right(answer, right) for answer, right in zip(finished, expected, strict=False))
    process.wait(60)
    hostile = sum(isinstance(right, int) for right in rights)
    return {"requests": len(bodies), "hostile": hostile, "wrong": wrong, "lost": lost, "megabytes": megabytes}


def compare(
    model: str, dataset: str, num_posts: int, clients: int, batch_size: int, threads: int, repeats: int
) -> dict:
    """Measure throughput in turn with the pipeline's, then the server under load."""
    results = circumstances(threads) | {"posts": num_posts, "clients": clients, "batch_size": batch_size}
    torch.set_num_threads(threads)
    posts = make_posts(dataset, num_posts)
    bodies = [to_body(post) for post in posts]
    pipe: MultiImageNERPipeline = load_pipeline(model, device="cpu")
    expected = pipe(posts, batch_size=batch_size, return_tags=True)
    with server(model, threads, batch_size) as (process, port):
        systems = {
            PIPELINE: lambda: pipe(posts, batch_size=batch_size, return_tags=True),
            SERVER: lambda: ask_all(port, bodies, clients),
        }
        results["systems"] = summarise(take_turns(systems, repeats), PIPELINE)
        results["load"] = load_test(process, port, posts, expected, clients)
    return results


def table(results: dict) -> str:
    """Return the results as a Markdown table."""
    systems, load = results["systems"], results["load"]
    speeds = [results["posts"] / systems[name]["seconds"]["median"] for name in (PIPELINE, SERVER)]
    heads = ["pipeline, posts/s", "server, posts/s", "time of server / pipeline"]
    heads += ["requests", "of these hostile", "wrong", "lost at SIGTERM", "memory, MB: half way", "at the end"]
    cells = [*(f"{speed:.1f}" for speed in speeds), written(systems[SERVER]["ratio"])]
    cells += [str(load[name]) for name in ("requests", "hostile", "wrong", "lost")]
    cells += [f"{megabytes:.0f}" for megabytes in load["megabytes"]]
    remark = f"\n{results['posts']} posts, {results['clients']} clients, batches of {results['batch_size']}. "
    return markdown(heads, [cells]) + remark + circumstances_line(results)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write `serve.json` and print a table.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = timing_parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of a saved SMCL")
    parser.add_argument("--dataset", required=True, help="data set whose test split gives the posts")
    parser.add_argument("--posts", type=int, default=500, help="posts of a round (%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="clients at once (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="posts computed at once (%(default)s)")
    given = parser.parse_args(argv)
    results = compare(
        given.model, given.dataset, given.posts, given.clients, given.batch_size, given.threads, given.repeats
    )
    save(results, given.output, "serve", table)


if __name__ == "__main__":
    run_main(main)
