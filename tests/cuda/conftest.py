"""The CUDA backend without a card: its sources compiled for the host against an emulation of the device.

The emulation (tests/cuda/emulation) runs every kernel thread by thread, with the register layouts of the PTX manual, so
that all index arithmetic is tested. On a machine with a card and a build with the GPU backend, the same tests run there too.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfbyte import _core
from halfbyte._core import testing

SOURCE = Path(__file__).parent / "emulation"


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("needs cmake and c++")
    # Kept from run to run: only what has changed is compiled again. Another run waits for this one's compiler.
    build = SOURCE.parents[2] / "build" / "cuda_emulation"
    build.mkdir(parents=True, exist_ok=True)
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
        subprocess.run(["cmake", "-S", SOURCE, "-B", build, *generator, *launcher], check=True, capture_output=True)
        result = subprocess.run(["cmake", "--build", build, "--parallel", "2"], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-4000:]
        # A copy, so that a later run's build changes nothing under this one.
        return str(shutil.copy(build / "libhalfbyte_cuda.so", tmp_path_factory.mktemp("cuda_emulation")))


@pytest.fixture(scope="session", params=["emulation", "card"])
def library(request: pytest.FixtureRequest) -> str:
    """Path of the backend under test; empty: the installed one."""
    if request.param == "emulation":
        return str(request.getfixturevalue("emulated_library"))
    facts = _core.gpu_info()
    if not facts["used"]:
        pytest.skip(f"no card: {facts['problem']}")
    return ""


@pytest.fixture
def gpu(library: str) -> Iterator[None]:
    """Level "cuda" of testing's ops, and the device of models loaded in the test."""
    testing.open_gpu_library(library)
    yield
    testing.open_gpu_library("")
