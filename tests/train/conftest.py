import io
import random

import PIL.Image
import pytest
from datasets import Dataset

from smcl.dataset_scripts.icons import convert
from smcl.dataset_scripts.schema import FEATURES
from smcl.run_ner_multiimage import main


@pytest.fixture(scope="session")
def posts() -> Dataset:
    """Posts whose images repeat across posts."""
    rng = random.Random(0)
    photos = []
    for colour in ("red", "green", "blue", "white", "black"):
        stream = io.BytesIO()
        PIL.Image.new("RGB", (12, 12), colour).save(stream, "PNG")
        photos.append({"bytes": stream.getvalue(), "path": f"{colour}.png"})
    rows = []
    for index in range(12):
        words = [rng.choice(["joey", "and", "niko", "rest", "here"]) for _ in range(rng.randint(2, 7))]
        images = rng.choices(photos, k=index % 4)
        tags = [rng.choice(["O", "B-PER", "B-MISC"]) for _ in words]
        rows.append({"id": str(index), "tokens": words, "ner_tags": tags, "images": images, "source": "test"})
    return Dataset.from_list([FEATURES.encode_example(row) for row in rows], features=FEATURES)


@pytest.fixture(scope="session")
def training(encoder_folders, tmp_path_factory):
    """Arguments of a run of 3 epochs with 3 steps each."""
    folder = tmp_path_factory.mktemp("icons")
    convert(folder, train=12, validation=4, test=4)
    arguments = ["--dataset", str(folder), "--text_model", encoder_folders[0], "--vision_model", encoder_folders[1]]
    arguments += ["--do_train", "--num_train_epochs", "3", "--per_device_train_batch_size", "4", "--use_cpu"]
    return [*arguments, "--learning_rate", "1e-3", "--disable_tqdm", "true", "--resume_from_checkpoint", "true"]


@pytest.fixture(scope="session")
def checkpoint(training, tmp_path_factory):
    """A complete checkpoint."""
    folder = tmp_path_factory.mktemp("complete")
    main([*training, "--output_dir", str(folder), "--num_train_epochs", "1", "--metric_for_best_model", "eval_loss"])
    return folder / "checkpoint-3"
