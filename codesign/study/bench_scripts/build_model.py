"""Time and memory of defining a built-in network in a process of its own: argument {"model"}."""

import json
import sys
import time
from pathlib import Path

import workloads


def _peak_bytes() -> int:
    """Most memory this process has held. Linux's getrusage counts the parent's before exec too, /proc does not."""
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main() -> None:
    task = json.loads(sys.argv[1])
    began = time.perf_counter()
    workloads.build(task["model"])
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "bytes": _peak_bytes()}))


main()
