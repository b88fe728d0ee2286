"""What `test_distributed.py` starts in several processes: each runs the same jobs, one after the other."""

import json
import os
import sys

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from factories import make_inputs, make_model

from smcl.losses_smcl import BatchShare
from smcl.run_ner_multiimage import main

LOSSES = "task_loss", "similarity_loss", "difference_loss", "contrastive_loss"
# Images of five posts, of which the first process has two: in the second case, none of those has an image.
IMAGE_COUNTS = (3, 1, 0, 2, 4), (0, 0, 2, 0, 1)


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


def check_gradients():
    """Compare the averaged gradients of each part of the loss with those of one process that has all posts."""
    model = make_model(dropout=0.0, contrastive_weight=0.1)
    mine = slice(0, 2) if dist.get_rank() == 0 else slice(2, 5)
    for image_counts in IMAGE_COUNTS:
        whole = make_inputs(image_counts=image_counts, lengths=(9, 6, 8, 12, 5), labels=True)
        share = {name: tensor[mine] for name, tensor in whole.items()}
        if not share["image_mask"].any():
            share = {name: x for name, x in share.items() if name not in ("pixel_values", "image_mask")}
        for name in LOSSES:
            expected_loss = model(**whole)[name]
            expected = gradients(model, expected_loss)
            batch_share = BatchShare(len(share["labels"]), 4, torch.device("cpu"))
            loss = model(**share, batch_share=batch_share)[name] * batch_share.weight
            found = gradients(model, loss)
            for value in (loss.detach(), *found.values()):
                dist.all_reduce(value)
                value /= 2
            torch.testing.assert_close(loss.detach(), expected_loss.detach(), atol=1e-6, rtol=1e-5)
            scale = max(gradient.abs().max() for gradient in expected.values())
            assert name == "contrastive_loss" or scale > 1e-4, (name, scale)
            for parameter in expected:
                difference = (found[parameter] - expected[parameter]).abs().max()
                assert difference <= 1e-5 * scale + 1e-8, (image_counts, name, parameter, difference, scale)


def shard_on_the_cpu():
    """Have accelerate shard models by FSDP2 on the CPU, where it would silently copy them.

    AcceleratorState compares the kind of processes with a list of accelerators that lacks CPUs; nothing else in
    accelerate, transformers or torch minds. The variables are those that `accelerate launch` sets from fsdp2.yaml.
    """
    initialise = PartialState.__init__

    def as_if_on_gpus(self, *args, **kwargs):
        initialise(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState.__init__ = as_if_on_gpus
    os.environ.update(json.loads(os.environ["FSDP_VARIABLES"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    copied, sharded = json.loads(sys.argv[1])
    for job in copied:
        main(job)
    assert dist.get_world_size() == 2
    check_gradients()
    shard_on_the_cpu()
    for job in sharded:
        main(job)
    dist.destroy_process_group()
