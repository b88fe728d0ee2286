import io
import json
from pathlib import Path

import numpy as np
import pytest
from cells import SMALL, call_here
from datasets import load_dataset
from PIL import Image

from smcl.experiments import disturb, robustness, runs
from smcl.experiments.plan import Plan, read_mentions, read_showing
from smcl.experiments.pointing import kept_path
from smcl.experiments.runs import Measured
from smcl.images_smcl import load_image


def picture(name, seed=0, size=(40, 30)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "png")
    return {"bytes": file.getvalue(), "path": name}


@pytest.fixture(scope="module")
def images():
    """Twelve posts of no image to three."""
    return [[picture(f"{row}_{slot}.png", 10 * row + slot) for slot in range(row % 4)] for row in range(12)]


def names(images):
    return [[image["path"] for image in own] for own in images]


def is_within(part, whole):
    rest = iter(whole)
    return all(name in rest for name in part)


def test_irrelevant_photographs_come_between_a_posts_own_as_far_as_there_is_room(images):
    pool = [(row, image) for row, own in enumerate(images) for image in own]
    added = [names(disturb.add_irrelevant(images, level, pool, 4)) for level in (0, 1, 2, 3)]
    assert added[0] == names(images)
    for level, posts in enumerate(added):
        for row, (own, mixed) in enumerate(zip(names(images), posts, strict=True)):
            assert len(mixed) == min(4, len(own) + level) and is_within(own, mixed)
            # None is the post's own, or there twice.
            assert len(set(mixed)) == len(mixed) and all(
                name in own or not name.startswith(f"{row}_") for name in mixed
            )
    # What one level adds, the next has too.
    assert all(
        is_within(few, more) for level in (1, 2) for few, more in zip(added[level], added[level + 1], strict=True)
    )
    assert any(mixed[0] not in own for own, mixed in zip(names(images), added[1], strict=True) if own)


def test_exchanged_posts_have_the_images_of_another_post_and_stay_so_at_higher_levels(images):
    own, before = names(images), set()
    for level in (0, 25, 50, 75, 100):
        changed = {row for row, new in enumerate(names(disturb.exchange(images, level))) if new != own[row]}
        assert len(changed) == round(level / 100 * 9) and before <= changed
        before = changed
    assert all(new in own for new in names(disturb.exchange(images, 100)))


def test_images_are_missing_by_their_share_and_stay_away(images):
    many, before = images * 40, images * 40
    for level in (0, 25, 50, 75, 100):
        kept = disturb.remove(many, level)
        assert all(is_within(few, more) for few, more in zip(names(kept), names(before), strict=True))
        assert sum(map(len, kept)) / sum(map(len, many)) == pytest.approx(1 - level / 100, abs=0.05)
        before = kept


def pixels(image):
    return np.asarray(load_image(image).convert("RGB"), dtype=float)


def test_blurred_images_keep_size_and_mean_and_lose_their_detail(images):
    plain = pixels(images[1][0])
    blurred = [pixels(disturb.blur([[images[1][0]]], level)[0][0]) for level in (2, 8, 16)]
    assert all(x.shape == plain.shape and x.mean() == pytest.approx(plain.mean(), abs=3) for x in blurred)
    assert plain.std() > blurred[0].std() > blurred[1].std() > blurred[2].std()


def test_a_cut_image_is_a_part_of_the_image_and_of_less_cut_ones(images):
    sizes, whole = [], pixels(images[1][0])
    for level in (25, 50, 75):
        part = pixels(disturb.cut(images, level)[1][0])
        sizes.append(part.shape[:2])
        windows = np.lib.stride_tricks.sliding_window_view(whole, part.shape)
        assert (windows == part).all(axis=(-3, -2, -1)).any()
        whole = part
    assert sizes == [(22, 30), (15, 20), (8, 10)]


def test_irrelevant_are_those_beside_mentions_that_show_none(images):
    ids = [str(row) for row in range(12)]
    mentions = {post_id: [[0, 1]] if int(post_id) in (2, 3) else [] for post_id in ids}
    showing = {post_id: ["2_1.png"] if post_id == "2" else [None] if post_id == "3" else [] for post_id in ids}
    found = disturb.irrelevant_photographs(images, ids, mentions, showing)
    assert [(row, image["path"]) for row, image in found] == [
        (2, "2_0.png"),
        (3, "3_0.png"),
        (3, "3_1.png"),
        (3, "3_2.png"),
    ]
    # A data set may keep paths of its images.
    kept = [[image | {"path": f"/data/images/{image['path']}"} for image in own] for own in images]
    assert [row for row, _ in disturb.irrelevant_photographs(kept, ids, mentions, showing)] == [2, 3, 3, 3]
    assert len(disturb.irrelevant_photographs(images, ids, mentions, None)) == sum(map(len, images))


@pytest.mark.parametrize("kind", disturb.LEVELS)
def test_a_disturbed_data_set_is_the_same_again_and_differs_in_images_alone(data, kind):
    posts = load_dataset(data, split="test")
    pool = disturb.irrelevant_photographs(disturb.stored_images(posts), posts["id"], None, None)
    level = disturb.LEVELS[kind][-1]
    one, two = (disturb.disturb(posts, kind, level, pool) for _ in range(2))
    assert disturb.stored_images(one) == disturb.stored_images(two) != disturb.stored_images(posts)
    assert one.features == posts.features
    for name in set(posts.column_names) - {"images"}:
        assert one[name] == posts[name]
    assert disturb.stored_images(disturb.disturb(posts, kind, 0, pool)) == disturb.stored_images(posts)
    assert all(isinstance(image, Image.Image) for post in one for image in post["images"] or [])


@pytest.fixture
def argv(known_posts, encoders, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_call", lambda arguments, folder, threads: call_here(arguments))
    mentions = ["--mentions", str(known_posts / "image_dependent.json")]
    places = ["--dataset", str(known_posts), "--results", str(tmp_path / "results"), *mentions, *encoders]
    return [*places, *SMALL, "--num_train_epochs", "1"]


def test_models_are_trained_once_and_predict_disturbed_posts(argv, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(disturb, "LEVELS", {"irrelevant": (0, 2), "missing": (0, 100), "blurred": (0, 8)})
    arguments = [*argv, "--seeds", "0", "1", "--systems", "smcl", "umt-mi"]
    disturbances = ["--disturbances", "irrelevant", "missing", "blurred"]
    robustness.main([*arguments, *disturbances])
    capsys.readouterr()
    folder = next((tmp_path / "results" / "robustness").iterdir())
    printed = (folder / "table.md").read_text()
    table = json.loads((folder / "table.json").read_text())
    assert {seed["seed"] for seed in table["runs"]["SMCL"]} == {0, 1}
    found = table["f1"]["SMCL"]["missing"]
    assert all(len(found[level]["image-dependent"]) == len(found[level]["others"]) == 2 for level in ("0", "100"))
    # Without any image, posts are what the cell's own test without images is of.
    cells = [json.loads(path.read_text()) for path in folder.glob("smcl-*/seed-*/cell.json")]
    for cell in cells:
        blind = folder.glob(f"smcl-*/seed-{cell['seed']}/without_images/predictions.jsonl")
        taken = folder.glob(f"smcl-*/seed-{cell['seed']}/robustness/missing-100-*.jsonl")
        assert next(blind).read_text() == next(taken).read_text()
    assert "| missing | 100 |" in printed and (folder / "robustness.png").stat().st_size > 5000
    # Nothing is predicted twice, and a table needs no model.
    monkeypatch.setattr(robustness, "open_run", None)
    robustness.main([*arguments, *disturbances])
    assert capsys.readouterr().out == printed == (folder / "table.md").read_text()
    for path in folder.glob("umt-mi-*/seed-1/run/model.safetensors"):
        path.unlink()
    monkeypatch.setattr(robustness, "predict_disturbed", lambda *_: None)
    for path in folder.glob("umt-mi-*/seed-1/robustness/*"):
        path.unlink()
    next(folder.glob("umt-mi-*/seed-1/robustness")).rmdir()
    robustness.main([*arguments, *disturbances, "--no_run"])
    assert "UMT-MI: the models of the seeds 1 were not kept" in capsys.readouterr().out
    table = json.loads((folder / "table.json").read_text())
    assert [len(table["f1"][title]["missing"]["0"]["others"]) for title in ("SMCL", "UMT-MI")] == [2, 1]


def test_a_file_of_images_that_is_not_of_the_mentions_is_refused(known_posts, tmp_path):
    mentions = Path(tmp_path, "image_dependent.json")
    mentions.write_text('{"1": [[0, 1]]}')
    assert read_showing(mentions) is None and read_mentions(mentions) == {"1": [[0, 1]]}
    for text in ('{"1": []}', "[", "{}"):
        mentions.with_name("showing_images.json").write_text(text)
        with pytest.raises(
            ValueError, match=r"Expected in .*showing_images.json an image, or null, for each mention of"
        ):
            read_showing(mentions)


def test_predictions_of_other_mentions_are_others(tmp_path):
    measured, mentions = Measured(tmp_path, {}), tmp_path / "image_dependent.json"
    paths = set()
    for text in ("", '{"1": []}', '{"1": [[0, 1]]}'):
        mentions.write_text(text)
        plan = Plan("robustness", "data", "data", {}, (0,), tmp_path, mentions=mentions if text else None)
        paths |= {robustness.prediction_path(plan, measured, ("irrelevant", 1)), kept_path(plan, measured)}
    assert len(paths) == 6
