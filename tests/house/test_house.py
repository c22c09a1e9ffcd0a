"""The walls of the house: who may use whom, no family outside its file, everything in its list."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from halfbyte import _core
from halfbyte.cli.main import command_modules

from ..conftest import REPOSITORY

CSRC, PACKAGE = REPOSITORY / "csrc", REPOSITORY / "python" / "halfbyte"

# Room -> rooms it may include, itself not named.
ARROWS = {
    "base": "",
    "formats": "base",
    "files": "base formats",
    "ops": "base formats",
    "cpu": "base formats ops",
    "cuda": "base formats ops",
    "cache": "base formats ops",
    "sampling": "base",
    "text": "base",
    "model": "base formats files ops cache",
    "engine": "base formats files ops cache model sampling",
    "quantize": "base formats files ops cache model",
    "bindings": "base formats files ops cache model sampling engine text quantize",
}
# The only files that may look into a backend.
DOORS = {"bindings/cpu_entry.cpp": {"cpu"}, "bindings/cuda_entry.cpp": {"cuda"}}

PYTHON_ARROWS = {
    "errors": "",
    "beside": "errors",
    "params": "errors",
    "outputs": "errors params",
    "tokenizer": "errors params outputs",
    "chat": "errors params outputs tokenizer grammar",
    "running": "errors params outputs tokenizer grammar chat",
    "grammar": "errors params outputs tokenizer",
    "hub": "errors params outputs",
    "convert": "errors beside tokenizer quantize",
    "adapters": "errors convert",
    "quantize": "errors beside",
    "machine": "errors",
    "opening": "errors params tokenizer chat hub convert",
    "llm": "errors params outputs tokenizer chat grammar hub adapters opening running",
    "program": "errors params outputs chat grammar llm",
    "server": "errors params outputs tokenizer chat grammar hub running llm",
    "cli": "errors params outputs tokenizer chat grammar hub convert adapters quantize machine llm server",
    "__main__": "cli",
    "__init__": "errors params outputs llm",
}


def cpp_files() -> list[Path]:
    return sorted(p for kind in ("h", "cpp", "cu", "cuh") for p in CSRC.rglob(f"*.{kind}"))


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", cpp_files(), ids=lambda p: str(p.relative_to(CSRC)))
def test_includes_follow_the_arrows(path: Path) -> None:
    name = str(path.relative_to(CSRC))
    room = name.split("/")[0]
    allowed = {room, *ARROWS[room].split(), *DOORS.get(name, ())}
    for used in re.findall(r'#include "(\w+)/', path.read_text()):
        assert used in allowed, f"{name} includes {used}/"


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = {room, *PYTHON_ARROWS[room].split(), "_core", "__version__", "__init__"}
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names = [a.name for a in node.names] if isinstance(node, ast.ImportFrom) and node.module == "halfbyte" else []
        modules += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        used = [m.split(".")[1] for m in modules if m.startswith("halfbyte.")] + names
        for room_used in used:
            assert room_used in allowed, f"{path.name} imports {room_used}"


def test_no_family_outside_its_file() -> None:
    # Without their numbers; but "dots" are also what products of rows are called.
    families = "|".join(sorted({re.sub(r"(?<!dots)\d+$", "", a) for a in _core.ARCHITECTURES}))
    for path in cpp_files():
        if "archs" in path.parts or "formats" in path.parts:
            continue
        code = re.sub(r"//[^\n]*", "", path.read_text())
        assert not re.search(rf"\b({families})\d*\b", code), path


def test_every_architecture_is_listed() -> None:
    listed = (CSRC / "model" / "archs" / "list.h").read_text()
    files = {p.stem for p in (CSRC / "model" / "archs").glob("*.cpp")}
    assert files == {name.replace("-", "_") for name in _core.ARCHITECTURES}
    assert all(f"&{name}," in listed for name in files)


def test_every_sampler_is_listed() -> None:
    stages = {p.stem for p in (CSRC / "sampling").glob("*.cpp")} - {"chain", "candidates", "bias", "draw"}
    assert {s.removesuffix("_p") if s == "typical_p" else s for s in _core.SAMPLER_STAGES} == stages


def test_every_command_has_a_door() -> None:
    for name, module in command_modules().items():
        assert callable(module.add_arguments), name
        assert callable(module.run), name
        assert module.__doc__, name


@pytest.mark.parametrize("path", [*cpp_files(), *python_files()], ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_files_say_what_they_are_and_stay_small(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    assert lines[0].startswith(("//", '"""', "#")), "the first line says what lives here"
    is_kernel = "kernels" in path.parts
    assert is_kernel or len(lines) <= 500 or "longer" in "\n".join(lines[:3]), f"{len(lines)} lines"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("namespace { int helper(int a) { return a * a; } } int fill_it(int a) { return helper(a); }", ""),
        ("inline int shared(int a) { return a; } int (*fill_it())(int) { return &shared; }", "shared"),
        ("int fill_it() { return 1; } int more = 2;", "more"),
        ("int fill_that() { return 1; }", "fill_it alone was expected"),
    ],
)
def test_levels_share_no_code(tmp_path: Path, code: str, complaint: str) -> None:
    """The build looks at each level's object; this looks at how it looks."""
    tools = [shutil.which(name) for name in ("c++", "nm", "cmake")]
    if None in tools:
        pytest.skip("needs c++, nm and cmake")
    compiler, nm, cmake = tools
    (tmp_path / "level.cpp").write_text(code)
    subprocess.run([compiler, "-O0", "-c", "level.cpp", "-o", "level.o"], check=True, cwd=tmp_path)
    script = REPOSITORY / "cmake" / "check_level.cmake"
    command = [cmake, f"-DNM={nm}", "-DOBJECT=level.o", "-DENTRY=fill_it", "-P", script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode == 0) == (not complaint)
    assert complaint in " ".join(result.stderr.split())


def test_every_level_is_built_and_looked_at() -> None:
    listed = re.findall(r"halfbyte_cpu_level\((\w+)", (REPOSITORY / "cmake" / "cpu_levels.cmake").read_text())
    assert set(listed) == {p.stem for p in (CSRC / "cpu" / "levels").glob("*.cpp")}
    function = (REPOSITORY / "cmake" / "halfbyte.cmake").read_text().split("function(halfbyte_cpu_level")[1]
    assert "check_level.cmake" in function


def test_stubs_name_everything() -> None:
    stub = (PACKAGE / "_core" / "__init__.pyi").read_text()
    for name in dir(_core):
        if not name.startswith("_"):
            assert re.search(rf"\b{name}\b", stub), f"_core.pyi lacks {name}"


def test_import_is_light() -> None:
    code = "import sys, halfbyte; print(*[m for m in ('rich', 'prompt_toolkit', 'huggingface_hub', 'jinja2', 'llguidance', 'fastapi', 'uvicorn') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
