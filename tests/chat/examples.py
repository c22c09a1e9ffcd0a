"""One example for each dialect of tool calls: a sign in the template, an answer, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a place.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 12},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "mail.send",
            "parameters": {
                "type": "object",
                "properties": {
                    "to": {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1, "maxItems": 2},
                    "urgent": {"type": "boolean"},
                },
                "required": ["to", "urgent"],
                "$defs": {"person": {"enum": ["Ann", "Bo"]}},
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]

WEATHER = ("get_weather", {"city": 'Rome, "IT"', "days": 2})
MAIL = ("mail.send", {"to": ["Ann", "Bo"], "urgent": True})


@dataclass(frozen=True)
class Example:
    """answer is as the family's grammar writes it; content and reasoning are what is around the calls."""

    dialect: str
    template: str
    answer: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = (WEATHER, MAIL)
    # The part of the answer that the grammar covers.
    before: str = ""


_ROME = '{"city": "Rome, \\"IT\\"", "days": 2}'
_BOTH = '{"to": ["Ann", "Bo"], "urgent": true}'
_THINK = "<think>\nThey want <tool_call> two things.\n</think>\n\nLet me see.\n"
_LIST = f'[{{"name": "get_weather", "arguments": {_ROME}}}, {{"name": "mail.send", "arguments": {_BOTH}}}]'
_DEEPSEEK = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
)
_S, _C, _P, _E, _F = _DEEPSEEK

EXAMPLES = [
    Example(
        "hermes",
        "{% if tools %}<tool_call></tool_call>{% endif %}<think></think>",
        _THINK + f'<tool_call>\n{{"name": "get_weather", "arguments": {_ROME}}}\n</tool_call>\n'
        f'<tool_call>\n{{"name": "mail.send", "arguments": {_BOTH}}}\n</tool_call>',
        content="Let me see.",
        reasoning="They want <tool_call> two things.",
        before=_THINK,
    ),
    Example(
        "llama3",
        "{{ tools }}Environment: ipython <|python_tag|>",
        f'{{"name": "get_weather", "parameters": {_ROME}}}; {{"name": "mail.send", "parameters": {_BOTH}}}',
    ),
    Example("mistral", "{{ tools }}[TOOL_CALLS] [", f"One moment.[TOOL_CALLS]{_LIST}", "One moment.", before="One moment."),
    Example(
        "mistral-args",
        "{{ tools }}[TOOL_CALLS][ARGS][THINK][/THINK]",
        f"[THINK]Hm[/THINK][TOOL_CALLS]get_weather[ARGS]{_ROME}[TOOL_CALLS]mail.send[ARGS]{_BOTH}",
        reasoning="Hm",
        before="[THINK]Hm[/THINK]",
    ),
    Example(
        "gemma",
        "<start_of_turn>user",
        'Sure!\n```tool_code\nget_weather(city="Rome, \\"IT\\"", days=2)\n'
        'mail.send(to=["Ann", "Bo"], urgent=true)\n```',
        content="Sure!",
        before="Sure!\n",
    ),
    Example("phi4", "<|tool|>{{ tools }}<|/tool|><|tool_call|>", f"<|tool_call|>{_LIST}<|/tool_call|>"),
    Example("functools", "{{ tools }}functools[", f"functools{_LIST}"),
    Example("granite", "{{ tools }}<|start_of_role|><|tool_call|>", f"<|tool_call|>{_LIST}"),
    Example(
        "deepseek",
        f"{{{{ tools }}}}{_S}function\n```json</think>",
        f"<think>\n\n</think>\nWait.{_S}{_C}function{_P}get_weather\n```json\n{_ROME}\n```{_E}\n"
        f"{_C}function{_P}mail.send\n```json\n{_BOTH}\n```{_E}{_F}",
        content="Wait.",
        before="<think>\n\n</think>\nWait.",
    ),
    Example(
        "deepseek-v3.1",
        f"{{{{ tools }}}}{_S}",
        f"{_S}{_C}get_weather{_P}{_ROME}{_E}{_C}mail.send{_P}{_BOTH}{_E}{_F}",
    ),
    Example(
        "harmony",
        "<|start|><|channel|>{{ tools }}",
        "<|channel|>analysis<|message|>Weather, then.<|end|><|start|>assistant<|channel|>commentary<|message|>Looking."
        "<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>" + _ROME,
        content="Looking.",
        reasoning="Weather, then.",
        calls=(WEATHER,),
        before="<|channel|>analysis<|message|>Weather, then.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "Looking.<|end|>",
    ),
    *(
        Example(
            name,
            f"{{{{ tools }}}}<{tag}tool_call><function=f><parameter=p>",
            f'<{tag}tool_call>\n<function=get_weather>\n<parameter=city>\nRome, "IT"\n</parameter>\n<parameter=days>\n2\n'
            f"</parameter>\n</function>\n</{tag}tool_call>\n<{tag}tool_call>\n<function=mail.send>\n<parameter=to>\n"
            f'["Ann", "Bo"]\n</parameter>\n<parameter=urgent>\ntrue\n</parameter>\n</function>\n</{tag}tool_call>',
        )
        for name, tag in (("function-xml", ""), ("seed-xml", "seed:"))
    ),
    *(
        Example(
            name,
            f"{{{{ tools }}}}<tool_call><arg_key>k</arg_key>{line}<arg_value></arg_value>",
            f'<tool_call>get_weather{line}<arg_key>city</arg_key>{line}<arg_value>Rome, "IT"</arg_value>{line}'
            f"<arg_key>days</arg_key>{line}<arg_value>2</arg_value>{line}</tool_call>{line}"
            f'<tool_call>mail.send{line}<arg_key>to</arg_key>{line}<arg_value>["Ann", "Bo"]</arg_value>{line}'
            f"<arg_key>urgent</arg_key>{line}<arg_value>true</arg_value>{line}</tool_call>",
        )
        for name, line in (("glm", "\n"), ("glm-4.7", ""))
    ),
    Example(
        "minimax",
        "{{ tools }}<minimax:tool_call>",
        'Now.<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Rome, "IT"</parameter>\n'
        '<parameter name="days">2</parameter>\n</invoke>\n<invoke name="mail.send">\n'
        '<parameter name="to">["Ann", "Bo"]</parameter>\n<parameter name="urgent">true</parameter>\n</invoke>\n'
        "</minimax:tool_call>",
        content="Now.",
        before="Now.",
    ),
    *(
        Example(
            name,
            f"{{{{ tools }}}}{{% set dsml_token = '｜DSML｜' %}}{tag}",
            f'<｜DSML｜{tag}>\n<｜DSML｜invoke name="get_weather">\n'
            '<｜DSML｜parameter name="city" string="true">Rome, "IT"</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
            '<｜DSML｜invoke name="mail.send">\n'
            '<｜DSML｜parameter name="to" string="false">["Ann", "Bo"]</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="urgent" string="false">true</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
            f"</｜DSML｜{tag}>",
        )
        for name, tag in (("dsml", "function_calls"), ("dsml-v4", "tool_calls"))
    ),
    Example(
        "minicpm",
        '{{ tools }}<function name="f"><param name="p">',
        '<function name="get_weather"><param name="city">Rome, "IT"</param><param name="days">2</param></function>\n'
        '<function name="mail.send"><param name="to">["Ann", "Bo"]</param><param name="urgent">true</param></function>',
    ),
    Example(
        "kimi",
        "{{ tools }}<|tool_call_begin|>",
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{_ROME}"
        f"<|tool_call_end|><|tool_call_begin|>functions.mail.send:1<|tool_call_argument_begin|>{_BOTH}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
    ),
    *(
        Example(
            name,
            f"{{{{ tools }}}}{opener}",
            f'Hm.{opener}get_weather(city="Rome, \\"IT\\"", days=2){between}mail.send(to=["Ann", "Bo"], urgent=true){closer}',
            content="Hm.",
            before="Hm.",
        )
        for name, opener, between, closer in (
            ("lfm2", "<|tool_call_start|>[", ", ", "]<|tool_call_end|>"),
            ("olmo3", "<function_calls>\n", "\n", "\n</function_calls>"),
        )
    ),
    Example("nemotron", "{{ tools }}<TOOLCALL>", f"<TOOLCALL>{_LIST}</TOOLCALL>"),
    Example("tool-calls", "{{ tools }}<tool_calls>", f"<tool_calls>{_LIST}</tool_calls>"),
    Example(
        "command",
        "{{ tools }}<|START_ACTION|>",
        f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {_ROME}}},\n'
        f'    {{"tool_call_id": "1", "tool_name": "mail.send", "parameters": {_BOTH}}}\n]<|END_ACTION|>',
    ),
    Example(
        "gigachat",
        "{{ tools }}<|function_call|>",
        f'<|function_call|>{{"name": "get_weather", "arguments": {_ROME}}}',
        calls=(WEATHER,),
    ),
    Example(
        "functionary",
        "{{ tools }}<function=",
        f"<function=get_weather>{_ROME}</function><function=mail.send>{_BOTH}</function>",
    ),
    Example("generic", "{{ messages }}", f'{{"name": "get_weather", "arguments": {_ROME}}}', calls=(WEATHER,)),
]  # fmt: skip
