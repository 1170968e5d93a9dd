"""Print the version of the client."""

import json

import openai

print(json.dumps({"version": openai.__version__}))
