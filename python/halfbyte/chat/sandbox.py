"""A Jinja environment for templates that nobody has read: no attributes of ours, bounded work, bounded memory."""

from __future__ import annotations

import contextvars
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError as JinjaError
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Real templates take thousands of steps and give kilobytes; a hundred-message chat stays far below these.
_MAX_STEPS = 2_000_000
_MAX_TEXT = 32 * 1024 * 1024
_MAX_WIDTH = 100_000
_MAX_SECONDS = 10.0
_PADDING = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs"))


class _Budget:
    """Steps, time and text left to one rendering."""

    def __init__(self) -> None:
        self.steps = 0
        self.deadline = time.monotonic() + _MAX_SECONDS

    def spend(self) -> None:
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise SecurityError(f"the template takes more than {_MAX_STEPS:,} steps")
        if self.steps % 1024 == 0 and time.monotonic() > self.deadline:
            raise SecurityError(f"the template runs for more than {_MAX_SECONDS:.0f} seconds")


_budget: contextvars.ContextVar[_Budget] = contextvars.ContextVar("halfbyte_template_budget")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    budget = _budget.get()
    for item in items:
        budget.spend()
        yield item


def _bounded(text: Any) -> Any:
    if isinstance(text, (str, bytes, list, tuple)) and len(text) > _MAX_TEXT:
        raise SecurityError(f"the template makes a value of more than {_MAX_TEXT:,} characters")
    return text


def _joined(parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > _MAX_TEXT:
        raise SecurityError(f"the template makes a text of more than {_MAX_TEXT:,} characters")
    return "".join(texts)


def _check_format(text: Any) -> None:
    if isinstance(text, str) and re.search(r"\d{6,}|\{[^{}]*\{", text):
        raise SecurityError("a format with a width of more than 99,999")


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
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return str(_bounded(text))


class _Generation(Extension):
    """``{% generation %}`` marks an answer for training; for a prompt it is its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja with what chat templates rely on, and a budget for everything that can grow."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
        self.filters.update(tojson=tojson, _counted=_counted, _joined=_joined)
        for name in ("center", "indent", "wordwrap", "truncate"):
            self.filters[name] = self._limited(self.filters[name])
        for name in ("join", "replace", "list", "batch", "slice", "format", "pprint", "xmlattr", "urlize"):
            self.filters[name] = self._measured(self.filters[name])

    @staticmethod
    def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            for value in (*args, *kwargs.values()):
                if isinstance(value, int) and abs(value) > _MAX_WIDTH:
                    raise SecurityError(f"a width of {value}")
                if isinstance(value, str) and len(value) > _MAX_TEXT // 64:
                    raise SecurityError("a text too long for padding")
            return _bounded(function(*args, **kwargs))

        return _copy_pass_marks(function, checked)

    @staticmethod
    def _measured(function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            texts = [a for a in args if isinstance(a, str)]
            if function.__name__ == "do_format" and texts:
                _check_format(texts[0])
            if function.__name__ == "do_replace" and len(texts) >= 3:
                _check_replace(*texts[:3])
            return _bounded(function(*args, **kwargs))

        return _copy_pass_marks(function, checked)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _budget.get().spend()
        if operator == "**" and not (_is_small(left) and _is_small(right)):
            raise SecurityError("a power of large numbers")
        if operator == "*":
            size = _repeated_size(left, right)
            if size > _MAX_TEXT:
                raise SecurityError(f"a product of {size:,} characters or bits")
        if operator == "%" and isinstance(left, str):
            _check_format(left)
            if "*" in left:
                raise SecurityError("a format with a computed width")
        if (
            operator == "+"
            and hasattr(left, "__len__")
            and hasattr(right, "__len__")
            and len(left) + len(right) > _MAX_TEXT
        ):
            raise SecurityError(f"a sum of more than {_MAX_TEXT:,} characters")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        _budget.get().spend()
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, (str, bytes)):
            if name in _PADDING and any(isinstance(a, int) and abs(a) > _MAX_WIDTH for a in (*args, *kwargs.values())):
                raise SecurityError(f"{name}() with a width of more than {_MAX_WIDTH:,}")
            if name == "replace" and len(args) >= 2 and isinstance(owner, str):
                _check_replace(owner, str(args[0]), str(args[1]))
            if name == "join" and args:
                return _joined_by(owner, args[0])
        return _bounded(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        if isinstance(getattr(value, "__self__", None), str) and getattr(value, "__name__", "") in (
            "format",
            "format_map",
        ):
            _check_format(value.__self__)
        return super().wrap_str_format(value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # Jinja would print nothing; a template that reaches for internals should not seem to work.
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe.")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None)
        return _replace_concats(tree)

    def render_bounded(self, template: Any, variables: dict[str, Any]) -> str:
        """Renders with a fresh budget."""
        token = _budget.set(_Budget())
        try:
            size, pieces = 0, []
            for piece in template.generate(variables):
                size += len(piece)
                if size > _MAX_TEXT:
                    raise SecurityError(f"the template gives more than {_MAX_TEXT:,} characters")
                pieces.append(piece)
            return "".join(pieces)
        finally:
            _budget.reset(token)


def _copy_pass_marks(function: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    # pass_context and pass_environment are marks on the function that the compiler looks for.
    mark = getattr(function, "jinja_pass_arg", None)
    if mark is not None:
        wrapper.jinja_pass_arg = mark  # type: ignore[attr-defined]
    return wrapper


def _replace_concats(tree: nodes.Template) -> nodes.Template:
    def visit(node: nodes.Node) -> None:
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Node):
                visit(value)
                if isinstance(value, nodes.Concat):
                    setattr(node, field, _bounded_concat(value))
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, nodes.Node):
                        visit(item)
                        if isinstance(item, nodes.Concat):
                            value[i] = _bounded_concat(item)

    visit(tree)
    tree.set_environment(tree.environment) if tree.environment else None
    return tree


def _bounded_concat(node: nodes.Concat) -> nodes.Filter:
    line = {"lineno": node.lineno}
    return nodes.Filter(nodes.List(node.nodes, **line), "_joined", [], [], None, None, **line)


def _is_small(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= 4096


def _repeated_size(left: Any, right: Any) -> int:
    if isinstance(left, int) and isinstance(right, int):
        return (left.bit_length() + right.bit_length()) * 256  # numbers of more than some 100,000 bits are too large
    for text, count in ((left, right), (right, left)):
        if isinstance(count, int) and hasattr(text, "__len__"):
            return len(text) * max(0, count)
    return 0


def _check_replace(text: str, old: str, new: str) -> None:
    count = text.count(old) if old else len(text) + 1
    if len(text) + count * len(new) > _MAX_TEXT:
        raise SecurityError(f"replace() makes more than {_MAX_TEXT:,} characters")


def _joined_by(separator: str | bytes, parts: Any) -> str:
    texts = [str(part) for part in _counted(parts)]
    if sum(map(len, texts)) + len(separator) * len(texts) > _MAX_TEXT:
        raise SecurityError(f"join() makes more than {_MAX_TEXT:,} characters")
    return str(separator).join(texts)
