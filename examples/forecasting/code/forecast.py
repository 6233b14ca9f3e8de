# SPDX-License-Identifier: Apache-2.0
"""Train a forecaster on every series of a CSV file, measure it on the last year, and plot what it sees ahead.

Runs as a Reflux job, or by hand: REFLUX_INPUTS, REFLUX_OUTPUTS and REFLUX_PARAMETERS say where everything is.
"""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np

LEVEL = 80  # percent of the true values that the interval should hold


def main() -> None:
    parameters = json.loads(Path(os.environ["REFLUX_PARAMETERS"]).read_text())
    outputs = Path(os.environ["REFLUX_OUTPUTS"])
    horizon, season, names = parameters["horizon"], parameters["season"], parameters["models"]
    series = read(Path(os.environ["REFLUX_INPUTS"]) / parameters["file"])
    forecasters = {name: MODELS[name]() for name in names}  # what is missing is missed before anything is trained
    tell(facts={"models_trained": names, "series": len(series)})

    rows, errors = [], {name: [] for name in names}
    for done, (label, values) in enumerate(series.items(), 1):
        past, truth = values[:-horizon], values[-horizon:]
        forecasts = {}
        for name, forecaster in forecasters.items():
            mean, low, high = forecasts[name] = forecaster(past, horizon, season)
            errors[name].append(scaled_error(truth, mean, past, season))
            rows += [(label, name, step + 1, *numbers) for step, numbers in enumerate(zip(mean, low, high, strict=True))]
            print(f"{label}: {name} has a scaled error of {errors[name][-1]:.3f} (1 is as good as last year's values)")
        plot(outputs / f"{label}.png", label, values, forecasts)
        tell(progress=[done, len(series)], unit="series", step=done, metrics={f"mase/{n}": errors[n][-1] for n in names})

    with (outputs / "forecasts.csv").open("w", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows([("series", "model", "step", "mean", "low", "high"), *rows])
    (outputs / "metrics.json").write_text(json.dumps({f"mase of {name}": float(np.mean(errors[name])) for name in names}))


def tell(**news: object) -> None:
    """Progress, metrics and facts, as a line that Reflux understands."""
    print("::reflux", json.dumps(news))


def read(file: Path) -> dict[str, np.ndarray]:
    """A CSV with a header, a column of dates, and a column for each series."""
    with file.open(newline="") as opened:
        header, *lines = csv.reader(opened)
    return {name: np.array([float(line[i]) for line in lines]) for i, name in enumerate(header[1:], 1)}


def scaled_error(truth: np.ndarray, mean: np.ndarray, past: np.ndarray, season: int) -> float:
    """MASE: the mean error, over that of repeating the value of a season ago."""
    return float(np.mean(np.abs(truth - mean)) / np.mean(np.abs(past[season:] - past[:-season])))


def auto_ets():
    """Exponential smoothing, whose kind of error, trend and season is chosen by AICc."""
    try:
        from statsforecast.models import AutoETS
    except ImportError:
        sys.exit("AutoETS needs statsforecast: pip install statsforecast")

    def forecast(past: np.ndarray, horizon: int, season: int):
        model = AutoETS(season_length=season).fit(past)
        print(f"chosen: {model.model_['method']}")
        found = model.predict(horizon, level=[LEVEL])
        return found["mean"], found[f"lo-{LEVEL}"], found[f"hi-{LEVEL}"]

    return forecast


def chronos_zero_shot():
    """A pretrained model that has never seen the series. Its weights come from the hub, or from CHRONOS_MODEL (a folder)."""
    try:
        from chronos import BaseChronosPipeline
    except ImportError:
        sys.exit("ChronosZeroShot needs chronos-forecasting: pip install chronos-forecasting. Or leave it out of `models`.")
    import torch

    model = os.environ.get("CHRONOS_MODEL", "amazon/chronos-bolt-tiny")
    try:
        pipeline = BaseChronosPipeline.from_pretrained(model)
    except OSError as error:
        sys.exit(f"The weights of {model} can't be had: {error}. Set CHRONOS_MODEL in job.environment to a folder that has them.")

    def forecast(past: np.ndarray, horizon: int, _: int):
        tail = round((1 - LEVEL / 100) / 2, 6)  # Chronos-Bolt looks its quantiles up by value
        context = torch.tensor(past, dtype=torch.float32)
        quantiles, _mean = pipeline.predict_quantiles(context, prediction_length=horizon, quantile_levels=[tail, 0.5, 1 - tail])
        low, mean, high = quantiles[0].numpy().T
        return mean, low, high

    return forecast


MODELS = {"AutoETS": auto_ets, "ChronosZeroShot": chronos_zero_shot}


def plot(file: Path, label: str, values: np.ndarray, forecasts: dict) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(len(values)), values, color="#1b1b1b", linewidth=1.2, label="measured")
    for (name, (mean, low, high)), colour in zip(forecasts.items(), ("#3366cc", "#c7562c", "#2a9d5c"), strict=False):
        ahead = range(len(values) - len(mean), len(values))
        axes.plot(ahead, mean, color=colour, linewidth=2, label=name)
        axes.fill_between(ahead, low, high, color=colour, alpha=0.2, label=f"{LEVEL}%")
    axes.axvline(len(values) - len(mean) - 0.5, color="#9a9a9a", linestyle=":")
    axes.set(title=label, xlabel="month")
    axes.legend(fontsize="small", loc="upper left")
    axes.grid(alpha=0.3)
    figure.savefig(file)


if __name__ == "__main__":
    main()
