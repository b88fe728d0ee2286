import copy
import json
from pathlib import Path

import pytest
from card_shape import shape
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset
from huggingface_hub import DatasetCard

from smcl.dataset_scripts.enrich import main as enrich
from smcl.dataset_scripts.fingerprints import image_digest
from smcl.dataset_scripts.report import SplitReport
from smcl.publish.dataset_card import _count_posts, dataset_card
from smcl.publish.upload import complete

LABELS = ["O", "B-PER", "I-PER"]
HOSTILE = "{{ 7 * 7 }} `{% raw %}` |<b>\n---\n# no"


@pytest.fixture
def report(data) -> dict:
    return json.loads(Path(data, "report.json").read_text(encoding="utf-8"))


def test_card_tells_the_figures_and_hashes_of_the_report(report):
    card = dataset_card("someone/posts", report, LABELS, size=1_250_000, license="mit")
    assert card.data.license == "mit" and card.data.size_categories == ["n<1K"]
    assert [part["split"] for part in card.data.configs[0]["data_files"]] == list(report["splits"])
    for split, told in report["splits"].items():
        assert f"| {split} | `{told['sha256']}` |" in card.text
    for figure in ("posts", "words", "images"):
        values = [split[figure] for split in report["splits"].values()]
        assert f"| {figure} | {' | '.join(f'{value:,}' for value in [*values, sum(values)])} |" in card.text
    assert "images included, 1.2 MB" in card.text and 'load_dataset("someone/posts", split="test")' in card.text


@pytest.fixture
def enriched(data, tmp_path) -> Path:
    """The posts with objects of a file that lacks some images, and sentences over them by a template."""
    digest = image_digest(load_dataset(data, split="train").with_format("arrow")[0]["images"].to_pylist()[0][0]).hex()
    lines = tmp_path / "objects.jsonl"
    lines.write_text(json.dumps({"sha256": digest, "objects": [["owl", 0.5]]}) + "\n")
    places = ["--input", data, "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    columns = ["--objects", str(lines), "--made_by", "objects=Vin|VL <1>", "--knowledge", "template"]
    enrich([*places, *columns, "--on_failed", "empty"])
    return tmp_path / "out"


def test_card_tells_what_context_was_made_by(enriched, report):
    context = json.loads((enriched / "report.json").read_text(encoding="utf-8"))["context"]
    complete(enriched, enriched.parent / "checked", "someone/posts")
    card = DatasetCard((enriched.parent / "checked" / "README.md").read_text(encoding="utf-8"))
    rows = [line.strip("| ").split(" | ") for line in card.text.splitlines() if line.startswith("| `")]
    about = {row[0].strip("`"): row[1:] for row in rows if len(row) == 6}
    objects, failed = context["objects"], context["objects"]["failed"]["count"]
    made_by, settings, versions, read, without = about["objects"]
    assert (
        made_by == f"Vin\\|VL &#60;1&#62;, fingerprint `{objects['fingerprint']}`" and settings == "file objects.jsonl"
    )
    assert (versions, read) == ("not recorded", f"{objects['images']} images, the first of each post")
    assert failed and without == f"{failed}: as if nothing was found"
    assert about["knowledge"][0].endswith("&#60;1&#62; (model template)")
    assert about["knowledge"][3:] == ["40 posts, all", "0"]
    hashes = {row[0].strip("`"): row[1:] for row in rows if len(row) == 4}
    assert hashes == {column: [f"`{told['sha256'][s]}`" for s in report["splits"]] for column, told in context.items()}
    # Columns are described as the others are.
    assert [row[0] for row in rows if len(row) == 2][-2:] == ["`objects`", "`knowledge`"]
    assert "## Context" not in dataset_card("someone/posts", report, LABELS, size=1).text


def test_context_that_was_changed_since_is_refused(enriched):
    path = enriched / "data" / "test-00000-of-00001.parquet"
    posts = Dataset.from_parquet(str(path))
    changed = posts.map(lambda post: {"knowledge": "x"}, features=posts.features)
    changed.to_parquet(path)
    with pytest.raises(
        ValueError, match="column 'knowledge' of the split 'test' .* not that which report.json tells of"
    ):
        complete(enriched, enriched.parent / "checked", "someone/posts")
    changed.remove_columns("objects").to_parquet(path)
    with pytest.raises(ValueError, match="column 'objects' of the split 'test' .*enrich` again"):
        complete(enriched, enriched.parent / "checked2", "someone/posts")


def test_licence_that_nobody_gave_is_said_to_be_unknown(report):
    card = dataset_card("someone/posts", report, LABELS, size=1)
    assert card.data.license == "unknown" and "Licence: not recorded." in card.text


def test_strings_of_the_user_are_neither_templates_nor_markup(report):
    plain = dataset_card("someone/posts", copy.deepcopy(report), LABELS, size=1)
    report["name"] = HOSTILE
    report["splits"]["test"]["mapped_tags"] = {HOSTILE: 3}
    card = dataset_card("someone/posts", report, ["O", HOSTILE], size=1)
    assert card.data.pretty_name == HOSTILE
    # As code within the line, fenced by more backticks than it has; the metadata before do not count.
    assert "the data `` {{ 7 * 7 }} `{% raw %}` |<b> --- # no ``, as written" in card.text
    assert card.text.count("{{ 7") == 3 and card.text.count("&#60;b&#62;") == 2
    assert shape(card.text) == shape(plain.text)


def test_snippet_reads_a_split_that_is_there(report):
    del report["splits"]["test"]
    assert 'split="validation"' in dataset_card("someone/posts", report, LABELS, size=1).text


def test_words_that_nobody_tagged_are_no_entities_and_change_the_hash(tmp_path):
    image = {"bytes": Value("binary"), "path": Value("string")}
    features = {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=LABELS))}
    features = Features(features | {"images": List(image), "source": Value("string")})
    found = []
    for tags in ([1, -100, 1], [1, 0, 1], [-100, -100, -100]):
        row = {"id": "1", "tokens": ["a", "b", "c"], "ner_tags": tags, "images": [], "source": "x"}
        Dataset.from_list([row], features=features).to_parquet(tmp_path / "train.parquet")
        report = SplitReport(["PER"])
        _count_posts(tmp_path / "train.parquet", report)
        found.append(report.as_dict())
    assert [told["entities"]["total"] for told in found] == [2, 2, 0]
    assert [told["words"] for told in found] == [3, 3, 3]
    assert len({told["sha256"] for told in found}) == 3
