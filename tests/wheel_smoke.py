"""Try an installed wheel outside the repository: is all there, and does the way from data to entities work?

    PYTHON -I tests/wheel_smoke.py

`make test-wheel` runs it with the Python of an environment that has the wheel and what it requires, nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = {"baselines", "dataset_scripts", "experiments", "predict", "publish", "train"}
PACKAGES = (".", *sorted(ROOMS), "experiments/benchmarks", "predict/figures")
LOADING = """
import sys
sys.modules["smcl"] = None  # as on a machine without the package
from transformers import pipeline
ner = pipeline(model=sys.argv[1], trust_remote_code=True)
assert type(ner).__module__.startswith("transformers_modules."), type(ner)
print(len(ner({"text": "from Monroe to Magnolia", "images": []}, return_tags=True)["tags"]))
"""


def run(*arguments: str) -> str:
    """Run this Python outside the repository, and return what it prints."""
    done = subprocess.run([sys.executable, "-I", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def check_files(package: Path) -> None:
    """See to it that the wheel has all files of the packages, and no others."""
    for folder in PACKAGES:
        expected = {path.name for path in (REPOSITORY / folder).glob("*.py")}
        assert {path.name for path in (package / folder).glob("*.py")} == expected, folder
    assert (package / "py.typed").is_file()
    cards = {path.name for path in (REPOSITORY / "publish").glob("*.md")}
    assert {path.name for path in (package / "publish").glob("*.md")} == cards and len(cards) == 3
    assert {path.name for path in package.iterdir() if path.is_dir()} - {"__pycache__"} == ROOMS


def make_inputs() -> None:
    """Write a few posts and small encoders."""
    from datasets import load_dataset

    from smcl.dataset_scripts.icons import convert
    from smcl.experiments.icon_demo import save_text_encoder, save_vision_encoder

    convert(Path("data"), train=32, validation=8, test=8)
    save_text_encoder(load_dataset("data", split="train")["tokens"], Path("text"))
    save_vision_encoder(Path("vision"), seed=0, steps=2, batch_size=4)


def main() -> None:
    """Check the files, train, predict, explain, publish to a folder, and load that without the package."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        # The saved code would otherwise be left in the user's own cache.
        os.environ["HF_HOME"] = f"{folder}/cache"
        import smcl

        package = Path(smcl.__file__).resolve().parent
        assert package.parent.name == "site-packages", package
        check_files(package)
        make_inputs()
        encoders = ["--text_model", "text", "--vision_model", "vision", "--use_cpu", "--freeze_vision"]
        training = [
            "--dataset",
            "data",
            "--output_dir",
            "model",
            "--do_train",
            "--do_predict",
            "--num_train_epochs",
            "1",
        ]
        run("-m", "smcl.run_ner_multiimage", *training, *encoders)
        assert "test_f1" in json.loads(Path("model/all_results.json").read_text(encoding="utf-8"))
        run("-m", "smcl.publish", "model", "someone/smcl-smoke", "--output", "published")
        code = {path.name for path in Path("published").glob("*.py")}
        assert (
            {"modeling_smcl.py", "processing_smcl.py", "pipeline_smcl.py"}
            <= code
            <= {p.name for p in package.glob("*.py")}
        )
        assert run("-c", LOADING, f"{folder}/published").strip() == "4"
        Path("post.json").write_text(json.dumps({"text": "from Monroe to Magnolia", "images": []}), encoding="utf-8")
        run("-m", "smcl.predict.figures.plot", "--model", "model", "--post", "post.json", "--output", "card.html")
        assert "Monroe" in Path("card.html").read_text(encoding="utf-8")
        os.chdir("/")
    sys.stdout.write(f"The wheel of smcl works: {len(code)} code files travel with a model.\n")


if __name__ == "__main__":
    main()
