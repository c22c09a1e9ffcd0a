"""deploy/nginx.conf in a real nginx: streams pass as they come, and what should be closed is closed."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from ..conftest import REPOSITORY
from ..page.fake import Fake, listening

pytestmark = pytest.mark.deploy


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Fake]]:
    """nginx with the file as it is, but for addresses and the certificate, before a scripted server."""
    nginx = shutil.which("nginx")
    assert nginx, "this test needs nginx (apt-get install nginx-light)"
    folder = tmp_path_factory.mktemp("nginx")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=llm.example.com",
            "-keyout",
            folder / "privkey.pem",
            "-out",
            folder / "fullchain.pem",
        ],
        check=True,
        capture_output=True,
    )
    fake = Fake()
    plain, secure = free_port(), free_port()
    with listening(fake.app) as url:
        changes = {
            "127.0.0.1:8080": url.removeprefix("http://"),
            "listen 80;": f"listen 127.0.0.1:{plain};",
            "listen 443 ": f"listen 127.0.0.1:{secure} ",
            "    listen [::]:80;\n": "",
            "    listen [::]:443 ssl http2;\n": "",
            "/etc/letsencrypt/live/llm.example.com": str(folder),
        }
        text = (REPOSITORY / "deploy" / "nginx.conf").read_text()
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "halfbyte.conf").write_text(text)
        paths = "".join(
            f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log stderr; events {{}} "
            f"http {{ access_log off; {paths} include {folder}/halfbyte.conf; }}"
        )
        process = subprocess.Popen([nginx, "-e", "stderr", "-c", folder / "nginx.conf"], stderr=subprocess.PIPE)
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    socket.create_connection(("127.0.0.1", secure), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, process.stderr and process.stderr.read().decode()
                    assert time.monotonic() < until, "nginx does not listen"
                    time.sleep(0.05)
            yield f"https://127.0.0.1:{secure}", fake
        finally:
            process.terminate()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


def get(url: str, body: dict[str, object] | None = None) -> object:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"content-type": "application/json", "host": "llm.example.com"})
    return urllib.request.urlopen(request, context=trusting, timeout=120)


def test_tokens_pass_while_the_answer_runs_and_a_client_that_goes_is_noticed(door: tuple[str, Fake]) -> None:
    url, fake = door
    answer = get(f"{url}/v1/chat/completions", {"messages": [{"role": "user", "content": "forever"}]})
    for _ in range(5):
        assert b'"word "' in answer.readline()  # type: ignore[attr-defined]
        answer.readline()  # type: ignore[attr-defined]
    assert not fake.abandoned.is_set()
    answer.close()  # type: ignore[attr-defined]
    assert fake.abandoned.wait(120)


def test_the_page_keeps_its_policy(door: tuple[str, Fake]) -> None:
    with get(door[0]) as answer:  # type: ignore[attr-defined]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "max-age" in answer.headers["strict-transport-security"]


def test_metrics_are_not_for_the_world(door: tuple[str, Fake]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{door[0]}/metrics")
    assert refused.value.code == 403
    refused.value.close()
