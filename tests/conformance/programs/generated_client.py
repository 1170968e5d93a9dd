"""Generate clients from two OpenAPI documents and ask a node with one of them.

Arguments: address of a node, its document, document of a coordinator, configuration of the
generator, an empty folder.  Prints what the generator said and what the node answered.
"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

url, node, coordinator, config, folder = sys.argv[1:]
settings = Path(folder) / "config.yaml"
settings.write_text(Path(config).read_text() + "\npost_hooks: []\n")
said = {}
for name, document in (("node", node), ("coordinator", coordinator)):
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("openapi-python-client")),
            "generate",
            *("--path", document, "--config", str(settings)),
            *("--output-path", f"{folder}/{name}_client", "--meta", "none", "--fail-on-warning"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    said[name] = {"code": done.returncode, "output": done.stdout + done.stderr}

sys.path.insert(0, folder)
client = import_module("node_client").Client(base_url=url)
models = import_module("node_client.models")
put = import_module("node_client.api.routes.put_route")
query = import_module("node_client.api.queries.query")
show = import_module("node_client.api.routes.show_route")
body = models.RouteBody(utterances=["I want my money back", "how do I get a refund"])
written = put.sync_detailed("generated", client=client, body=body)
match = query.sync(client=client, body=models.QueryRequest(text="I want my money back"))
missing = show.sync(name="nothing", client=client)
print(
    json.dumps(
        {
            "said": said,
            "written": written.status_code,
            "route": match.route,
            "confidence": match.confidence,
            "missing": missing.code,
        }
    )
)
