"""What a language model says about a post: the prompt, the examples in it, and the model or the endpoint asked."""

import os
import random
import time
from collections.abc import Sequence
from concurrent import futures
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError, OfflineModeIsEnabled
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from .annotators import clean_text, describe_model, load, load_model, versions
from .jsonl import read_records
from .schema import DataError

# To be raised when the words of the prompt change.
PROMPT_VERSION = 1
TASK = (
    "Name the named entities in a post, with the type of each: {types}. Say of each in a few words what it is, and "
    "whether the picture beside the post shows it."
)
MAX_NEW_TOKENS = 200
KEY_VARIABLE = "SMCL_API_KEY"
# Seconds before the next try; after the last one the run stops.
WAITS = (1, 2, 4, 8, 16)
SECONDS_TO_ANSWER = 120
MOST_CHARACTERS = 100 * MAX_NEW_TOKENS
# What huggingface_hub's client raises when the connection fails; its own errors are of the same family.
CONNECTION_ERRORS = HfHubHTTPError.__mro__[1]


class Examples:
    """Posts of the training split with answers, the nearest of which stand in a post's prompt.

    Posts are compared by the cosine of TF-IDF vectors of their words in small letters, fitted on the training split.

    Args:
        answers (`list[tuple[str, str]]`): Ids of training posts, with an answer for each.
        splits (`dict[str, list[dict]]`): The posts of every split, with `id`, `tokens` and `captions`.
        count (`int`): How many stand in a prompt.

    Raises:
        DataError: if an id is none of a training post, or an example stands in another split, by its id or its words.
    """

    def __init__(self, answers: list[tuple[str, str]], splits: dict[str, list[dict[str, Any]]], count: int):
        train = {post["id"]: post for post in splits.get("train", [])}
        others = [post for split, posts in splits.items() if split != "train" for post in posts]
        other_ids, other_words = {post["id"] for post in others}, {tuple(post["tokens"]) for post in others}
        unknown = [post_id for post_id, _ in answers if post_id not in train]
        leaks = [i for i, _ in answers if i in other_ids or (i in train and tuple(train[i]["tokens"]) in other_words)]
        for ids, fault in ((unknown, "are not in the train split"), (leaks, "also stand in another split")):
            if ids:
                raise DataError(
                    f"{len(ids)} of the {len(answers)} examples {fault}, by id or by words: {', '.join(ids[:5])}. "
                    "Expected training posts only, or answers about test posts would be shown. Remove them."
                )
        self.pool = [train[post_id] | {"answer": answer} for post_id, answer in answers]
        self.count = min(count, len(self.pool))
        if self.count:
            self.vectorizer = TfidfVectorizer(analyzer=lambda words: [word.lower() for word in words])
            self.vectorizer.fit([post["tokens"] for post in train.values()])
            self.vectors = self.vectorizer.transform([post["tokens"] for post in self.pool])

    def nearest(self, post: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the examples nearest to a post, best first; never the post itself."""
        if not self.count:
            return []
        cosines = (self.vectors @ self.vectorizer.transform([post["tokens"]]).T).toarray()[:, 0]
        order = (self.pool[index] for index in (-cosines).argsort(kind="stable"))
        others = [found for found in order if found["id"] != post["id"] and found["tokens"] != post["tokens"]]
        return others[: self.count]


def read_examples(path: Path) -> list[tuple[str, str]]:
    """Read examples from lines of JSON, `{"id": ..., "answer": ...}`.

    Args:
        path (`Path`): The file.

    Returns:
        `list[tuple[str, str]]`: ids and answers.

    Raises:
        DataError: if a line is no such record.
    """
    answers = {}
    for where, record in read_records(path):
        post_id, answer = (record.get(key) for key in ("id", "answer")) if isinstance(record, dict) else (None, None)
        if post_id is None or not isinstance(answer, str) or str(post_id) in answers:
            raise DataError(
                f'{where}: expected {{"id": ..., "answer": a text}}, each id once, got {ascii(record)[:80]}.'
            )
        answers[str(post_id)] = answer
    return list(answers.items())


def make_examples(posts: list[dict[str, Any]], names: Sequence[str], count: int, seed: int) -> list[tuple[str, str]]:
    """Write answers from the gold mentions of training posts, as a beginning for work by hand.

    Args:
        posts (`list[dict]`): Training posts with `id`, `tokens` and `ner_tags`; only those tagged in full are taken.
        names (`Sequence[str]`): The names of the tags, by id.
        count (`int`): How many.
        seed (`int`): Chooses the posts.

    Returns:
        `list[tuple[str, str]]`: ids and answers.
    """
    # Words that nobody tagged have tags below 0.
    posts = [post for post in posts if all(tag >= 0 for tag in post["ner_tags"])]
    chosen = random.Random(seed).sample(posts, min(count, len(posts)))
    return [(post["id"], _gold_answer(post["tokens"], [names[tag] for tag in post["ner_tags"]])) for post in chosen]


def _gold_answer(words: list[str], tags: list[str]) -> str:
    mentions: list[list[str]] = []
    for word, tag in zip(words, tags, strict=True):
        if tag.startswith("B-"):
            mentions.append([tag[2:], word])
        elif tag.startswith("I-") and mentions:
            mentions[-1].append(word)
    return "; ".join(f"{' '.join(mention)}: {kind}" for kind, *mention in mentions) or "No named entities."


class Knowledge:
    """Answers of a language model about posts, asked once for each different prompt.

    Args:
        name (`str`): The model: a folder or a name on the Hub, run here; with a `url` what the endpoint calls it.
        types (`list[str]`): The entity types of the data set.
        examples ([`Examples`]): The examples.
        url (`str`, *optional*): An endpoint that speaks the OpenAI protocol, such as `"http://localhost:8000/v1"`. Its
            key is taken from the environment variable `SMCL_API_KEY`, and goes nowhere else.
        device (`str`, *optional*, defaults to `"cpu"`): Where a model runs here.
        requests (`int`, *optional*, defaults to 1): How many are sent to an endpoint at once.

    Raises:
        DataError: if there is no such model, or the URL is none.
    """

    def __init__(
        self,
        name: str,
        types: list[str],
        examples: Examples,
        url: str | None = None,
        device: str = "cpu",
        requests: int = 1,
    ):
        self.name, self.types, self.examples, self.device, self.requests = name, types, examples, device, requests
        self.pipe, self.client, self.made_by = None, None, name
        settings = {"max_new_tokens": MAX_NEW_TOKENS, "prompt_version": PROMPT_VERSION, "examples": examples.count}
        if url is None:
            _, about = describe_model(name)
            self.made_by = about["model"]
            self.about = about | {"settings": settings, "versions": versions("transformers", "torch")}
            return
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise DataError(
                "--knowledge_url: expected http(s)://HOST/v1 without a password or a question mark. Give a key by the "
                f"environment variable {KEY_VARIABLE}."
            )
        self.about = {"model": name, "settings": settings | {"url": url}, "versions": versions("huggingface_hub")}
        # Without a key of its own, the client would send the user's Hugging Face token to whatever host this is.
        self.api_key = os.environ.get(KEY_VARIABLE, "").strip() or "none"
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise DataError(f"{KEY_VARIABLE}: expected a key of ASCII letters in one line. Set it again.")
        self.client = InferenceClient(base_url=url, api_key=self.api_key, timeout=SECONDS_TO_ANSWER)

    def prompt(self, post: dict[str, Any]) -> str:
        """Write what the model is asked about a post.

        Args:
            post (`dict`): With `id`, `tokens` and `captions`.

        Returns:
            `str`.

        Raises:
            ValueError: if the post's first image has no caption yet.
        """
        if post["captions"] is None or post["captions"][:1] == [None]:
            raise ValueError("its first image has no caption")
        parts = [TASK.format(types=", ".join(self.types))]
        parts += [f"{_describe(found)}\nAnswer: {found['answer']}" for found in self.examples.nearest(post)]
        return "\n\n".join([*parts, f"{_describe(post)}\nAnswer:"])

    def key(self, item: dict[str, Any]) -> str:
        """Return what a post is known by in a cache: its prompt."""
        return sha256(self.prompt(item).encode("utf-8", "replace")).hexdigest()

    def annotate(self, items: list[dict[str, Any]]) -> list[str]:
        """Ask about posts.

        Args:
            items (`list[dict]`): Posts, as `prompt` takes them.

        Returns:
            `list[str]`: the answers.

        Raises:
            DataError: if the endpoint can't be reached, or refuses to be asked.
            ValueError: if it refuses one post, or the answer is empty.
        """
        prompts = [self.prompt(item) for item in items]
        if self.client is None:
            answers = [self._generate(prompt) for prompt in prompts]
        else:
            with futures.ThreadPoolExecutor(self.requests) as pool:
                answers = list(pool.map(self._ask, prompts))
        if not all(answers):
            raise ValueError("the answer is empty")
        return answers

    def _generate(self, prompt: str) -> str:
        if self.pipe is None:
            tokenizer = load(AutoTokenizer, self.name)
            model = load_model(AutoModelForCausalLM, self.name, self.device)
            self.pipe = pipeline("text-generation", model, tokenizer=tokenizer, device=self.device)
        is_chat = self.pipe.tokenizer.chat_template is not None
        asked = [{"role": "user", "content": prompt}] if is_chat else prompt
        size = len(self.pipe.tokenizer(prompt)["input_ids"])
        most = getattr(self.pipe.model.config, "max_position_embeddings", None)
        if most and size + MAX_NEW_TOKENS > most:
            raise ValueError(f"its prompt of {size} tokens leaves no room for an answer: the model takes {most}")
        written = self.pipe(asked, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, return_full_text=False)
        return clean_text(written[0]["generated_text"])

    def _ask(self, prompt: str) -> str:
        for wait in (*WAITS, None):
            try:
                answer = self._complete(prompt)
            except OfflineModeIsEnabled:
                raise DataError("HF_HUB_OFFLINE is set, so no endpoint is asked. Unset it, and run again.") from None
            except (InferenceTimeoutError, TimeoutError):
                reason = f"no answer within {SECONDS_TO_ANSWER} seconds"
            except HfHubHTTPError as error:
                reason, status = self._without_key(error), error.response.status_code
                if status in (400, 413, 422):
                    raise ValueError(f"the endpoint refused it: {reason}") from None
                if status < 500 and status not in (408, 429):
                    break
            except CONNECTION_ERRORS as error:
                reason = self._without_key(error)
            except (ValueError, TypeError, AttributeError, LookupError):
                reason = "the answer is not JSON of a chat completion"
            else:
                if len(answer) > MOST_CHARACTERS:
                    raise ValueError(f"the answer has {len(answer)} characters, more than {MAX_NEW_TOKENS} tokens have")
                return clean_text(answer)
            if wait is not None:
                time.sleep(wait)
        raise DataError(
            f"The endpoint {self.client.model} failed: {reason}. What was answered so far is kept. Check "
            f"--knowledge_url, --knowledge and {KEY_VARIABLE}, and run the same command again."
        )

    def _complete(self, prompt: str) -> str:
        """Have the endpoint answer; a `TimeoutError` says that all of it took too long, not only a part."""
        asked = {"model": self.name, "max_tokens": MAX_NEW_TOKENS, "temperature": 0}
        messages, done = [{"role": "user", "content": prompt}], futures.Future()

        def ask() -> None:
            try:
                done.set_result(self.client.chat_completion(messages, **asked).choices[0].message.content or "")
            except Exception as error:
                done.set_exception(error)

        # The client's own limit is for each read. A thread whose endpoint goes on and on ends with the process.
        Thread(target=ask, daemon=True).start()
        if not futures.wait([done], SECONDS_TO_ANSWER).done:
            raise TimeoutError
        return done.result()

    def _without_key(self, error: Exception) -> str:
        """Return an error in one line; endpoints repeat keys that they refuse."""
        text = " ".join(str(error).split())
        return (text.replace(self.api_key, "...") if self.api_key != "none" else text)[:300]


def _describe(post: dict[str, Any]) -> str:
    caption = "no picture"
    if post["captions"] != []:
        caption = "; ".join((post["captions"] or [None])[0] or []) or "no caption"
    return f"Post: {' '.join(post['tokens'])}\nPicture: {caption}"
