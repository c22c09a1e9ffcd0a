"""What people put in front of an OpenAI server: langchain-openai, litellm, instructor, and the SDK's parse helpers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest

from .conftest import Live

pytestmark = [
    pytest.mark.frameworks,
    # These packages warn about themselves and about each other.
    pytest.mark.filterwarnings("ignore"),
]

ASK = "Any news?"


@pytest.fixture(scope="module")
def live(serve: Callable[..., Live]) -> Live:
    """A server whose model takes long prompts: a byte is a token."""
    return serve(model={"n_ctx": 4096})


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "LANGCHAIN_TRACING_V2", "LITELLM_LOCAL_MODEL_COST_MAP"):
        monkeypatch.setenv(name, {"LANGCHAIN_TRACING_V2": "false"}.get(name, "true"))


def models() -> tuple[Any, Any]:
    """Two pydantic models that a random model can fill in few tokens."""
    import pydantic

    class Item(pydantic.BaseModel):
        """An item on the list."""

        kind: Literal["bread", "salt"]
        count: Annotated[int, pydantic.Field(ge=1, le=99)]

    class Order(pydantic.BaseModel):
        """Places an order."""

        items: Annotated[list[Item], pydantic.Field(min_length=1, max_length=2)]
        urgent: bool

    return Item, Order


def test_openai_parses_pydantic_models(live: Live) -> None:
    import openai

    item_type, order_type = models()
    client = live.openai()
    ask: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": ASK}],
        "max_tokens": 400,
        "seed": 1,
    }
    answer = client.chat.completions.parse(response_format=order_type, **ask)
    assert isinstance(answer.choices[0].message.parsed, order_type)
    with client.chat.completions.stream(response_format=item_type, **ask) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds
    assert isinstance(final.choices[0].message.parsed, item_type)
    tool = openai.pydantic_function_tool(order_type, name="order")
    called = client.chat.completions.parse(
        tools=[tool], tool_choice="required", parallel_tool_calls=False, **ask
    ).choices[0]
    assert called.finish_reason == "tool_calls"
    (call,) = called.message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, order_type)
    response = client.responses.parse(
        model="tiny", input=ASK, text_format=item_type, max_output_tokens=400, extra_body={"seed": 2}
    )
    assert isinstance(response.output_parsed, item_type)


def langchain(live: Live, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(base_url=f"{live.url}/v1", model="tiny", max_tokens=400, seed=3, max_retries=0, **options)


def test_langchain_calls_tools_and_hears_results(live: Live) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    @tool
    def stock(kind: Literal["bread", "salt"], count: bool) -> str:
        """How much there is."""
        return f"{count} {kind}"

    chat = langchain(live).bind_tools([stock], tool_choice="any", parallel_tool_calls=False)
    messages: list[Any] = [HumanMessage(ASK)]
    said = chat.invoke(messages)
    (call,) = said.tool_calls
    assert call["name"] == "stock"
    messages += [said, ToolMessage(stock.invoke(call["args"]), tool_call_id=call["id"])]
    assert chat.invoke(messages).tool_calls
    whole = None
    for chunk in chat.stream([HumanMessage(ASK)]):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert [c["args"] for c in whole.tool_calls] == [call["args"]]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(live: Live, method: str) -> None:
    _, order_type = models()
    assert isinstance(langchain(live).with_structured_output(order_type, method=method).invoke(ASK), order_type)


def test_langchain_batches_and_streams(live: Live) -> None:
    chat = langchain(live, temperature=0)
    chat.max_tokens = 12
    texts = [message.content for message in chat.batch([ASK] * 4)]
    assert len(set(texts)) == 1
    assert "".join(chunk.content for chunk in chat.stream(ASK)) == texts[0]


def test_litellm(live: Live) -> None:
    import litellm

    litellm.telemetry = False
    _, order_type = models()
    common: dict[str, Any] = {
        "model": "openai/tiny", "api_base": f"{live.url}/v1", "api_key": "none", "max_tokens": 400, "seed": 5,
        "messages": [{"role": "user", "content": ASK}],
    }  # fmt: skip
    answer = litellm.completion(**common, response_format=order_type)
    order_type.model_validate_json(answer.choices[0].message.content)
    schema = {"type": "object", "properties": {"now": {"type": "boolean"}}, "required": ["now"]}
    tool = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": schema}}
    called = litellm.completion(**common, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    (call,) = called.choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"now"}
    chunks = list(
        litellm.completion(**{**common, "max_tokens": 8}, stream=True, stream_options={"include_usage": True})
    )
    built = litellm.stream_chunk_builder(chunks)
    assert built.usage.completion_tokens <= 8
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**common, "model": "openai/nonesuch"})


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA", "JSON"])
def test_instructor(live: Live, mode: str) -> None:
    import instructor

    _, order_type = models()
    client = instructor.from_openai(live.openai(), mode=instructor.Mode[mode])
    ask: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": ASK}],
        "max_tokens": 400,
        "seed": 7,
    }
    if mode == "JSON":  # asks for any object: held to the schema only by what the server is told besides
        ask["extra_body"] = {"response_format": {"type": "json_object", "schema": order_type.model_json_schema()}}
    order = client.chat.completions.create(response_model=order_type, max_retries=0, **ask)
    assert isinstance(order, order_type)
    if mode == "TOOLS":
        partial = list(client.chat.completions.create_partial(response_model=order_type, max_retries=0, **ask))
        assert isinstance(order_type.model_validate(partial[-1].model_dump()), order_type)
