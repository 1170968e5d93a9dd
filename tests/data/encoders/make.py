"""Makes the small encoders of this folder: real architectures with random weights.

Needs torch, transformers, onnx, onnxscript and onnxruntime, which the project does not:
run it in an environment that has them.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnxruntime.transformers import optimizer
from transformers import (
    BertConfig,
    BertModel,
    MPNetConfig,
    MPNetModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

FOLDER = Path(__file__).parent
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 120,
}
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


class Rows(torch.nn.Module):
    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.inner, self.names = model, names

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.inner(**dict(zip(self.names, given, strict=True))).last_hidden_state


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Make texts differ: fresh weights are small, and fresh biases are zero."""
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "LayerNorm.weight" in name or name.endswith("bias"):
                values.add_(torch.randn_like(values) * 0.1)
            else:
                values.mul_(6)
    return model.eval()


def export(model: torch.nn.Module, name: str, inputs: int, *, is_dynamo: bool = False) -> Path:
    names = INPUTS[:inputs]
    ids = torch.randint(4, 110, (2, 9))
    given = (ids, torch.ones_like(ids), torch.zeros_like(ids))[:inputs]
    path = FOLDER / f"{name}.onnx"
    rows = Rows(model, names)
    outputs = ["last_hidden_state"]
    if is_dynamo:
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=60)}
        shapes = (tuple(axes for _ in names),)
        program = torch.onnx.export(
            rows, given, input_names=names, output_names=outputs, dynamic_shapes=shapes, dynamo=True
        )
        graph = program.model_proto
        for part in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info):
            del part.metadata_props[:]
        del graph.graph.value_info[:]
        onnx.save(graph, path)
    else:
        axes = {each: {0: "batch", 1: "length"} for each in names + outputs}
        torch.onnx.export(
            rows,
            given,
            str(path),
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=14,
            dynamo=False,
        )
    return path


def main() -> None:
    torch.manual_seed(7)
    bert = spread(BertModel(BertConfig(max_position_embeddings=64, **SIZES), False))
    export(bert, "bert", 3)
    export(bert, "bert_dynamo", 3, is_dynamo=True)
    fused = optimizer.optimize_model(
        str(FOLDER / "bert.onnx"), model_type="bert", num_heads=4, hidden_size=32, opt_level=0
    )
    fused.convert_float_to_float16(keep_io_types=True)
    fused.save_model_to_file(str(FOLDER / "bert_fused_float16.onnx"))
    mpnet = spread(MPNetModel(MPNetConfig(max_position_embeddings=66, **SIZES), False))
    export(mpnet, "mpnet", 2)
    types = XLMRobertaConfig(max_position_embeddings=66, type_vocab_size=1, **SIZES)
    export(spread(XLMRobertaModel(types, False)), "xlm_roberta", 2)


if __name__ == "__main__":
    main()
