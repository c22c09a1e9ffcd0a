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

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfbyte.cli.main import main

from ..convert.folders import write_folder
from ..hub.server import World, serving

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

    def run(self, argv: list[str], cwd: Path, **kill: int) -> int:
        environment = {"HALFBYTE_MODELS": str(cwd / "models"), "OLLAMA_MODELS": str(cwd / "none")}
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
        self._process.wait(60)


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
    (place / "Modelfile").write_text("FROM ./in.gguf\nSYSTEM You are brief.\nPARAMETER temperature 0.5\n")
    return place


#: command -> arguments, and what it writes. The targets of those with --force exist before.
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "convert": (["convert", "folder", "out.gguf", "--type", "q8_0", "--force"], ["out.gguf"]),
    "convert to a folder": (["convert", "in.gguf", "back", "--force"], ["back"]),
    "quantize": (["quantize", "in.gguf", "out.gguf", "q4_k_m"], ["out.gguf"]),
    "imatrix": (["imatrix", "-m", "in.gguf", "-f", "text.txt", "-o", "im.gguf", "-c", "64"], ["im.gguf"]),
    "save-logits": (
        ["perplexity", "-m", "in.gguf", "-f", "text.txt", "-c", "64", "--save-logits", "base.bin"],
        ["base.bin"],
    ),
    "merge": (["merge", "part-00001-of-00003.gguf", "out.gguf"], ["out.gguf"]),
    "split": (
        ["split", "in.gguf", "cut", "--max-tensors", "8"],
        [f"cut-0000{i}-of-00003.gguf" for i in (1, 2, 3)],
    ),
}

#: Where a command dies: at a number of bytes of a file, or before a change in the file system.
KILLS = st.one_of(
    st.fixed_dictionaries({"bytes": st.integers(0, 300_000)}), st.fixed_dictionaries({"event": st.integers(1, 12)})
)
quickly = settings(
    max_examples=int(os.environ.get("HALFBYTE_KILLS", "6")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
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


@pytest.mark.parametrize("command", ["create", "pull"])
def test_a_killed_command_leaves_the_store_whole(
    command: str, killer: Killer, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = [(inputs / "in.gguf").read_bytes()]
    world = World(files={"m.gguf": expected[0]})

    def models(folder: Path) -> list[bytes]:
        """The weights of the models that the store shows."""
        cards = sorted((folder / "models").glob("[!.]*/model.json"))
        return [(card.parent / json.loads(card.read_text())["model"]).read_bytes() for card in cards]

    with serving(world) as address:
        argv = ["create", "mine"] if command == "create" else ["pull", f"{address}/plain/m.gguf"]

        @quickly
        @given(kill=KILLS)
        def check(kill: dict[str, int]) -> None:
            folder = tmp_path_factory.mktemp("store")
            for entry in inputs.iterdir():
                (folder / entry.name).symlink_to(entry)
            code = killer.run(argv, folder, **kill)
            assert models(folder) in ([], expected), (kill, code)
            assert code != 0 or models(folder) == expected
            assert killer.run(argv, folder) == 0
            assert models(folder) == expected
            assert killer.run(["prune"], folder) == 0
            left = [p.name for p in (folder / "models").rglob("*") if p.suffix in (".part", ".new", ".json")]
            assert left == ["model.json"]
            shutil.rmtree(folder)

        check()
