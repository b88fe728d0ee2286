"""Tagging posts of many requests at once: posts that come together share batches, and no more wait than there is room.

Reading posts (decoding images, splitting text) takes threads of its own, so that the model computes meanwhile.
"""

import copy
import os
import threading
from collections import deque
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
        num_readers (`int`, *optional*): Threads that read posts; by default one less than cores,
            at least 1 and at most 4. The model has a core of its own.
        on_batch (`Callable[[int], None]`, *optional*): Told the size of each batch.
        check (`Callable[..., Any]`, *optional*): Takes a post as it came, and the settings that it is read by, and
            returns it as the pipeline reads it, or raises a `ValueError`; by default the post itself.
    """

    def __init__(
        self,
        pipe: MultiImageNERPipeline,
        batch_size: int = 8,
        wait_seconds: float = 0.01,
        max_posts: int = 64,
        num_readers: int | None = None,
        on_batch: Callable[[int], None] = lambda size: None,
        check: Callable[..., Any] = lambda post, **settings: post,
    ):
        self.pipe, self.batch_size, self.wait_seconds, self.max_posts = pipe, batch_size, wait_seconds, max_posts
        self.on_batch, self.check = on_batch, check
        self.in_work = 0
        self.expected = 1
        self.lock = threading.Lock()
        self.own = threading.local()
        num_readers = num_readers or min(4, max(1, (os.cpu_count() or 1) - 1))
        self.readers = ThreadPoolExecutor(num_readers, "reader", initializer=self._make_own)
        # An explanation takes many times what tagging does: one at a time, and no batch waits for it.
        self.explainer = ThreadPoolExecutor(1, "explainer", initializer=self._make_own)
        # Posts that have been read. Told of the first and when there are enough, not of each: a thread that wakes takes
        # Python from the one that reads.
        self.jobs: deque[Job] = deque()
        self.changed = threading.Condition()
        self.is_closing = False
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
            post (`Any`): The post, as `check` takes it.
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
            post (`Any`): The post, as `check` takes it.
            **settings: As of [`MultiImageNERPipeline.explain`].

        Returns:
            `Future`: an [`Explanation`].
        """
        return self.explainer.submit(lambda: self.own.pipe.explain(self.check(post, **settings), **settings))

    def close(self) -> None:
        """Finish what is in work, then stop."""
        self.readers.shutdown()
        self.explainer.shutdown()
        with self.changed:
            self.is_closing = True
            self.changed.notify()
        self.worker.join()

    def _read(self, post: Any, threshold: float, settings: dict[str, Any], future: Future) -> None:
        # From here on it can't be cancelled, so that it will take its result.
        if not future.set_running_or_notify_cancel():
            return
        try:
            windows = [step["window"] for step in self.own.pipe.preprocess(self.check(post, **settings), **settings)]
        except Exception as error:
            future.set_exception(error)
        else:
            with self.changed:
                self.jobs.append(Job(windows, threshold, future))
                if len(self.jobs) == 1 or self._is_enough():
                    self.changed.notify()

    def _work(self) -> None:
        """Compute batch after batch."""
        while jobs := self._gather():
            parts = [(job, window) for job in jobs for window in job.windows]
            for start in range(0, len(parts), self.batch_size):
                self._score(parts[start : start + self.batch_size])
            # As many are likely to come again.
            self.expected = self.in_work
            results = [self._finish(job) for job in jobs]
            # None before the last is ready: those who are answered send the next posts, whose reading would take turns
            # with the rest of this, and such turns are dear in Python.
            for job, result in zip(jobs, results, strict=True):
                if result is not None:
                    job.future.set_result(result)

    def _is_enough(self) -> bool:
        """Tell whether a batch need not wait for more posts."""
        full = sum(len(job.windows) for job in self.jobs) >= self.batch_size
        return full or self.is_closing or len(self.jobs) >= max(self.in_work, self.expected)

    def _gather(self) -> list[Job]:
        """Wait for a post, and a little for those that come together with it; none when all is done."""
        with self.changed:
            self.changed.wait_for(lambda: self.jobs or self.is_closing)
            self.changed.wait_for(self._is_enough, self.wait_seconds)
            jobs: list[Job] = []
            while self.jobs and sum(len(job.windows) for job in jobs) < self.batch_size:
                jobs.append(self.jobs.popleft())
            return jobs

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

    def _finish(self, job: Job) -> dict[str, Any] | None:
        """Make the result of a job; `None` of one that failed."""
        if job.future.done():
            return None
        try:
            return self.pipe.postprocess(job.scored, threshold=job.threshold, return_tags=True)
        except Exception as error:
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        logger.error("The model failed on a post.", exc_info=error)
        failure = ModelError("the model failed on this post; the server's log says why")
        failure.__cause__ = error
        job.future.set_exception(failure)


__all__ = ["ModelError", "QueueFullError", "TaggingQueue"]
