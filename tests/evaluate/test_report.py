"""The report is one page that asks nobody for anything and lets no name become markup."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

import demur
from demur.monitor.bundle import Bundle
from demur.monitor.evaluate.selection import selection_of

EVIL = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "\"'><svg/onload=alert(3)> &amp; &lt;",
    "javascript:alert(4) \u2028",
]
TAGS = set(
    """html head meta title style body main header footer section h1 h2 h3 p b i small code span div ul li table thead tbody tr
    th td br svg line circle label select figure figcaption noscript details summary script""".split()
)
ATTRIBUTES = set(
    """lang charset name content http-equiv class id title style type viewbox role x1 x2 y1 y2 cx cy r""".split()
)
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Elements, attributes, and the text inside them; elements must nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words = [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        place = self.open[-1] if self.open else ""
        self.words.setdefault(place, []).append(data)

    def text(self):
        return "".join(w for tag, words in self.words.items() if tag not in ("script", "style") for w in words)


@pytest.fixture(scope="module")
def hostile(bundle, tables):
    near, far = tables["ood"].values()
    mild, strong = tables["shifted"].values()
    selection = {
        "axes": [EVIL[0], "errors"],
        "candidates": [
            {"name": EVIL[1], "chosen": True, "values": {EVIL[0]: 0.7, "errors": 0.9}},
            {"name": "energy", "values": {EVIL[0]: 0.8, "errors": None}},
        ],
    }
    members = {**bundle.members, "selection.json": json.dumps(selection).encode()}
    fields = {n: getattr(bundle.manifest, n) for n in type(bundle.manifest).model_fields}
    for name in ("members", "rules_digest"):
        fields.pop(name)
    return demur.evaluate(
        Bundle.build(members, **fields),
        tables["test"],
        ood={EVIL[0]: near, EVIL[1]: far},
        shifted={EVIL[2]: mild, "strong": strong},
        severity={EVIL[2]: 1, "strong": 2},
        bootstrap=0,
    )


@pytest.fixture(scope="module")
def text(hostile):
    noted = dataclasses.replace(hostile, notes=(*hostile.notes, EVIL[3], EVIL[2]))
    return noted.to_html()


def test_names_stay_text(text, hostile):
    page = Page(text)
    assert page.open == []
    assert set(page.tags) <= TAGS
    assert {name for _, name, _ in page.attributes} <= ATTRIBUTES
    assert page.tags.count("script") == 2
    said = page.text()
    assert all(name in said for name in EVIL)
    titles = [value for _, name, value in page.attributes if name == "title"]
    assert titles
    data = json.loads(page.words["script"][0])
    assert [s["name"] for s in data["sets"]] == [s.set for s in hostile.sets]


def test_the_page_fetches_nothing(text):
    page = Page(text)
    script, style = page.words["script"][1], "".join(page.words["style"])
    namespace = "http://www.w3.org/2000/svg"
    assert script.count("//") == script.count(namespace) + len(re.findall(r"^\s*//|; //", script, re.MULTILINE))
    rest = text.replace(namespace, "")
    assert not re.search(r"https?:|//[a-z]|\burl\(|@import|@font-face", rest.replace("javascript:", ""))
    assert not re.search(
        r"fetch|XMLHttp|WebSocket|import\(|eval|innerHTML|outerHTML|insertAdjacent|document\.write", script
    )
    assert "url" not in style
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_page_is_complete_and_small(text, evaluation):
    said = Page(text).text()
    for heading in (
        "What the policy did", "Promised and realised", "Ground truths side by side", "Curves", "Accepted, by cause",
        "Scores and p-values", "Calibration of p-values", "Severity", "Selection", "Every metric",
    ):  # fmt: skip
        assert heading in said
    assert "Selection" not in Page(evaluation.to_html()).text()
    assert len(text.encode()) < 2_000_000
    assert len(evaluation.to_html().encode()) < 2_000_000
    msp = evaluation.ranking("oms", "msp").metrics["auroc"].value
    assert f"{msp:.3f}" in Page(evaluation.to_html()).text()


def test_every_element_that_the_script_looks_for_is_there(text):
    page = Page(text)
    ids = {value for _, name, value in page.attributes if name == "id"}
    script = page.words["script"][1]
    wanted = set(re.findall(r'(?:byId|getElementById|choices|chips|curves|histogram)\("(\w+)"', script))
    assert len(wanted) >= 7
    assert wanted <= ids


def test_regret_is_the_largest_shortfall(hostile):
    chosen, other = hostile.selection.candidates
    assert (chosen.chosen, chosen.regret) == (True, pytest.approx(0.1))
    assert (other.values, other.regret) == ((0.8, None), 0.0)


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{", b'{"axes": 3}', b'{"axes": ["a"], "candidates": [{"name": 1}]}', b"\xff", b"[" * 100_000],
)
def test_a_selection_of_another_shape_is_left_out(bundle, raw):
    assert selection_of(dataclasses.replace(bundle, members={**bundle.members, "selection.json": raw})) is None


def test_what_is_saved_makes_its_folder(evaluation, tmp_path):
    for name in ("new/a.json", "new/deep/a.html"):
        evaluation.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 0
