"""Figures with error bars: PNG and PDF for papers, SVG with CSS colours for web pages."""
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_macrec.utils.files import atomic_write, remove_temporary_files

WIDTH, HEIGHT, DPI = 6.4, 4.0, 160
PAGE_WIDTH, PAGE_HEIGHT = 5.0, 3.2  # smaller, so that text stays readable on a phone
COLOURS = (
    "#3f68d1", "#e07a10", "#1f9d8a", "#d1495b", "#8a5cc7", "#8a6d3b", "#d45fa0", "#5f8f1f", "#0f8fb8", "#7b8794",
)  # fmt: skip
INK, FAINT = "#2b2f36", "#d9dde3"  # text and axes, grid lines
MARKERS = "osD^vP"
STROKES, HATCHES = ("-", "--", ":", "-."), ("", "///", "...", "xxx")  # distinguish series of the same colour
LEGEND_LETTERS = 62  # characters in one line of a legend


@dataclass
class Drawing:
    """Base class of figures. ``title`` is part of the PNG and PDF files; a page shows it next to the SVG."""

    title: str

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write ``name.png`` and ``name.pdf`` to ``folder`` and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(folder, f"{name}.")
        paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
        with _style():
            canvas = self._canvas(WIDTH, HEIGHT, self.title)
            for path in paths:
                with atomic_write(path) as temporary:
                    canvas.savefig(temporary, format=path.suffix[1:], dpi=DPI)
        return paths

    def svg(self, name: str, scale: float = 1.0) -> str:
        """Return an ``<svg>`` element for HTML, without title, font and size.

        Its colours are the CSS variables ``--series-N``, ``--ink`` and ``--faint``. Its ids start with ``name``. The elements
        of series N have the class ``series-N``.
        """
        file = io.StringIO()
        with _style(name):
            canvas = self._canvas(scale * PAGE_WIDTH, scale * PAGE_HEIGHT, "")
            canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = file.getvalue()
        text = text[text.index("<svg") :]
        for unneeded in (
            r"<metadata>.*?</metadata>",
            "<style.*?</style>",
            "font-family: [^;]*; ?",
            "(?<=<svg)[^>]*(?= viewBox)",
        ):
            text = re.sub(unneeded, "", text, flags=re.DOTALL)
        text = re.sub(r'<g id="series-(\d+)"', r'<g class="series-\1"', text)
        text = re.sub(r'<g id="[^"]*"', "<g", text)
        text = re.sub(r'\bid="|href="#|url\(#', lambda match: f"{match[0]}{name}-", text)
        for colour, variable in [(INK, "--ink"), (FAINT, "--faint"), *((c, f"--series-{i}") for i, c in enumerate(COLOURS))]:
            text = text.replace(colour, f"var({variable})")
        return re.sub(r"\s*\n\s*", " ", text)

    def _canvas(self, width: float, height: float, title: str):
        from matplotlib.figure import Figure as Canvas  # imported late: it takes a second, and most commands draw nothing

        canvas = Canvas(figsize=(width, height * self.stretch()), layout="constrained")
        axes = canvas.subplots()
        self.draw(axes)
        axes.set_title(title)
        handles, labels = axes.get_legend_handles_labels()
        if len(labels) > 1:
            columns = max(1, min(len(labels), LEGEND_LETTERS // (max(map(len, labels)) + 6)))
            canvas.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
        return canvas

    def stretch(self) -> float:
        """Return the height of the figure relative to the usual height."""
        return 1.0

    def draw(self, axes) -> None:
        """Plot the content on matplotlib's ``axes``."""
        raise NotImplementedError


@dataclass
class Figure(Drawing):
    """Series of points over the same ticks.

    Attributes:
        x, y: labels of the axes.
        ticks: label below each point.
        series: name -> (means, half the length of the error bars), one value per tick; None if there is no value. No other
            series uses the colour of a series without values.
        lines: join the points by lines, for ordered ticks; otherwise draw bars side by side.
        at: positions of the points on an integer axis, instead of ticks; errors are drawn as a band.
        from_zero: start the y axis at 0, as is always done for bars of positive values.
    """

    x: str
    y: str
    ticks: list[str]
    series: dict[str, tuple[list[float | None], list[float | None]]] = field(default_factory=dict)
    lines: bool = False
    at: list[int] | None = None
    from_zero: bool = False

    def draw(self, axes) -> None:
        plotted = [label for label, (means, _) in self.series.items() if any(mean is not None for mean in means)]
        for number, (label, (means, deviations)) in enumerate(self.series.items()):
            if label not in plotted:
                continue
            height_of = {i: mean for i, mean in enumerate(means) if mean is not None}
            known, heights = list(height_of), list(height_of.values())
            errors = [deviations[i] or 0.0 for i in known]
            style: dict[str, Any] = {"label": label, "color": COLOURS[number % len(COLOURS)], "gid": f"series-{number}"}
            repeat = number // len(COLOURS) % len(STROKES)  # how often its colour is used already
            if self.at is not None:
                self._curve(axes, [self.at[i] for i in known], heights, errors, style | {"linestyle": STROKES[repeat]})
            elif self.lines:
                marker = MARKERS[number % len(MARKERS)]
                style |= {"marker": marker, "markersize": 4, "linewidth": 1.6, "linestyle": STROKES[repeat]}
                axes.errorbar(known, heights, errors, capsize=3, **style)
            else:
                width = 0.8 / len(plotted)
                places = [i + (plotted.index(label) - (len(plotted) - 1) / 2) * width for i in known]
                style |= {"ecolor": INK, "error_kw": {"elinewidth": 1}, "capsize": min(3, 20 * width), "hatch": HATCHES[repeat]}
                axes.bar(places, heights, width * 0.92, yerr=errors if any(errors) else None, **style)
        if self.at is None:
            tilted = max((len(line) for tick in self.ticks for line in tick.split("\n")), default=0) > 8 and len(self.ticks) > 3
            turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
            axes.set_xticks(range(len(self.ticks)), self.ticks, **turn)
            axes.set_xlim(-0.5, len(self.ticks) - 0.5)
        bars = self.at is None and not self.lines
        if self.from_zero or bars and all(mean is None or mean >= 0 for means, _ in self.series.values() for mean in means):
            axes.set_ylim(bottom=0)
        axes.set(xlabel=self.x, ylabel=self.y)
        axes.grid(axis="y")

    @staticmethod
    def _curve(axes, places: list[int], heights: list[float], errors: list[float], style: dict) -> None:
        axes.plot(places, heights, marker="o" if len(places) < 30 else None, markersize=3, linewidth=1.6, **style)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if any(errors):
            band = [(h - e, h + e) for h, e in zip(heights, errors)]
            axes.fill_between(places, *zip(*band), color=style["color"], alpha=0.16, linewidth=0, gid=style["gid"])


@dataclass
class Intervals(Drawing):
    """Differences with confidence intervals, one row each; ``rows`` are (name, difference, low, high)."""

    x: str
    rows: list[tuple[str, float, float, float]]

    def stretch(self) -> float:
        return max(0.5, 0.25 + len(self.rows) / 8)

    def draw(self, axes) -> None:
        for place, (_, difference, low, high) in enumerate(self.rows):
            number = 2 if low > 0 else 3 if high < 0 else len(COLOURS) - 1  # green if above 0, red if below 0, otherwise grey
            axes.errorbar(difference, place, xerr=[[difference - low], [high - difference]], fmt="o", markersize=5, capsize=3,
                          linewidth=1.8, color=COLOURS[number])  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(self.rows)), [name for name, *_ in self.rows])
        axes.invert_yaxis()
        axes.margins(y=0.5 / max(1, len(self.rows)))
        axes.set_xlabel(self.x)
        axes.grid(axis="x")


def _style(salt: str = "figure"):
    """Return a context with our settings of matplotlib. ``salt`` makes the ids of an SVG unique and reproducible."""
    import matplotlib

    return matplotlib.rc_context({
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "grid.color": FAINT, "grid.linewidth": 0.8, "axes.axisbelow": True, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlesize": 11, "font.size": 9.5, "legend.fontsize": 9, "text.parse_math": False,
        "svg.fonttype": "none", "svg.hashsalt": salt,
    })  # fmt: skip
