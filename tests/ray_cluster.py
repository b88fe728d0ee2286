"""Ray on this machine, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def started_ray(num_cpus: int) -> Iterator[Any]:
    """Start Ray, yield the module, and stop it again."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Workers that are nice take minutes on a busy machine.
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()
