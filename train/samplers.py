"""The order in which training reads posts."""

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import LengthGroupedSampler


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


def token_counts(posts: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Count the tokens of posts.

    Args:
        posts (`Dataset`): Posts with `tokens`, their words.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.

    Returns:
        `list[int]`: the number of each post, special tokens among them.
    """
    counts = []
    for rows in posts.select_columns("tokens").iter(1000):
        encoding = tokenizer(rows["tokens"], is_split_into_words=True, verbose=False)
        counts += map(len, encoding["input_ids"])
    return counts


__all__ = ["LengthSampler", "token_counts"]
