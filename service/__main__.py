"""`python -m service --bundle DIR`: serve one bundle. Everything else is set by the environment (`--help` lists it)."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from dataclasses import fields

from clients.errors import DataRejected, RpsError
from forecasting.models.manifest import BundleError
from service.service_settings import PREFIX, Settings, service_settings


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve one bundle: forecasts, drift, metrics, and a page for people at /.",
        epilog=_environment(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", help="a bundle's directory, or models:/weather@production (RPS_BUNDLE)")
    parser.add_argument("--host", help="where to listen (RPS_HOST; default 127.0.0.1)")
    parser.add_argument("--port", help="the port; 0 takes a free one (RPS_PORT; default 8000)")
    parser.add_argument("--workers", help="processes; more than one need RPS_STATE=redis://… (RPS_WORKERS; default 1)")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    # Workers are processes of their own: they get the options through the environment.
    os.environ.update({f"{PREFIX}{name.upper()}": value for name, value in given.items()})
    from service.state.stores import StoreUnavailable

    try:
        return _serve()
    except BundleError as error:
        print(f"service: the bundle is refused: {error}", file=sys.stderr)
        return DataRejected.exit_code
    except RpsError as error:
        hint = ". Start it, or set RPS_STATE" if isinstance(error, StoreUnavailable) else ""
        print(f"service: {error}{hint}", file=sys.stderr)
        return error.exit_code


def _serve() -> int:
    from service.log import configure_logging
    from service.model.bundle_source import load_model
    from service.server import serve

    settings = service_settings()
    configure_logging(settings)
    if settings.state != "memory":
        from service.state.redis_store import reached

        asyncio.run(reached(settings.state))  # before any worker starts: a supervisor would restart it again and again
    if settings.workers == 1:
        return serve(settings)
    load_model(settings)  # a fault is reported once, not by every worker at each of its starts
    with tempfile.TemporaryDirectory(prefix="rps-counts-") as counts:
        os.environ["RPS_COUNTS"] = counts
        return serve(settings)


def _environment() -> str:
    names = [f"{PREFIX}{field.name.upper()}" for field in fields(Settings) if field.name != "counts"]
    return "environment:\n  " + "\n  ".join(names) + "\n\ndocs/reference/service.md says what each one is."


if __name__ == "__main__":
    sys.exit(main())
