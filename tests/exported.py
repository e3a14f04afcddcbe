"""Networks with random weights as torch.onnx writes them: what `tests/test_exporters.py` loads and executes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import transformers

Case = tuple[torch.nn.Module, tuple[torch.Tensor, ...]]
"""A network in evaluation mode and the tensors to trace it with."""

TOKENS, PAST = 16, 12
"""Tokens of a prompt; entries of a key and value cache before a decode step."""


class Called(torch.nn.Module):
    """A network with tensors in and tensors out, whatever it takes and gives itself."""

    def __init__(self, network: torch.nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.call = call

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.call(self.network, *inputs)


def vision(name: str) -> Case:
    """A timm network on one image of 224 x 224. Normalisations get statistics that are not the identity."""
    network = timm.create_model(name, pretrained=False).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return network, (torch.randn(1, 3, 224, 224),)


def bert() -> Case:
    network = transformers.BertModel(transformers.BertConfig())
    mask = torch.ones(1, TOKENS, dtype=torch.long)
    mask[:, -3:] = 0
    return Called(network, lambda model, ids, mask: model(ids, attention_mask=mask).last_hidden_state).eval(), (
        _prompt(TOKENS),
        mask,
    )


def gpt2_prefill() -> Case:
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    return Called(network, lambda model, ids: _step(model, ids, None)).eval(), (_prompt(TOKENS),)


def gpt2_decode() -> Case:
    """One token after `PAST` cached ones: keys and values of each layer in, and out with one entry more."""
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    settings = network.config
    shape = (1, settings.n_head, PAST, settings.n_embd // settings.n_head)
    past = tuple(torch.randn(shape) for _ in range(2 * settings.n_layer))
    return Called(network, lambda model, ids, *past: _step(model, ids, past)).eval(), (_prompt(1), *past)


def _prompt(length: int) -> torch.Tensor:
    return torch.randint(0, 1000, (1, length))


def _step(model: torch.nn.Module, ids: torch.Tensor, past: tuple[torch.Tensor, ...] | None) -> tuple[torch.Tensor, ...]:
    cache = transformers.DynamicCache()
    for layer in range(len(past or ()) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    result = model(ids, past_key_values=cache, use_cache=True)
    present = [tensor for layer in result.past_key_values.layers for tensor in (layer.keys, layer.values)]
    return result.logits, *present


CASES: dict[str, Callable[[], Case]] = {
    "resnet50": lambda: vision("resnet50"),
    "mobilenetv2": lambda: vision("mobilenetv2_100"),
    "efficientnet_b0": lambda: vision("efficientnet_b0"),
    "vit_tiny": lambda: vision("vit_tiny_patch16_224"),
    "swin_tiny": lambda: vision("swin_tiny_patch4_window7_224"),
    "bert": bert,
    "gpt2_prefill": gpt2_prefill,
    "gpt2_decode": gpt2_decode,
}
EXPORTERS = ("dynamo", "legacy")


def export(name: str, exporter: str, path: Path) -> None:
    """Write network `name` to `path` by one of EXPORTERS, its weights drawn from one seed."""
    torch.manual_seed(0)
    network, inputs = CASES[name]()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            torch.onnx.export(network, inputs, str(path), dynamo=True, verbose=False)
        else:
            torch.onnx.export(network, inputs, str(path), dynamo=False, opset_version=17)
