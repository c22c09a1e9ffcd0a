"""Go templates: the language by its documentation, conversations by Ollama's rules, and bounds on what strangers write."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.chat import BUILTIN_TEMPLATES, GoChatTemplate, is_go_template
from halfbyte.chat.gotemplate import parse, run
from halfbyte.errors import TemplateError

DATA = {
    "Name": "Ann",
    "Empty": "",
    "List": ["a", "b", "c"],
    "Map": {"x": 1, "y": [2, 3]},
    "N": 3,
    "Yes": True,
    "None": None,
    "ToolCalls": [{"function": {"name": "f", "arguments": {"a": "<b>"}}}],
}
for _ in range(5000):
    DATA["Deep"] = [DATA.get("Deep")]


def result(source: str) -> str:
    tree = parse.parse(source)
    return run.run(tree, tree.nodes, DATA)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a {{ .Name }} b", "a Ann b"),
        ("a \n {{- .Name -}} \n b", "aAnnb"),
        ("{{23 -}} < {{- 45}}", "23<45"),
        ("{{/* a comment }} */}}x{{- /* another */ -}} y", "xy"),
        ("{{ if .Empty }}a{{ else if .Name }}b{{ else }}c{{ end }}", "b"),
        ("{{ if not .Yes }}a{{ end }}{{ if and .Yes .N }}b{{ end }}{{ if or .Empty .None }}c{{ end }}", "b"),
        ("{{ range .List }}{{ . }},{{ end }}", "a,b,c,"),
        ("{{ range $i, $x := .List }}{{ $i }}{{ $x }}{{ $.Name }} {{ end }}", "0aAnn 1bAnn 2cAnn "),
        ("{{ range .None }}x{{ else }}none{{ end }}", "none"),
        ("{{ range $k, $v := .Map }}{{ $k }}={{ $v }};{{ end }}", "x=1;y=[2 3];"),
        ("{{ range .List }}{{ if eq . \"b\" }}{{ continue }}{{ end }}{{ . }}{{ if eq . \"c\" }}{{ break }}{{ end }}{{ end }}", "ac"),
        ("{{ with .Map }}{{ .x }}{{ end }}{{ with .None }}x{{ else }}y{{ end }}", "1y"),
        ("{{ with $x := .Name }}{{ $x }}{{ end }}", "Ann"),
        ("{{ $x := 1 }}{{ if .Yes }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ range .List }}{{ $x := . }}{{ end }}{{ $x }}", "1"),
        ('{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" .Name }}{{ template "t" 5 }}', "<Ann><5>"),
        ('{{ block "b" .Name }}[{{ . }}]{{ end }}', "[Ann]"),
        ("{{ index .List 1 }}{{ index .Map \"y\" 0 }}{{ len .List }}{{ len .Name }}", "b233"),
        ("{{ slice .List 1 }}{{ slice .Name 0 2 }}", "[b c]An"),
        ("{{ (index .ToolCalls 0).Function.Name }}", "f"),
        ("{{ range .ToolCalls }}{{ .Function.Arguments }}{{ json .Function }}{{ end }}",
         '{"a":"\\u003cb\\u003e"}{"name":"f","arguments":{"a":"\\u003cb\\u003e"}}'),
        ("{{ eq .N 1 2 3 }} {{ ne .N 3 }} {{ lt .N 4 }} {{ ge .N 4 }}", "true false true false"),
        ("{{ eq (len (slice .List 2)) 1 }}", "true"),
        ('{{ printf "%s-%03d-%q-%v-%5.1f%%" .Name .N "x" .Yes 2.5 }}', 'Ann-003-"x"-true-  2.5%'),
        ('{{ .Name | printf "%s %s" "Dear" }}', "Dear Ann"),
        ('{{ "a\\n\\"b" }}{{ `raw\\n` }}{{ \'x\' }}', 'a\n"braw\\n120'),
        ('{{ print 1 2 "x" 3 }}', "1 2x3"),
        ("{{ printf `%.999999999f` 1.0 | len }}", "1001"),
        ("{{ .Missing }}{{ .Missing.Deeper }}{{ .Name.Wrong }}|", "|"),
        ("{{ and .Empty (index .List 9) }}", ""),
    ],
)  # fmt: skip
def test_the_language(source: str, expected: str) -> None:
    assert result(source) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ if .A }}", "if}} without {{end}}"),
        ("a\n{{ end }}", "line 2"),
        ("{{ .A ", "{{ without }}"),
        ("{{ }}", "a value was expected"),
        ("{{ (.A }}", "( without )"),
        ("{{ .A | }}", "a value was expected"),
        ("{{ frobnicate .A }}", "frobnicate"),
        ("{{ $x }}", r"\$x"),
        ("{{ index .List 9 }}", "out of range"),
        ('{{ template "t" }}', '"t"'),
        ("{{ .Name 1 }}", "no function"),
        ("{{ lt .Name 1 }}", "lt failed"),
        ("{{ ~ }}", "not understood"),
        ("{{ if .A }}" * 60, "nested"),
        ("{{ " + "(" * 60 + ".A" + ")" * 60 + " }}", "nested"),
        ('{{ define "t" }}{{ template "t" . }}{{ end }}{{ template "t" . }}', "nests"),
        ("{{ range 100000000 }}x{{ end }}", "steps"),
        ("{{ $x := `" + "x" * 1000 + "` }}{{ range 100000 }}{{ $x }}{{ end }}", "MiB"),
        ("{{ $x := `a` }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}", "characters"),
        ("{{ $x := `<` }}{{ range 60 }}{{ $x = json $x }}{{ end }}", "characters"),
        ("{{ range 1000000 }}{{ range 1000000000 }}{{ break }}{{ end }}{{ end }}", "steps"),
        ("{{ json .Deep }}", "json failed"),
        ("{{ .Deep }}", "nests"),
    ],
)
def test_damage_and_bounds(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        result(source)
    assert message.replace("\\", "") in str(caught.value)


@given(st.text(alphabet='{}-. $xif"`()|:=,/*end range0', max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_template_or_an_error(source: str) -> None:
    with contextlib.suppress(TemplateError):
        result(source)


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi!"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Name?"},
]
# The same format for a single turn, with and without .Response, and for a list of messages.
SINGLE = "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}[/INST] "
LISTED = (
    "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{- range .Messages }}"
    '{{- if eq .Role "user" }}{{ .Content }}[/INST] {{ else if eq .Role "assistant" }}{{ .Content }}[INST] {{ end }}{{ end }}'
)


@pytest.mark.parametrize("source", [SINGLE, SINGLE + "{{ .Response }}", LISTED])
def test_conversations(source: str) -> None:
    template = GoChatTemplate(source)
    expected = "[INST] Be brief.\n\nHi![/INST] Hello.[INST] Name?[/INST] "
    assert template.render(TALK) == expected
    if source != LISTED:
        started = [*TALK, {"role": "assistant", "content": "I am"}]
        assert template.render(started, continue_final_message=True) == expected + "I am"


def test_what_follows_the_answer_is_cut_off_the_last_turn() -> None:
    source = "{{ if .Prompt }}<u>{{ .Prompt }}</u>{{ end }}<a>{{ .Response }}</a>"
    assert GoChatTemplate(source).render(TALK[1:]) == "<u>Hi!</u><a>Hello.</a><u>Name?</u><a>"


def test_tools_thinking_and_suffixes() -> None:
    tool = {
        "function": {"parameters": {"properties": {"city": {"type": "string"}}, "type": "object"}, "name": "f"},
        "type": "function",
    }
    source = "{{ .Tools }}{{ if .IsThinkSet }}{{ if .Think }}/think{{ else }}/no_think{{ end }}{{ end }}{{ range .Messages }}{{ .Content }}{{ end }}"
    template = GoChatTemplate(source)
    assert template.knows_tools
    expected = '[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}]'
    assert template.render(TALK[1:2], tools=[tool]) == expected + "Hi!"
    assert template.render(TALK[1:2], enable_thinking=False) == "[]/no_thinkHi!"
    fill = GoChatTemplate("{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}{{ end }}")
    assert fill.knows_suffix
    assert fill.fill("a", "b") == "<PRE>a<SUF>b<MID>"
    assert fill.render(TALK[1:2]) == "Hi!"


def test_jinja_is_not_taken_for_go() -> None:
    assert not any(is_go_template(source) for source in BUILTIN_TEMPLATES.values())
    assert not is_go_template("{{ bos_token }}{{ messages[0].content }}")
    assert all(is_go_template(source) for source in (SINGLE, LISTED, "{{ .Prompt }}", "{{- if .System }}x{{ end }}"))
