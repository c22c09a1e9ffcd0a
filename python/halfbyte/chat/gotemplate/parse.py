"""Go template text -> nodes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from halfbyte.errors import TemplateError

_MAX_DEPTH = 50


@dataclass(frozen=True)
class Literal:
    value: Any


@dataclass(frozen=True)
class Chain:
    """A value and the fields taken of it: .A.B is Chain(None, ("A", "B")), $x.A is Chain("$x", ("A",))."""

    start: str | Pipeline | None
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    name: str


Operand = Literal | Chain | Function


@dataclass(frozen=True)
class Pipeline:
    """commands, each fed into the next one's last argument; `names` take its value, declared or set."""

    commands: tuple[tuple[Operand, ...], ...]
    names: tuple[str, ...] = ()
    declares: bool = False


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Action:
    pipeline: Pipeline


@dataclass(frozen=True)
class Branch:
    """if, with or range."""

    kind: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True)
class Call:
    """{{template "name" pipeline}}"""

    name: str
    pipeline: Pipeline | None


@dataclass(frozen=True)
class Jump:
    """break or continue."""

    kind: str


Node = Text | Action | Branch | Call | Jump


@dataclass
class Tree:
    """The main template's nodes, and those of the templates that it defines."""

    nodes: tuple[Node, ...] = ()
    defined: dict[str, tuple[Node, ...]] = field(default_factory=dict)


def parse(source: str) -> Tree:
    """Raises TemplateError that names the line."""
    return _Parser(source).tree()


def names(nodes: tuple[Node, ...]) -> set[str]:
    """Every field that nodes name."""
    found: set[str] = set()

    def of_pipeline(pipeline: Pipeline | None) -> None:
        for command in pipeline.commands if pipeline else ():
            for operand in command:
                if isinstance(operand, Chain):
                    found.update(operand.fields)
                    if isinstance(operand.start, Pipeline):
                        of_pipeline(operand.start)

    for node in nodes:
        if isinstance(node, (Action, Branch, Call)):
            of_pipeline(node.pipeline)
        if isinstance(node, Branch):
            found |= names(node.body) | names(node.otherwise)
    return found


def until_field(nodes: tuple[Node, ...], name: str) -> tuple[tuple[Node, ...], bool]:
    """Nodes up to the first action that prints a field, and whether there is one."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Branch):
            body, cut = until_field(node.body, name)
            otherwise, cut = ((), True) if cut else until_field(node.otherwise, name)
            kept.append(Branch(node.kind, node.pipeline, body, otherwise))
        else:
            kept.append(node)
            cut = isinstance(node, Action) and name in names((node,))
        if cut:
            return tuple(kept), True
    return tuple(kept), False


_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)|(?P<char>'(?:\\.|[^'\\])+')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?))
    |(?P<field>\.\w+)|(?P<dot>\.)|(?P<variable>\$\w*)|(?P<word>\w+)|(?P<sign>:=|[=|(),])""",
    re.VERBOSE,
)
_ACTION_END = re.compile(r"""/\*.*?\*/|"(?:\\.|[^"\\\n])*"|`[^`]*`|(?P<end>\}\})""", re.DOTALL)


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source.replace("\r\n", "\n")
        self._tree = Tree()
        self._pieces = self._split()
        self._at = 0
        self._depth = 0

    def tree(self) -> Tree:
        nodes, end = self._nodes()
        if end:
            raise self.error(f"{{{{{end}}}}} without its beginning")
        self._tree.nodes = nodes
        return self._tree

    # Text and actions ---------------------------------------------------------------------------------------------

    def _split(self) -> list[tuple[str, str, int]]:
        """("text" or "action", content, line), with the space around {{- and -}} taken away."""
        pieces: list[tuple[str, str, int]] = []
        at, trim = 0, False
        while True:
            begin = self._source.find("{{", at)
            text = self._source[at : begin if begin >= 0 else len(self._source)]
            if trim:
                text = text.lstrip()
            if begin < 0:
                pieces.append(("text", text, 0))
                return pieces
            line = self._source.count("\n", 0, begin) + 1
            end = next((m.start() for m in _ACTION_END.finditer(self._source, begin + 2) if m["end"]), -1)
            if end < 0:
                raise TemplateError(f"The Go template is damaged in line {line}: {{{{ without }}}}.")
            action = self._source[begin + 2 : end]
            if re.match(r"-\s", action):
                text, action = text.rstrip(), action[1:]
            trim = re.search(r"\s-$", action) is not None
            if trim:
                action = action[:-1]
            pieces.append(("text", text, line))
            if not re.fullmatch(r"\s*/\*.*\*/\s*", action, re.DOTALL):
                pieces.append(("action", action, line))
            at = end + 2

    def _nodes(self) -> tuple[tuple[Node, ...], str]:
        """Nodes up to {{end}}, {{else...}} or the text's end, and which it was ("" at the end)."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self.error(f"blocks nested more than {_MAX_DEPTH} deep")
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            kind, content, _ = self._pieces[self._at]
            self._at += 1
            if kind == "text":
                if content:
                    nodes.append(Text(content))
                continue
            word = re.split(r"[\s(\"`]", content.strip(), maxsplit=1)[0]
            rest = content.strip()[len(word) :]
            if word in ("end", "else"):
                self._depth -= 1
                return tuple(nodes), content.strip()
            nodes += self._node(word, rest, content)
        self._depth -= 1
        return tuple(nodes), ""

    def _node(self, word: str, rest: str, content: str) -> list[Node]:
        if word in ("if", "with", "range"):
            return [self._branch(word, rest)]
        if word in ("define", "block"):
            tokens = _Tokens(rest, self)
            name = tokens.string()
            pipeline = tokens.pipeline() if word == "block" else None
            body, end = self._nodes()
            if end != "end":
                raise self.error(f"{{{{{word}}}}} without {{{{end}}}}")
            self._tree.defined[name] = body
            return [Call(name, pipeline)] if word == "block" else []
        if word == "template":
            tokens = _Tokens(rest, self)
            return [Call(tokens.string(), None if tokens.at_end() else tokens.pipeline())]
        if word in ("break", "continue") and not rest.strip():
            return [Jump(word)]
        return [Action(_Tokens(content, self).pipeline())]

    def _branch(self, kind: str, condition: str) -> Branch:
        pipeline = _Tokens(condition, self).pipeline()
        body, end = self._nodes()
        otherwise: tuple[Node, ...] = ()
        if end.startswith("else"):
            more = end[4:].strip()
            if more:  # else if ..., else with ...
                word, _, rest = more.partition(" ")
                if word not in ("if", "with"):
                    raise self.error(f"{{{{{end}}}}}")
                return Branch(kind, pipeline, body, (self._branch(word, rest),))
            otherwise, end = self._nodes()
        if end != "end":
            raise self.error(f"{{{{{kind}}}}} without {{{{end}}}}")
        return Branch(kind, pipeline, body, otherwise)

    def error(self, what: str) -> TemplateError:
        """An error at the action that was read last."""
        line = self._pieces[min(self._at, len(self._pieces)) - 1][2] if self._pieces else 0
        return TemplateError(f"The Go template is damaged in line {line}: {what[:200]}.")


class _Tokens:
    """What stands inside an action."""

    def __init__(self, text: str, parser: _Parser) -> None:
        self._parser = parser
        self._tokens: list[tuple[str, str, bool]] = []  # kind, text, whether space stands before it
        self._depth = 0
        at, space = 0, False
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise parser.error(f"{text[at : at + 20]!r} is not understood")
            at = match.end()
            if match.lastgroup == "space":
                space = True
                continue
            self._tokens.append((str(match.lastgroup), match[0], space))
            space = False
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._tokens)

    def string(self) -> str:
        """A string that must come here."""
        value = self._operand()
        if not isinstance(value, Literal) or not isinstance(value.value, str):
            raise self._parser.error("a name in quotes was expected")
        return value.value

    def pipeline(self) -> Pipeline:
        """Everything that is left."""
        found = self._pipeline()
        if not self.at_end():
            raise self._parser.error(f"{self._tokens[self._at][1]!r} was not expected")
        return found

    def _peek(self, offset: int = 0) -> tuple[str, str, bool]:
        at = self._at + offset
        return self._tokens[at] if at < len(self._tokens) else ("", "", True)

    def _pipeline(self) -> Pipeline:
        declared, sign = self._declared()
        commands = [self._command()]
        while self._peek()[1] == "|" and self._peek()[0] == "sign":
            self._at += 1
            commands.append(self._command())
        return Pipeline(tuple(commands), tuple(declared), sign == ":=")

    def _declared(self) -> tuple[list[str], str]:
        """$x :=, $x =, $i, $x :="""
        found, at = [], 0
        while self._peek(at)[0] == "variable":
            found.append(self._peek(at)[1])
            sign = self._peek(at + 1)[1]
            if sign in (":=", "=") and len(found) <= 2:
                self._at += at + 2
                return found, sign
            if sign != ",":
                break
            at += 2
        return [], ""

    def _command(self) -> tuple[Operand, ...]:
        operands = []
        while not self.at_end() and not (self._peek()[0] == "sign" and self._peek()[1] in "|)"):
            operands.append(self._operand())
        if not operands:
            raise self._parser.error("a value was expected")
        return tuple(operands)

    def _operand(self) -> Operand:
        kind, text, _ = self._peek()
        self._at += 1
        if kind == "string":
            return Literal(text[1:-1] if text[0] == "`" else self._unquoted(text))
        if kind == "char":
            return Literal(ord(self._unquoted('"' + text[1:-1].replace('"', '\\"') + '"')[:1] or "\0"))
        if kind == "number":
            return Literal(float(text) if re.search(r"[.eE]", text) and "x" not in text.lower() else int(text, 0))
        if kind == "dot":
            return Chain(None, ())
        if kind == "field":
            return Chain(None, (text[1:], *self._fields()))
        if kind == "variable":
            return Chain(text, self._fields())
        if kind == "word":
            constants = {"true": True, "false": False, "nil": None}
            return Literal(constants[text]) if text in constants else Function(text)
        if text == "(":
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise self._parser.error(f"parentheses nested more than {_MAX_DEPTH} deep")
            inner = self._pipeline()
            self._depth -= 1
            if self._peek()[1] != ")":
                raise self._parser.error("( without )")
            self._at += 1
            return Chain(inner, self._fields())
        raise self._parser.error(f"{text!r} was not expected" if text else "a value was expected")

    def _fields(self) -> tuple[str, ...]:
        found = []
        while self._peek()[0] == "field" and not self._peek()[2]:
            found.append(self._peek()[1][1:])
            self._at += 1
        return tuple(found)

    def _unquoted(self, text: str) -> str:
        try:
            return str(
                json.loads(re.sub(r"\\([av'])", lambda m: {"a": "\\u0007", "v": "\\u000b", "'": "'"}[m[1]], text))
            )
        except ValueError:
            raise self._parser.error(f"the string {text} is not understood") from None
