"""Which operators of onnxruntime's CPU provider have no rule of ours: named, each with its reason."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

from codesign.errors import UnsupportedOperator
from codesign.ops.base import operators
from tests.onnx_case import NodeCase, normal

REMOVED = "an experiment that ONNX removed before opset 7; no exporter writes it"
COPIES = "a copy between processors that a session adds for itself"
MAPS = "gives or takes dictionaries, which are no tensors"
SEARCH = "a whole search around decoder graphs; `codesign generate` simulates the decoder's steps"
SAMPLING = "draws random tokens for such a search"
TEXT = "text and hashes before a network, which only one product's pipelines hold"
RARE = "none of the exporters and tools that the tests run writes it"
NEW = "of one family of decoders; none of the exporters and tools that the tests run writes it"
PACKED = "weights packed for one processor's kernel, which only that kernel can read"

MISSING = {
    "": {
        "Affine": REMOVED, "Crop": REMOVED, "DynamicSlice": REMOVED, "ImageScaler": REMOVED,
        "ParametricSoftplus": REMOVED, "Scale": REMOVED, "ScaledTanh": REMOVED, "MemcpyFromHost": COPIES,
        "MemcpyToHost": COPIES,
    },
    "ai.onnx.ml": {"CastMap": MAPS, "DictVectorizer": MAPS, "ZipMap": MAPS, "CategoryMapper": RARE},
    "com.microsoft": {
        "BeamSearch": SEARCH, "GreedySearch": SEARCH, "WhisperBeamSearch": SEARCH, "Sampling": SEARCH,
        "BifurcationDetector": SEARCH, "NGramRepeatBlock": SEARCH, "SampleOp": SAMPLING, "Tokenizer": TEXT,
        "MurmurHash3": TEXT, "NGramHashMapping": TEXT, "VarlenNGramHashMapping": TEXT, "WordConvEmbedding": TEXT,
        "DynamicTimeWarping": TEXT, "AttnLSTM": RARE, "ConvTransposeWithDynamicPads": RARE, "CropAndResize": RARE,
        "MaxpoolWithMask": RARE, "QEmbedLayerNormalization": RARE, "SparseAttention": RARE,
        "SparseToDenseMatMul": RARE, "MatMulFpQ4": PACKED, "GatherPacked": PACKED, "EngramGate": NEW,
        "GatedDeltaNet": NEW, "HyperConnectionPreMix": NEW, "HyperConnectionPostMix": NEW, "MoEGroupRouter": NEW,
        "VarlenCausalConvWithState": NEW,
    },
}  # fmt: skip


@pytest.mark.parametrize("domain", MISSING)
def test_every_other_operator_has_a_rule(domain):
    kernels = {one.op_name for one in get_all_opkernel_def() if one.provider == "CPUExecutionProvider" and
               one.domain == domain}  # fmt: skip
    assert len(kernels) > 15
    ours = {kind for owner, kind in operators() if owner == domain}
    assert kernels - ours == set(MISSING[domain])


def test_an_operator_that_makes_dictionaries_says_what_to_do():
    case = NodeCase("ZipMap", [normal(3, 2)], domain="ai.onnx.ml", classlabels_int64s=[1, 2])
    with pytest.raises(UnsupportedOperator, match=r"unknown operator 'ZipMap' .* convert with options="):
        case.computed()


def test_forms_that_converters_of_other_libraries_write():
    microsoft = {"domain": "com.microsoft"}
    for metric in ("euclidean", "sqeuclidean"):
        case = NodeCase("CDist", [normal(7, 4), normal(5, 4, seed=1)], metric=metric, **microsoft)
        case.check()
        assert case.work().macs == 7 * 5 * 4
    for axis in (0, 1, -1):
        NodeCase("UnfoldTensor", [normal(6, 7, 8)], dim=axis, size=3, step=2, **microsoft).check()
    case = NodeCase("Unique", [np.float32([3, 1, 2, 1, 3, 5])], 3, **microsoft)
    for mine, theirs in zip(case.computed(), case.expected(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
