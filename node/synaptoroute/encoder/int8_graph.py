"""draft"""
from __future__ import annotations
import os
import numpy as np
from synaptoroute.encoder.onnx_wire import GraphWriter, read_graph
MS = "com.microsoft"
VAR = os.environ.get("VAR", "A")
NORES = bool(os.environ.get("ASYM"))
def build(content: bytes) -> bytes:
    g = read_graph(content)
    by_output = {out: node for node in g.nodes for out in node.outputs}
    by_input = {}
    for node in g.nodes:
        for i in node.inputs: by_input.setdefault(i, node)
    T = g.tensors
    w = GraphWriter()
    def weight(bias):
        add = by_input[bias]
        mm = by_output[[i for i in add.inputs if i != bias][0]]
        name = mm.inputs[1]
        return T[name + "_q"], T[name + "_scale"].reshape(-1)
    if VAR == "B":
        amax, zp = 127, 128
    else:
        amax, zp = 63, 64
    w.tensor("per_step", np.array(1 / amax, np.float32)); w.tensor("zero_point", np.array([zp], np.uint8)); w.tensor("zp0", np.array(zp, np.uint8)); w.tensor("one", np.array(1, np.float32))
    w.tensor("least", np.array(1e-30, np.float32))
    def quantise(x):
        w.node("Abs", [x], [x + "_abs"])
        w.node("ReduceMax", [x + "_abs"], [x + "_max"], axes=[-1], keepdims=1)
        w.node("Mul", [x + "_max", "per_step"], [x + "_scale"])
        if os.environ.get("DIV"):
            w.node("Div", [x, x + "_scale"], [x + "_n"])
            w.node("QuantizeLinear", [x + "_n", "one", "zp0"], [x + "_q"])
            return
        w.node("Squeeze", [x + "_scale", "last"], [x + "_flat"])
        w.node("QuantizeLinear", [x, x + "_flat", "zps"], [x + "_q"], axis=0)
    w.tensor("last", np.array([-1], np.int64))
    def matmul(x, q, scale, out):
        if VAR == "B":
            f = q.astype(np.float64); s = np.abs(f).max(0) / 64; q = np.clip(np.round(f / s), -64, 63).astype(np.int8); scale = (scale * s).astype(np.float32)
        w.node("MatMulIntegerToFloat", [x + "_q", w.tensor(out + "_w", q), "one", w.tensor(out + "_ws", scale), "zp0"], [out + "_r"], MS)
        w.node("Mul", [out + "_r", x + "_scale"], [out])
    E = "inner.embeddings."
    pos = T[E + "position_embeddings.weight_q"].astype(np.float32) * T[E + "position_embeddings.weight_scale"] + T[E + "token_type_embeddings.weight"][0]
    w.node("Shape", ["ids"], ["len"]); w.node("Expand", ["zero_point", "len"], ["zps"])
    w.node("Gather", [w.tensor("word", T[E + "word_embeddings.weight_q"]), "ids"], ["wq"]); w.node("Cast", ["wq"], ["wf"], to=1)
    w.node("Gather", [w.tensor("word_scale", T[E + "word_embeddings.weight_scale"]), "ids"], ["wsc"]); w.node("Mul", ["wf", "wsc"], ["wd"])
    w.node("Gather", [w.tensor("position", pos.astype(np.float32)), "positions"], ["pd"]); w.node("Add", ["wd", "pd"], ["e"])
    def norm(x, prefix, out):
        w.node("LayerNormalization", [x, w.tensor(out + "_g", T[prefix + ".weight"]), w.tensor(out + "_b", T[prefix + ".bias"])], [out], axis=-1, epsilon=1e-12)
    norm("e", E + "LayerNorm", "x0")
    w.tensor("flat", np.array([-1, 384], np.int64))
    x = "x0"
    for l in range(6):
        P = f"inner.encoder.layer.{l}."; t = f"l{l}"
        parts = [weight(P + f"attention.self.{n}.bias") for n in ("query", "key", "value")]
        quantise(x)
        matmul(x, np.concatenate([q for q, _ in parts], 1), np.concatenate([s for _, s in parts]), t + "qkv")
        b = w.tensor(t + "bqkv", np.concatenate([T[P + f"attention.self.{n}.bias"] for n in ("query", "key", "value")]))
        w.node("Gather", [t + "qkv", "company"], [t + "padded"])
        w.node("Split", [t + "padded"], [t + "q", t + "k", t + "v"], axis=-1)
        w.node("MultiHeadAttention", [t + "q", t + "k", t + "v", b, "counts"], [t + "att"], MS, num_heads=12)
        w.node("Reshape", [t + "att", "flat"], [t + "attf"])
        w.node("Gather", [t + "attf", "places"], [t + "a"])
        def dense(x, name, out):
            quantise(x); q, s = weight(P + name + ".bias"); matmul(x, q, s, out)
        dense(t + "a", "attention.output.dense", t + "o")
        def join(y, name, res, out):
            w.node("Add", [y, w.tensor(out + "_bias", T[P + name + ".bias"])], [out + "_1"]); w.node("Add", [out + "_1", res], [out + "_2"])
        join(t + "o", "attention.output.dense", x, t + "j")
        norm(t + "j_2", P + "attention.output.LayerNorm", t + "x1")
        dense(t + "x1", "intermediate.dense", t + "i")
        w.node("BiasGelu", [t + "i", w.tensor(t + "ib", T[P + "intermediate.dense.bias"])], [t + "ge"], MS)
        dense(t + "ge", "output.dense", t + "d")
        join(t + "d", "output.dense", t + "x1", t + "k2")
        x = "hidden" if l == 5 else t + "x2"
        norm(t + "k2_2", P + "output.LayerNorm", x)
    w.input("ids", np.int64, ["tokens"]); w.input("positions", np.int64, ["tokens"]); w.input("company", np.int64, ["texts", "length"])
    w.input("counts", np.int32, ["texts"]); w.input("places", np.int64, ["tokens"]); w.output("hidden", np.float32, ["tokens", 384])
    return w.model(9, {"": 17, MS: 1})
