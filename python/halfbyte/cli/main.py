"""Finds the subcommand, runs it, and turns errors into a sentence and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import io
import os
import pkgutil
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from halfbyte import __version__
from halfbyte import cli as package
from halfbyte.errors import HalfbyteError

# Modules of this package that are no commands.
_HELPERS = frozenset(("entry", "main", "common", "repl"))


def command_modules() -> dict[str, ModuleType]:
    """Subcommand -> its module, by listing the folder."""
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in _HELPERS)
    return {name.removesuffix("_"): importlib.import_module(f"halfbyte.cli.{name}") for name in names}


class _Parser(argparse.ArgumentParser):
    """One that takes words on both sides of flags, and complains in one line."""

    _is_parsing = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._subparsers is not None or self._is_parsing:
            return super().parse_known_args(args, namespace)
        self._is_parsing = True  # what is called next calls this again, for the flags and for the words
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_parsing = False

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help.\n")


class _Help(argparse.HelpFormatter):
    """One that keeps the lines of the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("examples:") else super()._fill_text(text, width, indent)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    begin = 'examples:\n  halfbyte run smollm2 "Why is the sky blue?"\n  halfbyte COMMAND --help'
    what = "Runs quantized language models on this machine."
    parser = _Parser(prog="halfbyte", description=what, epilog=begin, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"halfbyte {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, module in command_modules().items():
        text, _, examples = (module.__doc__ or "").partition("\n\n")
        epilog = "examples:\n" + textwrap.indent(examples.rstrip(), "  ")
        sub = commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=_Help)
        sub.add_argument("--debug", action="store_true", help="show a traceback when something fails")
        module.add_arguments(sub)
        sub.set_defaults(run=module.run, flags=sorted(sub._option_string_actions))
    return parser


def _likely(wrong: str, flags: Sequence[str]) -> str | None:
    """The flag that was meant by one that is none: --temp by --temperature."""
    begun = [flag for flag in flags if flag.startswith("--") and wrong.startswith(flag)]
    return next(iter(begun or difflib.get_close_matches(wrong, flags, n=1, cutoff=0.75)), None)


def _mend_streams() -> None:
    """A closed stream is an empty one, and a character that a terminal cannot show is a question mark."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the process's life
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            with contextlib.suppress(io.UnsupportedOperation):  # a caller has read from it before
                stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 1 failure, 2 usage, 130 after Ctrl-C."""
    _mend_streams()
    arguments = None
    try:
        parser = build_parser()
        arguments, rest = parser.parse_known_args(argv)
        if arguments.command is None:
            parser.print_help(sys.stderr)
            return 2
        if rest:
            what = "no such flag" if rest[0].startswith("-") else "one word too many"
            close = _likely(rest[0].partition("=")[0], arguments.flags)
            hint = f"Did you mean {close}?" if close else f"See halfbyte {arguments.command} --help."
            parser.exit(2, f"halfbyte {arguments.command}: {what}: {rest[0]}. {hint}\n")
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone; a later flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except HalfbyteError as error:
        if arguments is None or arguments.debug:
            raise
        print(f"halfbyte: {error}", file=sys.stderr)
        return error.exit_code
    except (MemoryError, OSError) as error:
        if arguments is None or arguments.debug:
            raise
        reason = error.strerror or str(error) if isinstance(error, OSError) else "not enough memory"
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"halfbyte: {where}{reason}", file=sys.stderr)
        return 1
