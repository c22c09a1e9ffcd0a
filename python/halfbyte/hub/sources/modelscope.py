"""Models on ModelScope, by its own client (extra [modelscope]) and in its own cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfbyte.errors import DownloadError, ModelNotFoundError
from halfbyte.hub.download import DownloadProgress
from halfbyte.hub.space import disk_full, require_space
from halfbyte.hub.variants import choose, variants

_REFERENCE = re.compile(r"^(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:/(?P<path>[\w./-]+\.gguf))?(?::(?P<choice>[\w./-]+))?$")


def fetch(reference: str, tell: DownloadProgress) -> Path:
    """The GGUF file that owner/repo[/file.gguf][:QUANT or file] names, in ModelScope's cache."""
    match = _REFERENCE.fullmatch(reference)
    if not match:
        raise ModelNotFoundError(
            f'"{reference}" names no repository.', hint="Write modelscope:owner/repo or modelscope:owner/repo:QUANT."
        )
    repo = match["repo"]
    hub = _hub()
    config = hub.config.HubConfig()
    api = hub.api.HubApi(config)
    files = {file.path: int(file.size or 0) for file in _ask(lambda: api.list_repo_files(repo, "model"), repo)}
    chosen = choose(variants(files), match["path"] or match["choice"] or "", repo)
    require_space(sum(files[name] for name in chosen.files), Path(config.cache_dir))
    folder = _ask(
        lambda: api.download_repo(
            repo, "model", allow_patterns=list(chosen.files), progress_callbacks=[_progress(tell)]
        ),
        repo,
    )
    return Path(folder) / chosen.files[0]


def _progress(tell: DownloadProgress) -> Any:
    """A class for the client to make one object of for each file."""

    class Progress(_hub().ProgressCallback):  # type: ignore[misc]
        done = 0

        def update(self, size: int) -> None:
            self.done += size
            tell(self.filename, self.done, self.file_size)

    return Progress


def _hub() -> Any:
    try:
        import modelscope_hub
        import modelscope_hub.api
        import modelscope_hub.config
    except ImportError:
        raise DownloadError(
            "ModelScope's client is not installed.", hint="Run: pip install 'halfbyte[modelscope]'"
        ) from None
    return modelscope_hub


def _ask(question: Callable[[], Any], repo: str) -> Any:
    from modelscope_hub.errors import AuthenticationError, FileIntegrityError, NotExistError, PermissionDeniedError

    try:
        return question()
    except NotExistError:
        raise ModelNotFoundError(f"ModelScope has no repository {repo}.", hint="Check the name.") from None
    except (AuthenticationError, PermissionDeniedError):
        raise DownloadError(f"ModelScope refuses access to {repo}.", hint="Set MODELSCOPE_API_TOKEN.") from None
    except FileIntegrityError as error:
        raise DownloadError(f"{repo}: {error}", hint="The download was damaged; run it again.") from None
    except Exception as error:  # the client wraps network failures in many types
        if disk_full(error):
            raise DownloadError(f"The disk became full while {repo} was fetched.", hint="Free some space.") from None
        raise DownloadError(
            f"{repo} could not be fetched from ModelScope: {type(error).__name__}: {str(error)[:200]}",
            hint="Is there a network? Run the command again: it goes on where it stopped.",
        ) from error
