"""Writes every file that is generated from the alerts and dashboards; `--check` only names stale ones and exits 1."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from monitoring import alertmanager_files, grafana_files, prometheus_files, tables

ROOT = Path(__file__).resolve().parents[1]


def generated() -> dict[Path, str]:
    """Every generated file, by its path from the repository's root."""
    makers = (prometheus_files, alertmanager_files, grafana_files, tables)
    return {path: content for maker in makers for path, content in maker.files().items()}


def outdated(root: Path, files: Mapping[Path, str]) -> list[Path]:
    """The files below ``root`` that are missing or stale."""
    paths = ((path, root / path) for path in files)
    return [path for path, there in paths if not there.is_file() or there.read_text(encoding="utf-8") != files[path]]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m monitoring", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and list stale files")
    check = parser.parse_args(arguments).check
    files = generated()
    stale = outdated(root, files)
    for path in stale:
        if check:
            print(f"{path} is stale: run 'python -m monitoring'", file=sys.stderr)
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(files[path], encoding="utf-8")
        print(f"wrote {path}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
