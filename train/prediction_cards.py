"""Figures of predictions for trackers: validation posts with their images, their entities and what images did."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback
from transformers.utils import logging

from ..dataset_scripts.command_line import require
from ..dataset_scripts.gate import Posts
from ..pipeline_smcl import MultiImageNERPipeline, find_entities
from ..predict.figures.png import draw_card
from .data import name_tags
from .trainer import SMCLTrainer

logger = logging.get_logger(__name__)

NUM_POSTS = 4
# As transformers' callbacks name what they send.
GROUP = "eval/predictions"


def _to_tensorboard(tracker: TensorBoardCallback, name: str, image: Image.Image, step: int) -> None:
    tracker.tb_writer.add_image(f"{GROUP}/{name}", np.asarray(image), step, dataformats="HWC")


def _to_wandb(tracker: WandbCallback, name: str, image: Image.Image, step: int) -> None:
    tracker._wandb.log({f"{GROUP}/{name}": tracker._wandb.Image(image), "train/global_step": step})


def _to_mlflow(tracker: MLflowCallback, name: str, image: Image.Image, step: int) -> None:
    tracker._ml_flow.log_image(image, artifact_file=f"{GROUP}/{name}/step-{step}.png")


SENDERS: dict[type[TrainerCallback], Callable] = {
    TensorBoardCallback: _to_tensorboard,
    WandbCallback: _to_wandb,
    MLflowCallback: _to_mlflow,
}


def add_prediction_figures(trainer: SMCLTrainer, posts: Posts, on_extra_images: str = "error") -> None:
    """Have a trainer send figures of predictions to its trackers after each evaluation.

    Nothing is added if none of them (`report_to`) is TensorBoard, W&B or MLflow, or no post has an image.

    Args:
        trainer ([`SMCLTrainer`]): A trainer of a model that reads images.
        posts (`Dataset` or `IterableDataset`): Validation posts as the gate gives them; the first 4 with an
            image are drawn.
        on_extra_images (`str`, *optional*, defaults to `"error"`): See [`SMCLProcessor`].
    """
    trackers = [callback for callback in trainer.callback_handler.callbacks if type(callback) in SENDERS]
    if not trackers or "images" not in posts.column_names:
        return
    try:
        require("Sending figures of predictions to trackers", "smcl[track]", "matplotlib")
    except ImportError as error:
        logger.warning(f"Trackers get none: {error}")
        return
    if trainer.is_sharded:
        logger.warning("Trackers get no figures of predictions where processes share parts of a model.")
        return
    labels = posts.features["ner_tags"].feature.names
    # Each is read by itself: a data set of any size stays on disk.
    illustrated = (post for post in posts if post["images"])
    drawn = [post for post, _ in zip(illustrated, range(NUM_POSTS), strict=False)]
    if drawn:
        trainer.add_callback(PredictionFigures(trackers, drawn, labels, on_extra_images))


class PredictionFigures(TrainerCallback):
    """Draws posts as the model tags them and sends the figures to trackers.

    A figure is a card as of [`plot_explanation`], with the gold entities below. It draws no random numbers: training
    comes out the same with it and without.

    Args:
        trackers (`list[TrainerCallback]`): Where to; each of a class in `SENDERS`.
        posts (`list[dict]`): Posts with `id`, `tokens`, `ner_tags` and `images`.
        labels (`list[str]`): Label names by id.
        on_extra_images (`str`, *optional*, defaults to `"error"`): See [`SMCLProcessor`].
    """

    def __init__(
        self, trackers: list[TrainerCallback], posts: list[dict], labels: list[str], on_extra_images: str = "error"
    ):
        self.trackers = trackers
        self.posts = posts
        self.labels = labels
        self.on_extra_images = on_extra_images

    def on_evaluate(self, args, state, control, model=None, processing_class=None, **kwargs) -> None:
        """Send the figures of this step, from the first process."""
        if not state.is_world_process_zero:
            return
        pipe = MultiImageNERPipeline(model, processing_class, device=model.device)
        for number, post in enumerate(self.posts, start=1):
            figure = self.draw(pipe, post)
            for tracker in self.trackers:
                SENDERS[type(tracker)](tracker, f"post-{number}", figure, state.global_step)

    def draw(self, pipe: MultiImageNERPipeline, post: dict) -> Image.Image:
        """Draw the card of a post.

        Args:
            pipe ([`MultiImageNERPipeline`]): Has the model.
            post (`dict`): One of `posts`.

        Returns:
            `PIL.Image.Image`: the figure.

        Raises:
            ValueError: if the post can't be used; names it.
        """
        columns = pipe.processor.context_columns
        given = {"text": post["tokens"], "images": post["images"], **{name: post[name] for name in columns}}
        page = draw_card(pipe.explain(given, on_extra_images=self.on_extra_images))
        spans = find_entities([tag or "O" for tag in name_tags(post["ner_tags"], self.labels)])
        gold = [f"{' '.join(post['tokens'][first : last + 1])} {name}" for first, last, name in spans]
        page.paragraph(f"Gold: {', '.join(gold) or 'no entities'}. Post {post['id']}.")
        file = io.BytesIO()
        page.save(file)
        return Image.open(file).convert("RGB")


__all__ = ["PredictionFigures", "add_prediction_figures"]
