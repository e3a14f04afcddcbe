"""ONNX's Backend interface: any program that drives a backend (`onnx.backend.test` for one) drives our executor.

    import codesign.onnx_backend as backend
    outputs = backend.run_model(model, [array])

`conformance` runs the standard's own cases.
"""

from codesign.onnx_backend.backend import CodesignBackend, Representation

__all__ = ["CodesignBackend", "Representation", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]

is_compatible = CodesignBackend.is_compatible
prepare = CodesignBackend.prepare
run_model = CodesignBackend.run_model
run_node = CodesignBackend.run_node
supports_device = CodesignBackend.supports_device
