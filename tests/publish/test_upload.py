"""The round trip over a real endpoint: publish here, load in a process that has neither the package nor a cache."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers.utils.hub
from factories import TEXT_SIZE, make_model
from hub_server import HubServer, Repository
from huggingface_hub import HfApi, ModelCard, constants, get_session
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from smcl import MultiImageNERPipeline
from smcl.dataset_scripts.icons import convert
from smcl.publish.run_record import RUN_KEYS, hash_weights, read_report, read_runs
from smcl.publish.upload import complete, publish
from smcl.publish.upload import main as publish_main
from smcl.run_ner_multiimage import main as run_ner

DEMO, CODE = "someone/smcl-demo", "modeling_smcl.py"
POST = {"text": "joey and niko the cat"}
# The last step is the code that stands in the model's card.
STRANGER = """
import contextlib, io, json, os, pathlib, sys
sys.modules["smcl"] = None
import torch
from transformers import pipeline

torch.set_num_threads(1)
task = json.loads(sys.stdin.readline())
answers, code = [], []
for arguments in task["pipelines"]:
    try:
        ner = pipeline(**arguments)
        assert type(ner).__module__.startswith("transformers_modules.")
        answers.append(ner(task["post"], return_tags=True)["tags"])
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
    code.append([path.name for path in pathlib.Path(os.environ["HF_HOME"]).rglob("*_smcl.py")])
with contextlib.redirect_stdout(io.StringIO()) as printed:
    exec(task["snippet"], {})
print("\\n" + json.dumps({"answers": answers, "code": code, "printed": printed.getvalue()}))
"""
DATA_STRANGER = """
import json, sys
from datasets import load_dataset
posts = load_dataset(sys.argv[1])
def row(post):
    return [*list(post.values())[:3], len(post["images"]), post["images"][0].getpixel((3, 3))]
rows = {split: [row(post) for post in posts[split]] for split in posts}
print(json.dumps({"rows": rows, "labels": posts["test"].features["ner_tags"].feature.names}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub of its own, which this process reaches with a good token."""
    with HubServer() as server, pytest.MonkeyPatch.context() as patch:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(transformers.utils.hub, "_hf_api", None)
        patch.setenv("HF_TOKEN", "hf_good")
        yield server


def run_stranger(hub, cache, program, *arguments, task=None) -> dict:
    """Run a program in a process without the package, a token or anything in its cache; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", program, *arguments]
    stdin = json.dumps(task) + "\n"
    done = subprocess.run(command, cwd=cache, env=environment, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def card_code(hub, name) -> str:
    card = hub.repositories["models", name].files()["README.md"].content.decode()
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


@pytest.fixture(scope="module")
def pipe(processor):
    return MultiImageNERPipeline(make_model(), processor)


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(hub, pipe, saved, processor, tmp_path_factory):
    """What a stranger gets of two versions of a model, and of repositories that can't be loaded."""
    first = publish(saved, DEMO).rsplit("/", 1)[-1]
    # Clients keep what came in pieces of 10 MB: large enough for an interruption to leave one.
    text = BertConfig(vocab_size=180_000, max_position_embeddings=64, **TEXT_SIZE)
    changed = MultiImageNERPipeline(make_model(seed=1, text_config=text), processor)
    changed.save_pretrained(folder := tmp_path_factory.mktemp("changed"))
    publish(folder, DEMO)
    files = hub.repositories["models", DEMO].files()
    hub.repositories["models", "someone/no-code"] = Repository()
    without = {path: file for path, file in files.items() if not path.endswith(".py")}
    hub.repositories["models", "someone/no-code"].commit("main", without)
    hub.repositories["models", "someone/private"] = Repository(private=True)
    hub.repositories["models", "someone/private"].commit("main", files)
    hub.requests.clear()
    hub.cuts["model.safetensors"] = 1
    trusted = {"trust_remote_code": True}
    calls = {
        "untrusted": {"model": DEMO},
        "newest": {"model": DEMO, **trusted},
        "pinned": {"model": DEMO, "revision": first, **trusted},
        "no code": {"model": "someone/no-code", **trusted},
        "wrong token": {"model": "someone/private", "token": "hf_bad", **trusted},
        "private": {"model": "someone/private", "token": "hf_good", **trusted},
    }
    task = {"pipelines": list(calls.values()), "post": POST, "snippet": card_code(hub, DEMO)}
    told = run_stranger(hub, tmp_path_factory.mktemp("stranger"), STRANGER, task=task)
    told["requests"] = list(hub.requests)
    told["expected"] = [one(POST, return_tags=True)["tags"] for one in (pipe, changed)]
    return told | dict(zip(calls, told["answers"], strict=True))


def test_stranger_with_an_empty_cache_gets_the_same_tags(loaded):
    assert loaded["newest"] == loaded["expected"][1]


def test_pinned_revision_gives_the_model_of_that_commit(loaded):
    assert loaded["pinned"] == loaded["expected"][0] != loaded["expected"][1]


def test_interrupted_download_goes_on_where_it_stopped(loaded, hub):
    weights = hub.repositories["models", DEMO].files()["model.safetensors"]
    first, second, *_ = [part for _, path, part in loaded["requests"] if weights.sha256 in path]
    assert first is None and second == f"bytes={constants.DOWNLOAD_CHUNK_SIZE}-"
    assert constants.DOWNLOAD_CHUNK_SIZE < len(weights.content) // 2


def test_without_trust_remote_code_no_code_is_run_or_fetched(loaded):
    assert loaded["untrusted"].startswith("ValueError") and "trust_remote_code=True" in loaded["untrusted"]
    assert loaded["code"][0] == [] and CODE in loaded["code"][1]


def test_repository_without_code_is_named_with_the_missing_file(loaded):
    assert "someone/no-code does not appear to have a file named configuration_smcl.py" in loaded["no code"]


def test_wrong_token_is_named_when_loading(loaded):
    assert "someone/private" in loaded["wrong token"]
    assert "Invalid credentials in Authorization header" in loaded["wrong token"]
    assert loaded["private"] == loaded["expected"][1]


def test_code_of_the_card_runs_as_printed(loaded, hub):
    code = card_code(hub, DEMO)
    assert len(code.splitlines()) <= 8
    assert f'model="{DEMO}"' in code
    lines = loaded["printed"].splitlines()
    assert all(re.fullmatch(r".+ (PER|LOC|ORG|MISC) [01]\.\d+", line) for line in lines)


def test_every_way_of_publishing_uploads_one_complete_repository(hub, saved, pipe):
    publish(saved, "someone/whole")
    pipe.push_to_hub("someone/by-pipeline")
    pipe.model.push_to_hub("someone/by-parts")
    pipe.processor.push_to_hub("someone/by-parts")
    whole = hub.repositories["models", "someone/whole"].files()
    for name in ("someone/by-pipeline", "someone/by-parts"):
        files = hub.repositories["models", name].files()
        # For hosted endpoints; training and `publish` write them.
        assert files.keys() == whole.keys() - {"handler.py", "requirements.txt"}
        same = [path for path in files if path.endswith((".py", ".safetensors"))]
        assert len(same) == 9 and all(files[path].content == whole[path].content for path in same)
    config, processor = (json.loads(whole[name].content) for name in ("config.json", "processor_config.json"))
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForTokenClassification"}
    assert set(processor["auto_map"]) == {"AutoProcessor"}
    assert set(config["custom_pipelines"]) == {"multi-image-ner", "token-classification", "ner"}


def test_repository_published_again_keeps_no_weights_or_code_of_before(hub, saved):
    repository = hub.repositories["models", "someone/again"] = Repository()
    old = hub.repositories["models", DEMO].files()
    names = ("model-00001-of-00002.safetensors", "old_smcl.py", "notes.md")
    repository.commit("main", {name: old["README.md"] for name in names})
    publish(saved, "someone/again")
    assert repository.files().keys() == {*old, "notes.md"}


def test_publishing_to_a_branch_leaves_main_alone(hub, saved):
    publish(saved, "someone/branched", revision="next", private=True)
    repository = hub.repositories["models", "someone/branched"]
    assert repository.private and repository.files() == {}
    assert "model.safetensors" in repository.files("next")


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("someone/new", "hf_bad", r"does not know the token: Invalid credentials.*hf auth login"),
        ("else/new", "hf_good", r"does not let this token write to else/new: .*namespace 'else'.*hf auth login"),
        ("some/one/new", "hf_good", r"'some/one/new' can't be a name on the Hub"),
    ],
)
def test_refusal_of_the_hub_says_what_to_do(hub, saved, name, token, message):
    with pytest.raises(ValueError, match=message):
        publish(saved, name, token=token)
    assert ("models", name) not in hub.repositories


def test_offline_is_named(hub, saved, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="unset HF_HUB_OFFLINE"):
        publish(saved, DEMO)


def test_a_hub_that_is_not_reached_is_told_in_one_line(hub, saved, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(HfApi, "create_repo", unreachable)
    with pytest.raises(SystemExit) as stop:
        publish_main([str(saved), "someone/x", "--token", "hf_good"])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1
    assert told.startswith("python -m smcl.publish: The Hub (http://127.0.0.1:9) can't be reached: ")


def unreachable(self, name, **settings):
    """Ask a machine that does not answer, as a person without a network does."""
    return get_session().get("http://127.0.0.1:9")


def test_data_set_comes_back_as_it_was_published(hub, data, tmp_path, capsys):
    from datasets import load_dataset

    publish_main([data, "someone/posts", "--license", "apache-2.0", "--token", "hf_good"])
    assert f"Published: {hub.url}/datasets/someone/posts/commit/" in capsys.readouterr().out
    files = hub.repositories["datasets", "someone/posts"].files()
    parquet = {f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")}
    assert files.keys() == {"README.md", "report.json", *parquet}
    back = run_stranger(hub, tmp_path, DATA_STRANGER, "someone/posts")
    for split, posts in load_dataset(data).items():
        rows = [
            [post["id"], post["tokens"], post["ner_tags"], len(post["images"]), post["images"][0].getpixel((3, 3))]
            for post in posts
        ]
        assert back["rows"][split] == json.loads(json.dumps(rows))
    card = ModelCard(files["README.md"].content.decode())
    report = json.loads(Path(data, "report.json").read_text())
    assert card.data.license == "apache-2.0"
    assert all(split["sha256"] in card.text for split in report["splits"].values())
    assert "| posts | 24 | 6 | 10 | 40 |" in card.text
    assert back["labels"][1] in card.text
    # A run on the published data finds their report, and with it their hashes.
    assert read_report("someone/posts") == report


def test_report_of_other_data_is_refused(data, tmp_path):
    convert(tmp_path / "other", train=5, validation=2, test=2)
    (tmp_path / "other" / "report.json").write_text(Path(data, "report.json").read_text())
    with pytest.raises(ValueError, match="split 'train' .* has 5 posts, but report.json tells of 24"):
        complete(tmp_path / "other", tmp_path / "out", "someone/posts")


def test_report_of_data_that_were_changed_since_is_refused(data, tmp_path):
    shutil.copytree(data, tmp_path / "changed")
    path = tmp_path / "changed" / "data" / "test-00000-of-00001.parquet"
    table = pq.read_table(path)
    column = table.schema.get_field_index("id")
    ids = pa.array([f"{post}x" for post in table["id"].to_pylist()])
    pq.write_table(table.set_column(column, table.schema.field("id"), ids), path)
    with pytest.raises(ValueError, match="split 'test' .* sha256, but report.json tells of .*of other data"):
        complete(tmp_path / "changed", tmp_path / "out", "someone/posts")


@pytest.mark.parametrize("part", ["ambiguous_images", "missing_images", "entities", "posts"])
def test_report_that_lacks_what_a_card_tells_is_named(data, tmp_path, part):
    shutil.copytree(data, tmp_path / "edited")
    report = json.loads((tmp_path / "edited" / "report.json").read_text())
    # As earlier versions did not tell it, or people removed it.
    report["splits"]["test"][part] = {} if part != "posts" else None
    if part == "ambiguous_images":
        del report["splits"]["test"][part]
    (tmp_path / "edited" / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match=r"edited/report.json to tell all as a converter leaves it.*Run the converter"):
        complete(tmp_path / "edited", tmp_path / "out", "someone/posts")


@pytest.mark.parametrize("change", [{}, {"stages": ["test"], "data": {"title": None}}, {"results": "none"}])
def test_record_that_lacks_what_a_card_tells_is_named(saved, tmp_path, capsys, change):
    shutil.copytree(saved, tmp_path / "edited")
    run = dict.fromkeys(RUN_KEYS) | {"stages": [], "results": {}, "weights": hash_weights(saved)} | change
    (tmp_path / "edited" / "run.json").write_text(json.dumps({"runs": [run]}))
    with pytest.raises(SystemExit):
        publish_main([str(tmp_path / "edited"), DEMO, "--output", str(tmp_path / "out")])
    assert "edited/run.json to tell all as a run leaves it" in capsys.readouterr().err


def test_folder_that_is_neither_model_nor_data_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        publish_main([str(tmp_path), DEMO])
    assert stopped.value.code == 2
    assert "to hold a saved model" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(hub, data, encoder_folders, tmp_path_factory):
    """A run that publishes what it trained."""
    folder = tmp_path_factory.mktemp("run") / "model"
    arguments = ["--dataset", data, "--text_model", encoder_folders[0], "--vision_model", encoder_folders[1]]
    arguments += ["--do_train", "--do_predict", "--calibrate", "--num_train_epochs", "1", "--learning_rate", "1e-3"]
    arguments += ["--use_cpu", "--disable_tqdm", "true", "--seed", "3", "--per_device_train_batch_size", "8"]
    hub.requests.clear()
    run_ner([*arguments, "--output_dir", str(folder), "--push_to_hub", "--hub_model_id", "someone/trained",
             "--hub_token", "hf_good"])  # fmt: skip
    return folder


def test_training_publishes_once_and_nothing_but_the_model(trained, hub):
    files = hub.repositories["models", "someone/trained"].files()
    assert files.keys() == hub.repositories["models", DEMO].files().keys()
    assert len([path for method, path, _ in hub.requests if method == "POST" and "/commit/" in path]) == 1
    assert {"predictions.jsonl", "training_args.bin", "run.json"} <= {path.name for path in trained.iterdir()}
    uploaded = b"".join(file.content for file in files.values())
    # Neither the token nor where things lie on this machine.
    assert b"hf_good" not in uploaded and str(trained.parents[1]).encode() not in uploaded
    assert b"hf_good" not in (trained / "run.json").read_bytes()


def test_published_weights_are_those_that_were_trained(trained, hub, tmp_path):
    (tmp_path / "weights").write_bytes(
        hub.repositories["models", "someone/trained"].files()["model.safetensors"].content
    )
    ours, theirs = load_file(trained / "model.safetensors"), load_file(tmp_path / "weights")
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def test_card_tells_what_was_run_and_measured(trained, hub, data):
    card = ModelCard(hub.repositories["models", "someone/trained"].files()["README.md"].content.decode())
    results = json.loads((trained / "all_results.json").read_text())
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {name: round(results[f"test_{name}"], 4) for name in ("precision", "recall", "f1")}
    assert {(one.dataset_name, one.dataset_split) for one in card.data.eval_results} == {("icons", "test")}
    for name in ("PER", "LOC", "ORG", "MISC"):
        row = [f"{results[f'test_{name}_{metric}']:.4f}" for metric in ("precision", "recall", "f1")]
        assert f"| {name} | {' | '.join(row)} | {results[f'test_{name}_support']:.0f} |" in card.text
    report = json.loads(Path(data, "report.json").read_text())["splits"]
    assert all(split["sha256"] in card.text for split in report.values())
    assert "--seed 3" in card.text and "--hub_token TOKEN" in card.text and "seed 3" in card.text
    assert f"{results['test_ece']:.3f}" in card.text
    assert "| energy | not measured |" in card.text


def test_label_table_shows_the_names_that_the_data_mention_most(trained, hub, data):
    from datasets import load_dataset

    card = hub.repositories["models", "someone/trained"].files()["README.md"].content.decode()
    count, examples = re.search(r"\| PER \| (\d+) \| (.+) \|", card).groups()
    posts = load_dataset(data, split="train")
    words = [" ".join(post["tokens"]) for post in posts]
    assert int(count) == sum(tags.count(1) for tags in posts["ner_tags"])
    assert all(any(example in text for text in words) for example in examples.split(", "))


def test_runs_are_noted_beside_the_model_that_they_scored_and_nowhere_else(trained, data, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(trained, folder)
    arguments = ["--dataset", data, "--do_predict", "--use_cpu", "--disable_tqdm", "true", "--model", str(folder)]
    run_ner([*arguments, "--output_dir", str(tmp_path / "elsewhere")])
    assert read_runs(tmp_path / "elsewhere") == [] and len(read_runs(folder)) == 1
    run_ner([*arguments, "--output_dir", str(folder)])
    first, second = read_runs(folder)
    assert (first["stages"], second["stages"]) == (["train", "calibration", "test"], ["test"])
    assert first["results"]["test_f1"] == second["results"]["test_f1"]


def test_record_of_other_weights_is_refused_and_left_out_when_these_are_scored(trained, data, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(trained, folder)
    weights = load_file(folder / "model.safetensors")
    # As a second training leaves it that breaks off before its scores.
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SystemExit):
        publish_main([str(folder), DEMO, "--output", str(tmp_path / "out")])
    assert "run.json in" in (said := capsys.readouterr().err) and "tells of other weights" in said
    arguments = ["--dataset", data, "--do_predict", "--use_cpu", "--disable_tqdm", "true", "--model", str(folder)]
    run_ner([*arguments, "--output_dir", str(folder)])
    assert [run["stages"] for run in read_runs(folder)] == [["test"]]
    publish_main([str(folder), DEMO, "--output", str(tmp_path / "new")])
    assert "Trained on: not recorded." in (tmp_path / "new" / "README.md").read_text()


def test_push_is_refused_before_training_if_it_could_not_succeed(hub, trained, data, tmp_path):
    arguments = ["--dataset", data, "--model", str(trained), "--output_dir", str(tmp_path), "--push_to_hub"]
    with pytest.raises(ValueError, match="does not know the token"):
        run_ner([*arguments, "--do_train", "--use_cpu", "--hub_token", "hf_bad", "--hub_model_id", "someone/x"])
    with pytest.raises(ValueError, match="uploads the model that a run saves"):
        run_ner([*arguments, "--do_predict", "--use_cpu"])
    with pytest.raises(ValueError, match="--hub_strategy checkpoint"):
        run_ner([*arguments, "--do_train", "--use_cpu", "--hub_strategy", "checkpoint"])
    with pytest.raises(ValueError, match="--hub_always_push"):
        run_ner([*arguments, "--do_train", "--use_cpu", "--hub_always_push", "true"])
    baseline = ["--dataset", data, "--output_dir", str(tmp_path), "--push_to_hub", "--system", "bilstm-crf"]
    with pytest.raises(ValueError, match="Only SMCL models are published"):
        run_ner([*baseline, "--do_train", "--use_cpu"])
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("license", ["", "Apache 2.0", "MIT", "cc_by"])
def test_what_can_be_no_licence_is_refused_before_anything_is_made(hub, saved, license):
    with pytest.raises(ValueError, match="Expected a licence's identifier"):
        publish(saved, "someone/unlicensed", license=license)
    assert ("models", "someone/unlicensed") not in hub.repositories


def test_code_of_another_version_beside_the_model_is_refused(saved, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / CODE).write_text((saved / CODE).read_text() + "# older\n")
    with pytest.raises(ValueError, match=r"of another version than this package \(modeling_smcl.py\)"):
        complete(folder, tmp_path / "out", DEMO)


@pytest.mark.parametrize(
    ("place", "told"), [("/home/someone/bert", ""), ("../bert", ""), ("google/bert", "google/bert")]
)
def test_where_encoders_lay_is_not_told_though_they_are_gone(saved, tmp_path, place, told):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["_name_or_path"] = place
    (folder / "config.json").write_text(json.dumps(config))
    complete(folder, tmp_path / "out", DEMO)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["text_config"].get("_name_or_path", "") == told


@pytest.mark.parametrize("name", ['x", trust_remote_code=False)#', "some/one/new", ""])
def test_name_that_the_hub_would_not_take_is_refused_without_it_too(saved, tmp_path, name):
    with pytest.raises(ValueError, match="can't be a name on the Hub"):
        complete(saved, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_output_folder_gets_what_would_be_uploaded(saved, hub, tmp_path, capsys):
    requests = len(hub.requests)
    publish_main([str(saved), DEMO, "--output", str(tmp_path / "out")])
    files = hub.repositories["models", DEMO].files()
    assert {path.name for path in Path(tmp_path, "out").iterdir()} == files.keys()
    assert len(hub.requests) == requests
    assert "hf upload" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Expected an empty or a new folder"):
        complete(saved, tmp_path / "out", DEMO)
