"""Run a program that uses fastembed, with the model of the bundled encoder instead of a download.

    run_with_bundled_model.py MODEL TOKENIZER PROGRAM FOLDER ARGUMENT...

Prints the lines that the program printed as JSON.
"""

import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks" / "peers"))
from bundled_model import register

model, tokenizer, program, folder, *arguments = sys.argv[1:]
register(Path(model), Path(tokenizer))
os.chdir(folder)
sys.argv = [program, *arguments]
output = io.StringIO()
with contextlib.redirect_stdout(output):
    runpy.run_path(program, run_name="__main__")
print(json.dumps(output.getvalue().splitlines()))
