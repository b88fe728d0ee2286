import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import load_dataset
from factories import make_model
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.utils import logging

from smcl import MultiImageNERPipeline, SMCLForTokenClassification, SMCLProcessor
from smcl.run_ner_multiimage import main
from smcl.train.arguments import SMCLTrainingArguments
from smcl.train.prediction_cards import GROUP, SENDERS, PredictionFigures, add_prediction_figures
from smcl.train.trainer import SMCLTrainer

ARGUMENTS = ["--do_train", "--num_train_epochs", "2", "--use_cpu", "--disable_tqdm", "true", "--freeze_vision"]
ARGUMENTS += ["--per_device_train_batch_size", "8", "--logging_steps", "1", "--learning_rate", "1e-3"]
LOSSES = {"train/loss", "train/task_loss", "train/similarity_loss", "train/difference_loss"}


@pytest.fixture(scope="module")
def tracked(data, encoders, tmp_path_factory):
    """A run that is sent to TensorBoard, and its events."""
    output = tmp_path_factory.mktemp("run")
    main(["--dataset", data, *encoders, *ARGUMENTS, "--output_dir", str(output), "--report_to", "tensorboard"])
    (folder,) = (output / "runs").iterdir()
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return output, events


def test_losses_and_scores_of_each_type_reach_tensorboard(tracked):
    output, events = tracked
    scores = {f"eval/{name}_f1" for name in ("PER", "LOC", "ORG", "MISC")} | {"eval/f1", "eval/loss"}
    assert (LOSSES | scores) <= set(events.Tags()["scalars"])
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    for name in ("task_loss", "similarity_loss", "difference_loss"):
        logged = [entry[name] for entry in history if name in entry]
        sent = [event.value for event in events.Scalars(f"train/{name}")]
        np.testing.assert_allclose(sent, logged, rtol=1e-5)
        assert len(sent) == 6


def test_figures_of_predictions_reach_tensorboard_after_each_epoch(tracked, data):
    _, events = tracked
    illustrated = [post for post in load_dataset(data, split="validation") if post["images"]]
    names = [f"{GROUP}/post-{number}" for number in range(1, 1 + min(4, len(illustrated)))]
    assert sorted(events.Tags()["images"]) == names
    for name in names:
        sent = events.Images(name)
        assert [event.step for event in sent] == [3, 6]
        figure = np.asarray(Image.open(io.BytesIO(sent[0].encoded_image_string)))
        assert figure.shape[1] > 400 and figure.std() > 10


def test_tracking_leaves_the_weights_as_they_are(tracked, data, encoders, tmp_path):
    output, _ = tracked
    main(["--dataset", data, *encoders, *ARGUMENTS, "--output_dir", str(tmp_path)])
    assert (tmp_path / "model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()
    assert not (tmp_path / "runs").exists()


def test_figure_shows_the_images_of_the_post_and_its_gold_entities(tracked, data):
    output, _ = tracked
    model, processor = SMCLForTokenClassification.from_pretrained(output), SMCLProcessor.from_pretrained(output)
    pipe = MultiImageNERPipeline(model, processor)
    names = load_dataset(data, split="validation").features["ner_tags"].feature.names
    post = next(post for post in load_dataset(data, split="validation") if post["images"])
    figures = PredictionFigures([], [], names)
    drawn = np.asarray(figures.draw(pipe, post))
    assert not np.array_equal(drawn, np.asarray(figures.draw(pipe, {**post, "ner_tags": [0] * len(post["ner_tags"])})))
    bare = np.asarray(figures.draw(pipe, {**post, "images": []}))
    assert bare.shape[0] < drawn.shape[0]


def test_other_trackers_are_called_as_they_expect():
    sent = []
    image = Image.new("RGB", (4, 3))
    wandb = SimpleNamespace(log=sent.append, Image=lambda image: image.size)
    mlflow = SimpleNamespace(log_image=lambda image, artifact_file: sent.append((image.size, artifact_file)))
    trackers = SimpleNamespace(_wandb=wandb, _ml_flow=mlflow)
    for send in list(SENDERS.values())[1:]:
        send(trackers, "post-1", image, 7)
    assert sent == [
        {f"{GROUP}/post-1": (4, 3), "train/global_step": 7},
        ((4, 3), f"{GROUP}/post-1/step-7.png"),
    ]


@pytest.fixture
def trainer(tmp_path, processor):
    def build(**arguments):
        settings = SMCLTrainingArguments(
            str(tmp_path), use_cpu=True, eval_strategy="no", save_strategy="no", **arguments
        )
        return SMCLTrainer(make_model(), settings, processing_class=processor)

    return build


def count_figures(trainer) -> int:
    return sum(isinstance(callback, PredictionFigures) for callback in trainer.callback_handler.callbacks)


def test_without_a_tracker_that_takes_images_nothing_is_drawn(trainer, data):
    posts, plain, tracked = load_dataset(data, split="validation"), trainer(), trainer(report_to="tensorboard")
    add_prediction_figures(plain, posts)
    add_prediction_figures(tracked, posts.remove_columns("images"))
    assert (count_figures(plain), count_figures(tracked)) == (0, 0)
    add_prediction_figures(tracked, posts)
    assert count_figures(tracked) == 1


def test_missing_matplotlib_is_told(trainer, data, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    logging.get_logger("smcl.train.prediction_cards").addHandler(caplog.handler)
    tracked = trainer(report_to="tensorboard")
    add_prediction_figures(tracked, load_dataset(data, split="validation"))
    assert count_figures(tracked) == 0 and 'pip install "smcl[track]"' in caplog.text
