"""Commands killed at any moment: what lies at their target is the old or the new, never a part; the next run is clean."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from halfbyte.cli.main import main
from halfbyte.quantize import Importance

from ..convert.folders import write_folder
from ..hub.server import World, serving
from ..lora.test_lora import write_peft

TEXT = "The quick brown fox jumps over the lazy dog; it was not amused. " * 8


class Killer:
    """Runs commands that die where it is told."""

    def __init__(self) -> None:
        # One thread each: a fork takes no others along.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killable.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def run(self, argv: list[str], cwd: Path, hub: str = "http://127.0.0.1:9", **kill: int) -> int:
        """The exit code, or minus the signal. hub: where all of them are."""
        environment = {
            "HALFBYTE_MODELS": str(cwd / "models"),
            "OLLAMA_MODELS": str(cwd / "none"),
            "HF_ENDPOINT": hub,
            "HF_HOME": str(cwd / "hf"),
            "MODELSCOPE_ENDPOINT": hub,
            "MODELSCOPE_CACHE": str(cwd / "modelscope"),
            "MODELSCOPE_HOME": str(cwd / "modelscope-home"),
        }
        job = {"argv": argv, "cwd": str(cwd), "environment": environment, **kill}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(200)


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    killer = Killer()
    yield killer
    killer.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read."""
    place = tmp_path_factory.mktemp("inputs")
    write_folder(place / "folder")
    assert main(["convert", str(place / "folder"), str(place / "in.gguf")]) == 0
    assert main(["split", str(place / "in.gguf"), str(place / "part"), "--max-tensors", "8"]) == 0
    (place / "text.txt").write_text(TEXT)
    write_peft(place / "adapter", 1)
    (place / "Modelfile").write_text("FROM ./in.gguf\nSYSTEM You are brief.\nPARAMETER temperature 0.5\n")
    return place


#: command -> arguments, and what it writes. The targets of those with --force exist before.
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "convert": (["convert", "folder", "out.gguf", "--type", "q8_0", "--force"], ["out.gguf"]),
    "convert to a folder": (["convert", "in.gguf", "back", "--force"], ["back"]),
    "quantize": (["quantize", "in.gguf", "out.gguf", "q4_k_m"], ["out.gguf"]),
    "save-logits": (
        ["perplexity", "-m", "in.gguf", "-f", "text.txt", "-c", "64", "--save-logits", "base.bin"],
        ["base.bin"],
    ),
    "merge": (["merge", "part-00001-of-00003.gguf", "out.gguf"], ["out.gguf"]),
    "merge an adapter": (["merge", "in.gguf", "out.gguf", "--lora", "adapter", "--force"], ["out.gguf"]),
    "split": (
        ["split", "in.gguf", "cut", "--max-tensors", "8"],
        [f"cut-0000{i}-of-00003.gguf" for i in (1, 2, 3)],
    ),
}

#: Where a command dies: at a number of bytes of a file, before a change in the file system, or after a time.
KILLS = st.one_of(
    st.fixed_dictionaries({"bytes": st.integers(0, 300_000)}),
    st.fixed_dictionaries({"event": st.integers(1, 24)}),
    st.fixed_dictionaries({"milliseconds": st.integers(1, 400)}),
)
quickly = settings(
    max_examples=int(os.environ.get("HALFBYTE_KILLS", "6")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def contents(path: Path) -> Any:
    """A file's bytes, a folder's files, None for nothing."""
    if path.is_dir():
        return {p.name: p.read_bytes() for p in sorted(path.iterdir())}
    return path.read_bytes() if path.exists() else None


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_killed_command_leaves_the_old_or_the_new(
    command: str, killer: Killer, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    argv, outputs = COMMANDS[command]

    def place() -> Path:
        folder = tmp_path_factory.mktemp("kill")
        for entry in inputs.iterdir():
            (folder / entry.name).symlink_to(entry)
        if "--force" in argv:
            (folder / outputs[0]).write_bytes(b"old")
            if outputs[0] == "back":
                (folder / "back").unlink()
                (folder / "back").mkdir()
                (folder / "back" / "old").write_bytes(b"old")
        return folder

    calm = place()
    old = {name: contents(calm / name) for name in outputs}
    assert killer.run(argv, calm) == 0
    new = {name: contents(calm / name) for name in outputs}
    listing = sorted(p.name for p in calm.iterdir())

    @quickly
    @given(kill=KILLS)
    def check(kill: dict[str, int]) -> None:
        folder = place()
        code = killer.run(argv, folder, **kill)
        for name in outputs:
            found = contents(folder / name)
            # Two renames replace a folder; between them there is none.
            assert found in (old[name], new[name]) or (found is None and name == "back"), (kill, code, name)
            assert code != 0 or found == new[name]
        assert code == 0 or code < 0, (kill, code)
        assert killer.run(argv, folder) == 0
        assert {name: contents(folder / name) for name in outputs} == new
        assert sorted(p.name for p in folder.iterdir()) == listing
        shutil.rmtree(folder)

    check()


def test_a_killed_imatrix_goes_on(killer: Killer, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It saves what it has from time to time: that is of whole chunks, and the next run reads the others."""
    argv = ["imatrix", "-m", "in.gguf", "-f", "text.txt", "-o", "im.gguf", "-c", "64"]

    def place() -> Path:
        folder = tmp_path_factory.mktemp("kill")
        for entry in inputs.iterdir():
            (folder / entry.name).symlink_to(entry)
        return folder

    calm = place()
    assert killer.run(argv, calm) == 0
    whole = Importance.load(calm / "im.gguf")
    listing = sorted(p.name for p in calm.iterdir())

    @quickly
    @given(kill=KILLS | st.fixed_dictionaries({"saves": st.integers(1, whole.n_chunks - 1)}))
    @example(kill={"saves": 1})
    @example(kill={"saves": 4})
    def check(kill: dict[str, int]) -> None:
        folder = place()
        code = killer.run(argv, folder, **kill)
        assert code == 0 or code < 0, (kill, code)
        n_read = Importance.load(folder / "im.gguf").n_chunks if (folder / "im.gguf").exists() else 0
        assert code != 0 or n_read == whole.n_chunks
        assert n_read == kill.get("saves", n_read)
        # It would die if it read what was read: one save for each chunk, and one at the end.
        assert killer.run(argv, folder, saves=whole.n_chunks - n_read + 2) == 0
        found = Importance.load(folder / "im.gguf")
        assert (found.n_chunks, found.datasets, found.sums.keys()) == (
            whole.n_chunks,
            whole.datasets,
            whole.sums.keys(),
        )
        for name, sums in whole.sums.items():  # sums of sums are rounded elsewhere
            assert np.allclose(found.sums[name], sums, rtol=1e-5), (kill, name)
            assert np.array_equal(found.counts[name], whole.counts[name]), (kill, name)
        assert sorted(p.name for p in folder.iterdir()) == listing
        shutil.rmtree(folder)

    check()


def shown(folder: Path) -> list[bytes]:
    """The models that the store shows, and what lies where the hubs' own tools look."""
    cards = sorted((folder / "models").glob("[!.]*/model.json"))
    stored = [card.parent / json.loads(card.read_text())["model"] for card in cards]
    cached = sorted((folder / "hf" / "hub").glob("models--*/snapshots/*/*.gguf"))
    theirs = sorted(p for p in (folder / "modelscope").rglob("*.gguf") if "._____temp" not in p.parts)
    return [path.read_bytes() for path in [*stored, *cached, *theirs]]


@pytest.mark.parametrize("source", ["create", "address", "ollama", "hub", "modelscope"])
def test_a_killed_command_leaves_the_store_whole(
    source: str, killer: Killer, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = (inputs / "in.gguf").read_bytes()
    world = World(files={"m.gguf": content}, registry={"me/m:1": [("model", content), ("system", b"Be brief.")]})
    with serving(world) as address:
        argv = {
            "create": ["create", "mine"],
            "address": ["pull", f"{address}/plain/m.gguf"],
            "ollama": ["pull", f"ollama:{address}/me/m:1"],
            "hub": ["pull", "owner/repo"],
            "modelscope": ["pull", "modelscope:owner/repo"],
        }[source]

        @quickly
        @given(kill=KILLS)
        def check(kill: dict[str, int]) -> None:
            folder = tmp_path_factory.mktemp("store")
            for entry in inputs.iterdir():
                (folder / entry.name).symlink_to(entry)
            code = killer.run(argv, folder, address, **kill)
            assert shown(folder) in ([], [content]), (kill, code)
            assert code != 0 or shown(folder) == [content]
            assert killer.run(argv, folder, address) == 0
            assert shown(folder) == [content]
            assert killer.run(["prune"], folder) == 0
            left = [p.name for p in (folder / "models").rglob("*") if p.suffix in (".part", ".new", ".json")]
            assert left == (["model.json"] if source not in ("hub", "modelscope") else [])
            assert not list((folder / "hf").rglob("*.part*"))
            shutil.rmtree(folder)

        check()
