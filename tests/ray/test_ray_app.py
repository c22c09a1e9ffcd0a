"""The server on a real Ray cluster of this machine: two replicas of a tiny model, one of them killed under load."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ..conftest import write_tiny_llama

if TYPE_CHECKING:
    import aiohttp

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@dataclass
class Cluster:
    """A running application."""

    url: str
    replica_pids: Callable[[str], list[int]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas of the model "twin", one of "single", behind one port; built as a Serve config builds it."""
    # Workers import the same halfbyte as this process.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.util.state import list_actors

    from halfbyte.server.ray_app import RayServer, build_app

    file = write_tiny_llama(tmp_path_factory.mktemp("ray") / "tiny.gguf", n_ctx=4096)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    ray.init(num_cpus=4, object_store_memory=100 << 20, log_to_driver=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    twin = {"model": str(file), "name": "twin", "min_replicas": 2, "max_replicas": 2}
    single = {"model": str(file), "name": "single"}
    arguments = RayServer.model_validate(
        {"models": [twin, single], "server": {"api_keys": ("secret",), "max_body_bytes": 1000000}}
    )
    serve.run(build_app(arguments), name="halfbyte")

    def replica_pids(name: str) -> list[int]:
        actors = list_actors(filters=[("state", "=", "ALIVE")], detail=True)
        return [actor.pid for actor in actors if actor.name and f"#model-{name}#" in actor.name]

    yield Cluster(f"http://127.0.0.1:{port}", replica_pids)
    serve.shutdown()
    ray.shutdown()


@dataclass
class Answer:
    status: int = 0
    text: str = ""
    error: str = ""
    done: bool = False
    usage: dict[str, Any] = field(default_factory=dict)


async def chat(session: aiohttp.ClientSession, url: str, text: str, *, stream: bool = True, **more: Any) -> Answer:
    body = {"model": "twin", "messages": [{"role": "user", "content": text}], "stream": stream, "ignore_eos": True}
    body |= {"max_tokens": 20, "temperature": 0, "stream_options": {"include_usage": True}} | more
    if not stream:
        del body["stream_options"]
    answer = Answer()
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        answer.status = response.status
        if not stream or response.status != 200:
            whole = await response.json()
            answer.usage = whole.get("usage", {})
            answer.error = whole.get("error", {}).get("message", "")
            answer.done = response.status == 200
            return answer
        async for line in response.content:
            if line == b"data: [DONE]\n":
                answer.done = True
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                answer.error += event.get("error", {}).get("message", "")
                answer.usage = event.get("usage") or answer.usage
                for choice in event.get("choices", []):
                    answer.text += choice["delta"].get("content") or ""
    return answer


def run(work: Callable[[aiohttp.ClientSession], Any]) -> Any:
    async def main() -> Any:
        import aiohttp

        headers = {"authorization": "Bearer secret"}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=600)) as session:
            return await work(session)

    return asyncio.run(main())


def test_models_keys_and_errors(cluster: Cluster) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        async with session.get(f"{cluster.url}/v1/models") as response:
            assert response.status == 200, await response.text()
            assert [model["id"] for model in (await response.json())["data"]] == ["twin", "single"]
        async with session.get(f"{cluster.url}/v1/models/single") as response:
            assert (await response.json())["id"] == "single"
        async with session.get(f"{cluster.url}/v1/models", headers={"authorization": "Bearer wrong"}) as response:
            assert response.status == 401
        async with session.get(f"{cluster.url}/health", headers={"authorization": ""}) as response:
            assert response.status == 200
        async with session.get(f"{cluster.url}/") as response:
            assert "default-src 'none'" in response.headers["content-security-policy"]
        for model in ("twin", "single"):
            answer = await chat(session, cluster.url, "hello", model=model)
            assert answer.done
            assert answer.text
            assert answer.usage["completion_tokens"] == 20
        unknown = await chat(session, cluster.url, "hello", model="other")
        assert (unknown.status, unknown.error) == (404, 'The model "other" does not exist.')
        for body, status in ((b"{no json", 400), (b'{"model": ["twin"], "messages": []}', 400), (b"x" * 2000000, 413)):
            async with session.post(f"{cluster.url}/v1/chat/completions", data=body) as response:
                assert response.status == status
                assert "error" in await response.json()

    run(work)


def test_a_chat_stays_with_the_replica_that_knows_it(cluster: Cluster) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        homes = collections.Counter()
        for i in range(8):
            opening = [
                {"role": "user", "content": f"{i} tell me of the sea, of the ships on it and of the towns at it."}
            ]
            first = await chat(session, cluster.url, "", messages=opening)
            turns = [*opening, {"role": "assistant", "content": first.text}, {"role": "user", "content": "more"}]
            again = await chat(session, cluster.url, "", messages=turns)
            homes[again.usage["prompt_tokens_details"]["cached_tokens"] > 0] += 1
        # With two replicas and no affinity, half of the second turns would meet a replica without the prefix.
        assert homes == {True: 8}

    run(work)


def test_a_killed_replica_costs_only_the_streams_that_ran_on_it(cluster: Cluster) -> None:
    pids = cluster.replica_pids("twin")
    assert len(pids) == 2

    async def work(session: aiohttp.ClientSession) -> None:
        answers: list[Answer] = []

        async def client(i: int) -> None:
            for j in range(12):  # many chats, so that both replicas have work; every second request does not stream
                text = f"{i} {j} of the sea"
                answers.append(await chat(session, cluster.url, text, stream=j % 2 == 0, max_tokens=150))
                if len(answers) == 20:
                    os.kill(pids[0], signal.SIGKILL)

        await asyncio.gather(*(client(i) for i in range(8)))
        assert len(answers) == 96
        lost = [answer for answer in answers if not answer.done]
        # Lost are streams that had begun, each ended by an event that says so; at most one a client.
        assert len(lost) <= 8
        assert all(answer.status == 200 and answer.text and "was lost" in answer.error for answer in lost)

        for _ in range(1500):  # Ray starts another in its place
            alive = set(cluster.replica_pids("twin"))
            if len(alive) == 2 and pids[0] not in alive:
                break
            await asyncio.sleep(0.2)
        else:
            pytest.fail("no new replica came")
        assert all([(await chat(session, cluster.url, f"{i} after")).done for i in range(8)])

    run(work)


def test_a_client_that_goes_frees_its_replica(cluster: Cluster) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        body = {"model": "single", "messages": [{"role": "user", "content": "x"}], "stream": True, "ignore_eos": True}
        for _ in range(3):
            async with session.post(f"{cluster.url}/v1/chat/completions", json=body | {"max_tokens": 400}) as response:
                await response.content.readline()
        answer = await chat(session, cluster.url, "still there?", model="single")
        assert answer.done

    run(work)


def test_a_stream_whose_replica_dies_says_so_and_the_next_request_waits_for_another(cluster: Cluster) -> None:
    pids = cluster.replica_pids("single")
    assert len(pids) == 1

    async def work(session: aiohttp.ClientSession) -> None:
        body = {"model": "single", "messages": [{"role": "user", "content": "x"}], "stream": True, "ignore_eos": True}
        async with session.post(f"{cluster.url}/v1/chat/completions", json=body | {"max_tokens": 3500}) as response:
            lines = [await response.content.readline()]
            os.kill(pids[0], signal.SIGKILL)
            lines += [line async for line in response.content]
        assert response.status == 200
        events = [line for line in lines if line.startswith(b"data: ")]
        assert json.loads(events[-1][6:])["error"]["message"].startswith(
            "The replica that computed this answer was lost"
        )
        assert (await chat(session, cluster.url, "hello", model="single")).done

    run(work)


@pytest.mark.parametrize(
    "models",
    [
        [],
        [{"model": "a.gguf"}, {"model": "b/a.gguf"}],
        [{"model": "a", "min_replicas": 2}],
        [{"model": "a", "n_threads": 0}],
    ],
)
def test_bad_arguments_are_refused(models: list[dict[str, Any]]) -> None:
    from pydantic import ValidationError

    from halfbyte.errors import InvalidArgumentError
    from halfbyte.server.ray_app import RayServer, build_app

    with pytest.raises((ValidationError, InvalidArgumentError)):
        build_app(RayServer.model_validate({"models": models}))


def test_affinity_is_of_the_opening() -> None:
    from halfbyte.server.ray_app import affinity_of

    system, one, two = ({"role": r, "content": c} for r, c in (("system", "s"), ("user", "1"), ("user", "2")))
    reply = {"role": "assistant", "content": "a"}
    opening = affinity_of({"messages": [system, one]})
    assert affinity_of({"messages": [system, one, reply, two]}) == opening
    assert affinity_of({"messages": [system, two]}) != opening
    assert affinity_of({"prompt": "1"}) == affinity_of({"prompt": "1", "max_tokens": 3}) != ""
    assert affinity_of({"messages": []}) == affinity_of({}) == ""
    for odd in ({"messages": 3}, {"messages": [3]}, {"messages": {"a": 1}}, {"prompt": [[1, 2]]}):
        affinity_of(odd)


def test_the_example_of_a_config_is_one() -> None:
    import yaml

    from halfbyte.server import ray_app

    example = ray_app.__doc__ and ray_app.__doc__.split("\n\n")[2]
    application = yaml.safe_load(example or "")["applications"][0]
    module, name = application["import_path"].split(":")
    assert (module, getattr(ray_app, name)) == ("halfbyte.server.ray_app", ray_app.build_app)
    assert ray_app.RayServer.model_validate(application["args"]).models[0].max_replicas == 8
