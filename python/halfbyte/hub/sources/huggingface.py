"""Models on the Hugging Face hub (or a mirror, HF_ENDPOINT), in the cache that other tools share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from halfbyte.errors import DownloadError, ModelNotFoundError
from halfbyte.hub.download import DownloadProgress, RemoteFile, download
from halfbyte.hub.variants import choose, variants

_TIMEOUT_S = 10.0
_REFERENCE = re.compile(
    r"^(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:/(?P<path>[\w./-]+\.gguf))?(?:@(?P<rev>[\w./-]+))?(?::(?P<choice>[\w./-]+))?$"
)
# Of a repository without GGUF files: what a model folder is made of.
_FOLDER = re.compile(r"^(?:[^/]+\.(?:safetensors|json|jinja|model)|merges\.txt|vocab\.txt)$")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. etag is its name in the cache: SHA-256 for large files, Git's SHA-1 for small ones."""

    name: str
    n_bytes: int
    etag: str

    @property
    def digest(self) -> str:
        """The etag as download() takes it."""
        return f"{'sha256' if len(self.etag) == 64 else 'git'}:{self.etag}"


@dataclass(frozen=True)
class Repository:
    """A repository at one commit. Files are fetched from `address + name` with `headers`."""

    name: str
    commit: str
    files: tuple[HubFile, ...]
    address: str
    headers: dict[str, str]


def is_reference(text: str) -> bool:
    """Whether a text has the form owner/repo[/file.gguf][@revision][:QUANT or file]."""
    return _REFERENCE.fullmatch(text) is not None


def split_reference(reference: str) -> tuple[str, str, str]:
    """Repository, revision and what is wanted of it (a quantization, a file, or ""). Raises ModelNotFoundError."""
    match = _REFERENCE.fullmatch(reference)
    if not match or not _is_inside(match["rev"] or "main"):
        raise ModelNotFoundError(f'"{reference}" names no repository.', hint="Write owner/repo or owner/repo:QUANT.")
    return match["repo"], match["rev"] or "main", match["path"] or match["choice"] or ""


def fetch(reference: str, tell: DownloadProgress, *, refresh: bool = False) -> Path:
    """The GGUF file, or the folder of safetensors files, that a reference names.

    What the cache holds is taken without asking the hub, unless refresh is set.
    """
    repo, revision, wanted = split_reference(reference)
    if not refresh and (path := _cached(repo, revision, wanted)):
        return path
    try:
        listed = list_files(repo, revision)
    except DownloadError:
        if path := _cached(repo, revision, wanted):
            return path  # no network: what is there will do
        raise
    found = variants(f.name for f in listed.files)
    if not found and not wanted and any(f.name == "config.json" for f in listed.files):
        names = {f.name for f in listed.files if _FOLDER.match(f.name)}
        fetch_files(listed, names, revision, tell)
        return _snapshot(repo, listed.commit)
    chosen = choose(found, wanted, repo)
    fetch_files(listed, chosen.files, revision, tell)
    return _snapshot(repo, listed.commit) / chosen.files[0]


def list_files(repo: str, revision: str = "main") -> Repository:
    """What a repository holds. Raises ModelNotFoundError, or DownloadError when the hub cannot be asked."""
    hub = _hub()
    if hub.constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"{repo} is not in the cache, and HF_HUB_OFFLINE is set.", hint="Unset it to fetch the model."
        )
    info = _ask(
        lambda: hub.HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S), repo, revision
    )
    files = []
    for sibling in info.siblings or []:
        etag = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        if etag and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) and _is_inside(sibling.rfilename):
            files.append(HubFile(sibling.rfilename, sibling.size or 0, etag))
    commit = str(info.sha or "")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise DownloadError(f"The hub's answer about {repo} names no commit.")
    address = hub.hf_hub_url(repo, "x", revision=commit)[:-1]
    token = hub.get_token()
    return Repository(repo, commit, tuple(files), address, {"Authorization": f"Bearer {token}"} if token else {})


def remote_files(repository: Repository, names: Iterable[str], folder: Path) -> list[RemoteFile]:
    """Files of a repository, to be put into a folder."""
    known = {f.name: f for f in repository.files}
    return [
        RemoteFile(
            repository.address + quote(name),
            folder / Path(name).name,
            known[name].n_bytes,
            known[name].digest,
            repository.headers,
        )
        for name in names
    ]


def fetch_files(repository: Repository, names: Iterable[str], revision: str, tell: DownloadProgress) -> None:
    """Brings files of a repository into the cache."""
    folder = _cache_folder(repository.name)
    wanted = set(names)
    files = [f for f in repository.files if f.name in wanted]
    snapshot = _snapshot(repository.name, repository.commit)
    missing = [f for f in files if not (snapshot / f.name).exists()]
    download(
        [
            RemoteFile(
                repository.address + quote(f.name), folder / "blobs" / f.etag, f.n_bytes, f.digest, repository.headers
            )
            for f in missing
        ],
        _by_name({f.etag: f.name for f in files}, tell),
    )
    for file in missing:
        _link(folder / "blobs" / file.etag, snapshot / file.name)
    _write_atomically(folder / "refs" / revision, repository.commit)


def _by_name(names: dict[str, str], tell: DownloadProgress) -> DownloadProgress:
    return lambda etag, done, total: tell(names[etag], done, total)


# The cache --------------------------------------------------------------------------------------------------------


def _cached(repo: str, revision: str, wanted: str) -> Path | None:
    """What the cache holds of a repository: the wanted file, or, when nothing is wanted, the best there is."""
    folder = _cache_folder(repo)
    try:
        commit = revision if re.fullmatch(r"[0-9a-f]{40}", revision) else (folder / "refs" / revision).read_text()
    except OSError:
        return None
    snapshot = folder / "snapshots" / commit.strip()
    if not snapshot.is_dir():
        return None
    found = variants(p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*.gguf") if p.is_file())
    if found:
        try:
            return snapshot / choose(found, wanted, repo).files[0]
        except ModelNotFoundError:
            return None
    return snapshot if not wanted and _is_whole_folder(snapshot) else None


def _is_whole_folder(snapshot: Path) -> bool:
    if not (snapshot / "config.json").is_file():
        return False
    try:
        index = json.loads((snapshot / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return all((snapshot / name).is_file() for name in set(index["weight_map"].values()))
    except OSError:
        return any(snapshot.glob("*.safetensors"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _cache_folder(repo: str) -> Path:
    return Path(_hub().constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _snapshot(repo: str, commit: str) -> Path:
    return _cache_folder(repo) / "snapshots" / commit


def _link(blob: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f"{place.name}.{os.getpid()}.link")
    try:
        beside.symlink_to(os.path.relpath(blob, place.parent))
        os.replace(beside, place)
    except OSError:  # a file system without links: the hub's client moves the file, too
        os.replace(blob, place)


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.write_text(text)
    os.replace(beside, path)


def _is_inside(name: str) -> bool:
    """Whether a name stays inside its folder, on Windows too (drives, streams of a file)."""
    return name.isprintable() and not set("\\:") & set(name) and not {"", ".", ".."} & set(name.split("/"))


# The client -------------------------------------------------------------------------------------------------------


def _hub() -> Any:
    import huggingface_hub  # 160 ms: only when the hub is asked
    import huggingface_hub.constants

    return huggingface_hub


def _ask(question: Callable[[], Any], repo: str, revision: str) -> Any:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return question()
    except GatedRepoError:
        raise DownloadError(
            f"{repo} asks for accepted terms.", hint="Accept them on its page and set HF_TOKEN."
        ) from None
    except RevisionNotFoundError:
        raise ModelNotFoundError(f"{repo} has no revision {revision}.", hint="Check the name.") from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"The hub has no repository {repo} (or it is private).", hint="Check the name, or set HF_TOKEN."
        ) from None
    except Exception as error:  # the client wraps network failures in many types
        raise DownloadError(
            f"The hub could not be asked about {repo}: {type(error).__name__}.",
            hint="Is there a network? HF_ENDPOINT names a mirror; a model file can also be given by its path.",
        ) from error
