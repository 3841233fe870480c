"""``benchmark report``: the content of the page, and its behaviour in a browser."""
import base64
import io
import json
import re
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find_browser
from conftest import TINY, write_tiny_dataset
from helpers import as_words, write_features
from PIL import Image
from small_models import ITEMS, SMALL

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare.run_files import read_json, write_json
from recbole_macrec.benchmark.compare.runs import RunSpec, add_fusion, open_comparison, run_folder
from recbole_macrec.benchmark.figures import Figure, Intervals
from recbole_macrec.benchmark.report import provenance
from recbole_macrec.benchmark.report.items import short_titles
from recbole_macrec.benchmark.report.page import write_report
from recbole_macrec.benchmark.report.report_figures import GROUPS, groups, mean_and_error, sorted_counts
from recbole_macrec.benchmark.report.user_view import UserViewOptions, build_user_view
from recbole_macrec.benchmark.study.study import read_study

HOSTILE = "</script><b>wool</b><script>document.title='taken'</script>"
LABELS = ["TIGER", "Pop"]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory) -> Path:
    """The dataset ``tiny`` with hostile titles and with images: i1 valid, i2 unreadable, i3 missing, i4 outside the folder."""
    path = write_tiny_dataset(tmp_path_factory.mktemp("data"))
    folder = path / TINY
    Image.new("RGB", (400, 200), "red").save(folder / "red.png")
    Image.new("RGB", (40, 20), "red").save(path / "outside.png")
    (folder / "broken.png").write_bytes(b"\x89PNG not one")
    images = {1: "red.png", 2: "broken.png", 3: "missing.png", 4: "../outside.png"}
    rows = [f"i{i}\t{HOSTILE} {i}\t{images.get(i, '')}" for i in range(ITEMS)]
    (folder / f"{TINY}.item").write_text("\n".join(["item_id:token\ttitle:token_seq\timage:token", *rows]) + "\n")
    write_features(folder, "text")
    return path


@pytest.fixture(scope="module")
def folder(data_path, tmp_path_factory) -> Path:
    """A small comparison of a generative model and a model of RecBole, with two seeds each."""
    output = tmp_path_factory.mktemp("comparison")
    settings = {**SMALL, "modalities": "['text']", "max_modalities": 1, "epochs": 2, "rqvae_epochs": 3}
    settings["text_fields"] = "['title']"
    argv = [f"--models={','.join(LABELS)}", f"--datasets={TINY}", f"--data_path={data_path}", "--seeds=2", f"--output={output}"]
    assert main(["compare", *argv, *as_words(settings)]) == 0
    return output


@pytest.fixture(scope="module")
def page(folder) -> Path:
    assert main(["report", str(folder), "--users=30"]) == 0
    return folder / "report.html"


class Tags(HTMLParser):
    """Parser that collects tags with attributes, and the text of each ``<script>``."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        self._open.append("")

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)


def test_hits_match_the_results_of_the_runs(folder):
    comparison = open_comparison(folder)
    view = build_user_view(comparison, TINY, UserViewOptions(users=30), 10**6)
    tokens = view["items"]["token"]
    assert view["labels"] == LABELS and view["seeds"] == [2020, 2020] and view["testUsers"] == 40
    assert len(view["users"]) == len({user["user"] for user in view["users"]}) == 30 and len(tokens) == len(set(tokens))
    ranks = [comparison.of(TINY, label)[0].ranks for label in LABELS]
    hits = 0
    for user in view["users"]:
        for label, own in enumerate(ranks):
            row = own.users.tolist().index(user["user"])
            assert [tokens[i] for i in user["top"][label]] == own.items[own.top[row]].tolist()
            assert tokens[user["target"]] == own.items[own.targets[row]] and user["ranks"][label] == own.ranks[row]
            assert (user["target"] in user["top"][label]) == (own.ranks[row] <= 10)
            assert [tokens[i] for i in user["history"]] == own.items[own.histories[row]].tolist()
            hits += user["ranks"][label] <= 10
    assert 0 < hits < 60


def test_users_depend_on_the_seed_only(folder):
    comparison = open_comparison(folder)
    users = {
        seed: [u["user"] for u in build_user_view(comparison, TINY, UserViewOptions(10, seed), 0)["users"]] for seed in (0, 1)
    }
    assert users[0] == [u["user"] for u in build_user_view(comparison, TINY, UserViewOptions(10, 0), 0)["users"]] != users[1]
    assert build_user_view(comparison, TINY, UserViewOptions(0), 0) is None
    assert len(build_user_view(comparison, TINY, UserViewOptions(1000), 0)["users"]) == 40


def test_models_may_have_different_items(folder, tmp_path):
    """The first model lacks the most popular item; its training count is then that of the second model."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("saved"))
    tiger, pop = (open_comparison(copy).of(TINY, label)[0] for label in LABELS)
    popular = pop.ranks.top[0, 0]
    token, items = pop.ranks.items[popular], tiger.ranks.items.copy()
    items[items == token] = "other"
    replace(tiger.ranks, items=items).save(tiger.folder / "ranks.npz")
    shown = build_user_view(open_comparison(copy), TINY, UserViewOptions(), 0)["items"]
    assert dict(zip(shown["token"], shown["trained"]))[token] == pop.ranks.counts[popular]


def test_codes_match_the_run(folder):
    comparison = open_comparison(folder)
    view = build_user_view(comparison, TINY, UserViewOptions(), 0)
    (entry,) = view["codes"]
    assert (entry["label"], entry["modality"]) == ("TIGER", "text")
    run = comparison.of(TINY, "TIGER")[0]
    items = run.ranks.items.tolist()
    for token, code in zip(view["items"]["token"], view["tables"][entry["table"]]):
        assert code == run.codes["codes"]["text"][items.index(token) - 1].tolist()


def test_images_are_shrunk_and_unreadable_or_foreign_ones_skipped(folder):
    view = build_user_view(open_comparison(folder), TINY, UserViewOptions(), 10**6)
    shown = {token for token, image in zip(view["items"]["token"], view["items"]["image"]) if image is not None}
    assert shown == {"i1"} and {"i2", "i3", "i4"} <= set(view["items"]["token"])
    (uri,) = view["images"]
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))
    assert image.size == (72, 36) and image.getpixel((30, 15))[0] > 200
    assert build_user_view(open_comparison(folder), TINY, UserViewOptions(), len(uri) - 1)["images"] == []


def test_without_the_dataset_items_are_shown_by_token(folder, tmp_path):
    view = build_user_view(open_comparison(folder), TINY, UserViewOptions(data_path=str(tmp_path)), 10**6)
    assert view["images"] == [] and set(view["items"]["title"]) == {""} and "i1" in view["items"]["token"]


def test_titles_for_a_model_without_text_fields(data_path):
    settings = {"data_path": str(data_path / TINY), "dataset": TINY}
    assert short_titles(settings, ["i1", "i7"]) == {"i1": f"{HOSTILE} 1", "i7": f"{HOSTILE} 7"}
    assert (
        short_titles({**settings, "text_fields": None}, ["i1"])
        == short_titles({**settings, "text_fields": ["none"]}, ["i1"])
        == {}
    )


def test_titles_are_escaped(page):
    text = page.read_text()
    tags = Tags(text)
    assert HOSTILE not in text and "<b>wool" not in text
    assert [attributes.get("type") for tag, attributes in tags.tags if tag == "script"] == ["application/json", None]
    views = json.loads(tags.scripts[0])
    assert any(title.startswith(HOSTILE) for title in views[0]["items"]["title"])


def test_labels_are_escaped(folder, tmp_path):
    series = {HOSTILE: ([1.0, None], [0.5, None]), "_b": ([1.0, 2.0], [None, None])}
    figure = Figure(HOSTILE, HOSTILE, HOSTILE, [HOSTILE, "$b$"], series)
    for drawing in (figure, Intervals(HOSTILE, HOSTILE, [(HOSTILE, 1.0, 0.5, 2.0)])):
        tags = {tag for tag, _ in Tags(drawing.svg("name")).tags}
        assert tags <= {"svg", "defs", "g", "path", "text", "use", "clippath", "rect"}


def test_page_loads_no_other_file(page):
    for tag, attributes in Tags(page.read_text()).tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in page.read_text() and not re.search(r"url\((?!#)", page.read_text())


def test_ids_of_the_page_are_unique(page):
    ids = [attributes["id"] for _, attributes in Tags(page.read_text()).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {a["xlink:href"][1:] for _, a in Tags(page.read_text()).tags if "xlink:href" in a}
    assert used and used <= set(ids)


def test_tables_match_the_comparison(folder, page):
    (table,) = json.loads((folder / "table.json").read_text())["tables"]
    text = page.read_text()
    for row in table["rows"]:
        for name in table["metrics"]:
            figure = row["figures"][name]
            assert f">{figure['mean']:.4f}</span><small> ± {figure['std']:.4f}</small>" in text
    assert len(table["tests"]) == 2 and all(f"{test['difference']:+.4f}" in text for test in table["tests"])


def test_a_fusion_changes_neither_the_command_nor_the_shared_settings(folder, tmp_path):
    copy = tmp_path / "fused"
    shutil.copytree(folder, copy)
    before = open_comparison(copy)
    add_fusion(copy, "both", LABELS)
    for seed in before.seeds:  # a fused run has no settings
        (result,) = [run.result for run in before.of(TINY, LABELS[0]) if run.spec.seed == seed]
        fused = run_folder(copy, TINY, "both", seed)
        write_json(asdict(RunSpec("both", "both", TINY, seed, {"models": LABELS, "top": 100})), fused / "run_spec.json")
        write_json(result | {"settings": {}}, fused / "result.json")
    after = open_comparison(copy)
    assert after.labels == [*LABELS, "both"] and "benchmark compare" in provenance.command(before)
    assert provenance.command(after) == provenance.command(before)
    data_path = Path(before.runs[0].spec.settings["data_path"])
    assert f" --data_path={data_path.name} " in provenance.command(before)
    own, shared = provenance.settings(after, TINY)
    assert shared.rows and (own, shared) == provenance.settings(before, TINY)


def test_every_figure_is_saved_as_png_and_pdf(folder, page):
    names = re.findall(r"<code>figures/([^<]*)\.pdf</code>", page.read_text())
    assert {"tiny-curve-validation", "tiny-curve-loss", "tiny-codes-text-0", "tiny-difference-hit-10"} <= set(names)
    assert {"tiny-target_count-ndcg-10", "tiny-history_length-hit-10"} <= set(names)
    for name in names:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_a_page_without_figures(folder, tmp_path, capsys):
    """One row, without learning curve, semantic IDs and metrics that can be computed for groups."""
    run = open_comparison(folder).of(TINY, "Pop")[0]
    copy = run_folder(tmp_path, TINY, "Pop", run.spec.seed)
    shutil.copytree(run.folder, copy, ignore=shutil.ignore_patterns("saved", "curve.json"))
    write_json(run.result | {"test_result": {"map@10": 0.25}}, copy / "result.json")
    content = {"labels": ["Pop"], "seeds": [run.spec.seed]}
    write_json(read_json(folder / "compare.json") | content, tmp_path / "compare.json")
    assert main(["report", str(tmp_path)]) == 0
    assert "Figures" not in capsys.readouterr().out and "map@10" in (tmp_path / "report.html").read_text()


def test_figures_by_training_count_show_the_means_of_each_group(folder):
    comparison = open_comparison(folder)
    (drawn,) = [figure.drawing for figure in groups(comparison, TINY) if figure.name == "target_count-hit-10"]
    bounds = next(study.bounds for study in map(read_study, GROUPS) if study.by == "target_count")
    for label in LABELS:
        ranks = [run.ranks for run in comparison.of(TINY, label)]
        hit = {key: np.mean([dict(zip(r.keys(), r.ranks))[key] <= 10 for r in ranks]) for key in ranks[0].keys()}
        count = dict(zip(ranks[0].keys(), ranks[0].counts[ranks[0].targets]))
        parts = [[hit[key] for key in hit if low <= count[key] < high] for low, high in zip(bounds, [*bounds[1:], np.inf])]
        assert drawn.series[label][0] == pytest.approx([np.mean(part) for part in parts if part])


def test_error_bars_by_hand():
    """Two of four users have a hit: the standard deviation is sqrt(4 * 0.25 / 3), the standard error half of it."""
    mean, error = mean_and_error([0.0, 1.0, 0.0, 1.0])
    assert mean == 0.5 and error == pytest.approx(1.959964 * (1 / 3) ** 0.5 / 2)
    assert mean_and_error([0.25]) == (0.25, None) and mean_and_error([]) == (None, None)
    assert sorted_counts(np.array([7, 2, 7, 7, 5, 2])).tolist() == [3, 2, 1]


@pytest.fixture(scope="module")
def two_datasets(folder, tmp_path_factory) -> Path:
    """The page of a comparison on ``tiny`` (Pop unfinished), a copy of it, and a dataset without finished runs; with
    study.json."""
    output = tmp_path_factory.mktemp("two")
    for dataset in (TINY, "copy", "nothing"):
        for run in open_comparison(folder).runs:
            target = run_folder(output, dataset, run.spec.label, run.spec.seed)
            shutil.copytree(run.folder, target, ignore=shutil.ignore_patterns("saved"))
            write_json({**read_json(target / "run_spec.json"), "dataset": dataset}, target / "run_spec.json")
            if dataset == "nothing" or dataset == TINY and run.spec.label == "Pop":
                (target / "result.json").unlink()
    write_json({**read_json(folder / "compare.json"), "datasets": [TINY, "copy", "nothing"]}, output / "compare.json")
    figure = Figure("drawn of a study", "x", "y", ["1", "2"], {"hit@10": ([0.1, 0.2], [None, 0.1])})
    rows = [["TIGER", 12, 0.25, 0.125], ["Pop", 3, None, None]]
    study = {"title": "A <study>", "columns": ["", "users", "hit@10", "hit@10 std"], "rows": rows}
    study["figures"] = {"one": asdict(figure)}
    write_json(study, output / "study.json")
    return write_report(output, output / "report.html")[0]


def test_unfinished_comparison_shows_finished_runs(two_datasets):
    text = two_datasets.read_text()
    views = json.loads(Tags(text).scripts[0])
    assert [(view["dataset"], view["labels"]) for view in views] == [(TINY, ["TIGER"]), ("copy", LABELS)]
    assert text.count('<p class="warning">Pop: 2 of 2 runs unfinished') == 2
    assert text.count('<p class="warning">TIGER: 2 of 2 runs unfinished') == 1


def test_study_is_the_first_section(two_datasets):
    text = two_datasets.read_text()
    assert "<h1>A &lt;study&gt;</h1>" in text and "drawn of a study" in text
    assert "<span>0.2500</span><small> ± 0.1250</small>" in text


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["nowhere"], "has no compare.json"),
        ([], "required"),
        (["x", "--usrs=3"], "unknown option '--usrs'"),
        (["x", "--users=-1"], "expected numbers of at least 0"),
        (["x", "--image_megabytes=nan"], "expected numbers of at least 0"),
        (["x", "--output=."], "--output is '.'; expected the name of a file"),
    ],
)
def test_user_errors_are_one_line(argv, expected, capsys):
    assert main(["report", *argv]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and expected in error


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium here: install Debian's package chromium")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def column(browser, table: int, number: int) -> list[str]:
    script = f"[...document.querySelectorAll('table')[{table}].tBodies[0].rows].map((row) => row.cells[{number}].textContent)"
    return browser.run(script)


def choose(browser, picker: str, value: str) -> None:
    browser.run(f"{{ const p = document.getElementById('{picker}'); p.value = {json.dumps(value)};"
                "p.dispatchEvent(new Event('input')); p.dispatchEvent(new Event('change')); }")  # fmt: skip


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_console_errors_and_no_horizontal_scrolling(browser, page, width, scheme):
    browser.errors.clear()
    browser.open(page, width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") == width
    colour = "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g)"
    brightness = f"{colour}.slice(0, 3).reduce((a, b) => a + Number(b), 0)"
    assert (browser.run(brightness) > 380) == (scheme == "light")
    browser.run("document.getElementById('theme').click()")
    assert (browser.run(brightness) > 380) == (scheme == "dark")
    browser.run("document.getElementById('theme').click()")
    browser.run("localStorage.clear()")
    assert browser.run("document.title") == "TIGER, Pop on tiny" and browser.errors == []


def test_pickers_show_the_selected_user(browser, page):
    browser.open(page)
    view = json.loads(Tags(page.read_text()).scripts[0])[0]
    texts = "[...document.querySelectorAll('#reader-user .lists > section:nth-child(%d) .title')].map((e) => e.textContent)"
    for user in view["users"][3], view["users"][17]:
        choose(browser, "pick-user", user["user"])
        for label in range(len(LABELS)):
            assert browser.run(texts % (label + 1)) == [view["items"]["title"][item] for item in user["top"][label]]
        hits = browser.run("[...document.querySelectorAll('.lists > section')].map((e) => e.querySelectorAll('.hit').length)")
        assert hits == [int(rank <= 10) for rank in user["ranks"]]
    for label in range(len(LABELS)):
        choose(browser, "pick-filter", f"hit {label}")
        expected_users = [user["user"] for user in view["users"] if user["ranks"][label] <= 10]
        assert browser.run("[...document.getElementById('pick-user').options].map((o) => o.value)") == expected_users
        assert f"{len(expected_users)} of 30" in browser.run("document.getElementById('reader-count').textContent")
    choose(browser, "pick-filter", "all")
    choose(browser, "pick-text", "no such thing")
    assert "No user" in browser.run("document.getElementById('reader-user').textContent")
    choose(browser, "pick-text", view["users"][5]["user"])
    assert view["users"][5]["user"] in browser.run("document.getElementById('reader-user').textContent")
    assert browser.errors == []


def test_the_dataset_can_be_chosen(browser, two_datasets):
    browser.open(two_datasets)
    names = "[...document.querySelectorAll('.lists h4')].map((e) => e.firstChild.textContent)"
    assert browser.run(names) == ["TIGER"]
    choose(browser, "pick-dataset", "1")
    assert browser.run(names) == LABELS and browser.errors == []


def test_codes_can_be_chosen_and_hidden(browser, page):
    browser.open(page)
    view = json.loads(Tags(page.read_text()).scripts[0])[0]
    code = view["tables"][0][view["users"][0]["target"]]
    assert browser.run("document.querySelector('.target .code b').textContent") == " ".join(map(str, code))
    edge = "document.querySelector('.%s').getBoundingClientRect().right"
    target, strip = (round(browser.run(edge % name)) for name in ("target", "strip"))
    assert target <= strip  # the end of a long history is visible
    choose(browser, "pick-codes", "")
    assert browser.run("document.querySelectorAll('.code').length") == 0 and browser.errors == []


def test_keyboard_navigation(browser, page):
    browser.open(page)
    users = browser.run("[...document.getElementById('pick-user').options].map((o) => o.value)")
    browser.run("document.getElementById('pick-next').focus()")
    for key, expected in (("ArrowRight", 1), ("Enter", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", -1)):
        browser.press(key)
        assert browser.run("document.getElementById('pick-user').value") == users[expected]
    browser.run("document.querySelector('thead th:nth-child(2) button').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('thead th:nth-child(2)').getAttribute('aria-sort')") == "descending"


def test_sorting(browser, page):
    browser.open(page)
    names = browser.run("[...document.querySelectorAll('table')[0].rows[0].cells].map((cell) => cell.textContent)")
    numbers = names.index("parameters")
    press = "document.querySelectorAll('table')[0].rows[0].cells[%d].querySelector('button').click()"
    for expected in (True, False):
        browser.run(press % numbers)
        values = [int(text.replace(",", "")) for text in column(browser, 0, numbers)]
        assert values == sorted(values, reverse=expected) and len(set(values)) == 2
    for expected in (["Pop", "TIGER"], ["TIGER", "Pop"]):
        browser.run(press % 0)
        assert column(browser, 0, 0) == expected


def test_selecting_a_series_dims_the_others(browser, page):
    browser.open(page)
    browser.run("document.querySelector('.chips button').click()")
    dimmed = "[...document.querySelectorAll('svg .dim')].map((e) => e.getAttribute('class').split(' ')[0])"
    assert set(browser.run(dimmed)) == {"series-1"}
    browser.run("document.querySelector('.chips button').click()")
    assert browser.run(dimmed) == [] and browser.errors == []
