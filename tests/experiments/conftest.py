import json

import pytest
from datasets import load_dataset

from smcl.experiments import disturb, plan
from smcl.experiments.significance import entities_of


@pytest.fixture(autouse=True)
def no_choice_of_threads(monkeypatch):
    """Tests of experiments run in one thread, whatever would be fastest here."""
    monkeypatch.setattr(plan, "choose_threads", lambda text_model, batch_size: 1)


@pytest.fixture(scope="module")
def known_posts(data, tmp_path_factory):
    """The data set with names of its images, and files that tell which mentions depend on which: all do."""
    folder = tmp_path_factory.mktemp("known")
    mentions, showing = {}, {}
    for split, posts in load_dataset(data).items():
        tags = posts.features["ner_tags"].feature.names
        images = [
            [image | {"path": f"{post_id}_{slot}.png"} for slot, image in enumerate(own)]
            for post_id, own in zip(posts["id"], disturb.stored_images(posts), strict=True)
        ]
        named = posts.remove_columns("images").add_column("images", images, feature=posts.features["images"])
        named.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        for post, own in zip(posts, images, strict=True):
            spans = sorted(entities_of([tags[tag] for tag in post["ner_tags"]]))
            mentions[post["id"]] = [span[:2] for span in spans]
            showing[post["id"]] = [own[0]["path"] if own else None for _ in spans]
    for name, value in (("image_dependent", mentions), ("showing_images", showing)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder
