"""The model card of a published model, written from what its runs recorded; what they did not is said to be unknown.

Its text is the template beside this file.
"""

import inspect
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..configuration_smcl import SMCLConfig
from ..crf_smcl import entity_types

TEMPLATE = Path(__file__).with_suffix(".md")
UNKNOWN, UNMEASURED = "not recorded", "not measured"
METRICS = ("precision", "recall", "f1")
METADATA = {
    "library_name": "transformers",
    "pipeline_tag": "token-classification",
    "tags": ["multimodal", "named-entity-recognition", "ner", "smcl", "custom_code"],
}
# Also behind `--name=`, and in lists and JSON; no path of a URL, other than that of a local file.
PLACE = r"(?:file:/*)?(?:/|~|\.\.(?=[/\\]|$)|[A-Za-z]:[/\\]|\\\\)"
# An argument that is a path, perhaps behind a name and a sign of equality, and one that holds paths.
IS_PATH = re.compile(rf"((?:--)?[\w-]*=)?({PLACE}.*)", re.DOTALL)
HOLDS_PATHS = re.compile(rf"""(?<=[=,"'\[]){PLACE}[^,"'\]]*""")
# What a card tells elsewhere, or what is no part of the method.
TOLD_ELSEWHERE = ("text_config", "vision_config", "max_images", "temperature")


def model_card(
    name: str,
    config: SMCLConfig,
    num_parameters: int,
    runs: Sequence[dict[str, Any]] = (),
    results: dict[str, float] | None = None,
    license: str | None = None,
) -> ModelCard:
    """Write the card of a model.

    Args:
        name (`str`): Its name on the Hub, `"namespace/name"`.
        config ([`SMCLConfig`]): Its configuration.
        num_parameters (`int`): How many weights it has.
        runs (`Sequence[dict]`): The runs that made it, as [`read_runs`] returns them; may be empty.
        results (`dict`, *optional*): Scores in place of those of the runs, for a folder without recorded runs.
        license (`str`, *optional*): Identifier of the weights' licence.

    Returns:
        `huggingface_hub.ModelCard`: metadata, and sections of Markdown.
    """
    trained, tested, results = _last_runs(runs, results or {})
    types = entity_types([label for _, label in sorted(config.id2label.items())])
    title = name.split("/")[-1]
    return ModelCard.from_template(
        ModelCardData(
            model_name=title,
            license=license or "unknown",
            base_model=_hub_names(origin for run in runs for origin in run["started_from"].values()),
            datasets=_hub_names(run["data"] for run in (trained, tested) if run),
            metrics=list(METRICS) if "test_f1" in results else None,
            eval_results=_eval_results(tested, results),
            **METADATA,
        ),
        template_path=str(TEMPLATE),
        unknown=UNKNOWN,
        unmeasured=UNMEASURED,
        name=name,
        title=as_text(title),
        license=license and as_text(license),
        types=[as_text(one) for one in types],
        max_images=config.max_images,
        num_parameters=num_parameters,
        switches=_other_settings(config),
        encoders={"Text": config.text_config, "Image": config.vision_config},
        origins=_origins(runs),
        temperature=config.temperature,
        calibration=_calibration(results),
        labels=_label_rows(types, trained),
        scores=_score_rows(types, results),
        tested_on=as_text(tested["data"]["title"]) if tested else UNKNOWN,
        tested_without_images=tested is not None and tested["ignore_images"],
        trained_without_images=trained is not None and trained["ignore_images"],
        data=_data(trained, tested),
        runs=[_run(run) for run in runs],
        worst=_worst(types, results),
    )


def _last_runs(
    runs: Sequence[dict[str, Any]], results: dict[str, float]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, dict[str, float]]:
    """Find the runs that trained and tested the weights as they are, and the scores of these weights."""
    trained = tested = calibrated = None
    results = {} if runs else dict(results)
    for run in runs:
        if "train" in run["stages"]:
            # Scores of the weights before say nothing of those after.
            trained, tested, results = run, None, {}
        if "test" in run["stages"]:
            tested = run
            results = {k: v for k, v in results.items() if not k.startswith("test_") or k.startswith("test_ece")}
        if "calibration" in run["stages"]:
            # Another temperature has another error, also on splits that this run did not read.
            calibrated = run
            results = {key: value for key, value in results.items() if "_ece" not in key}
        results |= run["results"]
    if tested and calibrated and not _same_data(tested, calibrated):
        results = {key: value for key, value in results.items() if not key.startswith("test_ece")}
    return trained, tested, results


def _hub_names(origins) -> list[str] | None:
    return list(dict.fromkeys(origin["name"] for origin in origins if not origin["is_local"])) or None


def _eval_results(tested: dict[str, Any] | None, results: dict[str, float]) -> list[EvalResult] | None:
    if tested is None:
        # The Hub wants the data's name beside each score.
        return None
    data = tested["data"]
    how = "micro-averaged, images taken away" if tested["ignore_images"] else "micro-averaged"
    return [
        EvalResult(
            task_type="token-classification",
            task_name="Named-entity recognition in posts with images",
            dataset_type=data["title"] if data["is_local"] else data["name"],
            dataset_name=data["title"],
            dataset_split="test",
            metric_type=metric,
            metric_name=f"strict entity-level {metric}, {how}",
            metric_value=round(results[f"test_{metric}"], 4),
        )
        for metric in METRICS
    ]


def _other_settings(config: SMCLConfig) -> list[str]:
    """Name the settings of the method that are not those of the published model."""
    names = [name for name in inspect.get_annotations(SMCLConfig) if name not in TOLD_ELSEWHERE]
    values = {name: (getattr(config, name), getattr(SMCLConfig, name)) for name in names}
    return [f"`{name}` {value}" for name, (value, default) in values.items() if value != default]


def _origins(runs: Sequence[dict[str, Any]]) -> str:
    origins = runs[0]["started_from"].values() if runs else []
    return ", ".join(
        f"{as_text(Path(origin['name']).name)} (a local folder)" if origin["is_local"] else as_text(origin["name"])
        for origin in origins
    )


def _calibration(results: dict[str, float]) -> dict[str, float] | None:
    if not {"test_ece", "test_ece_before"} <= results.keys():
        return None
    return {"after": results["test_ece"], "before": results["test_ece_before"]}


def _label_rows(types: Sequence[str], trained: dict[str, Any] | None) -> list[tuple[str, ...]]:
    mentions = (trained or {}).get("data", {}).get("mentions") or {}
    rows = []
    for name in types:
        told = mentions.get(name)
        examples = ", ".join(map(as_text, told["examples"])) if told else UNKNOWN
        rows.append((as_text(name), _count(told and told["count"]), examples or "none"))
    return rows


def _score_rows(types: Sequence[str], results: dict[str, float]) -> list[tuple[str, ...]]:
    if results.get("test_f1") is None:
        return []
    rows = []
    for title, prefix in [("all", "test"), *((name, f"test_{name}") for name in types)]:
        values = [results.get(f"{prefix}_{metric}") for metric in METRICS]
        named = types if title == "all" else [title]
        supports = [results.get(f"test_{name}_support") for name in named]
        rows.append((as_text(title), *map(_score, values), _count(None if None in supports else sum(supports))))
    return rows


def _data(trained: dict[str, Any] | None, tested: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Tell the splits that were trained and tested on, once if both are of the same data."""
    told = {"Trained on": trained, "Tested on": tested}
    if trained is not None and tested is not None and _same_data(trained, tested):
        told = {"Trained and tested on": trained}
    parts = []
    for use, run in told.items():
        splits = dict(run["data"]["splits"]) if run else {}
        if len(told) == 1:
            splits |= tested["data"]["splits"]
        rows = [
            (split, *(_count(s[key]) for key in ("posts", "images", "lost_images")), f"`{s['sha256'] or UNKNOWN}`")
            for split, s in splits.items()
        ]
        context = run["data"].get("context", {}) if run else {}
        told = [f"{as_code(column)} by {describe_maker(about)}" for column, about in context.items()]
        title = as_text(run["data"]["title"]) if run else None
        parts.append({"use": use, "title": title, "splits": rows, "context": told})
    return parts


def describe_maker(about: dict[str, Any] | None) -> str:
    """Say what a column of context was made by.

    Args:
        about (`dict`, *optional*): What its report tells; `None` if that is not known.

    Returns:
        `str`: Markdown in one line.
    """
    if about is None:
        return UNKNOWN
    known = (
        [as_text(about["made_by"])]
        if about["made_by"] == about["model"]
        else [f"{as_text(about['made_by'])} (model {as_text(about['model'])})"]
    )
    known += [f"{key} {as_code(about[key])}" for key in ("revision", "fingerprint") if about.get(key)]
    return ", ".join(known)


def _same_data(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two runs used the same data: neither name nor any split that both used differs."""
    ours, theirs = one["data"]["splits"], other["data"]["splits"]
    return one["data"]["name"] == other["data"]["name"] and all(
        ours[split] == theirs[split] for split in ours.keys() & theirs.keys()
    )


def _run(run: dict[str, Any]) -> dict[str, Any]:
    """Tell what stands of a run under "Training"."""
    command, results = _public(run["command"]), run["results"]
    is_training = "train" in run["stages"]
    return {
        "stages": ", ".join(run["stages"]).capitalize(),
        "command": command,
        "fence": _fence(command, least=3),
        "versions": ", ".join(f"{key} {value or UNKNOWN}" for key, value in run["versions"].items()),
        "hardware": run["hardware"],
        "seconds": run["seconds"],
        "finished": run["finished"],
        "training": {"seconds": results["train_runtime"], "epochs": results["epoch"]} if is_training else None,
        "resumed_from": run["resumed_from"] and as_text(run["resumed_from"]),
        "settings": ", ".join(f"{key} {value}" for key, value in run["settings"].items() if value is not None),
        "energy_kwh": run["energy_kwh"],
    }


def _public(command: str) -> str:
    """Cut paths that tell of their owner's machine to their last part: absolute ones, and those from home or parent."""
    parts = shlex.split(command)
    for place, part in enumerate(parts):
        if path := IS_PATH.fullmatch(part):
            parts[place] = (path[1] or "") + _last_part(path[2])
        else:
            parts[place] = HOLDS_PATHS.sub(lambda found: _last_part(found[0]), part)
    return shlex.join(parts)


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or "/"


def _worst(types: Sequence[str], results: dict[str, float]) -> dict[str, Any] | None:
    """Find the type of the lowest F1, among those that the test split has."""
    scored = {
        name: results[f"test_{name}_f1"]
        for name in types
        if f"test_{name}_f1" in results and results.get(f"test_{name}_support") != 0
    }
    worst = min(scored, key=scored.get, default=None)
    return None if worst is None else {"type": as_text(worst), "f1": scored[worst]}


def as_text(text: str) -> str:
    """Write a string of the user's so that it stays text, also in a table's cell.

    Args:
        text (`str`): Any text.

    Returns:
        `str`: Markdown in one line that shows it.
    """
    escaped = (f"&#{ord(c)};" if c in "<>&$" else f"\\{c}" if c in "\\`*_[]|#~" else c for c in text)
    return " ".join("".join(escaped).split())


def as_code(text: str) -> str:
    """Write a string of the user's as code within a line.

    Args:
        text (`str`): Any text.

    Returns:
        `str`: Markdown in one line that shows it.
    """
    fence = _fence(text, least=1)
    space = " " * (fence != "`")
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def _fence(code: str, least: int) -> str:
    """Return as many backticks as surround code that may hold some itself."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", code))])


def _score(value: float | None) -> str:
    return UNMEASURED if value is None else f"{value:.4f}"


def _count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


__all__ = ["UNKNOWN", "as_code", "as_text", "describe_maker", "model_card"]
