#!/usr/bin/env python3
"""Delete files of installed libraries that a node never reads.

The wheels of the libraries carry tests, tools for authors, copies of shared libraries for other
languages, and debug symbols: a third of their bytes.  Each pattern below says what it is; the
tests of the image run what remains.

Usage: deploy/trim_libraries.py ENVIRONMENT/bin/python.  Symbols are removed if there is a `strip`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

UNUSED: Final = {
    "tests of the libraries": ("**/tests", "**/test"),
    "types for editors": ("**/*.pyi",),
    "sources and headers of compiled modules": tuple(
        f"**/*.{kind}" for kind in ("a", "c", "h", "proto", "pxd", "pyx")
    ),
    "lists of the parts of compiled modules, and of installed files": (
        "*.dist-info/sboms",
        "*.dist-info/RECORD",
    ),
    "the library for C; the module for Python contains its own": (
        "onnxruntime/capi/libonnxruntime.so*",
    ),
    "tools that write and quantize graphs": tuple(
        f"onnxruntime/{name}"
        for name in ("backend", "datasets", "quantization", "tools", "transformers")
    ),
    "a second protocol of downloads; without it they use HTTPS": ("hf_xet", "hf_xet-*"),
    "formats of pictures and fonts; fastembed imports Pillow, and a node reads no picture": (
        "PIL/_avif*",
        "PIL/_imagingcms*",
        "PIL/_imagingft*",
        "PIL/_webp*",
        "pillow.libs/libavif*",
        "pillow.libs/libbrotli*",
        "pillow.libs/libfreetype*",
        "pillow.libs/libharfbuzz*",
        "pillow.libs/liblcms*",
        "pillow.libs/libpng*",
        "pillow.libs/libsharpyuv*",
        "pillow.libs/libwebp*",
    ),
    "compilers of modules, and modules for numpy's own tests": (
        "numpy/distutils",
        "numpy/f2py",
        "numpy/_core/_*_tests.*.so",
        "numpy/_core/_simd.*.so",
    ),
    "languages that a terminal could colour": (
        "pygments/lexers/[a-z]*.py",
        "pygments/lexers/_*_builtins.py",
    ),
    "functions of numpy that nothing here calls": (
        "numpy/fft",
        "numpy/polynomial",
        "numpy/testing",
    ),
    "the former interface of pydantic": ("pydantic/v1",),
    "names of what is traced in programs of other kinds": (
        "opentelemetry/semconv/_incubating/attributes/[a-z]*.py",
        "opentelemetry/semconv/_incubating/metrics/[a-z]*.py",
    ),
    "commands, and clients of models that run elsewhere": (
        "huggingface_hub/_sandbox.py",
        "huggingface_hub/cli",
        "huggingface_hub/inference/_generated",
        "huggingface_hub/inference/_mcp",
    ),
    "the writer and reader of bindings; what was bound needs the compiled module alone": (
        "cffi",
        "pycparser",
    ),
}
KEPT: Final = (
    "opentelemetry/semconv/_incubating/attributes/otel_attributes.py",
    "opentelemetry/semconv/_incubating/metrics/otel_metrics.py",
    "pygments/lexers/python.py",
)
# What a node and a coordinator import.  Their byte code, and that of all that they import, is kept;
# other modules start a little later, because the root of a container may be read-only.
IMPORTED: Final = (
    "anyio._backends._asyncio",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.serialization",
    "cryptography.x509",
    "fastapi",
    "fastapi.openapi.utils",
    "httpx",
    "numpy",
    "onnxruntime",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk.trace.export",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "re2",
    "redis.asyncio.sentinel",
    "rich.console",
    "rich.progress",
    "rich.table",
    "starlette.middleware.cors",
    "structlog",
    "tokenizers",
    "typer",
    "uvicorn",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvloop",
    "xxhash",
    "yaml",
)
_LOAD: Final = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
_COMPILE: Final = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:  # the coordinator has fewer libraries
        pass
"""


def trim(packages: Path) -> None:
    """Delete what a node never reads from a folder of installed packages."""
    kept = {packages / name for name in KEPT}
    for patterns in UNUSED.values():
        for pattern in patterns:
            for path in sorted(packages.glob(pattern)):
                if path not in kept:
                    _delete(path)


def strip_symbols(packages: Path, python: str) -> None:
    """Remove debug symbols from compiled modules, where the result can still be loaded."""
    tool = shutil.which("strip")
    if tool is None:
        sys.stdout.write("there is no strip: debug symbols stay\n")
        return
    for path in sorted(packages.rglob("*.so*")):
        # Libraries beside a package were moved there by a tool that lays them out in a way that
        # `strip` breaks.
        if path.is_symlink() or path.parent.name.endswith(".libs"):
            continue
        draft = path.with_name(f"{path.name}.stripped")
        subprocess.run([tool, "--strip-unneeded", "-o", draft, path], check=True)
        loaded = subprocess.run([python, "-c", _LOAD, draft], check=False, capture_output=True)
        if loaded.returncode == 0:
            draft.replace(path)
        else:
            draft.unlink()


def compile_imported(packages: Path, python: str) -> None:
    """Delete all byte code, and keep what an interpreter writes when it imports ``IMPORTED``."""
    for path in sorted(packages.rglob("__pycache__")):
        _delete(path)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run([python, "-c", _COMPILE, *IMPORTED], check=True, env=environment)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def megabytes(packages: Path) -> float:
    """Size of all files below a folder, in MB."""
    return sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) / 1e6


def main() -> int:
    """Trim the environment that the command line names; say what it had and has."""
    python = Path(sys.argv[1])
    (packages,) = python.parent.parent.glob("lib/python*/site-packages")
    before = megabytes(packages)
    trim(packages)
    strip_symbols(packages, str(python))
    compile_imported(packages, str(python))
    sys.stdout.write(f"{packages}: {before:.0f} MB before, {megabytes(packages):.0f} MB now\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
