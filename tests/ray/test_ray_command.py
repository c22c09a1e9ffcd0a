"""`halfbyte serve --ray`: starts, answers, and finishes what runs when it is told to stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from halfbyte.cli.main import main

from ..conftest import write_tiny_llama

pytestmark = pytest.mark.ray


def test_a_stop_finishes_the_streams_that_run(tmp_path: Path) -> None:
    file = write_tiny_llama(tmp_path / "tiny.gguf", n_ctx=4096)
    command = [sys.executable, "-m", "halfbyte", "serve", "-m", str(file), "--ray", "-t", "1", "--port", "18133"]
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=dict(os.environ)
        )
    assert process.stdout is not None
    ready = next((line for line in process.stdout if line.startswith("Serving ")), "")
    found = re.fullmatch(r"Serving tiny at (http://127\.0\.0\.1:18133)\n", ready)
    assert found, log.read_text()
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3000, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        f"{found[1]}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        lines = [answer.readline()]
        process.send_signal(signal.SIGTERM)
        lines += answer.readlines()
    events = [line for line in lines if line.startswith(b"data: ")]
    assert events[-1] == b"data: [DONE]\n"
    assert json.loads(events[-2][6:])["choices"][0]["finish_reason"] == "length"
    assert process.wait(timeout=600) == 0
    process.stdout.close()


# Ray's own modules warn when they are imported.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("replicas", ["0", "2:1", "x", "1:", ":2", "-1"])
def test_replicas_are_counts(replicas: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--ray", f"--replicas={replicas}"]) == 2
    assert "N or MIN:MAX was expected" in capsys.readouterr().err
