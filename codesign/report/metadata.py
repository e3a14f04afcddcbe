"""A report as metadata on ONNX nodes, for viewers such as Netron."""

from __future__ import annotations

from codesign.report import units
from codesign.report.schema import OpRecord, ReportDocument


def node_metadata(document: ReportDocument) -> dict[str, dict[str, str]]:
    """Key and value pairs by ONNX node name. The figures are those of the whole operation a node was fused into."""
    return {node: _of_op(op, document.device) for op in document.ops for node in op.onnx_nodes}


def _of_op(op: OpRecord, device: str) -> dict[str, str]:
    return {
        "codesign.device": device,
        "codesign.operation": f"{op.name} ({op.op})",
        "codesign.latency": units.seconds(op.latency_s),
        "codesign.energy": units.joules(op.energy_J),
        "codesign.bound": op.bound,
        "codesign.resource": op.resource,
        "codesign.fused_nodes": str(len(op.onnx_nodes)),
    }
