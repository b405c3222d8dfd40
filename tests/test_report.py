"""The report and the index: what they say, that hostile texts stay texts, and how a browser shows them."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.metrics import NDCG
from eval.published import TABLE, least_share_taken, why_compare
from eval.report.charts import over_origins
from eval.report.index import write_index
from eval.report.look import Look, interval, p_value, percent
from eval.report.page import render_report, write_report
from eval.report.svg import Line, Range, lines, ranges
from eval.results import Estimate, Results, SkippedOrigin
from eval.slices import STANDING
from tests.planted_results import results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results(tmp_path_factory.mktemp("shop"))


class Structure(HTMLParser):
    """Counts what a reader who does not see the page depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.unnamed: list[str] = []
        self.headless_tables = self.tables = 0
        self._headed = True

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag == "svg" and not (told.get("aria-label") or told.get("aria-hidden")):
            self.unnamed.append(str(told))
        if tag == "table":
            self.tables += 1
            self._headed = False
        if tag == "th" and told.get("scope"):
            self._headed = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "table" and not self._headed:
            self.headless_tables += 1


def text_of(page: str) -> str:
    bare = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(bare))


def test_the_page_says_what_the_results_hold(found: Results) -> None:
    text = text_of(render_report(found))
    assert found.verdict.sentence in text
    for reason in found.verdict.reasons:
        assert reason in text
    for recipe in found.recipes:
        score = found.score(recipe.name, "exclude")
        assert score is not None
        assert interval(score.metrics["ndcg"]).replace(" [", "  [").replace("  ", " ") in text.replace(
            "  ", " "
        )
    for row in found.calibration:
        assert f"mean error {row.ece:.5f}" in text
    assert found.run.command in text
    assert found.data.tables_hash in text
    assert "feature: spend_90d" in text and "changed much" in text
    for heading in (
        "Leaderboard",
        "Over time",
        "For whom",
        "Beside a published bank system",
        "Campaigns: whom to contact",
        "Calibration: are chances true?",
        "long tail",
        "Examples",
        "Model card: als-ranked",
        "Since the last report",
        "Reproduce",
    ):
        assert heading in text
    assert "als-ranked by group: only what is new to the customer" in text
    assert "published by a bank 0.89 0.45 0.78 0.80 0.73 0.32 0.92 0.38 0.88" in text


def test_the_page_can_be_read_without_seeing_it(found: Results) -> None:
    structure = Structure()
    structure.feed(render_report(found))
    assert structure.tables > 8
    assert not structure.headless_tables
    assert not structure.unnamed


def test_the_page_needs_nothing_from_outside_and_runs_nothing(found: Results) -> None:
    page = render_report(found)
    assert not re.findall(r"src\s*=|url\(|@import|<script|<link", page)
    links = set(re.findall(r'href="([^"]+)"', page)) - {"../index.html"}
    assert len(links) == 11
    assert all(f'id="{link[1:]}"' in page for link in links)


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    told = results(
        tmp_path / HOSTILE, name=HOSTILE, means={"als": 0.2, HOSTILE: 0.3, "expert": 0.1}, probabilities=False
    )
    page = render_report(told)
    assert "<img" not in page and "<script" not in page
    assert page.count("&lt;script&gt;document.title") > 5


def test_where_no_model_wins_the_page_says_so_first(tmp_path: Path) -> None:
    told = results(tmp_path, means={"als": 0.1, "als-ranked": 0.12, "expert": 0.4, "popularity": 0.1})
    page = render_report(told)
    assert "Do not ship a model: the baseline expert is surely better than every model" in text_of(page)
    assert 'class="state FAIL"' in page
    unsure = results(tmp_path, means={"als": 0.1, "als-ranked": 0.302, "expert": 0.3, "popularity": 0.1})
    assert 'class="state WARN"' in render_report(unsure)
    assert "Why the model cannot be shown to be better" in text_of(render_report(unsure))


def test_without_chances_there_is_nothing_to_calibrate(tmp_path: Path) -> None:
    told = results(tmp_path, probabilities=False)
    text = text_of(render_report(told.model_copy(update={"drift": None, "examples": []})))
    assert "nothing to calibrate" in text
    assert "so there is no logloss of ours" in text
    assert "This is the first report of these tables" in text


def test_chances_of_another_horizon_are_said_to_be(tmp_path: Path) -> None:
    told = results(tmp_path, probabilities=False)
    ranked = [recipe.model_copy(update={"chance_days": 28}) for recipe in told.recipes[:2]]
    text = text_of(render_report(told.model_copy(update={"recipes": [*ranked, *told.recipes[2:]]})))
    assert "are chances of a purchase within 28 days, and these windows have 7" in text
    assert "--horizon 28" in text


def test_one_origin_is_a_report_too(tmp_path: Path) -> None:
    page = render_report(results(tmp_path, origins_of=1))
    assert "At each of 1 instants (of 2 asked for; the history has no more)" in text_of(page)


def test_the_index_lists_runs_newest_first_and_passes_over_the_rest(found: Results, tmp_path: Path) -> None:
    later = found.model_copy(
        update={"run": found.run.model_copy(update={"made_at": found.run.made_at.replace(year=2030)})}
    )
    for folder, one in (("evaluate-b", found), ("evaluate-a", later)):
        one.write(tmp_path / folder)
        write_report(one, tmp_path / folder)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text("{}")
    page = write_index(tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'href="([^"]+)"', page) == ["evaluate-a/report.html", "evaluate-b/report.html"]
    assert text_of(page).count(found.verdict.sentence) == 2
    assert 'class="spark"' in page
    assert "2 runs, newest first" in text_of(page)
    empty = write_index(tmp_path / "nothing-there")
    assert "No evaluation yet" in empty.read_text(encoding="utf-8")


def test_numbers_are_written_for_people() -> None:
    assert percent(0.12345) == "12.3 %" and percent(0.0001) == "< 0.1 %" and percent(0.0) == "0.0 %"
    assert percent(0.004, 0) == "< 1 %"
    assert p_value(0.0004) == "< .001" and p_value(0.0342) == ".034"
    assert (
        interval(Estimate(mean=0.5, low=0.25, high=0.75), 2) == "0.50 [0.25, 0.75]" and interval(None) == "–"
    )


def test_the_published_logloss_belongs_to_one_in_six() -> None:
    # H(p) = −p ln p − (1 − p) ln(1 − p) is .45 at p = .1663, by bisection on paper
    assert least_share_taken(TABLE["all"].logloss) == pytest.approx(0.1663, abs=1e-4)
    assert least_share_taken(0.73) == 0.5
    told = why_compare(products=3808, base_rate=0.0007, has_chances=True)
    assert "one in 6 or more" in told and "one in 1,429 is" in told and "3,808" in told
    # H(.0007) = .0007 · 7.2644 + .9993 · .00070025, on paper
    assert "hold ours against is 0.0058" in told


def test_the_winner_stands_beside_the_bank_group_by_group(found: Results, tmp_path: Path) -> None:
    held = found.beside_published
    assert (held.recipe, held.published_times_expert) == ("als-ranked", 10)
    ours = {one.group: one for one in held.ours if one.purchased == "exclude"}
    assert list(ours) == ["all", "new", "new with measures", "new without measures", "existing"]
    assert ours["new"].rows == ours["new with measures"].rows + ours["new without measures"].rows == 64
    for group, one in ours.items():
        pairs = next(c for c in found.candidates if (c.recipe, c.value, c.at) == (held.recipe, group, None))
        assert (one.auc, one.logloss, one.base_rate) == (pairs.auc, pairs.logloss, pairs.base_rate)
        assert one.logloss is not None and one.logloss.mean == pytest.approx(0.4)
        assert one.times_expert is not None and one.f1 == one.mrr
    score = found.score(held.recipe, "exclude", dimension=STANDING, value="new")
    assert score is not None and ours["new"].mrr == score.metrics["mrr"]
    text = text_of(render_report(found))
    assert f"new: nothing bought before 64 {ours['new'].auc.mean:.2f} 0.4000 0.5623 1 in 4" in text  # type: ignore[union-attr]
    assert "with measures 32" in text and "without measures 32" in text
    found.write(tmp_path)
    assert Results.read(tmp_path / "results.json").beside_published == held


def test_where_interval_and_p_differ_the_page_says_why(found: Results) -> None:
    assert "differ on whether it could be chance" not in text_of(render_report(found))
    doubtful = [
        one.model_copy(update={"p_holm": 0.2}) if {one.better, one.worse} == {"als", "als-ranked"} else one
        for one in found.comparisons
    ]
    assert all(one.difference.low > 0 for one in doubtful if one.metric == NDCG)
    text = text_of(render_report(found.model_copy(update={"comparisons": doubtful})))
    assert "Against als interval and p differ on whether it could be chance" in text


def test_origins_left_out_and_too_short_a_history_are_told(found: Results) -> None:
    skipped = [SkippedOrigin(at=found.origins[0].at, end=found.origins[0].end, customers=1, purchases=2)]
    setting = found.setting.model_copy(update={"asked_origins": 9})
    text = text_of(render_report(found.model_copy(update={"skipped": skipped, "setting": setting})))
    assert "4 instants (of 9 asked for; the history has room for 5)" in text
    assert f"{skipped[0].at:%-d %B %Y} (1 known customer bought in the days after it)" in text
    assert "(of 9 asked for; the history has no more)" in text_of(
        render_report(found.model_copy(update={"setting": setting}))
    )


def test_bins_without_pairs_are_not_drawn(found: Results) -> None:
    (row,) = found.calibration
    empty = row.bins[0].model_copy(update={"pairs": 0.0, "predicted": None, "bought": None})
    changed = row.model_copy(update={"bins": [empty, *row.bins[1:]]})
    assert "0 to 0.1 % " in text_of(render_report(found))
    assert "0 to 0.1 % " not in text_of(render_report(found.model_copy(update={"calibration": [changed]})))


def test_a_line_is_drawn_where_its_points_are() -> None:
    drawn = str(
        lines(
            [Line("a", [(0, 0.0), (1, 1.0), (2, 0.5)], "#000")],
            label="l",
            x_ticks=[(0, "z")],
            y_of=str,
            height=236,
        )
    )
    # 200 high from y = 10 to 210; 304 wide from x = 46 to 350
    assert 'points="46.0,210.0 198.0,10.0 350.0,110.0"' in drawn
    assert lines([], label="l", x_ticks=[], y_of=str) == ""
    one = str(ranges([Range("a", 0.0, 0.5, 1.0, "#000")], label="l", told=lambda r: "half"))
    assert 'x1="4.0" x2="356.0"' in one and 'cx="180.0"' in one


def test_each_recipe_looks_the_same_everywhere(found: Results) -> None:
    look = Look(found)
    assert look.order[0] == "als-ranked" == look.winner
    assert len(set(look.colour.values())) == len(found.recipes)
    assert all(look.dash[recipe.name] for recipe in found.recipes if recipe.baseline)
    assert len(over_origins(found, look)) == 2


# --- in a browser -----------------------------------------------------------------------------------------


def in_browser(page: Path, *, width: int) -> tuple[str, str]:
    """Return the document and what the browser complained of, in a frame of a phone's or a desk's width.

    Headless Chromium has no window below 500; a frame has the width of a phone.
    """
    if CHROMIUM is None:
        pytest.skip("needs chromium, which is not installed")
    probe = (
        "<script>const wide = document.documentElement.scrollWidth + '/' + innerWidth;"
        "parent.postMessage(wide, '*')</script></body>"
    )
    inner = page.read_text(encoding="utf-8").replace("</body>", probe)
    outer = page.with_name("frame.html")
    outer.write_text(
        "<!doctype html><title>none</title><script>onmessage = e => document.title = e.data</script>"
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(inner)}"></iframe>',
        encoding="utf-8",
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += ["--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("which", ["report", "index"])
def test_a_browser_shows_it_without_complaint_or_overflow(
    found: Results, tmp_path: Path, width: int, which: str
) -> None:
    long = results(
        tmp_path / ("a-very-long-name-of-a-folder-without-any-place-to-break-it" * 2),
        means={
            "als": 0.3,
            "als@202611220136-e021db82d933": 0.36,
            "expert": 0.2,
            "popularity-28d (baseline)": 0.1,
        },
        name="Averyveryveryverylongnameofaproductwithoutanyspaceatall" * 2,
        probabilities=False,
    )
    for number, one in enumerate((found, long)):
        directory = tmp_path / f"evaluate-{number}"
        one.write(directory)
        page = write_report(one, directory)
        shown = write_index(tmp_path) if which == "index" else page
        document, complaints = in_browser(shown, width=width)
        title = re.search(r"<title>(\d+)/(\d+)</title>", document)
        assert title is not None, document[:500]
        assert int(title.group(2)) == width
        assert int(title.group(1)) <= width
        assert "CONSOLE" not in complaints
