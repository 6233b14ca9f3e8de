# SPDX-License-Identifier: Apache-2.0
"""Make data/monthly.csv: three invented monthly series of twelve years, with trend, season and noise. The same each time."""

import csv
import math
import random
from pathlib import Path

MONTHS = 144
KINDS = {  # level, growth a month, height of the season, noise; the season grows with the level in the second
    "sensor_orders": (120.0, 0.8, 22.0, 6.0, False),
    "fleet_energy": (60.0, 0.9, 0.25, 0.04, True),
    "bench_hours": (300.0, -0.6, 35.0, 12.0, False),
}


def value(month: int, kind: tuple[float, float, float, float, bool], luck: random.Random) -> float:
    level, growth, height, noise, relative = kind
    trend = level + growth * month
    wave = math.sin(2 * math.pi * month / 12) + 0.4 * math.cos(4 * math.pi * month / 12)
    if relative:
        return trend * (1 + height * wave) * (1 + luck.gauss(0, noise))
    return trend + height * wave + luck.gauss(0, noise)


def main() -> None:
    luck = random.Random(42)  # noqa: S311 (noise, no secret)
    rows = [
        [f"{2012 + month // 12}-{month % 12 + 1:02d}", *(f"{value(month, kind, luck):.2f}" for kind in KINDS.values())]
        for month in range(MONTHS)
    ]
    file = Path(__file__).parent / "data" / "monthly.csv"
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows([["month", *KINDS], *rows])


if __name__ == "__main__":
    main()
