"""Models of an Ollama registry: name[:tag], owner/name[:tag] or host/owner/name[:tag].

What a local Ollama has already pulled is linked, not fetched again.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfbyte.errors import DownloadError, ModelNotFoundError, UnsupportedError
from halfbyte.hub.download import DownloadProgress, RemoteFile, download
from halfbyte.hub.store import Card, StoredModel, checked_name, composing, publish
from halfbyte.hub.web import get_json, get_text

_HOST = "registry.ollama.ai"
_KIND = "application/vnd.ollama.image."
_ACCEPT = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
_REFERENCE = re.compile(
    r"^(?P<scheme>https?://)?(?:(?P<host>[\w.-]+(?::\d+)?)/)?(?:(?P<owner>[\w.-]+)/)?(?P<name>[\w.-]+)(?::(?P<tag>[\w.-]+))?$"
)


@dataclass(frozen=True)
class _Reference:
    server: str
    owner: str
    name: str
    tag: str

    @property
    def stored_name(self) -> str:
        owner = "" if self.owner == "library" else f"{self.owner}/"
        return checked_name(f"{owner}{self.name}:{self.tag}")

    @property
    def base(self) -> str:
        return f"{self.server}/v2/{self.owner}/{self.name}"


@dataclass(frozen=True)
class _Layer:
    kind: str
    digest: str
    n_bytes: int


def name_of(reference: str) -> str:
    """The name under which the store keeps a registry's model. Raises ModelNotFoundError."""
    return _parse(reference).stored_name


def fetch(reference: str, tell: DownloadProgress) -> StoredModel:
    """A registry's model with its template, system message, parameters and adapters, in the store."""
    which = _parse(reference)
    layers = _layers(which)
    models = [layer for layer in layers if layer.kind == "model"]
    if len(models) != 1:
        raise UnsupportedError(
            f"{reference} is made of {len(models)} model files; one was expected.",
            hint="Models for other engines (MLX, safetensors) are pulled from the hub: hf:owner/repo.",
        )
    if any(layer.kind == "projector" for layer in layers):
        tell(f"{which.name}: its image projector is left out", 0, 0)
    files = {layer: f"{layer.kind}-{layer.digest[7:19]}.gguf" for layer in layers if layer.kind in ("model", "adapter")}
    with composing(which.stored_name) as folder:
        wanted = []
        for layer, file in files.items():
            if not _link_local(layer, folder / file):
                address = f"{which.base}/blobs/{layer.digest}"
                wanted.append(RemoteFile(address, folder / file, layer.n_bytes, layer.digest))
        download(wanted, tell)
        for left in folder.glob("*.gguf"):
            if left.name not in files.values():
                left.unlink()
        texts = {kind: [_text(which, la) for la in layers if la.kind == kind] for kind in _TEXTS}
        card = Card(
            model=files[models[0]],
            source=f"ollama:{reference}",
            template="".join(texts["template"]),
            system="".join(texts["system"]),
            parameters=_object(texts["params"], dict),
            messages=_object(texts["messages"], list),
            licenses=texts["license"],
            adapters=[file for layer, file in files.items() if layer.kind == "adapter"],
        )
        return publish(which.stored_name, card)


_TEXTS = ("template", "system", "params", "messages", "license")


def _parse(reference: str) -> _Reference:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ModelNotFoundError(
            f'"{reference}" is no name of an Ollama model.', hint="Write name:tag or owner/name:tag."
        )
    host, owner = match["host"], match["owner"]
    if host and not owner and not match["scheme"] and "." not in host and ":" not in host:
        host, owner = None, host
    scheme = match["scheme"] or "https://"
    return _Reference(f"{scheme}{host or _HOST}", owner or "library", match["name"], match["tag"] or "latest")


def _layers(which: _Reference) -> list[_Layer]:
    local = _local_folder() / "manifests" / which.server.partition("://")[2] / which.owner / which.name / which.tag
    try:
        manifest = json.loads(local.read_text()) if local.is_file() else None
    except (OSError, ValueError):
        manifest = None
    if manifest is None:
        manifest = get_json(f"{which.base}/manifests/{which.tag}", _ACCEPT)
    try:
        layers = [
            _Layer(str(entry["mediaType"]).removeprefix(_KIND), str(entry["digest"]), int(entry["size"]))
            for entry in manifest["layers"]
        ]
    except (KeyError, TypeError, ValueError):
        raise DownloadError(f"The registry's manifest of {which.name}:{which.tag} cannot be understood.") from None
    for layer in layers:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", layer.digest) or layer.n_bytes < 0:
            raise DownloadError(f"The registry's manifest of {which.name}:{which.tag} has a layer {layer.digest!r}.")
    return layers


def _local_folder() -> Path:
    return Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")


def _local_blob(layer: _Layer) -> Path | None:
    path = _local_folder() / "blobs" / layer.digest.replace(":", "-")
    return path if path.is_file() and path.stat().st_size == layer.n_bytes else None


def _link_local(layer: _Layer, target: Path) -> bool:
    """Whether a local Ollama has the layer on the same disk: then it is linked."""
    blob = _local_blob(layer)
    if blob is None or target.exists():
        return target.exists()
    try:
        os.link(blob, target)
    except OSError:
        return False
    return True


def _text(which: _Reference, layer: _Layer) -> str:
    blob = _local_blob(layer)
    if blob is not None:
        return blob.read_text(encoding="utf-8", errors="replace")
    return get_text(f"{which.base}/blobs/{layer.digest}", digest=layer.digest)


def _object(texts: list[str], kind: type[dict[str, Any]] | type[list[Any]]) -> Any:
    if not texts:
        return kind()
    try:
        value = json.loads(texts[-1])
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise DownloadError("The registry's parameters or messages of the model cannot be understood.")
    return value
