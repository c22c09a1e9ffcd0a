"""Models on the Hugging Face hub (or a mirror, HF_ENDPOINT), in the cache that other tools share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfbyte.errors import DownloadError, ModelNotFoundError
from halfbyte.hub.sources.download import download

_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0")
_TIMEOUT_S = 10.0

Tell = Callable[[str, int, int], None]


def fetch_reference(reference: str, tell: Tell) -> Path:
    """owner/repo, owner/repo:QUANT, owner/repo/file.gguf or owner/repo:file.gguf."""
    repo, _, choice = reference.partition(":")
    parts = repo.split("/")
    if len(parts) > 2:
        repo, choice = "/".join(parts[:2]), "/".join(parts[2:])
    if choice.endswith(".gguf"):
        return fetch(repo, choice, tell)
    return fetch(repo, _choose(repo, choice), tell)


def fetch(repo: str, filename: str, tell: Tell) -> Path:
    """One file of a repository; what the cache holds is not asked for again."""
    hub = _hub()
    cached = hub.try_to_load_from_cache(repo, filename)
    if isinstance(cached, str):
        return Path(cached)
    _refuse_offline(repo)
    address = hub.hf_hub_url(repo, filename)
    metadata = _ask(lambda: hub.get_hf_file_metadata(address, timeout=_TIMEOUT_S), repo, filename)
    storage: Path = Path(hub.constants.HF_HUB_CACHE) / hub.file_download.repo_folder_name(
        repo_id=repo, repo_type="model"
    )
    blob = storage / "blobs" / metadata.etag
    if not blob.is_file():
        is_hash = len(metadata.etag) == 64
        token = hub.get_token()
        headers = {"Authorization": f"Bearer {token}"} if token and metadata.location == address else {}
        download(
            metadata.location,
            blob,
            tell,
            headers=headers,
            sha256=metadata.etag if is_hash else "",
            etag=f'"{metadata.etag}"',
        )
    snapshot = storage / "snapshots" / metadata.commit_hash / filename
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    if not snapshot.exists():
        temporary = snapshot.with_name(f"{snapshot.name}.{os.getpid()}.link")
        temporary.symlink_to(os.path.relpath(blob, snapshot.parent))
        os.replace(temporary, snapshot)
    reference = storage / "refs" / "main"
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(metadata.commit_hash)
    return Path(snapshot)


def _choose(repo: str, quant: str) -> str:
    _refuse_offline(repo)
    hub = _hub()
    info = _ask(lambda: hub.HfApi().model_info(repo, timeout=_TIMEOUT_S), repo, "")
    files = sorted(
        s.rfilename for s in info.siblings or [] if s.rfilename.endswith(".gguf") and "mmproj" not in s.rfilename
    )
    if not files:
        raise ModelNotFoundError(
            f"{repo} has no GGUF file.", hint="Look for a repository of the same model whose name ends in -GGUF."
        )
    for wanted in [quant] if quant else _PREFERRED:
        for name in files:
            if wanted.lower() in name.lower() and ("-of-" not in name or "-00001-of-" in name):
                return str(name)
    if quant:
        raise ModelNotFoundError(f"{repo} has no file for {quant}.", hint=f"It has {', '.join(files)}.")
    return str(files[0])


def _hub() -> Any:
    import huggingface_hub  # 160 ms: only when the hub is asked
    import huggingface_hub.constants
    import huggingface_hub.file_download

    return huggingface_hub


def _refuse_offline(repo: str) -> None:
    if _hub().constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"{repo} is not in the cache, and HF_HUB_OFFLINE is set.", hint="Unset it to fetch the model."
        )


def _ask(question: Callable[[], Any], repo: str, filename: str) -> Any:
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    try:
        return question()
    except GatedRepoError:
        raise DownloadError(
            f"{repo} asks for accepted terms.", hint="Accept them on its page and set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"The hub has no repository {repo} (or it is private).", hint="Check the name, or set HF_TOKEN."
        ) from None
    except EntryNotFoundError:
        raise ModelNotFoundError(f"{repo} has no file {filename}.", hint="Check the name.") from None
    except Exception as error:  # the client wraps network failures in many types
        raise DownloadError(
            f"The hub could not be asked about {repo}: {type(error).__name__}.",
            hint="Is there a network? HF_ENDPOINT names a mirror; a model file can also be given by its path.",
        ) from error
