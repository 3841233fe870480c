"""Figures with error bars, written as PNG and PDF."""
from dataclasses import dataclass, field
from pathlib import Path

from recbole_macrec.data.replace import whole_file

WIDTH, HEIGHT, DPI = 6.4, 4.0, 160


@dataclass
class Figure:
    """Series of points over the same ticks.

    Attributes:
        ticks: what stands below each point.
        series: name -> (means, standard deviations), one a tick; None where there is no figure.
        lines: join the points, for ticks that are an order; else bars stand side by side.
    """

    title: str
    x: str
    y: str
    ticks: list[str]
    series: dict[str, tuple[list[float | None], list[float | None]]] = field(default_factory=dict)
    lines: bool = False

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write ``name.png`` and ``name.pdf`` into ``folder``."""
        from matplotlib.figure import Figure as Canvas  # imported late: it takes a second, and most commands draw nothing

        canvas = Canvas(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = canvas.subplots()
        for number, (label, (means, deviations)) in enumerate(self.series.items()):
            there = [i for i, mean in enumerate(means) if mean is not None]
            heights = [means[i] for i in there]
            errors = [deviations[i] or 0.0 for i in there]
            if self.lines:
                axes.errorbar(there, heights, errors, label=label, marker="o", capsize=3)
            else:
                width = 0.8 / len(self.series)
                places = [i + (number - (len(self.series) - 1) / 2) * width for i in there]
                axes.bar(places, heights, width, yerr=errors if any(errors) else None, label=label, capsize=3)
        axes.set_xticks(range(len(self.ticks)), self.ticks, rotation=30 if max(map(len, self.ticks), default=0) > 8 else 0)
        axes.set(title=self.title, xlabel=self.x, ylabel=self.y)
        if len(self.series) > 1:
            axes.legend()
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
        for path in paths:
            with whole_file(path) as fresh:
                canvas.savefig(fresh, format=path.suffix[1:], dpi=DPI)
        return paths
