"""The order in which training reads posts, and which of a batch each process gets."""

from collections.abc import Iterator

import torch
from datasets import Dataset
from torch.utils.data import BatchSampler, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..processing_smcl import SMCLProcessor


class LengthSampler(LengthGroupedSampler):
    """Puts posts of about the same length next to each other, so that batches need little padding.

    The order is transformers' for `--train_sampling_strategy group_by_length`, but drawn from a seed and the epoch, so
    that a resumed run goes on in it, and all processes draw the same.

    Args:
        lengths (`list[int]`): Number of tokens of each post.
        batch_size (`int`): Posts of a batch.
        seed (`int`): Seed of the order.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw another order.

        Args:
            epoch (`int`): Number of the epoch.
        """
        self.generator.manual_seed(self.seed + epoch)


def token_counts(posts: Dataset, processor: SMCLProcessor) -> list[int]:
    """Count the tokens of posts.

    Args:
        posts (`Dataset`): Posts with `tokens`, their words, and with the columns of context that the processor reads.
        processor ([`SMCLProcessor`]): Has the tokenizer, and tells what it appends.

    Returns:
        `list[int]`: the number of each post, special tokens among them.
    """
    counts = []
    for rows in posts.select_columns("tokens").iter(1000):
        encoding = processor.tokenizer(rows["tokens"], is_split_into_words=True, verbose=False)
        counts += map(len, encoding["input_ids"])
    return [own + appended for own, appended in zip(counts, context_counts(posts, processor), strict=True)]


def context_counts(posts: Dataset, processor: SMCLProcessor) -> list[int]:
    """Count the tokens that a processor appends to posts.

    Args:
        posts (`Dataset`): Posts with the columns of context that it reads, if it reads any.
        processor ([`SMCLProcessor`]): The processor.

    Returns:
        `list[int]`: the number of each post.
    """
    columns = [*processor.context_columns]
    if not columns:
        return [0] * len(posts)
    counts = []
    for rows in posts.select_columns(columns).iter(1000):
        context = {name: rows[name] for name in columns}
        counts += processor.count_context(processor.read_contexts(context, None, len(context[columns[0]])))
    return counts


class SharedBatchSampler(BatchSampler):
    """Batches of which each process takes its even part; the parts of a short last batch differ by at most one post.

    A last batch of fewer posts than processes is left out.

    Args:
        sampler (`Sampler`): Order of the posts, the same in all processes.
        batch_size (`int`): Posts of a batch over all processes.
        drop_last (`bool`): Whether to leave out any last batch that is not full.
        process_index (`int`): This process.
        num_processes (`int`): Number of processes.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool, process_index: int, num_processes: int):
        super().__init__(sampler, batch_size, drop_last)
        self.process_index = process_index
        self.num_processes = num_processes

    @property
    def num_left_out(self) -> int:
        """Number of posts in a last batch of fewer posts than processes."""
        rest = len(self.sampler) % self.batch_size
        return rest if rest < self.num_processes and not self.drop_last else 0

    def __len__(self) -> int:
        return super().__len__() - (self.num_left_out > 0)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            if len(batch) >= self.num_processes:
                start, end = (len(batch) * (self.process_index + k) // self.num_processes for k in (0, 1))
                yield batch[start:end]


__all__ = ["SharedBatchSampler", "LengthSampler", "context_counts", "token_counts"]
