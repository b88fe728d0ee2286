import pytest
from chat_server import serve
from context_models import save_models
from huggingface_hub import constants

from smcl.dataset_scripts import knowledge


@pytest.fixture(scope="session")
def models(tmp_path_factory, tokenizer) -> dict[str, str]:
    """Folders of tiny models for the columns of context, by kind."""
    return save_models(tmp_path_factory.mktemp("models"), tokenizer)


@pytest.fixture
def endpoint(monkeypatch):
    """A chat endpoint on loopback; what the client waits between its tries is noted, not waited."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve() as server:
        server.waits = []
        monkeypatch.setattr(knowledge.time, "sleep", server.waits.append)
        yield server
