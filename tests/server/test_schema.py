"""Schemathesis sends what our OpenAPI allows, and what it does not: nothing may be the server's fault."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from halfbyte.server.config import ServerConfig

from .conftest import Live

pytestmark = pytest.mark.clients


@pytest.mark.filterwarnings("default")
def test_no_input_is_the_servers_fault(serve: Callable[..., Live]) -> None:
    import requests
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable

    live = serve(ServerConfig(max_output_tokens=4, max_choices=8))
    operations = [
        found.ok() for found in schemathesis.openapi.from_url(f"{live.url}/openapi.json").get_all_operations()
    ]
    assert len(operations) > 15
    statuses: set[int] = set()
    with requests.Session() as session:

        def check(case: Any) -> None:
            answer = case.call(base_url=live.url, session=session, timeout=60)
            statuses.add(answer.status_code)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400 and "application/json" in answer.headers["content-type"]:
                assert "error" in answer.json()

        for operation in operations:
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
                limits = settings(
                    max_examples=40,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                # What takes no input has no wrong one.
                with contextlib.suppress(Unsatisfiable):
                    limits(given(case=operation.as_strategy(generation_mode=mode))(check))()
    assert {200, 400} <= statuses
    live.llm.engine.check_integrity()
