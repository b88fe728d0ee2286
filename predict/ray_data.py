"""Predicting collections beyond one machine, by Ray Data."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from transformers.utils import logging

from ..dataset_scripts.command_line import require
from . import load_pipeline
from .inputs import Columns
from .part_files import RECORD_SCHEMA
from .predict_file import predict_rows

if TYPE_CHECKING:
    import ray.data

logger = logging.get_logger(__name__)


class RayPredictor:
    """The pipeline in an actor of `ray.data.Dataset.map_batches`, which is loaded once and then given batches.

    Args:
        model (`str`): A saved SMCL that every machine can read: folder or Hub name.
        device (`str`, *optional*, defaults to `"cpu"`): Where it computes.
        **options: Those of [`~predict_file.predict_rows`]: `folder`, `columns`, `ignore_images`, and what the pipeline
            takes about images.

    Example:
    ```python
    >>> dataset.map_batches(
    ...     RayPredictor,
    ...     fn_constructor_kwargs={"model": "demo/model"},
    ...     batch_format="pyarrow",
    ...     batch_size=16,
    ...     compute=ray.data.ActorPoolStrategy(size=2),
    ... )
    ```
    """

    def __init__(self, model: str, device: str = "cpu", **options):
        self.pipe = load_pipeline(model, device=device)
        self.options = options

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Predict a batch.

        Args:
            batch (`pyarrow.Table`): With `id`, `text` or `tokens` and, if there are any, `images`.

        Returns:
            `pyarrow.Table`: with the columns of `part_files.RECORD_SCHEMA`; `id` is null where a post has none.
        """
        rows = batch.to_pylist()
        records = predict_rows(self.pipe, rows, **self.options)
        place = Columns.parse(self.options.get("columns")).renamed.get("id", "id")
        for row, record in zip(rows, records, strict=True):
            if row.get(place) is None:
                # A number within the batch would be that of other posts too.
                record["id"] = None
        return pa.Table.from_pylist(records, RECORD_SCHEMA)


def predict_with_ray(
    dataset: "ray.data.Dataset",
    model: str,
    output: str | None = None,
    num_actors: int = 1,
    num_gpus: float = 0,
    batch_size: int = 16,
    **options: Any,
) -> "ray.data.Dataset":
    """Predict the posts of a Ray data set, in order.

    Args:
        dataset (`ray.data.Dataset`): Posts with the columns `text` (string) or `tokens` (list of words) and, if there
            are any, `id` and `images` (list of the bytes of image files, URLs, paths that every machine can read, or of
            `{"bytes": ..., "path": ...}`, as in Parquet that `datasets` wrote).
        model (`str`): A saved SMCL that every machine can read: folder or Hub name.
        output (`str`, *optional*): New folder or URL for Parquet files; by default nothing is written.
        num_actors (`int`, *optional*, defaults to 1): Actors, each with a model of its own.
        num_gpus (`float`, *optional*, defaults to 0): GPUs of each actor; less than 1 for several actors on one.
        batch_size (`int`, *optional*, defaults to 16): Posts that are computed at once.
        **options: `folder` (which relative paths of images start at), `columns`, `ignore_images`, and what the pipeline
            takes about images, as of [`~predict_file.predict_rows`].

    Returns:
        `ray.data.Dataset`: one record for each post, with the columns of `part_files.RECORD_SCHEMA` (a missing id is
        null, as no batch knows the number of its rows): of `output` if it is given, else computed when it is read.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: if the data set lacks a column or has images under another name, or `output` exists.

    Example:
    ```python
    >>> predict_with_ray(ray.data.read_parquet("s3://posts"), "user/model", "s3://tagged", num_actors=8, num_gpus=1)
    ```
    """
    require("`predict_with_ray`", "smcl[ray]", "ray")
    import ray.data

    columns = Columns.parse(options.get("columns"), not options.get("ignore_images", False))
    found = columns.find(_schema(dataset), "The Ray data set")
    if not num_gpus and num_actors >= ray.cluster_resources().get("CPU", 0):
        logger.warning(
            f"{num_actors} actors take all CPUs of the Ray cluster as it is now: while none is left for reading the "
            "posts, nothing moves. Pass fewer `num_actors`, or add machines."
        )
    dataset = dataset.select_columns([*found.values()])
    dataset.context.execution_options.preserve_order = True
    records = dataset.map_batches(
        RayPredictor,
        fn_constructor_kwargs={"model": model, "device": "cuda" if num_gpus else "cpu", **options},
        batch_format="pyarrow",
        batch_size=batch_size,
        num_gpus=num_gpus,
        compute=ray.data.ActorPoolStrategy(size=num_actors),
    )
    if output is None:
        return records
    # Files of an earlier run in the same folder would be read as if they were of this one.
    records.write_parquet(output, mode=ray.data.SaveMode.ERROR)
    written = ray.data.read_parquet(output)
    written.context.execution_options.preserve_order = True
    return written


def _schema(dataset: "ray.data.Dataset") -> pa.Schema:
    """Return the columns of a data set as Arrow's; of pandas as those of its first rows."""
    schema = dataset.schema()
    base = None if schema is None else schema.base_schema
    if isinstance(base, pa.Schema):
        return base
    return pa.schema([]) if schema is None else dataset.take_batch(20, batch_format="pyarrow").schema


__all__ = ["RayPredictor", "predict_with_ray"]
