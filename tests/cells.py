"""What tests of experiments share: a small run, called in this process."""

from smcl.experiments.plan import to_argv
from smcl.run_ner_multiimage import main

SMALL = ["--num_train_epochs", "3", "--use_cpu", "--learning_rate", "1e-3", "--per_device_train_batch_size", "8"]


def call_here(arguments) -> bool:
    main(to_argv(arguments))
    return True
