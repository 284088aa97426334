"""What goes into the image, made the same bytes each time; the Dockerfile runs it with the base's Python alone.

`trim DIR` takes out what no server reads; `record REPORT FILE` keeps of pip's report which wheels were installed;
`compile PREFIX DIR MODULE…` writes byte code below PREFIX for what the modules load from DIR and the standard library;
`settle DIR SECONDS` fixes times and permissions.
"""

from __future__ import annotations

import importlib
import json
import os
import py_compile
import shutil
import sys
import sysconfig
from importlib.util import cache_from_source
from pathlib import Path
from urllib.parse import unquote, urlsplit

UNREAD_DIRECTORIES = {"tests", "_pyinstaller", "distutils", "f2py", "include", "__pycache__"}
UNREAD_SUFFIXES = {".a", ".c", ".h", ".lib", ".pxd", ".pyi", ".pyx"}


def trim(directory: Path) -> None:
    """Take out commands, tests, headers and type stubs of the installed distributions."""
    shutil.rmtree(directory / "bin", ignore_errors=True)
    for path in sorted(directory.rglob("*")):
        if not path.exists():
            continue  # it went with its directory
        if path.is_dir() and path.name in UNREAD_DIRECTORIES:
            shutil.rmtree(path)
        elif path.suffix in UNREAD_SUFFIXES:
            path.unlink()


def record(report: Path, file: Path) -> None:
    """Write the name, version, wheel and its SHA-256 of each distribution, for the bill of materials; no address."""
    installed = []
    for each in json.loads(report.read_bytes())["install"]:
        found, metadata = each["download_info"], each["metadata"]
        wheel = unquote(urlsplit(found["url"]).path.rpartition("/")[2])
        sha256 = found["archive_info"]["hash"].removeprefix("sha256=")
        installed.append({"name": metadata["name"], "version": metadata["version"], "wheel": wheel, "sha256": sha256})
    installed.sort(key=lambda each: str(each["name"]).lower())
    file.write_text(json.dumps(installed, indent=1) + "\n", encoding="utf-8")


def compile_loaded(prefix: Path, directory: Path, modules: list[str]) -> None:
    """Write byte code that is used whatever the times of the sources, of a package all if it is loaded at all.

    An official Python image comes without any: each start would compile the standard library anew. What has byte code
    already is left out. Fails when a module cannot be imported.
    """
    for name in modules:
        importlib.import_module(name)
    library = Path(sysconfig.get_path("stdlib"))
    files = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    sources = {path for path in files if path.is_relative_to(library)}
    for name in {name.partition(".")[0] for name in sys.modules}:
        sources |= {directory / f"{name}.py"} & files
        sources |= set((directory / name).rglob("*.py"))
    wanted = [str(path) for path in sorted(sources) if path.suffix == ".py"]
    wanted = [path for path in wanted if not Path(cache_from_source(path)).exists()]
    sys.pycache_prefix = str(prefix)  # only now: what was imported may have its byte code elsewhere
    for path in wanted:
        py_compile.compile(path, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def settle(directory: Path, seconds: int) -> None:
    """Give everything one time, and to everyone the right to read and to none but root that to write."""
    for path in [directory, *directory.rglob("*")]:
        executable = path.is_dir() or path.suffix == ".so" or ".so." in path.name
        path.chmod(0o755 if executable else 0o644)
        os.utime(path, (seconds, seconds))


def main(command: str, *arguments: str) -> None:
    match command, *arguments:
        case "trim", directory:
            trim(Path(directory))
        case "record", report, file:
            record(Path(report), Path(file))
        case "compile", prefix, directory, *modules:
            compile_loaded(Path(prefix), Path(directory), modules)
        case "settle", directory, seconds:
            settle(Path(directory), int(seconds))
        case _:
            sys.exit(
                f"expected trim, record, compile or settle with what it needs; found {' '.join((command, *arguments))}"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
