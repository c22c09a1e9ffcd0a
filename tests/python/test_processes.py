"""Life among processes, threads and event loops: Ctrl-C, fork, pickle, garbage collection, the interpreter's end."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfbyte import LLM, SamplingParams
from halfbyte.errors import FileError, HalfbyteError, InvalidArgumentError, UnsupportedError

ENDLESS = {"max_tokens": 90_000, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(n_ctx=100_000)


@pytest.fixture
def llm(model: Path) -> Any:
    with LLM(model, n_threads=2, n_ctx=100_000) as loaded:
        yield loaded


def n_system_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_free(llm: LLM) -> bool:
    llm.engine.check_integrity()
    stats = llm.stats()
    return stats["n_running"] + stats["n_waiting"] == 0 and (
        stats["n_blocks_free"] + stats["n_blocks_cached"] == stats["n_blocks"]
    )


# Ctrl-C -------------------------------------------------------------------------------------------------------------

#: Runs a command that is interrupted, with a real signal, where its first argument says.
INTERRUPTED = """
import os, signal, sys, threading
from halfbyte import llm, running
from halfbyte.cli.main import main

where = sys.argv[1]
interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)

if where == "load":
    opened = llm.open_weights
    def open_weights(path, quant, *, progress, **options):
        return opened(path, quant, progress=lambda *sizes: interrupt() or progress(*sizes), **options)
    llm.open_weights = open_weights
elif where == "prefill":
    start = running.Running.start.__func__
    def started(cls, *arguments, **options):
        threading.Timer(0.2, interrupt).start()
        return start(cls, *arguments, **options)
    running.Running.start = classmethod(started)
elif where == "decode":
    feed = running.Running.feed
    running.Running.feed = lambda self, event: interrupt() if event["samples"] else feed(self, event)
elif where == "forward":
    threading.Timer(0.5, interrupt).start()
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("where", ["load", "prefill", "decode", "forward"])
def test_ctrl_c_ends_a_command_with_130_and_no_word(where: str, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("many words " * 9000)
    if where == "forward":
        arguments = ["perplexity", "-m", str(model), "-f", str(text), "-c", "90000"]
    else:
        prompt = ["-f", str(text)] if where == "prefill" else ["-p", "x"]
        arguments = ["run", "-m", str(model), "--raw", "--ignore-eos", *prompt]
    command = [sys.executable, "-c", INTERRUPTED, where, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, ""), done.stderr


def test_ctrl_c_during_the_imports(tmp_path: Path) -> None:
    # An import of halfbyte.cli.main that never ends, wherever the signal meets it.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'halfbyte.cli.main':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "            signal.pause()\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "halfbyte", "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_stops_a_server_that_answers(model: Path) -> None:
    command = [sys.executable, "-m", "halfbyte", "serve", "-m", str(model), "-c", "100000", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        import httpx

        body = {"model": "x", "prompt": "x", "stream": True, "temperature": 1, **ENDLESS}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=200) as answer:
            next(answer.iter_lines())
            server.send_signal(signal.SIGINT)
            _, errors = server.communicate(timeout=60)  # less than the minute that SIGTERM would let it finish
    assert server.returncode == 130
    assert "Traceback" not in errors
    assert " error " not in errors


@pytest.mark.parametrize("ask", ["forward", "generate"])
def test_an_interrupted_call_leaves_the_model_free(llm: LLM, ask: str) -> None:
    tokens = [70 + i % 9 for i in range(60_000)]

    def interrupted() -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        llm.logprobs(tokens) if ask == "forward" else llm.generate(tokens, **ENDLESS)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    until(lambda: is_free(llm))
    assert llm.generate("x", max_tokens=2, ignore_eos=True).finish_reason == "length"


# fork and pickle ----------------------------------------------------------------------------------------------------


def in_fork(work: Callable[[], Any]) -> Any:
    """The result of work() in a forked process, or the text of its error."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def run() -> None:
        try:
            writer.send(work())
        except HalfbyteError as error:
            writer.send(error)

    process = context.Process(target=run)
    process.start()
    try:
        assert reader.poll(200), "the forked process hangs"
        return reader.recv()
    finally:
        process.join(60)
        assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_that_the_model_is_not_there(llm: LLM, model: Path) -> None:
    stream = llm.stream("x", **ENDLESS)
    next(stream)
    calls: list[Callable[[], Any]] = [
        lambda: llm.generate("x", max_tokens=2),
        lambda: llm.forward("x"),
        lambda: list(stream),  # after what had come before
        llm.stats,
    ]
    for call in calls:
        found = in_fork(call)
        assert isinstance(found, UnsupportedError)
        assert "forked" in str(found)
    assert in_fork(llm.close) is None
    assert next(stream).token_ids  # here it goes on
    stream.close()

    def open_another() -> str:
        with LLM(model, n_ctx=64, n_threads=2) as other:
            return other.generate("x", max_tokens=3, temperature=0, ignore_eos=True).text

    assert in_fork(open_another) == llm.generate("x", max_tokens=3, temperature=0, ignore_eos=True).text


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_ends_as_any_other(llm: LLM) -> None:
    script = f"""
import gc, os, sys
from halfbyte import LLM
llm = LLM({str(llm.path)!r}, n_ctx=1000, n_threads=2)
stream = llm.stream("x", max_tokens=900, ignore_eos=True)
next(stream)
child = os.fork()
if child == 0:
    del stream
    if sys.argv[1] == "collected":
        del llm
        gc.collect()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
stream.close()
"""
    for how in ("collected", "kept"):
        command = [sys.executable, "-c", script, how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_what_can_be_pickled(llm: LLM) -> None:
    with pytest.raises(UnsupportedError, match="cannot be pickled"):
        pickle.dumps(llm)
    with pytest.raises(UnsupportedError, match="cannot be pickled"):
        copy.deepcopy(llm)
    params = SamplingParams(stop=["a"], seed=3, logit_bias={3: 1.0})
    output = llm.generate("x", max_tokens=3, logprobs=2, n=2)
    for value in (params, output, llm.metadata, llm.config):
        assert pickle.loads(pickle.dumps(value)) == value
    error = FileError("What was found.", hint="What to do.")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.message, again.hint) == (FileError, str(error), error.message, error.hint)
    tokenizer = pickle.loads(pickle.dumps(llm.tokenizer))
    assert tokenizer.encode("Hello <s>", parse_special=True) == llm.tokenizer.encode("Hello <s>", parse_special=True)


# Event loops and threads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "cancel", "aclose"])
def test_leaving_an_async_stream_frees_its_blocks(llm: LLM, how: str) -> None:
    async def read() -> None:
        pieces = llm.astream("x", **ENDLESS)
        async for _ in pieces:
            if how == "aclose":
                await pieces.aclose()  # type: ignore[attr-defined]
            if how == "break":
                break
            if how == "cancel":
                asyncio.current_task().cancel()  # type: ignore[union-attr]

    async def main() -> None:
        answer, task = asyncio.create_task(llm.agenerate("y", max_tokens=3)), asyncio.create_task(read())
        await asyncio.wait([task])
        assert task.cancelled() == (how == "cancel")
        assert (await answer).usage.completion_tokens <= 3

    asyncio.run(main())
    until(lambda: is_free(llm))


def test_two_models_in_one_process_and_in_many_threads(model: Path, tiny_model: Callable[..., Path]) -> None:
    params = {"max_tokens": 24, "temperature": 0, "ignore_eos": True}
    with LLM(model, n_threads=2, n_ctx=256) as a, LLM(tiny_model(seed=9), n_threads=1, n_ctx=256) as b:
        expected = [a.generate("Hello", **params).text, b.generate("Hello", **params).text]
        assert expected[0] != expected[1]
        found: list[list[str]] = [[], []]
        ask = [
            lambda i=i, one=one: found[i].append(one.generate("Hello", **params).text) for i, one in enumerate((a, b))
        ]
        threads = [threading.Thread(target=each) for each in ask * 8]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [[expected[0]] * 8, [expected[1]] * 8]


# Garbage and the end ------------------------------------------------------------------------------------------------


def test_a_model_that_nobody_names_runs_as_long_as_its_stream(model: Path) -> None:
    gc.collect()
    n_before = n_system_threads()
    llm = LLM(model, n_threads=2, n_ctx=100_000)
    gone = weakref.ref(llm)
    stream = llm.stream("x", **ENDLESS)
    next(stream)
    del llm
    gc.collect()
    assert next(stream).token_ids
    assert gone() is not None
    del stream
    gc.collect()
    assert gone() is None
    until(lambda: n_system_threads() <= n_before)


@pytest.mark.parametrize("how", ["close", "forget"])
def test_a_model_may_end_in_its_own_thread(model: Path, how: str) -> None:
    gc.collect()
    n_before = n_system_threads()
    held: list[Any] = [LLM(model, n_threads=2, n_ctx=1000)]
    was_called = threading.Event()

    def end(generated: Any, logits: Any) -> None:
        if how == "close" and held:
            held[0].close()
        held.clear()
        gc.collect()
        was_called.set()

    held.append(held[0].submit([70, 71], SamplingParams(max_tokens=900, ignore_eos=True, logits_processors=[end])))
    assert was_called.wait(200)
    until(lambda: n_system_threads() <= n_before)


def test_a_closed_model_says_so(model: Path) -> None:
    llm = LLM(model, n_ctx=64)
    stream = llm.stream("x", max_tokens=9)
    llm.close()
    for call in (lambda: next(stream), lambda: llm.generate("x"), lambda: llm.forward("x"), llm.stats):
        with pytest.raises(InvalidArgumentError, match="was closed"):
            call()


ENDING = """
import sys, threading
from halfbyte import LLM
llm = LLM(sys.argv[1], n_ctx=100_000, n_threads=2)
begun = threading.Barrier(3)
def read():
    for i, piece in enumerate(llm.stream("Hi", max_tokens=90_000, ignore_eos=True)):
        if i == 0:
            begun.wait()
def score():
    begun.wait()
    llm.logprobs([70] * 90_000)
for work in (read, score):
    threading.Thread(target=work, daemon=True).start()
begun.wait()
print("done")
"""


def test_a_program_may_end_while_daemon_threads_wait_for_answers(model: Path) -> None:
    for _ in range(3):
        command = [sys.executable, "-c", ENDING, str(model)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
