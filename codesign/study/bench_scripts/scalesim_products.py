"""SCALE-Sim walks matrix products cycle by cycle: argument {"products": [[m, n, k], ...], "rows", "columns"}."""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

from scalesim.scale_sim import scalesim

CONFIGURATION = """[general]
run_name = bench
[architecture_presets]
ArrayHeight : {rows}
ArrayWidth : {columns}
IfmapSramSzkB : 1024
FilterSramSzkB : 1024
OfmapSramSzkB : 1024
IfmapOffset : 0
FilterOffset : 10000000
OfmapOffset : 20000000
Bandwidth : 100
Dataflow : os
MemoryBanks : 1
ReadRequestBuffer : 32
WriteRequestBuffer : 32
[layout]
IfmapCustomLayout : False
IfmapSRAMBankBandwidth : 10
IfmapSRAMBankNum : 10
IfmapSRAMBankPort : 2
FilterCustomLayout : False
FilterSRAMBankBandwidth : 10
FilterSRAMBankNum : 10
FilterSRAMBankPort : 2
[sparsity]
SparsitySupport : false
SparseRep : ellpack_block
OptimizedMapping : false
BlockSize : 8
RandomNumberGeneratorSeed : 40
[run_presets]
InterfaceBandwidth : CALC
UseRamulatorTrace : False
"""


def main() -> None:
    task = json.loads(sys.argv[1])
    folder = Path(tempfile.mkdtemp())
    configuration, topology, layout = folder / "array.cfg", folder / "products.csv", folder / "layout.csv"
    configuration.write_text(CONFIGURATION.format(**task))
    rows = [f"product{index},{m},{n},{k}," for index, (m, n, k) in enumerate(task["products"])]
    topology.write_text("\n".join(["Layer,M,N,K,", *rows, ""]))
    layout.write_text("Layer\n")
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        simulator = scalesim(
            save_disk_space=True, verbose=False, config=str(configuration), topology=str(topology),
            layout=str(layout), input_type_gemm=True,
        )  # fmt: skip
        simulator.run_scale(top_path=str(folder))
    print(json.dumps({"seconds": time.perf_counter() - began}))


main()
