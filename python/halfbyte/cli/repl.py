"""The chat prompt: history, multi-line input, commands; Ctrl-C stops the answer, not the program."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from halfbyte.errors import FileError, HalfbyteError, InvalidArgumentError
from halfbyte.llm import LLM
from halfbyte.outputs import Output

_HELP = """\
/help            this list
/system [TEXT]   show or set the system message (starts over)
/set NAME VALUE  set a sampling parameter (temperature, top_k, ..., max_tokens, seed)
/show            the model, its context and the parameters
/save FILE       write the conversation as JSON
/load FILE       read a conversation
/retry           answer the last message again
/undo            forget the last message and its answer
/clear           start over
/stats           tokens and speed of the last answer
/exit            leave (also /bye, Ctrl-D)
\"\"\" begins and ends a message of several lines; on a terminal Alt-Enter makes a new line. Ctrl-C stops an answer."""


class Repl:
    """One conversation with one model."""

    def __init__(self, llm: LLM, *, system: str | None, overrides: dict[str, Any]) -> None:
        self.llm, self.system, self.overrides = llm, system, dict(overrides)
        self.messages: list[dict[str, str]] = []
        self.last: Output | None = None
        self._read = _line_reader()

    def run(self) -> int:
        """Reads until the user leaves; returns the exit code."""
        print(
            f"{self.llm.config['name'] or self.llm.path.name}, context {self.llm.n_ctx} tokens. /help lists commands."
        )
        while True:
            try:
                text = self._message()
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print("(Ctrl-D or /exit leaves)")
                continue
            if not text.strip():
                continue
            try:
                if text.startswith("/"):
                    if self._command(text) == "exit":
                        return 0
                else:
                    self.messages.append({"role": "user", "content": text})
                    self._answer()
            except HalfbyteError as error:
                print(f"halfbyte: {error}", file=sys.stderr)

    def _message(self) -> str:
        text = self._read("> ")
        if not text.startswith('"""'):
            return text
        text = text[3:]
        while not text.rstrip().endswith('"""'):
            text += "\n" + self._read(". ")
        return text.rstrip()[:-3]

    def _answer(self) -> None:
        before = [{"role": "system", "content": self.system}] if self.system else []
        parts: list[str] = []
        self.last = None
        pieces = None
        try:
            pieces = self.llm.chat_stream([*before, *self.messages], **self.overrides)
            for piece in pieces:
                parts.append(piece.text)
                sys.stdout.write(piece.text)
                sys.stdout.flush()
                self.last = piece.output
        except KeyboardInterrupt:
            print(" (stopped)", end="")
        except HalfbyteError:
            self.messages.pop()
            raise
        finally:
            if pieces is not None:
                pieces.close()  # type: ignore[attr-defined]
        print()
        self.messages.append({"role": "assistant", "content": "".join(parts)})
        if self.last is not None:
            print(f"[{self.last.usage.completion_tokens} tokens, {self.last.timing.decode_tps:.1f}/s]")

    def _command(self, line: str) -> str | None:
        name, _, rest = line[1:].partition(" ")
        commands: dict[str, Callable[[str], str | None]] = {
            "help": self._help, "?": self._help, "system": self._system, "set": self._set, "show": self._show,
            "save": self._save, "load": self._load, "retry": self._retry, "undo": self._undo, "clear": self._clear,
            "stats": self._stats, "exit": lambda _: "exit", "bye": lambda _: "exit", "quit": lambda _: "exit",
        }  # fmt: skip
        if name not in commands:
            raise InvalidArgumentError(f"There is no command /{name}.", hint="/help lists them.")
        return commands[name](rest.strip())

    def _help(self, _: str) -> None:
        print(_HELP)

    def _system(self, text: str) -> None:
        if text:
            self.system = text
            self.messages.clear()
        print(self.system or "(no system message)")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not value:
            raise InvalidArgumentError("/set takes a name and a value.", hint="For example: /set temperature 0.2")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        changed = self.llm.defaults.replace(**{**self.overrides, name: parsed})
        self.llm.check_params(changed)
        self.overrides[name] = parsed

    def _show(self, _: str) -> None:
        config = self.llm.config
        print(f"model    {self.llm.path}")
        print(
            f"kind     {config['architecture']}, {config['n_layers']} layers, {config['n_embd']} wide, {config['n_vocab']} tokens"
        )
        print(f"context  {self.llm.n_ctx} tokens")
        print(f"template {self.llm.chat_template.name}")
        for key, value in sorted(self.overrides.items()):
            print(f"{key} = {value}")

    def _save(self, path: str) -> None:
        if not path:
            raise InvalidArgumentError("/save needs a file name.")
        target = Path(path).expanduser()
        part = target.with_name(target.name + ".part")
        try:
            part.write_text(
                json.dumps({"system": self.system, "messages": self.messages}, ensure_ascii=False, indent=2)
            )
            os.replace(part, target)
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}.") from None
        print(f"{len(self.messages)} messages in {path}")

    def _load(self, path: str) -> None:
        try:
            data = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
            messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in data["messages"]]
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError):
            raise InvalidArgumentError(f"{path} holds no conversation that /save wrote.") from None
        self.system, self.messages = data.get("system"), messages
        print(f"{len(messages)} messages")

    def _retry(self, _: str) -> None:
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if not self.messages:
            raise InvalidArgumentError("There is nothing to answer yet.")
        self._answer()

    def _undo(self, _: str) -> None:
        while self.messages and self.messages.pop()["role"] != "user":
            pass

    def _clear(self, _: str) -> None:
        self.messages.clear()

    def _stats(self, _: str) -> None:
        if self.last is None:
            raise InvalidArgumentError("There is no finished answer yet.")
        t, u = self.last.timing, self.last.usage
        print(f"{u.prompt_tokens} prompt tokens ({u.cached_tokens} reused), {t.prefill_tps:.0f}/s")
        print(
            f"{u.completion_tokens} answered, {t.decode_tps:.1f}/s; seed {self.last.seed}; ended by {self.last.finish_reason}"
        )


def _line_reader() -> Callable[[str], str]:
    """A line editor on a terminal; plain lines otherwise."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        return input
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    history: History = InMemoryHistory()
    if not os.environ.get("HALFBYTE_NOHISTORY"):
        folder = Path(platformdirs.user_state_dir("halfbyte", appauthor=False))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / "history"
            file.touch(mode=0o600)
            history = FileHistory(str(file))
        except OSError:
            pass  # a read-only home keeps no history
    session: PromptSession[str] = PromptSession(history=history, key_bindings=keys)
    return session.prompt
