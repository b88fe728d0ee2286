"""Tagging posts of many requests at once: posts that come together share batches, and no more wait than there is room.

Reading posts (decoding images, splitting text) takes threads of its own, so that the model computes meanwhile.
"""

import copy
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils import logging

from ..pipeline_smcl import MultiImageNERPipeline

logger = logging.get_logger(__name__)


class QueueFullError(Exception):
    """There are as many posts in work as may be."""


class ModelError(Exception):
    """The model failed on a post; the log says why."""


@dataclass
class Job:
    """A post that has been read.

    Attributes:
        windows (`list[dict]`): Its windows, as of the pipeline's `preprocess`.
        threshold (`float`): Entities of a lower score are left out.
        future (`Future`): Where the result goes.
        scored (`list[dict]`): What the model has computed of its windows so far.
    """

    windows: list[dict[str, Any]]
    threshold: float
    future: Future
    scored: list[dict[str, Any]] = field(default_factory=list)


class TaggingQueue:
    """Tag posts as they come, in batches.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        batch_size (`int`, *optional*, defaults to 8): Posts (windows of long posts) that are computed at once.
        wait_seconds (`float`, *optional*, defaults to 0.01): How long a post waits for others at most.
        max_posts (`int`, *optional*, defaults to 64): Posts in work at most.
        num_readers (`int`, *optional*): Threads that read posts; by default as many as cores, at most 4.
        on_batch (`Callable[[int], None]`, *optional*): Told the size of each batch.
    """

    def __init__(
        self,
        pipe: MultiImageNERPipeline,
        batch_size: int = 8,
        wait_seconds: float = 0.01,
        max_posts: int = 64,
        num_readers: int | None = None,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self.pipe, self.batch_size, self.wait_seconds, self.max_posts = pipe, batch_size, wait_seconds, max_posts
        self.on_batch = on_batch
        self.in_work = 0
        self.expected = 1
        self.lock = threading.Lock()
        self.own = threading.local()
        num_readers = num_readers or min(4, os.cpu_count() or 1)
        self.readers = ThreadPoolExecutor(num_readers, "reader", initializer=self._make_own)
        # An explanation takes many times what tagging does: one at a time, and no batch waits for it.
        self.explainer = ThreadPoolExecutor(1, "explainer", initializer=self._make_own)
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.worker = threading.Thread(target=self._work, name="model", daemon=True)
        self.worker.start()

    def _make_own(self) -> None:
        """Give a thread its own processor: a tokenizer serves one thread at a time."""
        self.own.pipe = copy.copy(self.pipe)
        self.own.pipe.processor = copy.deepcopy(self.pipe.processor)

    def reserve(self, count: int = 1) -> None:
        """Make room for posts, which `release` gives back.

        Args:
            count (`int`, *optional*, defaults to 1): How many.

        Raises:
            QueueFullError: if there is none.
        """
        with self.lock:
            if self.in_work + count > self.max_posts:
                raise QueueFullError
            self.in_work += count

    def release(self, count: int = 1) -> None:
        """Give room back."""
        with self.lock:
            self.in_work -= count

    def tag(self, post: Any, threshold: float = 0.0, **settings: Any) -> Future:
        """Tag a post that room was made for.

        Args:
            post (`Any`): The post, as the pipeline takes it.
            threshold (`float`, *optional*, defaults to 0): As in a call of the pipeline.
            **settings: All of a call of the pipeline that is about images.

        Returns:
            `Future`: what the pipeline returns with `return_tags=True`; a `ValueError` if the post can't be used, a
            `ModelError` if the model fails.
        """
        future: Future = Future()
        self.readers.submit(self._read, post, threshold, settings, future)
        return future

    def explain(self, post: Any, **settings: Any) -> Future:
        """Explain a post that room was made for.

        Args:
            post (`Any`): The post, as the pipeline takes it.
            **settings: As of [`MultiImageNERPipeline.explain`].

        Returns:
            `Future`: an [`Explanation`].
        """
        return self.explainer.submit(lambda: self.own.pipe.explain(post, **settings))

    def close(self) -> None:
        """Finish what is in work, then stop."""
        self.readers.shutdown()
        self.explainer.shutdown()
        self.jobs.put(None)
        self.worker.join()

    def _read(self, post: Any, threshold: float, settings: dict[str, Any], future: Future) -> None:
        try:
            windows = [step["window"] for step in self.own.pipe.preprocess(post, **settings)]
        except Exception as error:
            future.set_exception(error)
        else:
            self.jobs.put(Job(windows, threshold, future))

    def _work(self) -> None:
        """Compute batch after batch."""
        goes_on = True
        while goes_on and (job := self.jobs.get()) is not None:
            jobs, goes_on = self._gather(job)
            parts = [(job, window) for job in jobs for window in job.windows]
            for start in range(0, len(parts), self.batch_size):
                self._score(parts[start : start + self.batch_size])
            # As many are likely to come again.
            self.expected = self.in_work
            for job in jobs:
                self._finish(job)

    def _gather(self, job: Job) -> tuple[list[Job], bool]:
        """Wait a little for posts that come together with one; tell whether there will be more at all."""
        jobs, end = [job], time.monotonic() + self.wait_seconds
        while sum(len(job.windows) for job in jobs) < self.batch_size:
            waits = len(jobs) < max(self.in_work, self.expected)
            try:
                other = self.jobs.get(timeout=max(0.0, end - time.monotonic())) if waits else self.jobs.get_nowait()
            except queue.Empty:
                break
            if other is None:
                return jobs, False
            jobs.append(other)
        return jobs, True

    def _score(self, parts: list[tuple[Job, dict[str, Any]]]) -> None:
        """Compute windows at once; one that the model fails on takes no other with it."""
        parts = [(job, window) for job, window in parts if not job.future.done()]
        if not parts:
            return
        self.on_batch(len(parts))
        try:
            scored = self._forward([window for _, window in parts])
        except Exception as error:
            if len(parts) > 1:
                for part in parts:
                    self._score([part])
                return
            self._fail(parts[0][0], error)
            return
        for (job, _), window in zip(parts, scored, strict=True):
            job.scored.append({"window": window, "is_last": True})

    def _forward(self, windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with torch.inference_mode():
            return self.pipe._forward({"window": windows, "is_last": True})["window"]

    def _finish(self, job: Job) -> None:
        if job.future.done():
            return
        try:
            job.future.set_result(self.pipe.postprocess(job.scored, threshold=job.threshold, return_tags=True))
        except Exception as error:
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        logger.error("The model failed on a post.", exc_info=error)
        failure = ModelError("the model failed on this post; the server's log says why")
        failure.__cause__ = error
        job.future.set_exception(failure)


__all__ = ["ModelError", "QueueFullError", "TaggingQueue"]
