"""ZigZag searches the best mapping of one convolution on its Edge-TPU-like accelerator: argument
{"channels", "kernels", "size", "kernel"}."""

import contextlib
import io
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import zigzag
from zigzag.api import get_hardware_performance_zigzag


def main() -> None:
    task = json.loads(sys.argv[1])
    layer = {
        "id": 0,
        "name": "convolution",
        "operator_type": "Conv",
        "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
        "dimension_relations": ["ix=1*ox+1*fx", "iy=1*oy+1*fy"],
        "loop_dims": ["B", "K", "C", "OY", "OX", "FY", "FX"],
        "loop_sizes": [1, task["kernels"], task["channels"], task["size"], task["size"], *[task["kernel"]] * 2],
        "operand_precision": {"W": 8, "I": 8, "O": 16, "O_final": 8},
        "operand_source": {"I": 0, "W": 0},
    }
    inputs = Path(zigzag.__file__).parent / "inputs"
    logging.disable(logging.CRITICAL)
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        get_hardware_performance_zigzag(
            [layer],
            str(inputs / "hardware" / "edge_tpu_like.yaml"),
            str(inputs / "mapping" / "edge_tpu_like.yaml"),
            dump_folder=tempfile.mkdtemp(),
            loma_show_progress_bar=False,
        )
    print(json.dumps({"seconds": time.perf_counter() - began}))


main()
