"""Peers of the bench: other tools, each in a virtual environment of its own, timed by a script that runs in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).with_name("bench_scripts")
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
PATIENCE_S = 900


class PeerFailed(Exception):
    """A peer cannot be installed or run: the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool from the package index. The first of `requirements` is the tool itself, its version pinned."""

    requirements: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.requirements[0].replace("==", " ")

    @property
    def folder(self) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "codesign" / "peers" / self.requirements[0]

    def python(self) -> Path:
        """The interpreter of the peer's environment, made and filled when it is not there yet. Raises PeerFailed."""
        python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        installed = self.folder / "installed"
        if not installed.is_file():
            _call([sys.executable, "-m", "venv", "--clear", str(self.folder)], clean_environment())
            _call([str(python), "-m", "pip", "install", "--quiet", *self.requirements], clean_environment())
            installed.write_text("\n".join(self.requirements) + "\n", encoding="utf-8")
        return python


SCALESIM = Peer(("scalesim==3.0.0", "numpy<2"))
ZIGZAG = Peer(("zigzag-dse==3.9.1", "six"))
ONNX_TOOL = Peer(("onnx-tool==1.0.1",))

NOT_RUN = ("ethos-u-vela: reads TensorFlow Lite files only, and the networks here are ONNX",)


def run_script(name: str, task: Mapping[str, Any], python: Path | None = None, threads: int = 1) -> dict[str, Any]:
    """What the script `name` of `bench_scripts` prints, given `task`, both JSON; by this interpreter or by `python`,
    on one thread unless more are allowed. Raises PeerFailed."""
    command = [str(python or sys.executable), str(SCRIPTS / f"{name}.py"), json.dumps(task)]
    lines = _call(command, clean_environment() | dict.fromkeys(THREAD_LIMITS, str(threads))).splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise PeerFailed(f"{name}: printed no result") from error
    return found


def clean_environment() -> dict[str, str]:
    """The environment without settings that choose kernels of the BLAS library for another processor."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}


def _call(command: list[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerFailed(str(error)) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise PeerFailed(said[-1] if said else f"exit code {done.returncode}")
    return done.stdout
