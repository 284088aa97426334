"""The health check of the stack's own images: `healthcheck.py URL [--json path.to.key=value | --metric name]`.

Healthy is an answer of 200; with `--json`, one with that value; with `--metric`, one with a Prometheus counter above
zero. It needs the standard library alone, so that it starts at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from functools import reduce

TIMEOUT_SECONDS = 5.0


def why_unhealthy(url: str, expected: str, metric: str) -> str:
    """Empty when all is well; else what was expected and found."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - the compose file's own
            text = answer.read().decode()
        if expected:
            path, _, value = expected.partition("=")
            found = reduce(lambda part, key: part[key], path.split("."), json.loads(text))
            return "" if str(found) == value else f"{url}: {path}: expected {value}; found {found}"
        if metric:
            samples = [line for line in text.splitlines() if line.startswith((f"{metric} ", f"{metric}{{"))]
            counted = any(float(line.split()[-1]) > 0 for line in samples)
            return "" if counted else f"{url}: {metric} has counted nothing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{url}: {type(error).__name__}: {error}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--json", default="", metavar="PATH=VALUE")
    parser.add_argument("--metric", default="", metavar="NAME")
    options = parser.parse_args()
    reason = why_unhealthy(options.url, options.json, options.metric)
    if reason:
        print(reason)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
