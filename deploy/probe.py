"""HEALTHCHECK of the images: request one URL and exit with 0 if the answer is 2xx.

Standard library only, so that it starts in tens of milliseconds and works in every image.
"""

from __future__ import annotations

import os
import sys
import urllib.request

ANSWER_SECONDS_MAX = 2.0


def main(arguments: list[str]) -> int:
    """Request the URL in the first argument, or in PROBE_URL, or of a node's own port."""
    port = os.environ.get("SYNAPTOROUTE_PORT")
    url = os.environ.get("PROBE_URL", f"http://127.0.0.1:{port}/livez")
    url = arguments[0] if arguments else url
    # The environment may set a proxy, which must not be used for the loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_SECONDS_MAX):
            return 0
    except OSError as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
