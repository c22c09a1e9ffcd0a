"""A Jinja environment for templates that nobody has read: no attributes of ours, bounded work, bounded memory."""

from __future__ import annotations

import contextvars
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Environment, nodes, pass_environment
from jinja2 import TemplateError as JinjaError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from halfbyte.chat.budget import MAX_TEXT, Budget

_MAX_WIDTH = 100_000
_PADDING = frozenset(("center", "ljust", "rjust", "zfill", "to_bytes"))
# Methods and filters that no chat template uses and that make much of little, or take long, or are not the same twice.
_REFUSED_METHODS = frozenset(("translate", "expandtabs"))
_REFUSED_FILTERS = ("pprint", "random", "striptags", "urlize", "xmlattr")

_budget: contextvars.ContextVar[Budget] = contextvars.ContextVar("halfbyte_template_budget")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    budget = _budget.get()
    for item in items:
        budget.spend()
        yield budget.weighed(item)


def _weighed(value: Any) -> Any:
    return _budget.get().weighed(value)


def _concat(parts: Iterable[str]) -> str:
    """What Jinja joins the pieces of blocks and macros with."""
    parts = list(parts)
    _budget.get().make(sum(map(len, parts)))
    return "".join(parts)


def _joined(parts: list[Any]) -> str:
    return _concat([str(part) for part in parts])


def _joined_by(separator: str, parts: Iterable[Any]) -> str:
    texts = [str(part) for part in _counted(parts)]
    _budget.get().make(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """The filter join()."""
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return _joined_by(str(d), value)


def _check_format(text: Any, values: Any, field: str) -> None:
    """Refuses a format whose result could be long. field: the sign that begins one."""
    if not isinstance(text, (str, bytes)):
        return
    form = text if isinstance(text, str) else text.decode("latin-1")
    if re.search(r"\{[^{}]*\{", form) if field == "{" else "*" in form:
        raise SecurityError("a format with a computed width")
    budget = _budget.get()
    widths = sum(int(digits[:20]) for digits in re.findall(r"\d+", form))
    budget.make(len(form) + widths + form.count(field) * (32 + budget.weight(values)))


def _check_replace(text: str | bytes, old: Any, new: Any) -> None:
    count = text.count(old) if old else len(text) + 1
    _budget.get().make(len(text) + count * len(new))


def raise_exception(message: str) -> NoReturn:
    """What templates call to refuse a conversation."""
    raise JinjaError(message)


def strftime_now(pattern: str) -> str:
    """Today's date, as templates print it."""
    return datetime.now().strftime(pattern)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models saw it in training: no HTML escapes, non-ASCII kept."""
    if indent is not None and indent > 64:
        raise SecurityError("tojson with an indent of more than 64")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_as_list
    )


def _as_list(value: Any) -> list[Any]:
    """What map() and its like give, written as the list that it is."""
    if not isinstance(value, Iterator):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return list(_counted(value))


class _Generation(Extension):
    """``{% generation %}`` marks an answer for training; for a prompt it is its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja with what chat templates rely on, and a budget for everything that can grow."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    concat = staticmethod(_concat)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, namespace=_Namespace)
        del self.globals["lipsum"]
        self.filters.update(tojson=tojson, join=_join)
        for name in _REFUSED_FILTERS:
            del self.filters[name]
        for name, function in self.filters.items():
            self.filters[name] = self._measured(name, function)
        self.filters.update(_counted=_counted, _joined=_joined, _weighed=_weighed)

    @staticmethod
    def _measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            budget = _budget.get()
            values = [a for a in (*args, *kwargs.values()) if isinstance(a, (str, bytes, int, float))]
            if name in ("center", "indent", "wordwrap", "truncate"):
                # The text, its lines and a width or what is put between: never more than all of them multiplied.
                sizes = [abs(v) if isinstance(v, (int, float)) else len(v) for v in values]
                budget.make(int(math.prod(max(1, size) for size in sizes)))
            elif name == "format" and values:
                _check_format(values[0], (args, kwargs), "%")
            elif name == "replace" and len(texts := [v for v in values if isinstance(v, str)]) >= 3:
                _check_replace(texts[0], texts[1], texts[2])
            elif name == "sum" and not all(isinstance(v, (int, float)) for v in kwargs.values()):
                raise SecurityError("a sum of what are no numbers")
            return budget.made(function(*args, **kwargs))

        # pass_context and pass_environment are marks on the function that the compiler looks for.
        mark = getattr(function, "jinja_pass_arg", None)
        if mark is not None:
            checked.jinja_pass_arg = mark  # type: ignore[attr-defined]
        return checked

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget.get()
        budget.spend()
        if operator == "**" and not (_is_small(left) and _is_small(right)):
            raise SecurityError("a power of large numbers")
        if operator == "*":
            budget.make(_repeated_size(left, right))
        if operator == "%":
            _check_format(left, right, "%")
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            budget.make(len(left) + len(right))
        return budget.weighed(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        budget.spend()
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, (str, bytes, int)):
            if name in _PADDING and any(isinstance(a, int) and abs(a) > _MAX_WIDTH for a in (*args, *kwargs.values())):
                raise SecurityError(f"{name}() with a width of more than {_MAX_WIDTH:,}")
            if name in _REFUSED_METHODS:
                raise SecurityError(f"{name}() is not for chat templates")
            if name == "replace" and len(args) >= 2 and isinstance(owner, (str, bytes)):
                _check_replace(owner, args[0], args[1])
            if name == "join" and args and isinstance(owner, str):
                return _joined_by(owner, args[0])
        # Arguments become lists of their own inside macros.
        budget.weight((args, kwargs))
        result = budget.weighed(super().call(context, function, *args, **kwargs))
        if isinstance(owner, list):
            budget.weight(owner)  # it has grown
        return result

    def wrap_str_format(self, value: Any) -> Any:
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> Any:
            _check_format(value.__self__, (args, kwargs), "{")
            return formatted(*args, **kwargs)

        return checked

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # Some templates gather things in a list; what they are given are copies.
        return (type(obj) is list and attr in ("append", "pop")) or super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # Jinja would print nothing; a template that reaches for internals should not seem to work.
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe.")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None)
        return _with_checks(tree)

    def render_bounded(self, template: Any, variables: dict[str, Any], budget: Budget) -> str:
        """Renders within what is left of a budget."""
        token = _budget.set(budget)
        try:
            size, pieces = 0, []
            for piece in template.generate(variables):
                size += len(piece)
                if size > MAX_TEXT:
                    raise SecurityError(f"it gives more than {MAX_TEXT:,} characters")
                pieces.append(piece)
            return "".join(pieces)
        finally:
            _budget.reset(token)


class _Namespace(Namespace):
    """A namespace that is not written out: it can hold itself."""

    def __repr__(self) -> str:
        return "<namespace>"


def _with_checks(tree: nodes.Template) -> nodes.Template:
    """The tree with every value that it makes weighed."""

    def visit(node: nodes.Node) -> None:
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Node):
                visit(value)
                setattr(node, field, _checked(value))
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, nodes.Node):
                        visit(item)
                        value[i] = _checked(item)

    visit(tree)
    tree.set_environment(tree.environment) if tree.environment else None
    return tree


def _checked(node: nodes.Node) -> nodes.Node:
    line = {"lineno": node.lineno}
    if isinstance(node, nodes.Concat):
        return nodes.Filter(nodes.List(node.nodes, **line), "_joined", [], [], None, None, **line)
    is_slice = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    if is_slice or isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return nodes.Filter(node, "_weighed", [], [], None, None, **line)
    return node


def _is_small(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= 4096


def _repeated_size(left: Any, right: Any) -> int:
    if isinstance(left, int) and isinstance(right, int):
        return (left.bit_length() + right.bit_length()) * 256  # numbers of more than some 100,000 bits are too large
    for text, count in ((left, right), (right, left)):
        if isinstance(count, int) and hasattr(text, "__len__"):
            return len(text) * max(0, count)
    return 0
