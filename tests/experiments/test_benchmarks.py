"""What the benchmarks compute from measurements; nothing is timed here."""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Image, List, load_dataset
from factories import make_config, make_inputs, make_model

from smcl.dataset_scripts import icons, jsonl
from smcl.experiments.benchmarks import (
    convert,
    crf,
    gpu,
    growth,
    large_files,
    measure,
    repeated,
    report,
    serve,
    threads,
    watch,
    ways,
)
from smcl.experiments.benchmarks.measure import BareEncoders, Seconds, floor_inputs, summarise, take_turns
from smcl.experiments.runs import circumstances
from smcl.experiments.tables import spread
from smcl.train.data import load_posts


def test_systems_take_turns_and_the_first_round_does_not_count():
    calls = []
    taken = take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert [len(times) for times in taken.values()] == [2, 2]


def test_ratios_are_taken_within_rounds():
    taken = {"floor": [Seconds(1, 1), Seconds(10, 2)], "ours": [Seconds(2, 3), Seconds(20, 4)]}
    row = summarise(taken, "floor")["ours"]
    assert row["ratio"] == {"median": 2, "least": 2, "most": 2}
    assert row["processor_ratio"] == {"median": 2.5, "least": 2, "most": 3}
    assert row["seconds"]["median"] == 11


def test_floor_encodes_real_images_only():
    inputs = make_inputs(image_counts=(3, 1, 0))
    given = floor_inputs(inputs)
    assert given["images"].shape[0] == 4
    text, images = BareEncoders(make_config(), torch.float32)(**given)
    assert text.shape[:2] == inputs["input_ids"].shape and images.shape[0] == 4


@pytest.mark.parametrize("power", [1, 2])
def test_growth_finds_the_exponent_of_a_power_law(power):
    values = [1, 2, 4, 8]
    assert growth.exponent(values, [3 * value**power for value in values]) == pytest.approx(power)


def test_peak_of_an_unknown_device_is_not_known():
    assert gpu.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert gpu.peak_of("NVIDIA H100 PCIe") == 756e12
    assert gpu.peak_of("CPU") is None


def test_gpu_benchmark_measures_each_system_as_long_as_there_is_time(encoder_folders):
    measurement = gpu.Measurement(encoder_folders[0], "cpu", repeats=1, minutes=10)
    measurement.measure_size(2)
    (rows,) = measurement.results["sizes"].values()
    stages = {f"{name}, {stage}" for name in gpu.RIVALS for stage in ("inference", "training step")}
    assert stages | {"two bare encoders", "SMCL, decoding alone"} < set(rows)
    assert "| 2 | TPM-MI, training step |" in gpu.table(measurement.results)
    late = gpu.Measurement(encoder_folders[0], "cpu", repeats=1, minutes=0)
    kept = []
    late.run(keep=lambda: kept.append(dict(late.results["sizes"])))
    assert kept == [{}] and late.results["sizes"] == {}


def test_gpu_benchmark_ends_with_a_message_without_cuda(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(["--text_model", "none", "--output", str(tmp_path)])
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_with_repeated_images_are_predicted_beside_others(tmp_path, processor, data):
    make_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    results = repeated.compare(str(tmp_path), data, num_posts=3, threads=1, repeats=1)
    assert results["systems"][repeated.DISTINCT]["ratio"]["median"] == 1
    assert f"| {repeated.NO_ROOM} |" in repeated.table(results)
    with pytest.raises(ValueError, match="different images"):
        repeated.compare(str(tmp_path), data, num_posts=10**6, threads=1, repeats=1)


def test_ways_table_tells_how_many_times_as_fast_and_what_was_not_measured():
    row = {"seconds": spread([8.0]), "ratio": spread([0.25, 0.2]), "processor_ratio": spread([0.5])}
    speed = {ways.FLOOR: row, ways.TEXT: row, "bfloat16": row | {"memory": [100, 200], "bytes": 5e6}}
    f1 = {"posts": 3, "ways": {"bfloat16": {"f1": 0.5, "posts_with_other_tags": 1}}}
    written = ways.table(circumstances(1) | {"posts": 8, "speed": speed, "f1": f1})
    assert "| bfloat16 | 4.44 (4.00-5.00) | 2.00 (2.00-2.00) | 50.00 | 1 | 200 | 5 |" in written
    assert "| OpenVINO | not measured |" in written


def test_conversion_benchmark_ends_with_a_message_without_photographs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        convert.main(["--photos", str(tmp_path)])
    assert "expected a folder of .jpg files" in capsys.readouterr().err


def test_large_files_are_posts_again_and_again_with_images_that_all_differ(tmp_path, data):
    size = 2 * len(load_posts(data, ["test"])["test"]) + 1
    large_files.write_parquet(data, size, tmp_path / "posts.parquet")
    rows = pq.read_table(tmp_path / "posts.parquet").to_pylist()
    images = [image["bytes"] for row in rows for image in row["images"]]
    assert len(rows) == size and len(set(images)) == large_files.IMAGES * size
    assert rows[0]["tokens"] == rows[-1]["tokens"]
    large_files.write_source(data, size, tmp_path / "source")
    report = jsonl.convert(tmp_path / "converted", {"train": tmp_path / "source" / "train.jsonl"})
    assert report["splits"]["train"]["posts"] == size
    converted = load_dataset(str(tmp_path / "converted"), split="train").cast_column(
        "images", List(Image(decode=False))
    )
    assert [image["bytes"] for row in converted["images"] for image in row] == images


def test_large_files_table_tells_what_two_processes_gain():
    run = {"task": "prediction", "posts": 2000, "processes": 1, "seconds": 10.0, "processor": 8.0, "bytes": 5e6}
    runs = [run, run | {"processes": 2, "seconds": 5.5, "processor": 9.0}]
    written = large_files.table(circumstances(1) | {"runs": runs})
    assert "| prediction | 2,000 | 2 | 364 | 1.82 | 4.50 | 5 |" in written


def test_a_server_under_load_is_ended_while_requests_of_all_clients_are_on_their_way():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = dict(serve.HOSTILE).get(body, 200)
            if ending.is_set() and not ended.wait(10):
                status = 503
            answer = json.dumps({"tags": ["O"], "entities": []}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    ending, ended, signals = threading.Event(), threading.Event(), []

    class Process:
        pid = os.getpid()

        def send_signal(self, number):
            signals.append(number)
            ended.set()

        def wait(self, seconds):
            server.shutdown()

    def answer_late(post):
        # The last requests are those of as many posts as there are clients, which are written anew.
        written.append(post)
        if len(written) > len(posts):
            ending.set()
        return to_body(post)

    posts, written, to_body = [{"text": ["niko"], "images": []}] * 9, [], serve.to_body
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setattr(serve, "to_body", answer_late)
        expected = [{"tags": ["O"], "entities": []}] * 9
        found = serve.load_test(Process(), server.server_port, posts, expected, clients=3)
    assert signals == [signal.SIGTERM]
    assert {name: found[name] for name in ("requests", "hostile", "wrong", "lost")} == {
        "requests": 11,
        "hostile": 2,
        "wrong": 0,
        "lost": 0,
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_watched_program_tells_time_and_memory_with_what_it_starts():
    child = "import time; kept = bytearray(80_000_000); time.sleep(1.2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{child}'], check=True)"
    watched = watch.run_watched([sys.executable, "-c", parent])
    assert watched["bytes"] > 80e6 and 1.2 < watched["seconds"]
    with pytest.raises(RuntimeError, match="status 3"):
        watch.run_watched([sys.executable, "-c", "raise SystemExit(3)"])


def test_report_without_any_result_leaves_the_page_alone(tmp_path, capsys):
    page = tmp_path / "performance.md"
    with pytest.raises(SystemExit):
        report.main(["--results", str(tmp_path), "--output", str(page)])
    assert "There are no results" in capsys.readouterr().err and not page.exists()


def test_report_tells_what_was_not_measured(tmp_path):
    results = crf.compare(threads=torch.get_num_threads(), repeats=1, lengths=[4])
    measure.save(results, tmp_path, "crf", crf.table)
    text = report.write_report(tmp_path, tmp_path / "performance.md")
    assert text.count("not measured") == len(report.SECTIONS) - 1
    assert crf.table(json.loads((tmp_path / "crf.json").read_text())) in text


def test_threads_and_compilation_are_timed_beside_one_thread(tmp_path, processor, monkeypatch):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    icons.convert(tmp_path / "data", train=1, validation=1, test=3)
    monkeypatch.setattr(threads, "count_cores", lambda: 2)
    before = torch.get_num_threads()
    results = threads.compare(str(tmp_path / "model"), str(tmp_path / "data"), repeats=1, backend="eager")
    assert torch.get_num_threads() == before
    assert list(results["ways"]) == [1, 16]
    for timed in results["ways"].values():
        assert list(timed) == ["1 thread", "2 threads", "compiled"]
        assert timed["1 thread"]["ratio"]["median"] == 1
    assert results["megabytes"] > 0.1
    page = threads.table(results)
    assert page.count("| 16 |") == 3
    assert "MB in float32" in page
