"""Predicting collections: posts of a file or data set in, one record for each out.

Memory does not grow with the number of posts, a run that was killed goes on where it stopped, and the processes of
`torchrun` share the work.
"""

import datetime
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers.utils import logging

from ..baselines import check_names, reads_images
from ..dataset_scripts.rows import find_taken_numbers, warn_of_taken_numbers
from ..pipeline_smcl import MultiImageNERPipeline
from .inputs import Block, Columns, JsonLines, ParquetFiles, may_grow, open_input, read_row
from .part_files import PartFile, check_output, merge_parts

logger = logging.get_logger(__name__)


def predict_rows(
    pipe: MultiImageNERPipeline,
    rows: list[bytes] | list[dict],
    first: int = 0,
    folder: str | None = None,
    ignore_images: bool = False,
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    taken: Collection[int] = (),
    **options,
) -> list[dict[str, Any]]:
    """Predict some rows of an input at once.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        rows (`list`): Rows, as of `read_row`.
        first (`int`, *optional*, defaults to 0): Number of the first row.
        folder (`str`, *optional*): The folder that paths of images are relative to.
        ignore_images (`bool`, *optional*, defaults to `False`): Take all images away.
        columns (`str`, `Sequence[str]` or `Mapping[str, str]`, *optional*): Names that the rows have for ours, as of
            `parse_columns`.
        taken (`Collection[int]`, *optional*): As of `read_row`.
        **options: What a call of the pipeline takes about images: `on_bad_image`, `on_extra_images`, `allow_paths`,
            `allow_urls`, `allow_private_urls`.

    Returns:
        `list[dict]`: for each row `id`, `words`, `tags`, `entities` and, if any image was left out, `skipped_images`;
        or `id` and `error`, the reason why it can't be predicted.
    """
    wanted = what_to_read(pipe, columns, ignore_images)
    read = [read_row(row, number, folder, wanted, taken) for number, row in enumerate(rows, first)]
    posts = [post for _, post in read if "error" not in post]
    if ignore_images and wanted.context:
        posts = [pipe.processor.with_image(post, None) for post in posts]
    # On a GPU, transformers takes more than ten calls for single posts, and would warn.
    pipe.call_count = 0
    results = iter(pipe(posts, batch_size=len(rows), return_tags=True, on_error="return", **options))
    records = []
    for name, post in read:
        result = post if "error" in post else next(results)
        names = ("words", "tags", "entities", "error") + (("skipped_images",) if result.get("skipped_images") else ())
        records.append({"id": name} | {key: result[key] for key in names if key in result})
    return records


def what_to_read(
    pipe: MultiImageNERPipeline, columns: str | Sequence[str] | Mapping[str, str] | None, ignore_images: bool
) -> Columns:
    """Tell what a pipeline reads of a row; arguments as of `predict_rows`."""
    context = pipe.processor.context_columns
    return Columns.parse(columns, reads_images(type(pipe.model)) and not ignore_images, context)


def model_checksum(pipe: MultiImageNERPipeline) -> str:
    """Hash weights and configuration, so that a run does not go on with another model."""
    config = {name: value for name, value in pipe.model.config.to_dict().items() if name != "_name_or_path"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in pipe.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def predict_file(
    pipe: MultiImageNERPipeline,
    input: str | os.PathLike,
    output: str | os.PathLike,
    split: str | None = None,
    batch_size: int = 16,
    disable_tqdm: bool = False,
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    ignore_images: bool = False,
    config_name: str | None = None,
    **options,
) -> dict[str, int]:
    """Predict all posts of a file or data set.

    Called again after it was killed, it goes on where it stopped, if model, options and what it has read are the same;
    images are not compared. Posts may have been added: if that changed the last block, it is predicted anew. In the
    processes of `torchrun` or `accelerate launch`, each predicts its share.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        input (`str` or `os.PathLike`): As `name` of `open_input`.
        output (`str` or `os.PathLike`): File to write: .jsonl or .parquet, a record for each row in order, see
            `predict_rows`; .conll or .bio, words and tags, see `part_files.write_conll`. Until it is complete, results
            are in files beside it, named OUTPUT.part-*.
        split (`str`, *optional*): Which split of a data set; by default its only one, or `"test"`.
        batch_size (`int`, *optional*, defaults to 16): Posts that are computed at once.
        disable_tqdm (`bool`, *optional*, defaults to `False`): Show no progress.
        columns (`str`, `Sequence[str]` or `Mapping[str, str]`, *optional*): As of `predict_rows`.
        ignore_images (`bool`, *optional*, defaults to `False`): Take all images away.
        config_name (`str`, *optional*): Which configuration of a data set that holds several.
        **options: As of `predict_rows`.

    Returns:
        `dict[str, int]`: numbers of `posts`, of those with `errors`, and of `skipped_images`; empty in all processes
        but the first.

    Raises:
        ValueError: if input, output or an unfinished run can't be used; says what to do.
    """
    # Before a part is written, which would ask for the same options from then on.
    _check_options(pipe, batch_size, options)
    input, output, state = os.fspath(input), os.fspath(output), PartialState()
    check_output(output, state.num_processes)
    source = _open_source(pipe, input, split, config_name, columns, ignore_images)
    taken = find_taken_numbers(source.ids)
    options = {"columns": source.columns.renamed, "ignore_images": ignore_images, **options}
    # The process group's own timeout would end a long wait for slower processes.
    timeout = datetime.timedelta(days=365)
    group = torch.distributed.new_group(timeout=timeout, backend="gloo") if state.num_processes > 1 else None
    about = {
        "input": os.path.abspath(input) if os.path.exists(input) else input,
        "split": split,
        "config_name": config_name,
        "model": model_checksum(pipe),
        "batch_size": batch_size,
        "options": {name: options[name] for name in sorted(options)},
    } | ({"posts_renamed": len(taken)} if taken else {})
    paths = [f"{output}.part-{rank:05d}-of-{state.num_processes:05d}" for rank in range(state.num_processes)]
    with PartFile(paths[state.process_index], about) as part:
        predict_part(pipe, source, part, state, batch_size, disable_tqdm, options | {"taken": taken})
        if group is not None:
            torch.distributed.barrier(group)
        if not state.is_main_process:
            return {}
        warn_of_taken_numbers(taken, input)
        # Still under the lock: no second run may merge at the same time.
        counts = merge_parts(paths, output)
    for path in paths:
        os.remove(path)
    logger.warning(
        f"Wrote {counts['posts']} records to {output}, {counts['errors']} of them errors; "
        f"{counts['skipped_images']} images were left out."
    )
    return counts


def _open_source(
    pipe: MultiImageNERPipeline,
    input: str,
    split: str | None,
    config_name: str | None,
    columns: str | Sequence[str] | Mapping[str, str] | None,
    ignore_images: bool,
) -> JsonLines | ParquetFiles:
    """Open the input, and see that it has the columns that the model reads."""
    source = open_input(input, split, what_to_read(pipe, columns, ignore_images), config_name)
    if isinstance(source, ParquetFiles) and not ignore_images:
        check_names(source.columns.context, source.column_names(), type(pipe.model).__name__, input)
    return source


def _check_options(pipe: MultiImageNERPipeline, batch_size: int, options: dict[str, Any]) -> None:
    """Refuse options that no call of the pipeline takes, or that would change what a file tells."""
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a whole number of at least 1, got {batch_size!r}.")
    if options.keys() & {"on_error", "return_tags", "threshold"}:
        raise ValueError(f"Expected settings of images alone, got {sorted(options)}: a file tells all there is.")
    pipe._sanitize_parameters(**options)


def predict_part(
    pipe: MultiImageNERPipeline,
    source: JsonLines | ParquetFiles,
    part: PartFile,
    state: PartialState,
    batch_size: int,
    disable_tqdm: bool,
    options: dict[str, Any],
) -> None:
    """Predict what this process has still to predict; the first process shows how far it is in the whole input.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        source ([`JsonLines`] or [`ParquetFiles`]): The input.
        part ([`PartFile`]): Gets the records of this process.
        state (`PartialState`): Tells which of the processes this is.
        batch_size (`int`): Posts that are computed at once.
        disable_tqdm (`bool`): Whether to show no progress bar.
        options (`dict`): Further arguments of `predict_rows`.
    """
    shows_progress = state.is_main_process and not disable_tqdm
    total, errors = source.count() if shows_progress else None, 0
    with tqdm(total=total, unit=" posts", disable=not shows_progress) as bar:
        for first, block, checksum in shared_blocks(source, batch_size, part, state):
            bar.update(first - bar.n)
            rows = block if isinstance(block, list) else block.to_pylist()
            records = predict_rows(pipe, rows, first, source.folder, **options)
            part.append(records, checksum, may_grow(block, batch_size))
            errors += sum("error" in record for record in records)
            bar.set_postfix(errors=errors, refresh=False)
            bar.update(len(rows))


def shared_blocks(
    source: JsonLines | ParquetFiles, size: int, part: PartFile, state: PartialState
) -> Iterator[tuple[int, Block, int]]:
    """Give a process those of its blocks that are not predicted yet.

    Blocks go to the processes in turn, so that every number of processes computes the same batches.

    Args:
        source (`JsonLines` or `ParquetFiles`): The posts.
        size (`int`): Posts in a block.
        part (`PartFile`): What the process has predicted.
        state (`PartialState`): Which process it is.

    Returns:
        Iterator over the number of a block's first row, the block, and the checksum up to it.

    Raises:
        ValueError: if what was predicted are not the first posts of the source.
    """
    num_done, first, own, checksum = part.num_blocks, 0, 0, 0
    blocks = source.blocks(size, seen=(num_done - part.is_open) * state.num_processes)
    for index, block in enumerate(blocks):
        if index % state.num_processes == state.process_index:
            own += 1
            before, checksum = checksum, source.text_checksum(block, checksum)
            if own == num_done and checksum != part.checksum:
                if not part.reopen(before):
                    break
                num_done -= 1
            if own > num_done:
                yield first, block, checksum
        first += len(block)
    if own < num_done or own == num_done and checksum != part.checksum:
        raise ValueError(
            f"Posts that {part.path} has results for are no longer the same in the input: undo the change, or remove "
            "the file to start over."
        )


__all__ = ["predict_file", "predict_rows"]
