import pytest
from cells import call_here
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, load_dataset
from PIL import Image
from transformers import AutoConfig, AutoTokenizer

from smcl.dataset_scripts.cp_mner import convert
from smcl.experiments import cp_mner, report, runs
from smcl.experiments.significance import Difference
from smcl.experiments.tables import read_table

# One character of each post is met once.
POSTS = ["徐/B-PER 悲/I-PER 鸿/I-PER 绘/O 竹/B-PLANT {}/O", "竹/B-PLANT 图/O 徐/B-PER 悲/I-PER 鸿/I-PER {}/O"]


@pytest.fixture
def data(tmp_path):
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    for split, count in (("train", 8), ("valid", 2), ("test", 4)):
        blocks = []
        for row in range(count):
            name = f"{split}{row}"
            words = POSTS[row % 2].format(chr(0x4E00 + row)).replace("/", "\t").split(" ")
            blocks.append("\n".join([f"IMGID:{name}", *(word.replace("\t", " ") for word in words)]) + "\n\n")
            Image.new("RGB", (8, 8), (20 * row, 0, 0)).save(source / "images" / f"{name}.jpg")
        (source / f"{split}.txt").write_text("".join(blocks), encoding="utf-8")
    convert(source, tmp_path / "cp_mner", images=source / "images")
    return tmp_path / "cp_mner"


def test_cp_mner_is_run_with_and_without_images_and_scored_by_type(
    data, encoder_folders, tmp_path, monkeypatch, capsys
):
    called = []

    def call(arguments, folder, threads):
        called.append(arguments)
        return call_here(arguments)

    monkeypatch.setattr(runs, "_call", call)
    results = tmp_path / "results"
    argv = ["--dataset", str(data), "--vision_model", encoder_folders[1], "--results", str(results), "--seeds", "0"]
    cp_mner.main([*argv, "--num_train_epochs", "1", "--use_cpu", "--rows", "SMCL", "SMCL without images"])
    trained = [one for one in called if "do_train" in one]
    assert [one.get("ignore_images") for one in trained] == ["true", None]
    assert {one["num_train_epochs"] for one in trained} == {"1"}
    # With images, the model is tested again without them.
    assert len(called) == 3
    folder = results / "cp_mner" / "cp_mner"
    # The longest post has 6 characters; those met once, but for the known names, are unknown.
    assert AutoConfig.from_pretrained(folder / "text").max_position_embeddings == 64
    assert set("徐悲鸿竹图绘") == set(AutoTokenizer.from_pretrained(folder / "text").get_vocab()) - {
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    }
    rows = read_table(folder / "table.json")["rows"]
    assert rows["SMCL without images"]["differences"][""] is not None and not rows["BERT-CRF"]["seeds"]
    types = read_table(results / "cp_mner_types" / "cp_mner" / "table.json")["types"]
    assert (types["PER"]["train"], types["PER"]["test"], types["STYLE"]["train"]) == (8, 4, 0)
    assert types["PER"]["difference"] is not None
    text = report.write_report(results, tmp_path / "results.md")
    assert "paper: MNER-MI" not in text and "Table 2" not in text
    assert text.index("CP-MNER: with and without images") < text.index("CP-MNER by type")
    assert "trained with images and tested without" in text


def test_what_was_measured_before_is_shown_without_making_a_text_encoder(data, encoder_folders, tmp_path, capsys):
    argv = ["--dataset", str(data), "--vision_model", encoder_folders[1], "--results", str(tmp_path / "results")]
    with pytest.raises(SystemExit):
        cp_mner.main([*argv, "--no_run"])
    assert "leave `--no_run` out" in capsys.readouterr().err and not (tmp_path / "results").exists()


def test_posts_under_other_names_of_columns_and_without_validation_are_read(data, encoder_folders, tmp_path, capsys):
    for split in ("train", "test"):
        posts = load_dataset(str(data), split=split).rename_columns({"tokens": "words", "ner_tags": "tags"})
        posts.to_parquet(tmp_path / "own" / f"{split}.parquet")
    argv = ["--dataset", str(tmp_path / "own"), "--vision_model", encoder_folders[1], "--results", str(tmp_path)]
    argv += ["--columns", "tokens=words", "ner_tags=tags", "--no_run"]
    for more, said in (([], "has no split 'validation'"), (["--eval_strategy", "no"], "there is no text encoder")):
        with pytest.raises(SystemExit):
            cp_mner.main([*argv, *more])
        assert said in capsys.readouterr().err


def test_words_that_nobody_tagged_are_no_entities_of_any_type():
    features = Features({"ner_tags": List(ClassLabel(names=["O", "B-PER", "I-PER"]))})
    posts = DatasetDict(train=Dataset.from_dict({"ner_tags": [[1, 2, -100, 1]]}, features=features))
    assert cp_mner.count_types(posts, "train") == {"PER": 2}


def test_positions_hold_the_longest_post_of_any_split():
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O"]))})
    lengths = {"train": 62, "validation": 63, "test": 10}
    splits = {
        name: Dataset.from_dict({"tokens": [["画"] * length], "ner_tags": [[0] * length]}, features=features)
        for name, length in lengths.items()
    }
    assert cp_mner.positions_of(DatasetDict(splits)) == 128
    assert cp_mner.positions_of(DatasetDict({"train": splits["train"]})) == 64


def test_types_are_told_by_their_intervals():
    found = {"PER": Difference(0.1, 0.05, 0.2, 0), "LOC": Difference(-0.1, -0.2, -0.05, 0)}
    (line,) = cp_mner.tell_types(found | {"ORG": Difference(0, -0.1, 0.1, 1)})
    assert line.startswith("Images help: PER; images hurt: LOC, by")
    posts = [{"id": "1", "gold": ["B-PER", "I-PER", "B-LOC"], "predicted": ["O", "B-LOC", "I-LOC"]}]
    kept = {"gold": ["O", "O", "B-LOC"], "predicted": ["O", "B-LOC", "I-LOC"]}
    assert cp_mner.keep_type(posts, "LOC") == [{"id": "1"} | kept]
    assert cp_mner.tell_types({}) == []


def test_data_that_is_not_there_ends_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cp_mner.main(["--dataset", str(tmp_path / "none"), "--vision_model", "v", "--results", str(tmp_path)])
    assert "--dataset" in capsys.readouterr().err.splitlines()[-1]
