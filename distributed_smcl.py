"""One batch shared by several processes: which posts each gets, and losses that look at all of them."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.utils.data import BatchSampler, Sampler


class _Sum(torch.autograd.Function):
    """Sum over processes; back goes the gradient of the own summand, times a scale."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(scale)
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None


class BatchShare:
    """The posts that this process has of a batch, and what it needs to see the others'.

    Data-parallel training averages the gradients of processes. Two things make that the gradient of the whole batch's
    loss. What a process returns is multiplied by `weight`, so that each post counts the same, however many the
    processes have. And a loss that looks at all posts at once, computed from `sum` and `gather`, is the same in all
    processes, each of which sends gradients back through its own posts only: `sum` multiplies those by the number of
    all posts over that of its own, which undoes `weight` and the average. Nothing is exchanged on the way back, so
    processes whose posts have no image can't get out of step with others.

    All processes must build it, and call `sum` and `gather`, equally often.

    Args:
        num_posts (`int`): Posts of this process, at least 1.
        capacity (`int`): Most posts that any process has.
        device (`torch.device`): Device of the model.

    Raises:
        ValueError: if there are more posts than `capacity`, or none.
    """

    def __init__(self, num_posts: int, capacity: int, device: torch.device):
        if not 1 <= num_posts <= capacity:
            raise ValueError(f"Expected 1 to `capacity` = {capacity} posts in the batch of a process, got {num_posts}.")
        self.capacity = capacity
        self.process_index, self.num_processes = dist.get_rank(), dist.get_world_size()
        total = torch.tensor(float(num_posts), device=device)
        dist.all_reduce(total)
        # Tensors of shape (): reading their numbers would wait for the GPU.
        self.weight = num_posts * self.num_processes / total
        self.scale = total / num_posts

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over all processes.

        Args:
            x (`torch.Tensor`): Of the same shape in all processes. With gradients, it must not depend on another sum.

        Returns:
            `torch.Tensor` of that shape.
        """
        return _Sum.apply(x, self.scale)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """Collect a row for each post from all processes.

        Args:
            x (`torch.Tensor` of shape `(num_posts, ...)`): Numbers of this process's posts.

        Returns:
            `torch.Tensor` of shape `(num_processes * capacity, ...)`: the rows of all, in the order of processes, each
            process's followed by zeros.
        """
        rows = x.new_zeros(self.num_processes, self.capacity, *x.shape[1:])
        rows[self.process_index, : len(x)] = x
        return self.sum(rows).flatten(0, 1)


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


__all__ = ["BatchShare", "SharedBatchSampler"]
