"""The HTML page of a comparison, as one file."""
import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recbole_macrec.benchmark.compare.comparison import comparison_tables
from recbole_macrec.benchmark.compare.run_files import read_json
from recbole_macrec.benchmark.compare.runs import FIGURES, STUDY, Comparison, file_name, open_comparison
from recbole_macrec.benchmark.compare.table import Table, largest_k
from recbole_macrec.benchmark.figures import COLOURS, Figure
from recbole_macrec.benchmark.report import grids, provenance, report_figures
from recbole_macrec.benchmark.report.grids import Grid
from recbole_macrec.benchmark.report.report_figures import CaptionedFigure
from recbole_macrec.benchmark.report.user_view import UserViewOptions, build_user_view
from recbole_macrec.errors import UserError
from recbole_macrec.utils.files import atomic_write, remove_temporary_files


@dataclass(frozen=True)
class RenderedFigure:
    """A figure in the page; ``file`` is the name of its PNG and PDF files."""

    title: str
    caption: str
    file: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """The section of one dataset, without the recommendations per user."""

    dataset: str
    verdict: str
    notes: list[str]
    results: Grid
    tests: Grid | None
    codes: Grid | None
    runs: Grid
    own_settings: Grid
    shared_settings: Grid
    figures: dict[str, list[RenderedFigure]]  # differences, curves, codes, groups


def write_report(folder: Path, output: Path, options: UserViewOptions = UserViewOptions()) -> tuple[Path, list[Path]]:
    """Write the page of the comparison in ``folder`` to ``output``, and its figures to ``folder``.

    Returns:
        The path of the page and the paths of the figures.

    Raises:
        UserError: if there is no comparison, or none of its runs is finished.
    """
    comparison = open_comparison(folder)
    if len(comparison.unfinished) == len(comparison.runs):
        raise UserError(f"No run of {folder} is finished, so there is nothing to report; give the same compare command again.")
    paths: list[Path] = []
    tables = zip(comparison.datasets, comparison_tables(comparison), strict=True)
    sections = [_section(comparison, table, dataset, paths) for dataset, table in tables]
    study = _study(comparison)
    page = render(comparison, sections, study, _user_views(comparison, options))
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(output.parent, output.name)
    with atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output, paths


def render(comparison: Comparison, sections: list[Section], study: dict | None, views: list[dict]) -> str:
    """Return the HTML text. A content security policy allows only our own script, whatever titles and labels contain."""
    loader = PackageLoader("recbole_macrec.benchmark.report", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = (loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        comparison=comparison,
        sections=sections,
        study=study,
        views=views,
        finished=len(comparison.runs) - len(comparison.unfinished),
        versions=provenance.versions(comparison),
        command=provenance.command(comparison),
        colours=len(COLOURS),
        style=Markup(style),
        script=Markup(script),
        script_digest=digest,
    )


def _section(comparison: Comparison, table: Table, dataset: str, paths: list[Path]) -> Section:
    own, shared = provenance.settings(comparison, dataset)
    figures = {
        "differences": report_figures.intervals(table),
        "curves": report_figures.curves(comparison, dataset),
        "codes": report_figures.code_use(comparison, dataset),
        "groups": report_figures.groups(comparison, dataset),
    }
    return Section(
        dataset=dataset,
        verdict=grids.verdict(table),
        notes=grids.notes(table),
        results=grids.results(table),
        tests=grids.tests(table),
        codes=grids.semantic_ids(comparison, dataset),
        runs=provenance.runs(comparison, dataset, largest_k(table.metrics)),
        own_settings=own,
        shared_settings=shared,
        figures={
            kind: [_rendered(comparison, dataset, figure, paths) for figure in of_kind] for kind, of_kind in figures.items()
        },
    )


def _rendered(comparison: Comparison, dataset: str, figure: CaptionedFigure, paths: list[Path]) -> RenderedFigure:
    name = f"{file_name(dataset)}-{figure.name}"
    paths += figure.drawing.save(comparison.folder / FIGURES, name)
    return RenderedFigure(figure.drawing.title, figure.caption, name, Markup(figure.drawing.svg(name, figure.scale)))


def _study(comparison: Comparison) -> dict | None:
    """Return title, table and figures of the study of this comparison; None if it is not a study."""
    path = comparison.folder / STUDY
    if not path.is_file():
        return None
    study = read_json(path)
    figures = [
        RenderedFigure(figure["title"], "", name, Markup(Figure(**figure).svg(f"study-{name}")))
        for name, figure in study.get("figures", {}).items()
    ]
    return {"title": study["title"], "grid": grids.study(study), "figures": figures}


def _user_views(comparison: Comparison, options: UserViewOptions) -> list[dict]:
    contents, left = [], options.image_bytes
    for dataset in comparison.datasets:
        content = build_user_view(comparison, dataset, options, left)
        if content is not None:
            left -= sum(map(len, content["images"]))
            contents.append(content)
    return contents
