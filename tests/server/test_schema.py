"""Schemathesis sends what our OpenAPI allows, and what it does not: nothing may be the server's fault."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfbyte import LLM
from halfbyte.server.app import create_app
from halfbyte.server.catalog import Catalog
from halfbyte.server.config import ServerConfig
from halfbyte.server.pool import CatalogPool

from .conftest import Live

pytestmark = [pytest.mark.clients, pytest.mark.timeout(7200), pytest.mark.filterwarnings("default")]

# So many requests of each kind, right and wrong, to each operation.
_N_EXAMPLES = int(os.environ.get("HALFBYTE_FUZZ_EXAMPLES", "25"))


def statuses_of(schema: Any, call: Callable[[Any], Any], skip: tuple[str, ...] = ()) -> dict[str, set[int]]:
    """Sends requests to every operation; the statuses of each. None may be the server's fault, every error is one."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable

    found: dict[str, set[int]] = {}
    for operation in (found.ok() for found in schema.get_all_operations()):
        if operation.path in skip:
            continue
        seen = found.setdefault(f"{operation.method.upper()} {operation.path}", set())

        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            limits = settings(
                max_examples=_N_EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            # What takes no input has no wrong one.
            with contextlib.suppress(Unsatisfiable):
                limits(given(case=operation.as_strategy(generation_mode=mode))(checked(call, seen)))()
    return found


def checked(call: Callable[[Any], Any], seen: set[int]) -> Callable[[Any], None]:
    """A test of one case that notes its status."""

    def check(case: Any) -> None:
        answer = call(case)
        seen.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400 and "application/json" in answer.headers["content-type"]:
            assert "error" in answer.json()

    return check


def test_no_input_is_the_servers_fault(serve: Callable[..., Live]) -> None:
    import requests
    import schemathesis

    live = serve(ServerConfig(max_output_tokens=4, max_choices=8))
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    with requests.Session() as session:
        found = statuses_of(schema, lambda case: case.call(base_url=live.url, session=session, timeout=120))
    answered = {
        "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/rerank", "/completion",
        "/tokenize", "/detokenize", "/v1/messages", "/api/show",
    }  # fmt: skip
    assert answered <= {name.split()[1] for name in found}
    assert {200, 400} <= set().union(*found.values())
    live.llm.engine.check_integrity()


def test_no_input_breaks_the_store(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that may change its models; what asks the network (pull) is left out."""
    import schemathesis
    from starlette.testclient import TestClient

    monkeypatch.setenv("HALFBYTE_MODELS", str(tmp_path / "store"))
    catalog = Catalog({"tiny": str(tiny_model(n_ctx=1024))}, with_store=True)
    pool = CatalogPool(catalog, lambda files: LLM(files, n_threads=2), max_loaded=2)
    app = create_app(pool, ServerConfig(max_output_tokens=4, max_choices=8))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    with TestClient(app, raise_server_exceptions=False):
        skip = tuple(path for path in app.openapi()["paths"] if path == "/api/pull" or not path.startswith("/api/"))
        found = statuses_of(schema, lambda case: case.call(timeout=120), skip)
    assert {"POST /api/create", "POST /api/copy", "DELETE /api/delete"} <= found.keys()
    assert 200 in set().union(*found.values())
