"""Answer a prompt, or chat when there is none.

halfbyte run smollm2 "Why is the sky blue?"
halfbyte run -m model.gguf --temp 0
cat letter.txt | halfbyte run smollm2 -sys "Summarize in one sentence."
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from halfbyte.cli.common import add_model_arguments, add_sampling_arguments, load_model, read_text, sampling_overrides
from halfbyte.errors import InvalidArgumentError
from halfbyte.llm import LLM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="MODEL [PROMPT]", help="a model and a prompt without flags")
    add_model_arguments(parser, has_words=True)
    parser.add_argument("-p", "--prompt", help="the prompt; without one: chat")
    parser.add_argument("-f", "--file", help="read the prompt from a file (-: standard input)")
    parser.add_argument("-sys", "--system", help="system message")
    parser.add_argument(
        "--raw", action="store_true", help="no chat template: continue the text, print the continuation only"
    )
    parser.add_argument("--chat-template", help="a known template's name, or a file")
    add_sampling_arguments(parser)
    parser.add_argument("--grammar", help="GBNF grammar that the answer must follow")
    parser.add_argument("--json-schema", help="JSON schema that the answer must follow")
    parser.add_argument("--verbose", action="store_true", help="print token counts and speed on stderr")


def run(arguments: argparse.Namespace) -> int:
    overrides = sampling_overrides(arguments)
    model = arguments.model
    words = list(arguments.words)
    if model is None and words:
        model = words.pop(0)
    prompt = _prompt_of(arguments, words)
    if prompt is None and sys.stdin.isatty():
        from halfbyte.cli.repl import Repl

        with load_model(arguments, model, chat_template=arguments.chat_template) as llm:
            return Repl(llm, system=arguments.system, overrides=overrides).run()
    if prompt is None:
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise InvalidArgumentError("The prompt is empty.", hint="Give one with -p.")
    with load_model(arguments, model, chat_template=arguments.chat_template) as llm:
        _constrain(arguments, overrides)
        return _answer(llm, arguments, prompt, overrides)


def _prompt_of(arguments: argparse.Namespace, words: list[str]) -> str | None:
    given = [p for p in (arguments.prompt, " ".join(words) or None) if p is not None]
    if arguments.file:
        given.append(read_text(arguments.file))
    if len(given) > 1:
        raise InvalidArgumentError(
            "More than one prompt was given.", hint="Use one of -p, -f or the words after the model."
        )
    return given[0] if given else None


def _constrain(arguments: argparse.Namespace, overrides: dict[str, Any]) -> None:
    if not arguments.grammar and not arguments.json_schema:
        return
    from halfbyte.grammar import grammar_constraint, json_schema_constraint

    overrides["response_format"] = (
        grammar_constraint(arguments.grammar) if arguments.grammar else json_schema_constraint(arguments.json_schema)
    )


def _answer(llm: LLM, arguments: argparse.Namespace, prompt: str, overrides: dict[str, Any]) -> int:
    if arguments.raw:
        pieces = llm.stream(prompt, **overrides)
    else:
        messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
        pieces = llm.chat_stream([*messages, {"role": "user", "content": prompt}], **overrides)
    output = None
    for piece in pieces:
        sys.stdout.write(piece.text)
        sys.stdout.flush()
        output = piece.output
    print()
    if arguments.verbose and output is not None:
        t, u = output.timing, output.usage
        print(
            f"{u.prompt_tokens} prompt tokens at {t.prefill_tps:.0f}/s, {u.completion_tokens} answered at {t.decode_tps:.1f}/s,"
            f" seed {output.seed}, ended by {output.finish_reason}",
            file=sys.stderr,
        )
    return 0
