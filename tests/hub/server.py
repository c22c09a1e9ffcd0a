"""A server that speaks the protocols of the hub, of ModelScope and of Ollama's registry, and misbehaves when told to."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c" * 40


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class World:
    """What the server holds, how it misbehaves and what it was asked.

    cut: so many large bodies end after half of their bytes. hold_after: bodies stop after so many bytes until let_go(). refuse: so many requests get that status. no_ranges: Range is ignored. lie: hashes are told wrong.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    registry: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    cut: int = 0
    hold_after: int = 0
    refuse: list[int] = field(default_factory=list)
    no_ranges: bool = False
    lie: bool = False
    etags: bool = True
    storage: str = ""
    release: threading.Event = field(default_factory=threading.Event)
    held: list[threading.Thread] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    n_sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def digest(self, content: bytes) -> str:
        return "0" * 64 if self.lie else sha256(content)

    def let_go(self) -> None:
        """Ends the connections that are held; from now on none is."""
        self.release.set()
        for thread in self.held:
            thread.join(200)
            assert not thread.is_alive()


def handler_of(world: World) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path, query = unquote(parts.path), parse_qs(parts.query)
            with world.lock:
                world.asked.append(path)
                world.tokens.append(self.headers.get("Authorization", ""))
                refusal = world.refuse.pop(0) if world.refuse else 0
            if refusal:
                return self.answer(refusal, b"", {"Retry-After": "0"})
            if path == "/api/models/owner/repo" or path.startswith("/api/models/owner/repo/revision/"):
                return self.answer_json(self.hub_listing())
            if path.startswith("/owner/repo/resolve/"):
                if world.storage:
                    place = f"{world.storage}/plain/{path.split('/', 5)[5]}"
                    return self.answer(302, b"", {"Location": place})
                return self.file(path.split("/", 5)[5])
            if path.startswith("/plain/"):
                return self.file(path.removeprefix("/plain/"))
            if path == "/api/v1/models/owner/repo/repo/files":
                return self.answer_json({"Code": 200, "Success": True, "Data": {"Files": self.modelscope_listing()}})
            if path == "/api/v1/models/owner/repo/repo":
                return self.file(query["FilePath"][0])
            if path.startswith("/v2/"):
                return self.registry(path)
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        def hub_listing(self) -> Any:
            siblings = []
            for name, content in world.files.items():
                entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
                if name.endswith((".gguf", ".safetensors")):
                    entry["lfs"] = {"sha256": world.digest(content), "size": len(content), "pointerSize": 100}
                siblings.append(entry)
            return {"id": "owner/repo", "sha": COMMIT, "siblings": siblings}

        def modelscope_listing(self) -> Any:
            return [
                {"Path": name, "Name": name, "Size": len(c), "Sha256": world.digest(c), "Type": "blob"}
                for name, c in world.files.items()
            ]

        def registry(self, path: str) -> None:
            for name, layers in world.registry.items():
                owner_name, tag = name.split(":")
                if path == f"/v2/{owner_name}/manifests/{tag}":
                    listed = [
                        {
                            "mediaType": f"application/vnd.ollama.image.{kind}",
                            "digest": f"sha256:{world.digest(content)}",
                            "size": len(content),
                        }
                        for kind, content in layers
                    ]
                    return self.answer_json({"schemaVersion": 2, "layers": listed})
                for _, content in layers:
                    if path == f"/v2/{owner_name}/blobs/sha256:{world.digest(content)}":
                        return self.body(content)
            return self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', {})

        def file(self, name: str) -> None:
            if name not in world.files:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return self.body(world.files[name])

        def body(self, content: bytes) -> None:
            headers = {"ETag": f'"{sha256(content)}"', "X-Repo-Commit": COMMIT} if world.etags else {}
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            if wanted and not world.no_ranges and condition in (None, headers.get("ETag")):
                world.ranges.append(wanted)
                if not content:
                    return self.answer(416, b"", {"Content-Range": "bytes */0"})
                begin, _, end = wanted.removeprefix("bytes=").partition("-")
                first, last = int(begin), min(len(content) - 1, int(end) if end else len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                return self.answer(206, content[first : last + 1], headers)
            return self.answer(200, content, headers)

        def answer_json(self, value: Any) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            with world.lock:
                if world.cut > 0 and len(body) > 10_000:
                    world.cut -= 1
                    body = body[: len(body) // 2]
                    self.close_connection = True
            try:
                if world.hold_after and len(body) > world.hold_after and not world.release.is_set():
                    world.held.append(threading.current_thread())
                    self.close_connection = True
                    self.wfile.write(body[: world.hold_after])
                    self.wfile.flush()
                    world.release.wait(300)
                    return
                self.wfile.write(body)
                world.n_sent += len(body)
            except OSError:
                pass  # the client was killed, or has had enough

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serving(world: World) -> Iterator[str]:
    """The server's address."""
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(world))
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        world.release.set()
        httpd.shutdown()
        httpd.server_close()
