"""The sampling fields that requests of several protocols share: OpenAI's names, and those of llama.cpp and vLLM."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from halfbyte.errors import HalfbyteError
from halfbyte.params import RANGES, SamplingParams
from halfbyte.server.config import ServerConfig
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel

_TOKEN_ID = re.compile(r"[0-9]{1,9}")


class Body(BaseModel):
    """A request's body: unknown fields are ignored, infinite numbers refused."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())


Token = Annotated[int, Field(ge=0, lt=1 << 31)]
#: One text or several, as text or as token ids.
Texts = (
    str
    | Annotated[list[str], Field(min_length=1)]
    | Annotated[list[Token], Field(min_length=1)]
    | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1)]
)


def as_texts(texts: Texts) -> list[str] | list[list[int]]:
    """Always several."""
    if isinstance(texts, str):
        return [texts]
    return [texts] if isinstance(texts[0], int) else texts


#: As llama.cpp's clients write it, -1 is no limit.
NoLimit = BeforeValidator(lambda value: None if value == -1 else value)

Stop = str | Annotated[list[str], Field(max_length=64)]


class AdapterChoice(Body):
    """llama.cpp's: the number of a loaded adapter, and its strength."""

    id: Annotated[int, Field(ge=0, lt=1 << 16)]
    scale: Annotated[float, Field(ge=-1000, le=1000)] = 1.0


def within(name: str) -> Any:
    """The range of a field of SamplingParams, for pydantic."""
    least, most = RANGES[name]
    return Field(ge=least, le=most)


class SamplingFields(Body):
    """Null means the model's default."""

    temperature: Annotated[float, within("temperature")] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, within("top_k")] | None = None
    min_p: Annotated[float, within("min_p")] | None = None
    typical_p: Annotated[float, within("typical_p")] | None = None
    top_n_sigma: Annotated[float, within("top_n_sigma")] | None = None
    xtc_probability: Annotated[float, within("xtc_probability")] | None = None
    xtc_threshold: Annotated[float, within("xtc_threshold")] | None = None
    presence_penalty: Annotated[float, within("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, within("frequency_penalty")] | None = None
    repeat_penalty: Annotated[float, within("repeat_penalty")] | None = None
    repetition_penalty: Annotated[float, within("repeat_penalty")] | None = None
    repeat_last_n: Annotated[int, within("repeat_last_n")] | None = None
    dry_multiplier: Annotated[float, within("dry_multiplier")] | None = None
    dry_base: Annotated[float, within("dry_base")] | None = None
    dry_allowed_length: Annotated[int, within("dry_allowed_length")] | None = None
    dry_penalty_last_n: Annotated[int, within("dry_penalty_last_n")] | None = None
    mirostat: Annotated[int, within("mirostat")] | None = None
    mirostat_tau: Annotated[float, within("mirostat_tau")] | None = None
    mirostat_eta: Annotated[float, within("mirostat_eta")] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=1024)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    bad_words: Annotated[list[str], Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, within("min_tokens")] | None = None
    reasoning_budget: Annotated[int, Field(ge=0, le=1 << 30)] | None = None
    priority: Annotated[int, Field(ge=-(1 << 30), le=1 << 30)] | None = None
    lora: Annotated[list[AdapterChoice], Field(max_length=64)] | None = None

    def to_params(self, model: LoadedModel, config: ServerConfig, **more: Any) -> SamplingParams:
        """The parameters asked for, over the model's defaults. Raises ApiError."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in SamplingFields.model_fields}
        fields["repeat_penalty"] = first(fields["repeat_penalty"], fields.pop("repetition_penalty"))
        if fields["seed"] is not None:
            fields["seed"] %= 1 << 64
        if fields["top_p"] == 0:
            fields["top_p"] = RANGES["top_p"][0]  # OpenAI's way to say: the likeliest token
        for token in fields["logit_bias"] or ():
            if not _TOKEN_ID.fullmatch(token):
                raise ApiError(400, "logit_bias maps token ids (as text) to numbers.", param="logit_bias")
        if fields["logit_bias"] is not None:
            fields["logit_bias"] = {int(token): bias for token, bias in fields["logit_bias"].items()}
        if self.lora is not None:
            fields["lora"] = _strengths(self.lora, model.llm.adapters.names)
        given = {name: value for name, value in {**fields, **more}.items() if value is not None}
        if config.max_output_tokens:
            given["max_tokens"] = min(given.get("max_tokens", config.max_output_tokens), config.max_output_tokens)
        try:
            return model.defaults.replace(**given)
        except HalfbyteError as error:
            raise ApiError.of(error) from error


class ChoiceFields(Body):
    """How many answers there are, and how they are found. Chats know best_of and beam search from vLLM."""

    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    use_beam_search: bool | None = None
    length_penalty: Annotated[float, within("length_penalty")] | None = None
    early_stopping: bool | None = None

    def choice(self, *, stream: bool) -> dict[str, Any]:
        """The fields for to_params(). Raises ApiError."""
        n = self.n or 1
        best_of = self.best_of or n
        if best_of < n:
            raise ApiError(400, f"best_of is {best_of}, less than n, which is {n}.", param="best_of")
        if stream and (best_of > n or (self.use_beam_search and best_of > 1)):
            field = "use_beam_search" if self.use_beam_search else "best_of"
            raise ApiError(400, f"{field} needs all answers before it can choose: it cannot stream.", param=field)
        if self.use_beam_search:
            names = ("length_penalty", "early_stopping")
            return {
                "n": n,
                "best_of": best_of,
                "use_beam_search": True,
                **{name: getattr(self, name) for name in names},
            }
        return {"n": n, "best_of": best_of if best_of > n else None}


def _strengths(chosen: list[AdapterChoice], names: list[str]) -> dict[str, float]:
    """Adapters that are not among the chosen do not count, as in llama.cpp."""
    unknown = next((choice.id for choice in chosen if choice.id >= len(names)), None)
    if unknown is not None:
        raise ApiError(400, f"lora: there is no adapter {unknown}; {len(names)} are loaded.", param="lora")
    return {names[choice.id]: choice.scale for choice in chosen}


def first(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)
