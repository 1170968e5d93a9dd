"""LiteLLM's proxy with two stub models and a node as its classifier, all as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from environments import python_of
from ports import free_port
from repository import ROOT
from synaptoroute.cli.processes import NodeProcess

EXAMPLE = ROOT / "examples/litellm_proxy"
MASTER_KEY = "sk-8d1f0e37c2aa4b65b1c8f4d2"  # LiteLLM refuses to start with none or a weak one
START_SECONDS_MAX = 120.0


@dataclass
class LiteLlmProxy:
    """The running processes.

    Attributes:
        node: The node that classifies; may be stopped.
        url: Address of the proxy.
        log: What the proxy printed.
    """

    node: NodeProcess
    url: str
    log: Path

    def ask(self, http: httpx.Client, text: str, model: str = "auto") -> str:
        """Ask for a completion; return the stub model's answer, which names it."""
        answer = http.post(
            f"{self.url}/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": text}]},
            headers={"Authorization": f"Bearer {MASTER_KEY}"},
        )
        assert answer.is_success, answer.text
        content: str = answer.json()["choices"][0]["message"]["content"]
        return content


def config_with(folder: Path, name: str, router: dict[str, Any]) -> Path:
    """Write the example's configuration with one more model that routes."""
    config = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
    parameters = {"model": "auto_router/complexity_router", "complexity_router_config": router}
    config["model_list"].append({"model_name": name, "litellm_params": parameters})
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def litellm_proxy(folder: Path, config: Path = EXAMPLE / "config.yaml") -> Iterator[LiteLlmProxy]:
    """Start the node, two stub models and the proxy; stop them at the end."""
    litellm = python_of("litellm-proxy").with_name("litellm")
    with ExitStack() as stack:
        settings = {"database": str(folder / "node.sqlite"), "lanes": "1"}
        node = NodeProcess(free_port(), settings, folder / "node.log")
        node.start()
        stack.callback(node.stop)
        node.wait_ready()
        imported = httpx.post(
            f"{node.url}/v1/import",
            content=(EXAMPLE / "routes.yaml").read_bytes(),
            headers={"Content-Type": "application/yaml"},
        )
        assert imported.is_success, imported.text
        urls = {}
        for name in ("small", "large"):
            port = free_port()
            words = [sys.executable, str(EXAMPLE / "stub_model.py"), name, str(port)]
            stack.enter_context(_process(words, {}, folder / f"{name}.log"))
            urls[f"{name.upper()}_MODEL_URL"] = f"http://127.0.0.1:{port}/v1"
        port, log = free_port(), folder / "proxy.log"
        variables = {
            **urls,
            "MODEL_API_KEY": "none",
            "TYPESAFE_API_BASE": node.url,
            "TYPESAFE_API_KEY": "none",
            "LITELLM_MASTER_KEY": MASTER_KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it is downloaded
        }
        words = [str(litellm), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        process = stack.enter_context(_process(words, variables, log))
        proxy = LiteLlmProxy(node, f"http://127.0.0.1:{port}", log)
        _wait(f"{proxy.url}/health/liveliness", process, log)
        yield proxy


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the proxy did not start: {log.read_text()[-3_000:]}")


@contextmanager
def _process(
    words: list[str], variables: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            words,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)
