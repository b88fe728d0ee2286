import concurrent.futures
import json
import urllib.request

import pytest
from factories import make_model
from ray_cluster import started_ray
from web import free_port

from smcl import MultiImageNERPipeline
from smcl.predict.serve import make_app


@pytest.fixture(scope="module")
def ray_serve():
    from ray import serve

    with started_ray(num_cpus=4):
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield serve, f"http://127.0.0.1:{port}"
        serve.shutdown()


def test_two_copies_under_ray_serve_answer_as_the_pipeline_does(ray_serve, processor, tmp_path):
    serve, address = ray_serve
    pipe = MultiImageNERPipeline(make_model(), processor)
    pipe.save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model")

    @serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1})
    @serve.ingress(lambda: make_app(model))
    class Tagger:
        pass

    serve.run(Tagger.bind())
    (deployment,) = serve.status().applications["default"].deployments.values()
    assert deployment.replica_states == {"RUNNING": 2}
    texts = ["joey and niko", "the light", "and"] * 6

    def ask(text: str) -> list[str]:
        body = json.dumps({"text": text}).encode()
        with urllib.request.urlopen(f"{address}/predict", body, timeout=60) as answer:
            return json.loads(answer.read())["tags"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, texts)) == [result["tags"] for result in pipe(texts, return_tags=True)]
