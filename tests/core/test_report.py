"""Reports: what they say, that nothing in them runs but their own script, and that a real browser can use them."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import unquote

import numpy as np
import PIL.Image
import pytest

from inspection_core.card import Calibration, ModelCard, Policy, Preparation
from inspection_core.report import Crop, ReportData, ReportItem, write_report

HOSTILE = [
    "<img src=x onerror=document.title='run'>.png",
    "</script><script>document.title='run'</script>.png",
    "<!--<script>.png",
    "\"><svg onload=document.title='run'>.png",
    "' onmouseover='document.title=1 #half 100%.png",
    "javascript:document.title='run'.png",
    "{{ 7 * 7 }} ${1} \\u003cb\\u003e.png",
    "Prüfling 漢字 🙂 \u202egnp.exe.png",
    "no valid unicode \udcff.png",
    "folder & more/ two  spaces.png",
]
CALIBRATION = tuple(np.linspace(0.1, 0.5, 40))


def card(**changes):
    kept = {
        "id": "cells",
        "version": "1.2.0",
        "architecture": "patch-memory",
        "task": "anomaly",
        "channels": ("grey",),
        "score": "Distance to the nearest good patch.",
        "policy": Policy(max_false_alarms=0.05, review=0.1),
        "calibration": Calibration("leave one out", CALIBRATION, tuple(s * 1.5 for s in CALIBRATION), 0.2),
        "intended_use": "Cells & modules, <one> at a time.",
        "limits": "Not for multicrystalline cells.",
        "licence": "Apache-2.0",
        "training": {"images": 40, "split": "by module"},
        "metrics": {"image_auroc": 0.93},
        "weights_sha256": "ab" * 32,
    }
    return ModelCard(**(kept | changes))


def item(k, **changes):
    score = 0.2 + 0.01 * (k % 90)
    verdict = "NG" if score > 0.48 else "REVIEW" if score > 0.46 else "OK"
    return replace(ReportItem(f"lot_{k % 7}/part_{k:05d}.png", "done", score, 0.5, verdict, 0.1), **changes)


FINDING = {
    "id": 1,
    "label": "anomaly",
    "centroid_index": [12.4, 30.0],
    "size": 1234.0,
    "size_unit": "px",
    "peak": 0.9,
    "p_value": 1 / 41,
    "confidence": 40 / 41,
    "neighbour": {"image": "train/good/<b>7</b>.png", "centre": [5.0, 6.0], "size": [8, 8], "distance": 0.81},
}


def data(items, **changes):
    kept = {
        "title": "Line 3",
        "card": card(),
        "items": items,
        "threshold": 0.48,
        "review_threshold": 0.46,
        "created": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    }
    return ReportData(**(kept | changes))


def picture(path, colour=(120, 120, 120)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (32, 24), colour).save(path)
    return path


class Page(html.parser.HTMLParser):
    """The elements of a report as a parser sees them, and the text of its scripts."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.scripts, self.words = [], {}, []
        self._script = None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._script = dict(attributes).get("id", "main") if tag == "script" else None

    def handle_endtag(self, tag):
        self._script = None if tag == "script" else self._script

    def handle_data(self, text):
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + text
        else:
            self.words.append(text)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def content(self):
        return json.loads(self.scripts["content"])


def squeeze(text):
    """Leave out white space, which markup adds and browsers collapse."""
    return re.sub(r"\s", "", text)


def write(path, items, embed_limit=200, **changes):
    return Page(write_report(path / "report.html", data(items, **changes), embed_limit))


def test_first_screen_answers_how_many_at_which_rate_by_which_model(tmp_path):
    items = [item(k, verdict=v) for k, v in enumerate(["NG"] * 3 + ["REVIEW"] * 2 + ["OK"] * 1200)]
    failed = ReportItem("bad.png", "failed", error="The file is cut off; copy it again.")
    text = write(tmp_path, [*items, failed], certified_rate=2 / 41).text
    for words in (
        "Research use only, not for diagnosis.",
        "1,206 images",
        "3 NG 0.2%",
        "2 REVIEW 0.2%",
        "1,200 OK 99.5%",
        "1 failed 0.1%",
        "5% of good parts",
        "10% including REVIEW",
        "NG above score 0.48 REVIEW above 0.46",
        "40 good images certifies a rate of 4.88%",
        "cells 1.2.0 patch-memory, SHA-256 abababababab…",
    ):
        assert squeeze(words) in squeeze(text), words


def test_card_notes_metrics_and_command_are_readable(tmp_path):
    metrics = {
        "image_auroc": 0.9314159,
        "image_auroc_interval": {"low": 0.88, "high": 0.97, "level": 0.95},
        "false_alarm_rate": 0.05,
        "false_alarm_interval": {"low": 0.01, "high": 0.1, "level": 0.95},
        "recall": None,
        "recall_interval": None,
        "kinds": {"crack": {"n": 7}},
        "errors": [{"path": "x"}],
    }
    page = write(tmp_path, [item(1)], metrics=metrics, notes=("Split by module.",), command="inspection screen <x>")
    for words in (
        "Cells & modules, <one> at a time.",
        "Not for multicrystalline cells.",
        "Apache-2.0",
        "by module",
        "leave one out",
        "ab" * 32,
        "image AUROC 0.9314 (95% interval 0.88 to 0.97)",
        "false alarm rate 0.05 (95% interval 0.01 to 0.1)",
        "recall not defined",
        "kinds, crack, n 7",
        "Split by module.",
        "inspection screen <x>",
        "2026-01-02 03:04 UTC",
    ):
        assert squeeze(words) in squeeze(page.text), words


# name: (preparation, words)
SIZES = {
    "one area": (
        Preparation(short_side=0, side=320, scales=(0.5, 1.25)),
        "area of 320 x 320 px, scaled by 0.5 to 1.25",
    ),
    "one area without limits": (Preparation(short_side=0, side=256), "area of 256 x 256 px"),
    "short side": (Preparation(short_side=256), "short side 256 px"),
    "one scale": (Preparation(short_side=0, scale=0.5), "scale 0.5"),
}


@pytest.mark.parametrize(("preparation", "words"), SIZES.values(), ids=SIZES)
def test_the_card_tells_the_inference_size(tmp_path, preparation, words):
    page = write(tmp_path, [item(1)], card=card(preparation=preparation))
    assert squeeze(f"size {words} tile, overlap") in squeeze(page.text)


def test_scans_have_their_own_words_for_verdicts(tmp_path):
    page = write(tmp_path, [item(1)], card=card(task="segmentation", policy=Policy(kind="band", low=0.3, high=0.8)))
    assert page.content["words"] == {"NG": "finding", "REVIEW": "check", "OK": "no finding"}
    assert "no false-alarm rate is promised" in page.text
    own = write(tmp_path, [item(1)], wording={"NG": "reject", "REVIEW": "look", "OK": "pass"})
    assert "reject above score" in own.text


def test_known_labels_meet_verdicts_with_intervals(tmp_path):
    items = [item(k, truth="good", verdict="NG" if k == 0 else "OK") for k in range(40)]
    items += [item(k, truth="crack", verdict="NG") for k in range(10)]
    text = write(tmp_path, items).text
    assert "2.5% (0.1% to 13.2%) false alarms" in text  # the exact interval for 1 of 40, by R's binom.test
    assert "100.0% (69.2% to 100.0%) detected" in text
    assert text.index("false alarms") < text.index("detected")
    assert "Known labels" not in write(tmp_path, [item(1)]).text


def everywhere(path, name):
    """Write a report with `name` in every place that takes text from outside."""
    finding = FINDING | {"label": name, "neighbour": FINDING["neighbour"] | {"image": name}}
    return write(
        path,
        [
            item(1, path=name, truth=name, findings=(finding,), warnings=(name,)),
            ReportItem(name, "failed", error=name, truth=name),
        ],
        title=name,
        subtitle=name,
        notes=(name,),
        warnings=(name,),
        command=name,
        metrics={name: name},
        wording={"NG": name, "REVIEW": "r", "OK": "o"},
        card=card(limits=name, training={name: name}),
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_file_names_never_become_markup(tmp_path, name):
    harmless, hostile = everywhere(tmp_path, "harmless.png"), everywhere(tmp_path, name)
    assert [(tag, *attributes) for tag, attributes in hostile.elements] == [(t, *a) for t, a in harmless.elements]
    assert hostile.content["items"][0][0] == name
    assert not set("<>&") & set(hostile.scripts["content"])
    assert name.encode("utf-8", "replace").decode() in "".join(hostile.words)


def test_page_asks_the_network_for_nothing(tmp_path):
    page = write(tmp_path, [item(k, picture=picture(tmp_path / "p" / f"{k}.png")) for k in range(3)])
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        assert not {"src", "srcset", "poster", "action"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")
    [policy] = [a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert "unsafe" not in policy.split("script-src")[1]
    digest = hashlib.sha256(page.scripts["main"].encode()).digest()
    assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert all(word not in page.scripts["main"] for word in ("innerHTML", "insertAdjacent", "document.write", "eval("))


def test_few_pictures_are_embedded_and_many_lie_beside(tmp_path):
    odd = tmp_path / "report_images" / "50% #1 ü?.png"
    items = [item(0, picture=picture(odd), plain=picture(tmp_path / "report_images" / "b.png")), item(1)]
    crop = picture(tmp_path / "report_images" / "c.png")
    items[1] = item(1, findings=(FINDING,), crops=(Crop(1, crop, crop),))
    first, second = write(tmp_path, items, embed_limit=2).content["items"]
    assert base64.b64decode(first[8].removeprefix("data:image/png;base64,")) == odd.read_bytes()
    assert second[12][0][1].startswith("data:image/png;base64,")
    first, second = write(tmp_path, items, embed_limit=1).content["items"]
    assert first[8] == "report_images/50%25%20%231%20%C3%BC%3F.png"
    assert (tmp_path / unquote(first[8])).samefile(odd)
    assert second[12] == [[1, "report_images/c.png", "report_images/c.png"]]


def test_missing_pictures_cost_a_warning_not_the_report(tmp_path):
    items = [
        item(0, picture=tmp_path / "gone.png", plain=picture(tmp_path / "a.png")),
        item(1, picture=tmp_path / "x.exe"),
    ]
    page = write(tmp_path, items)
    assert page.content["items"][0][8] == ""
    assert "Picture files that could not be found and are not shown: 2." in page.text


def test_numbers_that_json_lacks_become_nothing(tmp_path):
    page = write(
        tmp_path,
        [item(0, score=float("nan"), p_value=None), item(1, score=np.float32(0.3))],
        threshold=float("inf"),
        review_threshold=float("-inf"),
    )
    assert page.content["items"][0][2:4] == [None, None]
    assert page.content["items"][1][2] == 0.3
    assert (page.content["threshold"], page.content["review"]) == (None, None)
    assert squeeze("NG above score no score REVIEW above any score") in squeeze(page.text)


UNCALIBRATED = card(calibration=Calibration())
THIN_RUNS = {
    "no images": ([], {}, "0 images"),
    "nothing but failures": ([ReportItem("a.png", "failed")], {}, "no reason was recorded"),
    "no calibration": ([item(0, p_value=None)], {"card": UNCALIBRATED}, "nothing scores are not calibrated"),
    "one score": ([item(0, score=0.0), item(1, score=0.0)], {"card": UNCALIBRATED}, "The histogram as a table"),
    "one score, no threshold": (
        [item(0)],
        {"card": UNCALIBRATED, "threshold": float("inf")},
        "NG above score no score",
    ),
}


@pytest.mark.parametrize(("items", "changes", "words"), THIN_RUNS.values(), ids=THIN_RUNS)
def test_thin_runs_make_a_report(tmp_path, items, changes, words):
    assert squeeze(words) in squeeze(write(tmp_path, items, **changes).text)


def test_histogram_counts_each_score_once_on_its_side_of_the_threshold(tmp_path):
    rng = np.random.default_rng(3)
    scores = [*rng.gamma(30, 0.012, 300), 0.48, 900.0]
    items = [item(k, score=s, truth="good" if k % 2 else None) for k, s in enumerate(scores)]
    histogram = write(tmp_path, items).content["histogram"]
    edges = histogram["edges"]
    assert [g["name"] for g in histogram["groups"]] == ["calibration, good", "good", "label unknown"]
    assert [sum(g["counts"]) for g in histogram["groups"]] == [40, 151, 151]
    assert histogram["folded"] == 1
    assert edges[-1] < 50
    assert min(abs(edge - 0.48) for edge in edges) < 1e-6
    assert all(len(g["counts"]) == len(edges) - 1 for g in histogram["groups"])


@pytest.mark.parametrize("span", [{"low": 0.8, "high": 0.9}, (0.8, 0.9)], ids=["an evaluation", "a card"])
def test_a_figure_is_shown_with_its_interval(tmp_path, span):
    figures = {"dice_mean": 0.85, "dice_mean_interval": span}
    given = {"card": card(metrics=figures)} if isinstance(span, tuple) else {"metrics": figures}
    assert squeeze("dice mean 0.85 (95% interval 0.8 to 0.9)") in squeeze(write(tmp_path, [item(0)], **given).text)


def test_findings_say_whether_their_confidence_is_calibrated(tmp_path):
    some = (FINDING | {"calibrated": True}, FINDING | {"calibrated": False}, FINDING)
    (row,) = write(tmp_path, [item(0, findings=some)]).content["items"]
    assert [finding[-1] for finding in row[11]] == [True, False, False]


def test_same_data_make_the_same_bytes(tmp_path):
    items = [item(k) for k in range(5)]
    assert write(tmp_path, items).source == write(tmp_path, iter(items)).source


def test_ten_thousand_images_stay_small(tmp_path):
    page = write(tmp_path, [item(k, findings=(FINDING,) * (k % 20 == 0)) for k in range(10_000)])
    assert len(page.content["items"]) == 10_000
    assert len(page.source) < 4e6


# ---- in a real browser ----


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser; it is not installed")
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (
            "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
            f"disable-component-update disable-sync window-size=1280,800 user-data-dir={profile}"
        ).split():
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        yield window
        window.quit()


class Report:
    """A report open in the browser, with what a reader would look at."""

    def __init__(self, browser, path):
        self.browser = browser
        browser.get_log("performance")
        browser.get(path.as_uri())

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, script, *arguments):
        end = time.monotonic() + 20
        while not (value := self.run(f"return {script}", *arguments)):
            assert time.monotonic() < end, f"never came true: {script}"
            time.sleep(0.05)
        return value

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def column(self, number):
        script = "return [...document.querySelectorAll('#rows tr')].map(tr => tr.children[arguments[0]]?.innerText)"
        return self.run(script, number)

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).click()", selector)

    def fill(self, selector, value):
        self.run(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            "for (const name of ['input', 'change']) e.dispatchEvent(new Event(name))",
            selector,
            value,
        )

    def press(self, key):
        script = (
            "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))"
        )
        self.run(script, key)

    def requested(self):
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("chrome:", "data:"))]


@pytest.fixture
def opened(browser, tmp_path):
    def build(items, embed_limit=200, **changes):
        report = Report(browser, write_report(tmp_path / "report.html", data(items, **changes), embed_limit))
        if report.run("return document.getElementById('histogram') !== null"):
            report.wait("document.querySelector('#histogram .plot-container') !== null")
        return report

    yield build
    assert browser.get_log("browser") == []


def test_browser_pages_sorts_and_filters_ten_thousand_images(opened):
    failed = [ReportItem(f"broken/{k}.png", "failed", error="cut off") for k in range(3)]
    report = opened([*(item(k) for k in range(9997)), *failed])
    assert report.text("#range") == "1–50 of 10,000"
    assert set(report.column(3)) == {"1.090"}
    assert len(report.column(0)) == 50
    report.click("#last")
    assert report.text("#range") == "9,951–10,000 of 10,000"
    assert report.column(2)[-3:] == ["failed"] * 3
    report.press("ArrowLeft")
    assert report.text("#range") == "9,901–9,950 of 10,000"
    report.click("[data-key=score] button")
    assert report.column(3)[0] == "0.2000"
    assert report.run("return document.querySelector('[data-key=score]').ariaSort") == "ascending"
    report.click("[data-key=path] button")
    assert report.column(1)[:3] == [f"broken/{k}.png" for k in range(3)]
    report.click(".tile.failed")
    assert report.text("#range") == "1–3 of 3"
    assert report.column(3) == ["cut off"] * 3
    report.fill("#by-verdict", "all")
    report.fill("#by-text", "PART_01234")
    assert report.column(1) == ["lot_2/part_01234.png"]
    report.fill("#by-text", "nothing like it")
    assert report.text("#rows") == "No image fits these filters."
    assert report.requested() == [report.run("return location.href")]


def test_browser_shows_an_image_its_findings_and_their_good_patches(opened, tmp_path):
    grey, red = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (200, 0, 0))
    chosen = item(
        1, score=2.0, p_value=1 / 41, verdict="NG", truth="crack", warnings=("very dark",), picture=red, plain=grey,
        findings=(FINDING, FINDING | {"id": 2, "p_value": 4 / 41, "neighbour": None}), crops=(Crop(1, red, grey),),
    )  # fmt: skip
    report = opened([chosen, item(2, p_value=None)], scale=(0.2, 1.5))
    shown = re.sub(r"\s+", " ", report.text("#detail"))
    for words in (
        "Score 2.000, above the NG threshold of 0.48.",
        "None of the 40 good calibration images score as high (p = 0.0244, the smallest",
        "Known label: crack",
        "very dark",
        "1,234 px",
        "(12, 30)",
        "3 of 40 good calibration images peak at least as high (p = 0.0976).",
        "nearest good patch, from train/good/<b>7</b>.png at (5, 6), distance 0.81",
        "pixel score 0.2 1.5",
    ):
        assert words in shown
    assert report.run("return [...document.querySelectorAll('img')].every(e => e.hasAttribute('alt'))")
    visible = (
        "return ['overlay', 'plain'].map(c => getComputedStyle(document.querySelector('.stage .' + c)).visibility)"
    )
    assert report.run(visible) == ["visible", "hidden"]
    report.press("o")
    assert report.run(visible) == ["hidden", "visible"]
    report.click(".stage")
    assert report.run(visible) == ["visible", "hidden"]
    report.run("document.querySelector('#rows tr').focus()")
    report.press("ArrowDown")
    assert "No findings" in report.text("#detail")
    assert "p =" not in report.text("#detail")
    assert report.run("return document.activeElement === document.querySelectorAll('#rows tr')[1]")


def test_browser_shows_pictures_that_lie_beside_the_report(opened, tmp_path):
    names = ["50% #1 ü?.png", "<img src=x>.png", "a b'c\".png"]
    items = [item(k, score=2.0, picture=picture(tmp_path / "report_images" / n)) for k, n in enumerate(names)]
    report = opened(items, embed_limit=1)
    assert report.wait("[...document.querySelectorAll('#rows img')].every(e => e.complete && e.naturalWidth === 32)")
    assert all(url.startswith(tmp_path.as_uri()) for url in report.requested())


def test_browser_runs_nothing_from_a_name(opened, tmp_path):
    finding = FINDING | {"neighbour": FINDING["neighbour"] | {"image": HOSTILE[0]}}
    images = [
        item(k, path=name, truth=name, score=1.0 + k, findings=(finding | {"label": name},), warnings=(name,))
        for k, name in enumerate(HOSTILE)
    ]
    failed = [ReportItem(name, "failed", error=name, truth=name) for name in HOSTILE]
    words = dict.fromkeys(["NG", "REVIEW", "OK"], HOSTILE[0])
    report = opened([*images, *failed], title=HOSTILE[0], subtitle=HOSTILE[1], wording=words)
    for k in range(len(HOSTILE) * 2):
        report.run("document.querySelectorAll('#rows tr')[arguments[0]].click()", k)
    time.sleep(0.2)
    assert report.run("return document.title") == f"{HOSTILE[0]} – inspection report"
    assert report.run("return document.querySelectorAll('[onerror], [onload], [src=x], #rows svg').length") == 0
    assert report.run("return document.scripts.length") == 4  # data, packed Plotly, the report's own, Plotly
    shown = report.run("return [...document.querySelectorAll('#rows .path')].map(e => e.textContent.toWellFormed())")
    assert set(shown) == {name.replace("\udcff", "\ufffd") for name in HOSTILE}


def test_browser_without_any_image_says_so(opened):
    report = opened([], card=card(calibration=Calibration()))
    assert report.text("#rows") == "No images."
    assert "No image has a score." in report.text("body")
