"""Models that say what is in images: objects, regions, captions and text, each by a model of transformers."""

import importlib.metadata
from collections import defaultdict
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    pipeline,
)

from ..images_smcl import load_image
from .command_line import require
from .context import WHOLE_IMAGE, clip_box, is_box
from .fingerprints import fingerprint, image_digest
from .schema import DataError

DETECTOR = {"threshold": 0.5, "max_objects": 20}
# A classifier's probabilities are shared among all its names: its best five say more than those above a half.
CLASSIFIER = {"threshold": 0.0, "max_objects": 5}
# Below it, a query has found nothing. Systems that read regions ask for more.
MIN_REGION_SCORE = 0.01
CAPTION = {"prompt": "Describe this image in one short sentence.", "num_beams": 4, "max_new_tokens": 64}
OCR = {
    "prompt": "Copy out all text in this image, line by line. Write nothing else, and nothing at all if there is none.",
    "num_captions": 1,
    "num_beams": 1,
    "max_new_tokens": 512,
}


def clean_text(text: str) -> str:
    """Return a model's text as UTF-8 can hold it, without spaces around it."""
    return text.encode("utf-8", "replace").decode("utf-8").strip()


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {name: importlib.metadata.version(name) for name in packages}


def describe_model(name: str) -> tuple[PreTrainedConfig, dict[str, str]]:
    """Read a model's configuration, and say what the model is known by; its weights are not loaded.

    Args:
        name (`str`): A folder, or a name on the Hub.

    Returns:
        `tuple`: the configuration; `model`, and `fingerprint` of a folder or `revision` on the Hub.

    Raises:
        DataError: if there is no such model.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise DataError(f"There is no model {name}, neither as a folder nor on the Hub: {_first_line(error)}") from None
    if Path(name).is_dir():
        # Reports are published: no folders of this machine.
        return config, {"model": Path(name).resolve().name, "fingerprint": fingerprint(name)}
    return config, {"model": name, "revision": config._commit_hash}


def load(auto_class: type, name: str, **kwargs: Any) -> Any:
    """Call `auto_class.from_pretrained(name, **kwargs)`; raises a `DataError` if it can't be loaded."""
    try:
        return auto_class.from_pretrained(name, **kwargs)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise DataError(f"{name} can't be loaded by {auto_class.__name__}: {_first_line(error)}") from None


def load_model(auto_class: type, name: str, device: str) -> PreTrainedModel:
    """Load a model to run it: on the CPU in float32, elsewhere in the dtype of its files.

    Args:
        auto_class (`type`): The auto class of its task.
        name (`str`): A folder, or a name on the Hub.
        device (`str`): Where it runs.

    Returns:
        `PreTrainedModel`.

    Raises:
        DataError: if it can't be loaded, or lacks weights that its task needs and that would be random.
    """
    dtype = torch.float32 if device == "cpu" else "auto"
    model, info = load(auto_class, name, dtype=dtype, output_loading_info=True)
    if info["missing_keys"]:
        raise DataError(
            f"{name} is no whole model for {auto_class.__name__}: its files lack {len(info['missing_keys'])} weights, "
            f"such as {min(info['missing_keys'])}, which would be random. Choose a model trained for this task."
        )
    return model.to(device).eval()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


class ImageModel:
    """A model that says something of each image; subclasses say what. Its weights are read at the first image.

    Args:
        name (`str`): A folder, or a name on the Hub.
        settings (`dict`): All that decides what it says, besides its weights.
        device (`str`, *optional*, defaults to `"cpu"`): Where it runs.

    Raises:
        DataError: if there is no such model.
    """

    auto_class: type
    processor_class: type = AutoProcessor

    def __init__(self, name: str, settings: dict[str, Any], device: str = "cpu"):
        config, about = describe_model(name)
        if type(config) not in self.auto_class._model_mapping:
            raise DataError(
                f"{name} is a {config.model_type}, which {self.auto_class.__name__} does not know. Choose another."
            )
        self.name, self.device = name, device
        self.about = about | {"settings": settings, "versions": versions("transformers", "torch", "pillow")}
        self.settings = settings
        self.model = None

    @property
    def made_by(self) -> str:
        """What tables and cards say."""
        return self.about["model"]

    def key(self, item: dict[str, Any]) -> str:
        """Return what the image of `item["image"]` is known by in a cache: its content."""
        return image_digest(item["image"]).hex()

    def load(self) -> None:
        """Read the model and its processor."""
        self.processor = load(self.processor_class, self.name)
        self.model = load_model(self.auto_class, self.name, self.device)

    @torch.inference_mode()
    def annotate(self, items: list[dict[str, Any]]) -> list[list[Any]]:
        """Say what is in images.

        Inputs are padded nowhere: only images of which the processor makes tensors of one shape are read together.

        Args:
            items (`list[dict]`): Each with an `image`, as `load_image` takes it.

        Returns:
            `list[list]`: an entry of the column for each.

        Raises:
            ValueError: if an image can't be used.
        """
        images = [load_image(item["image"]) for item in items]
        if self.model is None:
            self.load()
        values: dict[int, list[Any]] = {}
        groups = defaultdict(list)
        for index, inputs in enumerate(map(self.prepare, images)):
            tensors = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
            groups[tuple((name, value.shape) for name, value in tensors.items())].append((index, tensors))
        for group in groups.values():
            batch = {name: torch.cat([tensors[name] for _, tensors in group]) for name in group[0][1]}
            batch = {
                name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
                for name, value in batch.items()
            }
            values.update(zip((index for index, _ in group), self.read(batch), strict=True))
        return [values[index] for index in range(len(items))]

    def prepare(self, image: PIL.Image.Image) -> dict[str, torch.Tensor]:
        """Make the model's inputs of one image."""
        return self.processor(images=image, return_tensors="pt")

    def read(self, batch: dict[str, torch.Tensor]) -> list[list[Any]]:
        """Run the model, and make an entry of the column for each image of the batch."""
        raise NotImplementedError


class Detector(ImageModel):
    """Objects by a detector of a closed list of classes; boxes that lie outside the image are left out."""

    auto_class, processor_class = AutoModelForObjectDetection, AutoImageProcessor

    def read(self, batch):  # noqa: D102
        found = self.processor.post_process_object_detection(self.model(**batch), threshold=self.settings["threshold"])
        return [self._objects(*(result[name].tolist() for name in ("scores", "labels", "boxes"))) for result in found]

    def _objects(self, scores: list[float], labels: list[int], boxes: list[list[float]]) -> list[dict[str, Any]]:
        objects = [
            {"label": self.model.config.id2label[label], "score": round(score, 4), "box": clip_box(*box)}
            for score, label, box in sorted(zip(scores, labels, boxes, strict=True), reverse=True)
        ]
        return [found for found in objects if is_box(found["box"])][: self.settings["max_objects"]]


class Classifier(ImageModel):
    """Objects by an image classifier: its best classes, each with the whole image as its box."""

    auto_class, processor_class = AutoModelForImageClassification, AutoImageProcessor

    def read(self, batch):  # noqa: D102
        logits = self.model(**batch).logits.float()
        config, settings = self.model.config, self.settings
        several = config.problem_type == "multi_label_classification" or config.num_labels == 1
        best = (logits.sigmoid() if several else logits.softmax(-1)).topk(
            min(settings["max_objects"], logits.shape[-1])
        )
        return [
            [
                {"label": config.id2label[label], "score": round(score, 4), "box": WHOLE_IMAGE}
                for score, label in zip(scores, labels, strict=True)
                if score >= settings["threshold"]
            ]
            for scores, labels in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def object_model(name: str, settings: dict[str, Any], device: str = "cpu") -> ImageModel:
    """Make the model for `objects` that a name stands for: a detector, or an image classifier in its place.

    Args:
        name (`str`): A folder, or a name on the Hub.
        settings (`dict`): `threshold` and `max_objects`; `None` for the default of the model's kind.
        device (`str`, *optional*, defaults to `"cpu"`): Where it runs.

    Returns:
        [`ImageModel`].

    Raises:
        DataError: if the model is of another kind.
    """
    architectures = describe_model(name)[0].architectures or []
    kinds = {"ForObjectDetection": (Detector, DETECTOR), "ForImageClassification": (Classifier, CLASSIFIER)}
    for part, (kind, defaults) in kinds.items():
        if any(part in architecture for architecture in architectures):
            given = {key: value for key, value in settings.items() if value is not None}
            return kind(name, {"kind": kind.__name__.lower(), **defaults, **given}, device)
    raise DataError(
        f"--objects {name} is a {', '.join(architectures) or 'model that does not say its kind'}. Expected an object "
        "detector or an image classifier, such as hustvl/yolos-small, or a FILE.jsonl of objects."
    )


class RegionFinder(ImageModel):
    """The best box of each query, by a detector that takes any words.

    Its `settings["queries"]` maps the name of a query in the column to the words that the model is given.
    """

    auto_class = AutoModelForZeroShotObjectDetection

    def load(self):  # noqa: D102
        super().load()
        parts = {"tokenizer": self.processor.tokenizer, "image_processor": self.processor.image_processor}
        self.pipe = pipeline("zero-shot-object-detection", self.model, device=self.device, **parts)

    def annotate(self, items):
        """Find regions in images, one at a time: models differ in how they pad; see [`ImageModel`]."""
        images = [load_image(item["image"]) for item in items]
        if self.model is None:
            self.load()
        return [self._regions(image) for image in images]

    def _regions(self, image: PIL.Image.Image) -> list[dict[str, Any]]:
        words = list(dict.fromkeys(self.settings["queries"].values()))
        best: dict[str, dict[str, Any]] = {}
        # Best first.
        for found in self.pipe(image, candidate_labels=words, threshold=self.settings["threshold"]):
            left, top, right, bottom = (found["box"][side] for side in ("xmin", "ymin", "xmax", "ymax"))
            box = clip_box(left / image.width, top / image.height, right / image.width, bottom / image.height)
            if is_box(box):
                best.setdefault(found["label"], {"score": round(found["score"], 4), "box": box})
        return [{"query": query, **best[label]} for query, label in self.settings["queries"].items() if label in best]


class Captioner(ImageModel):
    """Texts by a model that writes: captions, best first. Models with a chat template are asked by a prompt."""

    auto_class = AutoModelForImageTextToText

    def load(self):  # noqa: D102
        super().load()
        if not hasattr(self.processor, "tokenizer"):
            # Of an encoder and a decoder put together, AutoProcessor finds one half.
            self.processor = load(AutoImageProcessor, self.name)
            self.tokenizer = load(AutoTokenizer, self.name)
        else:
            self.tokenizer = self.processor.tokenizer

    def prepare(self, image):  # noqa: D102
        prompt = self.settings["prompt"]
        if getattr(self.processor, "chat_template", None) is None:
            return self.processor(images=image, return_tensors="pt")
        content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def read(self, batch):  # noqa: D102
        count = self.settings["num_captions"]
        ids = self.model.generate(
            **batch,
            do_sample=False,
            num_beams=max(self.settings["num_beams"], count),
            num_return_sequences=count,
            max_new_tokens=self.settings["max_new_tokens"],
        )
        prompt = batch.get("input_ids")
        if prompt is not None and ids[:, : prompt.shape[1]].equal(prompt.repeat_interleave(count, 0)):
            ids = ids[:, prompt.shape[1] :]
        texts = list(map(clean_text, self.tokenizer.batch_decode(ids, skip_special_tokens=True)))
        return [self.entry(texts[start : start + count]) for start in range(0, len(texts), count)]

    def entry(self, texts: list[str]) -> list[str]:
        """Make an entry of the column of what was written about one image."""
        return list(dict.fromkeys(filter(None, texts)))


class TextReader(Captioner):
    """The lines of text in an image, by a model that writes."""

    def entry(self, texts):  # noqa: D102
        return lines_of(texts[0])


class Tesseract:
    """The lines of text in an image, by the program tesseract.

    Raises:
        DataError: if the program is missing.
        ImportError: if the package `pytesseract` is.
    """

    made_by = "tesseract"
    key = ImageModel.key

    def __init__(self):
        require("`--ocr tesseract`", "smcl[enrich]", "pytesseract")
        import pytesseract

        try:
            version = str(pytesseract.get_tesseract_version())
        except OSError as error:
            raise DataError(
                f"`--ocr tesseract` needs the program tesseract: {_first_line(error)}. Install it, or give a model in "
                "its place."
            ) from None
        self.read = pytesseract.image_to_string
        self.settings = {"language": "eng"}
        self.about = {"model": "tesseract", "settings": self.settings, "versions": {"tesseract": version}}

    def annotate(self, items):
        """Read the text in images; see [`ImageModel`]."""
        return [lines_of(self.read(load_image(item["image"]), lang="eng")) for item in items]


def lines_of(text: str) -> list[str]:
    """Return the lines of a text that are not blank."""
    return [line.strip() for line in clean_text(text).splitlines() if line.strip()]
