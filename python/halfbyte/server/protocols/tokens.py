"""/tokenize, /detokenize and /apply-template, as llama.cpp's and vLLM's clients send them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from halfbyte.server.call import Call
from halfbyte.server.chat_stream import ChatAsk, chat_prompt
from halfbyte.server.responses import Json
from halfbyte.server.sampling import Body, Token

router = APIRouter(tags=["tokens"])


class ChatFields(Body):
    """A chat that is rendered, not answered."""

    model: str | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    def ask(self, messages: list[dict[str, Any]]) -> ChatAsk:
        return ChatAsk(
            messages,
            tools=self.tools,
            variables=dict(self.chat_template_kwargs or {}),
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
        )


class TokenizeRequest(ChatFields):
    """content is llama.cpp's name of the text, prompt vLLM's; messages are rendered first."""

    content: str | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    parse_special: bool = True
    with_pieces: bool = False
    return_token_strs: bool = False


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeRequest) -> Json:
    """Token ids of a text."""
    call = Call.of(request)
    model = await call.model(body.model)
    tokenizer = model.llm.tokenizer
    if body.messages is not None:
        ids = (await chat_prompt(call, model, body.ask(body.messages))).ids
    else:
        # Each client's own default: llama.cpp adds BOS when told to, vLLM unless told not to.
        add_bos = bool(body.add_special) if body.prompt is None else body.add_special_tokens is not False
        text = body.content if body.prompt is None else body.prompt
        ids = await call.work("prompt", tokenizer.encode, text or "", add_bos, body.parse_special)
    tokens: list[Any] = ids
    if body.with_pieces:
        tokens = [{"id": i, "piece": _piece(tokenizer.token_bytes(i))} for i in ids]
    answer = {"tokens": tokens, "count": len(ids), "max_model_len": model.llm.n_ctx}
    if body.return_token_strs:
        answer["token_strs"] = [tokenizer.piece(i) for i in ids]
    return Json(answer)


def _piece(data: bytes) -> str | list[int]:
    """Text, or the bytes of what is no whole character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[Token]


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeRequest) -> Json:
    """The text of token ids, under llama.cpp's name and vLLM's."""
    call = Call.of(request)
    model = await call.model(body.model)
    text = await call.work("tokens", model.llm.detokenize, body.tokens)
    return Json({"content": text, "prompt": text})


class TemplateRequest(ChatFields):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]


@router.post("/apply-template")
async def apply_template(request: Request, body: TemplateRequest) -> Json:
    """The prompt's text that messages become."""
    call = Call.of(request)
    model = await call.model(body.model)
    return Json({"prompt": (await chat_prompt(call, model, body.ask(body.messages))).text})
