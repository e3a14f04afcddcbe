"""The executor as an ONNX backend.

A model is loaded anew for each combination of input shapes, so that all that follows from them is known and fused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from codesign.errors import BadParameter, CodesignError
from codesign.executor import Executor
from codesign.frontend import from_proto
from codesign.transforms import optimise

KEPT_SHAPES = 8
"""Combinations of input shapes whose executors are kept."""


class Representation(BackendRep):
    """A model ready to run. `folder` is where its external data lies; `options` go to each Executor."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None, **options: Any) -> None:
        self.model = model
        self.folder = folder
        self._options = options
        stored = {item.name for item in model.graph.initializer}
        stored |= {item.values.name for item in model.graph.sparse_initializer}
        self.input_names = [item.name for item in model.graph.input if item.name not in stored]
        self._executors: OrderedDict[tuple[Any, ...], Executor] = OrderedDict()

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the model's order. `inputs` is a sequence in the model's order, a mapping by name, or the
        one array. A sequence is a list of arrays, an optional that holds nothing None.

        Raises CodesignError: BadParameter for inputs that do not fit, BadModel naming the node that fails.
        """
        values = self._by_name(inputs)
        results = self._executor(values).run(values)
        return tuple(results.values())

    def _by_name(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, Mapping):
            return dict(inputs)
        given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        if len(given) > len(self.input_names):
            raise BadParameter(f"{len(given)} inputs given, the model has {len(self.input_names)}")
        return dict(zip(self.input_names, given, strict=False))

    def _executor(self, values: Mapping[str, Any]) -> Executor:
        shapes = {name: np.shape(value) for name, value in values.items() if _is_tensor(value)}
        key = tuple(sorted(shapes.items()))
        if key not in self._executors:
            graph = from_proto(self.model, folder=self.folder, shapes=shapes, dynamic=True)
            self._executors[key] = Executor(optimise(graph), **self._options)
            while len(self._executors) > KEPT_SHAPES:
                self._executors.popitem(last=False)
        self._executors.move_to_end(key)
        return self._executors[key]


def _is_tensor(value: Any) -> bool:
    return value is not None and not isinstance(value, list | tuple)


class CodesignBackend(Backend):
    """The executor as an ONNX backend on the CPU."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model can be loaded: every operator known, every type supported."""
        try:
            from_proto(model, dynamic=True)
        except CodesignError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto | bytes, device: str = "CPU", **kwargs: Any) -> Representation:
        """The model ready to run, any number of times. Raises BadParameter for another device than the CPU."""
        if not cls.supports_device(device):
            raise BadParameter(f"device '{device}': values are computed on the CPU alone")
        return Representation(onnx.load_from_string(model) if isinstance(model, bytes) else model)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """The outputs of one node for its inputs, in the newest opset or in keyword `opset_version`."""
        names = [name for name in node.input if name]
        given = dict(zip(names, inputs, strict=True)) if not isinstance(inputs, Mapping) else dict(inputs)
        arrays = {name: np.asarray(value) for name, value in given.items()}
        graph = onnx.helper.make_graph(
            [node],
            node.name or node.op_type,
            [
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in arrays.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        imports = [onnx.helper.make_opsetid("", version)]
        if node.domain:
            imports.append(onnx.helper.make_opsetid(node.domain, kwargs.get("domain_version", 1)))
        return cls.run_model(onnx.helper.make_model(graph, opset_imports=imports), arrays, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] == "CPU"
