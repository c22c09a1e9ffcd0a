"""What the models of a repository would take of this machine, from their headers alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

from halfbyte.hub.headers import fetch_headers
from halfbyte.hub.sources import huggingface
from halfbyte.hub.variants import Variant, choose, variants


class RepositoryHeaders:
    """A repository's GGUF models and the header of one of them. A context manager: `path` lies in a folder that goes.

    path: a sparse file (the first part of a split one) with the real header of `header_of`, the smallest model.
    """

    def __init__(self, reference: str) -> None:
        reference = reference.removeprefix("hf:").removeprefix("hf.co/")
        self.name, revision, wanted = huggingface.split_reference(reference)
        repository = huggingface.list_files(self.name, revision)
        self._sizes = {f.name: f.n_bytes for f in repository.files}
        found = variants(self._sizes)
        self.variants = [choose(found, wanted, self.name)] if wanted or not found else found
        self.variants.sort(key=self.n_bytes)
        self.header_of = min(self.variants, key=lambda v: (len(v.files), self.n_bytes(v)))
        self._folder = tempfile.TemporaryDirectory(prefix="halfbyte-")
        files = huggingface.remote_files(repository, self.header_of.files, Path(self._folder.name))
        try:
            fetch_headers(files)
        except BaseException:
            self._folder.cleanup()
            raise
        self.path = files[0].target

    def n_bytes(self, variant: Variant) -> int:
        """Size of all files of a variant."""
        return sum(self._sizes[name] for name in variant.files)

    def __enter__(self) -> RepositoryHeaders:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
