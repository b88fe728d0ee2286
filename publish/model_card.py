"""The model card of a published model, written from what its runs recorded; what they did not is said to be unknown."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..configuration_smcl import SMCLConfig

UNKNOWN, UNMEASURED = "not recorded", "not measured"
METRICS = ("precision", "recall", "f1")
USE = """from transformers import pipeline

ner = pipeline(model="{name}", trust_remote_code=True)
post = {{"text": "Joey and Niko rest after wrestling", "images": []}}
for entity in ner(post):
    print(entity["word"], entity["entity_group"], round(entity["score"], 3))"""
CITATION = """@article{wu2026smcl,
  author  = {Wu, Yubo and Liu, Junqiang},
  title   = {Multimodal Named-Entity Recognition Based on Symmetric Fusion with Contrastive Learning},
  journal = {Symmetry},
  volume  = {18},
  number  = {2},
  pages   = {353},
  year    = {2026},
  doi     = {10.3390/sym18020353}
}"""


class ModelCard:
    """What a card tells of a model.

    Args:
        name (`str`): Its name on the Hub, `"namespace/name"`.
        config ([`SMCLConfig`]): Its configuration.
        num_parameters (`int`): How many weights it has.
        runs (`Sequence[dict]`): The runs that made it, as [`read_runs`] returns them; may be empty.
        results (`dict`, *optional*): Scores in place of those of the runs, for a folder without recorded runs.
        license (`str`, *optional*): Identifier of the weights' licence.
    """

    def __init__(
        self,
        name: str,
        config: SMCLConfig,
        num_parameters: int,
        runs: Sequence[dict[str, Any]] = (),
        results: dict[str, float] | None = None,
        license: str | None = None,
    ):
        self.name, self.config, self.num_parameters = name, config, num_parameters
        self.runs, self.license = list(runs), license
        self.types = [label[2:] for _, label in sorted(config.id2label.items()) if label.startswith("B-")]
        self.results = dict(results or {}) if not runs else {}
        self.trained: dict[str, Any] | None = None
        self.tested: dict[str, Any] | None = None
        for run in self.runs:
            if "train" in run["stages"]:
                # Scores of the weights before say nothing of those after.
                self.trained, self.tested, self.results = run, None, {}
            if "test" in run["stages"]:
                self.tested = run
            self.results |= run["results"]

    def text(self) -> str:
        """Return the card: metadata, and sections of Markdown."""
        sections = [self._introduction(), self._use(), self._labels(), self._scores(), self._data(), self._training()]
        sections += [self._limits(), f"## Citation\n\n```bibtex\n{CITATION}\n```"]
        return f"---\n{self.metadata()}\n---\n\n" + "\n\n".join(sections) + "\n"

    def metadata(self) -> ModelCardData:
        """Return what the Hub reads of the card: licence, base models, data set, scores."""
        return ModelCardData(
            model_name=self.name.split("/")[-1],
            license=self.license or "unknown",
            library_name="transformers",
            pipeline_tag="token-classification",
            tags=["multimodal", "named-entity-recognition", "ner", "smcl", "custom_code"],
            base_model=self._base_models() or None,
            datasets=self._hub_data() or None,
            metrics=list(METRICS),
            eval_results=self._eval_results() or None,
        )

    def _base_models(self) -> list[str]:
        origins = [origin for run in self.runs for origin in run["started_from"].values()]
        return list(dict.fromkeys(origin["name"] for origin in origins if not origin["is_local"]))

    def _hub_data(self) -> list[str]:
        data = [run["data"] for run in (self.trained, self.tested) if run]
        return list(dict.fromkeys(origin["name"] for origin in data if not origin["is_local"]))

    def _eval_results(self) -> list[EvalResult]:
        if self.tested is None:
            # The Hub wants the data's name beside each score.
            return []
        data = self.tested["data"]
        return [
            EvalResult(
                task_type="token-classification",
                task_name="Named-entity recognition in posts with images",
                dataset_type=data["title"] if data["is_local"] else data["name"],
                dataset_name=data["title"],
                dataset_split="test",
                metric_type=metric,
                metric_name=f"strict entity-level {metric}, micro-averaged",
                metric_value=round(self.results[f"test_{metric}"], 4),
            )
            for metric in METRICS
        ]

    def _introduction(self) -> str:
        encoders = {"Text": self.config.text_config, "Image": self.config.vision_config}
        parts = [
            f"{key} encoder: {part.model_type}, {part.num_hidden_layers} layers of width {part.hidden_size}"
            for key, part in encoders.items()
        ]
        return f"""# {self.name.split("/")[-1]}

Finds the named entities ({", ".join(self.types)}) in posts with up to {self.config.max_images} images: the words are
tagged in BIO2, and the images decide where the words alone are ambiguous. The model is SMCL (Wu & Liu, *Symmetry* 2026,
18(2), 353), with {self.num_parameters:,} weights.

{". ".join(parts)}. Started from: {self._origins()}.

Licence: {self.license or UNKNOWN}. The code in this repository is under Apache-2.0."""

    def _origins(self) -> str:
        origins = self.runs[0]["started_from"] if self.runs else {}
        named = [
            f"{origin['name']}" if not origin["is_local"] else f"{Path(origin['name']).name} (a local folder)"
            for origin in origins.values()
        ]
        return ", ".join(named) or UNKNOWN

    def _use(self) -> str:
        return f"""## Use

`pip install torch transformers pytorch-crf pillow`; then

```python
{USE.format(name=self.name)}
```

`images` are paths, URLs, PIL images or bytes, in the order of the post. `trust_remote_code=True` runs the Python files
of this repository: read them first, and pin what you read by `revision="COMMIT"`. `score` is the probability under the
CRF that exactly these words are an entity of this type. {self._calibration()}"""

    def _calibration(self) -> str:
        if "test_ece" not in self.results:
            return f"Its expected calibration error is {UNMEASURED}."
        return (
            f"Its expected calibration error on the test split is {self.results['test_ece']:.3f}, at the fitted "
            f"temperature {self.config.temperature:.2f} ({self.results['test_ece_before']:.3f} before)."
        )

    def _labels(self) -> str:
        mentions = (self.trained or {}).get("data", {}).get("mentions") or {}
        rows = []
        for name in self.types:
            told = mentions.get(name)
            examples = ", ".join(map(_cell, told["examples"])) if told else UNKNOWN
            rows.append((name, f"{told['count']:,}" if told else UNKNOWN, examples or "none"))
        return f"## Labels\n\n{format_table(('type', 'mentions in training', 'most frequent'), rows)}"

    def _scores(self) -> str:
        if self.results.get("test_f1") is None:
            return f"## Scores\n\nPrecision, recall and F1 on a test split: {UNMEASURED}."
        rows = []
        for title, prefix in [("all", "test"), *((name, f"test_{name}") for name in self.types)]:
            values = [self.results.get(f"{prefix}_{metric}") for metric in METRICS]
            named = self.types if title == "all" else [title]
            supports = [self.results.get(f"test_{name}_support") for name in named]
            rows.append((title, *map(_score, values), _count(None if None in supports else sum(supports))))
        data = UNKNOWN if self.tested is None else self.tested["data"]["title"]
        return f"""## Scores

Strict and entity-level (type and both borders must be right), micro-averaged over all entities; test split of the data
{data}; one run.

{format_table(("", "precision", "recall", "F1", "entities"), rows)}"""

    def _data(self) -> str:
        told = [("trained on", self.trained), ("tested on", self.tested)]
        if self.trained is not None and self.tested is not None and _same_data(self.trained, self.tested):
            told = [("trained and tested on", self.trained)]
        parts = []
        for title, run in told:
            if run is None:
                parts.append(f"{title.capitalize()}: {UNKNOWN}.")
                continue
            splits = dict(run["data"]["splits"])
            if len(told) == 1:
                splits |= self.tested["data"]["splits"]
            rows = [
                (
                    split,
                    _count(s["posts"]),
                    _count(s["images"]),
                    _count(s["lost_images"]),
                    f"`{s['sha256'] or UNKNOWN}`",
                )
                for split, s in splits.items()
            ]
            head = ("split", "posts", "images", "images missing or broken", "SHA-256")
            parts.append(f"{title.capitalize()} {run['data']['title']}.\n\n{format_table(head, rows)}")
        note = "A split's SHA-256 is the one in its data set's `report.json`; it covers words, tags and images."
        return "\n\n".join(["## Data", *parts, note])

    def _training(self) -> str:
        if not self.runs:
            return f"## Training\n\nCommand, versions, hardware, time, seed and energy: {UNKNOWN}."
        parts = ["## Training", "Absolute paths are cut to their last part, tokens are left out."]
        for run in self.runs:
            stages = ", ".join(run["stages"])
            energy = run["energy_kwh"]
            rows = [
                ("versions", ", ".join(f"{key} {value or UNKNOWN}" for key, value in run["versions"].items())),
                ("hardware", run["hardware"]),
                ("time", f"{run['seconds']:,.0f} s, finished {run['finished']}"),
                (
                    "settings",
                    ", ".join(f"{key} {value}" for key, value in run["settings"].items() if value is not None),
                ),
            ]
            if "train" in run["stages"]:
                seconds = f"{run['results']['train_runtime']:,.0f} s of training"
                if run["resumed_from"]:
                    seconds += f" since {run['resumed_from']}, where it was resumed; the time before is {UNKNOWN}"
                rows.insert(3, ("of that", f"{seconds}, {run['results']['epoch']:g} epochs"))
                rows.append(("energy", f"{energy:.4f} kWh (codecarbon)" if energy is not None else UNMEASURED))
            parts.append(
                f"{stages.capitalize()}:\n\n```bash\n{_public(run['command'])}\n```\n\n{format_table(('', ''), rows)}"
            )
        return "\n\n".join(parts)

    def _limits(self) -> str:
        limits = []
        scored = {name: self.results[f"test_{name}_f1"] for name in self.types if f"test_{name}_f1" in self.results}
        if scored:
            worst = min(scored, key=scored.get)
            limits.append(f"It is worst at {worst}: F1 {scored[worst]:.3f} on the test split.")
        if self.trained and self.trained["ignore_images"]:
            limits.append("It was trained without images: what it makes of them is chance.")
        limits += [
            "The scores are of one run on one data set; on other posts, times or languages they are not measured.",
            f'Posts with more than {self.config.max_images} images are refused, or cut with `on_extra_images="first"`.',
            "The tags are no better than the data: their annotators' errors, and whom and what they show often or "
            "never, come back in what the model finds.",
            "Images sway it, misleading ones too: `ner.explain(post)` shows what each does.",
            "Differences between groups of people in what is found are not measured. It is a tool to look through "
            "posts, not one to judge or to identify persons by.",
        ]
        return "## Limits and bias\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _same_data(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two runs used the same data: neither name nor any split that both used differs."""
    ours, theirs = one["data"]["splits"], other["data"]["splits"]
    return one["data"]["name"] == other["data"]["name"] and all(
        ours[split] == theirs[split] for split in ours.keys() & theirs.keys()
    )


def _public(command: str) -> str:
    """Cut absolute paths, which tell of their owner's machine, to their last part."""
    return shlex.join(Path(part).name if os.path.isabs(part) else part for part in shlex.split(command))


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    """Write text of the data into a table so that it stays text."""
    escaped = (f"&#{ord(c)};" if c in "<>&" else f"\\{c}" if c in "\\`*_[]|#" else c for c in text)
    return " ".join("".join(escaped).split())


def _score(value: float | None) -> str:
    return UNMEASURED if value is None else f"{value:.4f}"


def _count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


__all__ = ["UNKNOWN", "ModelCard", "format_table"]
