"""Write files with semantic-router 0.x itself, and a proxy's configuration with LiteLLM.

    write_semantic_router_0.py FOLDER

Prints the routes that were written, and those that LiteLLM's auto-router loads.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import tiktoken
import yaml
from litellm.router_strategy.auto_router.auto_router import AutoRouter
from litellm.types.router import Deployment, LiteLLM_Params
from semantic_router import Route
from semantic_router.encoders import OpenAIEncoder
from semantic_router.routers.base import RouterConfig

os.environ["OPENAI_API_KEY"] = "sk-none"
tiktoken.encoding_for_model = lambda name: None  # fetches a vocabulary
OpenAIEncoder.__call__ = lambda self, docs, **options: [[float(len(d)), 1.0] for d in docs]

ROUTES = [
    Route(name="gpt-4o", utterances=["solve this equation", "prove: a > b"], score_threshold=0.5),
    Route(
        name="天气",
        utterances=["今天会下雨吗", "no"],
        description="Wetter",
        function_schemas=[{"name": "get_weather", "parameters": {"type": "object"}}],
        metadata={"team": "sky"},
    ),
]


def main(folder: Path) -> None:
    config = RouterConfig(ROUTES, "openai", "text-embedding-3-small")
    for name in ("router.json", "layer.yaml"):
        config.to_file(str(folder / name))
    shared = {
        "auto_router_default_model": "gpt-4o-mini",
        "auto_router_embedding_model": "text-embedding-3-small",
    }
    text = (folder / "router.json").read_text(encoding="utf-8")
    loaded = {}
    for name, where in {
        "config.yaml": {"auto_router_config_path": "router.json"},
        "config-inline.yaml": {"auto_router_config": text},
    }.items():
        params = LiteLLM_Params(model="auto_router/auto_router_1", **where, **shared)
        deployment = Deployment(model_name="auto_router_1", litellm_params=params)
        plain = {
            "model_name": "gpt-4o",
            "litellm_params": {"model": "openai/gpt-4o", "api_key": "os.environ/KEY"},
        }
        models = [plain, json.loads(deployment.model_dump_json(exclude_none=True))]
        (folder / name).write_text(yaml.safe_dump({"model_list": models}, allow_unicode=True))
        path = where.get("auto_router_config_path")
        router = AutoRouter(
            model_name="auto_router_1",
            default_model="gpt-4o-mini",
            embedding_model="text-embedding-3-small",
            ctx=SimpleNamespace(),
            auto_router_config_path=str(folder / path) if path else None,
            auto_router_config=where.get("auto_router_config"),
        )
        loaded[name] = {each.name: each.utterances for each in router.loaded_routes}
    written = {each.name: each.utterances for each in ROUTES}
    print(json.dumps({"router.json": written, "layer.yaml": written, **loaded}))


main(Path(sys.argv[1]))
