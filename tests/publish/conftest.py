import functools

import jinja2
import pytest


@pytest.fixture(autouse=True)
def no_value_is_missing(monkeypatch):
    """Where a template of a card asks for a value that nobody gives, users would get a gap; tests fail."""
    monkeypatch.setattr(jinja2, "Template", functools.partial(jinja2.Template, undefined=jinja2.StrictUndefined))
