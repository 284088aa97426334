"""Streams a challenge's live observations into the service.

Exit codes: 64 when the service or the source refuses for good; 130 after an interrupt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clients.errors import ConfigurationError
from forecasting.challenge.schema import ChallengeError, load_challenge
from monitoring.feed.streaming import Refused, feed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m monitoring.feed", description=__doc__)
    parser.add_argument("--challenge", default="weather", help="default: %(default)s")
    parser.add_argument("--service", default="http://127.0.0.1:8000", help="its address (default: %(default)s)")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two looks (default: %(default)g)")
    options = parser.parse_args()
    try:
        challenge = load_challenge(Path("challenges") / f"{options.challenge}.toml")
        feed(challenge, options.service, options.every)
    except (ChallengeError, ConfigurationError, Refused) as error:
        print(f"feed: {error}", file=sys.stderr)
        return 64
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
