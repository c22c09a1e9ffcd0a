"""Chat templates: built-in formats, what templates rely on, and what they may not do."""

from __future__ import annotations

import pytest

from halfbyte.chat import BUILTIN_TEMPLATES, ChatTemplate, guess_template
from halfbyte.errors import InvalidArgumentError, TemplateError

TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "B"},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
EXPECTED = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    "<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n",
    "llama-2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST] A </s><s>[INST] B [/INST]",
    "llama-3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nB<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<s><start_of_turn>user\nS\n\nHi<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nB<end_of_turn>\n"
    "<start_of_turn>model\n",
    "phi-3": "<|system|>\nS<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nB<|end|>\n<|assistant|>\n",
    "mistral": "<s>[INST] Hi [/INST] A</s>[INST] S\n\nB [/INST]",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nHi</s>\n<|assistant|>\nA</s>\n<|user|>\nB</s>\n<|assistant|>\n",
    "vicuna": "<s>S USER: Hi ASSISTANT: A</s>USER: B ASSISTANT:",
    "alpaca": "S\n\n### Instruction:\nHi\n\n### Response:\nA</s>\n\n### Instruction:\nB\n\n### Response:\n",
}


@pytest.mark.parametrize("name", list(BUILTIN_TEMPLATES))
def test_builtin_formats(name: str) -> None:
    assert ChatTemplate.builtin(name, TOKENS).render(TALK) == EXPECTED[name]


def render(source: str, **variables: object) -> str:
    return ChatTemplate(source, variables=TOKENS).render(TALK, **variables)


def test_what_templates_rely_on() -> None:
    assert render("{{ messages[1] | tojson }}") == '{"role": "user", "content": "Hi"}'
    assert render("{{ '<é>' | tojson }}") == '"<é>"'
    assert (
        render("{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role[0] }}{% endfor %}")
        == "sau"
    )
    assert (
        render("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}")
        == "4"
    )
    assert render("{% generation %}x{% endgeneration %}") == "x"
    assert render("{{ strftime_now('%Y') | length }}") == "4"
    assert render("{{ tools[0].name }}", tools=[{"name": "f"}]) == "f"
    assert render("{{ enable_thinking }}", enable_thinking=False) == "False"
    with pytest.raises(TemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_messages_are_normalized() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{{ m.content }}{{ m.tool_calls[0].function.arguments.x if m.tool_calls }};{% endfor %}"
    )
    calls = [{"function": {"name": "f", "arguments": '{"x": 3}'}}]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    assert template.render(messages) == "a\nb;3;"
    for bad in (
        [],
        [{"content": "x"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image"}]}],
    ):
        with pytest.raises(InvalidArgumentError):
            template.render(bad)


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}{{ m.content.strip() }};{% endfor %}", "S;Q;;"),  # no content is empty content
        ("{{ tools | length }}{{ messages[2].content + '' }}", "0"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[0].content }}",
            "S\n\nQ",
        ),
        ("{% for p in messages[1].content %}{{ p.text }}{% endfor %}", "Q"),  # only contents in parts
        (
            "{% set l = [] %}{% for m in messages %}{% set _ = l.append(m.role) %}{% endfor %}{{ l.pop() }} Q {{ l }}",
            "assistant Q ['system', 'user']",
        ),
    ],
)
def test_templates_that_trip_are_helped(source: str, text: str) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}, CALL]
    assert ChatTemplate(source).render(messages) == text
    assert messages[2] == CALL


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "string"}}}}}
TURN = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}({{ c.function.name }}{{ c.function.arguments.x }}){% endfor %};{% endfor %}"
STRICT = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "messages", "text"),
    [
        # Two turns of one role; a system message in the middle, refused or not shown.
        (STRICT + TURN, ["user a", "user b", "assistant c", "user d"], "user:a\n\nb;assistant:c;user:d;"),
        (STRICT + TURN, ["system s", "user a", "assistant c", "system t", "user d"], "user:s\n\na;assistant:c;user:t\n\nd;"),
        (
            "{% if messages[0].role == 'system' %}{{ messages[0].content }};{% endif %}{% for m in messages if m.role != 'system' %}{{ m.content }};{% endfor %}",
            ["system s", "user a", "assistant c", "system t"],
            "s;a;c;t;",
        ),
        # A developer where only a system is known.
        ("{# developer #}{% for m in messages if m.role in ('user', 'system') %}{{ m.content }};{% endfor %}", ["developer s", "user a"], "s;a;"),
        # One call at a time; text where arguments are put together; calls known by their having no content.
        (
            "{% for m in messages %}{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('single') }}{% endif %}{% endfor %}" + TURN,
            ["user a", "calls 1 2", "result 1", "result 2"],
            "user:a;assistant:None(fv1);tool:r1;assistant:None(fv2);tool:r2;",
        ),
        (
            "{% for m in messages %}{% if m.content is none %}{{ m.tool_calls[0].function.name + m.tool_calls[0].function.arguments }}{% else %}{{ m.content }}{% endif %};{% endfor %}",
            ["user a", "emptycalls 1"],
            'a;f{"x": "v1"};',
        ),
        # Tools whose arguments have no description; what map() gives is a list.
        ("{% for t in tools %}{{ t.function.parameters.properties.x.description + t.function.name }}{% endfor %}{{ messages[0].content }}", ["user a"], "fa"),
        ("{{ tools | map(attribute='function') | map(attribute='name') | tojson }}{{ messages[0].content }}", ["user a"], '["f"]a'),
    ],
)  # fmt: skip
def test_conversations_that_templates_refuse_are_told_in_another_form(
    source: str, messages: list[str], text: str
) -> None:
    def message(line: str) -> dict[str, object]:
        role, *words = line.split()
        if role == "result":
            return {"role": "tool", "tool_call_id": words[0], "content": f"r{words[0]}"}
        if role.endswith("calls"):
            calls = [{"id": i, "function": {"name": "f", "arguments": {"x": f"v{i}"}}} for i in words]
            return {"role": "assistant", "content": None if role == "calls" else "", "tool_calls": calls}
        return {"role": role, "content": words[0]}

    assert ChatTemplate(source).render([message(line) for line in messages], tools=[TOOL]) == text


def test_all_forms_of_a_conversation_share_one_budget() -> None:
    forgetful = ChatTemplate("{% for i in range(9) %}{% for j in range(90000) %}{% endfor %}{% endfor %}silent")
    assert forgetful.render([{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]) == "silent"


def test_continuing_the_last_message() -> None:
    template = ChatTemplate.builtin("chatml")
    text = template.render(
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "The answer"}], continue_final_message=True
    )
    assert text.endswith("assistant\nThe answer")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ 'a'.center(9999999999) }}",
        "{{ 'a' | center(9999999999) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
        "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ messages.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.clear() }}",
        "{{ tools.append.__self__ }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + ['a' * 9999999] %}{% endfor %}",
        "{% set l = [] %}{% for i in range(99999) %}{% set _ = l.append('a' * 9999999) %}{% endfor %}",
        "{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}",
        "{{ cycler(1).__init__.__globals__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ lipsum(n=999999) }}",
        "{% set ns = namespace(l=['a']) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=['a']) %}{% for i in range(60) %}{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}"
        "{{ ns.l | tojson }}",
        "{% set ns = namespace(l=['a']) %}{% for i in range(60) %}{% for b in [ns.l] | batch(9, ns.l) %}"
        "{% set ns.l = b %}{% endfor %}{% endfor %}{{ ns.l == ns.l | list }}",
        "{% set ns = namespace(l=['a']) %}{% macro f() %}{% set ns.l = varargs %}{% endmacro %}"
        "{% for i in range(60) %}{{ f(ns.l, ns.l) }}{% endfor %}{{ ns.l }}",
        "{% set a = 'a' * 9999999 %}{% set x %}{% for i in range(99999) %}{{ a }}{% endfor %}{% endset %}{{ x | length }}",
        "{% macro f() %}{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}{% endmacro %}{{ f() | length }}",
        "{{ ('<!---->' * 2000000) | striptags }}",
        "{{ messages | random }}",
        "{{ self.__init__ }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception.__globals__ }}",
        "{{ 1 / 0 }}",
        "{{ messages[99].content.x }}",
        "{{ lipsum(n=300000) }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = ns.l + ['a' * 30000000] %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1}|length }}",
        "{% set ns = namespace(x=[1],y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        "{% set s = 'a' * 30000000 %}{% set x %}{% for i in range(900) %}{{ s }}{% endfor %}{% endset %}{{ x|length }}",
        "{{ ('\n' * 500000)|indent(100000, blank=true)|length }}",
        "{{ ('\t' * 500000).expandtabs(90000)|length }}",
        "{{ ('a' * 30000000).translate({97: 'b' * 3000})|length }}",
        "{{ ('a' * 30000000).encode().replace('a'.encode(), ('b' * 3000).encode())|length }}",
        "{{ (1).to_bytes(20000000000, 'big')|length }}",
        "{{ (('%99999d' * 200000) % ((1,) * 200000))|length }}",
        "{{ ('{0}' * 1000000).format('x' * 30000)|length }}",
        "{{ range(100000)|join('x' * 300000)|length }}",
        "{% set ns = namespace(x=1) %}{% macro f() %}{% set ns.x = kwargs %}{% endmacro %}{% for i in range(60) %}{{ f(a=ns.x, b=ns.x) }}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x|tojson }}",
        "{% set ns = namespace(x=[[1]*100000]) %}{% for i in range(20) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{{ ([[1]] * 100000)|sum(start=[])|length }}",
        "{% set s = 'a' * 30000000 %}" + "{% set s = s|upper %}" * 1000,
        "{% set s = 'a' * 30000000 %}" + "{% set s = s[:] %}" * 1000,
    ],
)
def test_hostile_templates_fail_soon(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


def test_what_holds_itself_is_not_written_out() -> None:
    assert render("{% set ns = namespace(x=1) %}{% set ns.x = [ns] %}{{ ns.x }}{{ ns }}") == "[<namespace>]<namespace>"


def test_syntax_errors_and_unknown_names() -> None:
    with pytest.raises(TemplateError, match="does not compile"):
        ChatTemplate("{% if %}")
    with pytest.raises(InvalidArgumentError, match="Known are"):
        ChatTemplate.builtin("nonesuch")


def test_templates_from_metadata() -> None:
    tokens = ["<s>", "</s>", "<|im_start|>"]
    metadata = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1}
    own = ChatTemplate.from_metadata(metadata | {"tokenizer.chat_template": "{{ bos_token }}!"})
    assert own.render(TALK) == "<s>!"
    assert ChatTemplate.from_metadata(metadata).name == "chatml (guessed)"
    named = metadata | {"tokenizer.chat_template.tool_use": "tools", "tokenizer.chat_templates": ["tool_use"]}
    assert ChatTemplate.from_metadata(named, "tool_use").render(TALK) == "tools"
    with pytest.raises(InvalidArgumentError, match="tool_use"):
        ChatTemplate.from_metadata(named, "rag")
    assert guess_template({"<start_of_turn>"}, {}) == "gemma"
