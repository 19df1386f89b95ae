from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from enginekeeper.cli.main import cli
from enginekeeper.errors import InputError
from enginekeeper.validation.answers import (
    Pairs,
    bounds,
    compare_answers,
    paired,
    read_answers,
)

Z = 2.3263478740408408
"""The normal quantile of 0.99."""


def written(path: Path, correct: list[int], first: int = 0) -> Path:
    rows = ({"id": f"q{first + n}", "correct": bool(one)} for n, one in enumerate(correct))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_only_questions_answered_differently_count() -> None:
    few, many = (compare_answers(pairs, max_loss=0.01, confidence=0.99) for pairs in (
        Pairs(both=2000, lost=10, won=10, neither=1000),
        Pairs(both=1000, lost=10, won=10, neither=2000),
    ))  # fmt: skip

    assert few["result"] == "pass"
    for name in ("loss", "lower", "upper", "p_worse"):
        assert few[name] == many[name]


@pytest.mark.parametrize(
    ("lost", "won", "result"), [(20, 20, "pass"), (120, 20, "fail"), (45, 20, "inconclusive")]
)
def test_a_loss_is_held_against_the_limit_by_its_bounds(lost: int, won: int, result: str) -> None:
    pairs = Pairs(2000, lost, won, 1000)

    found = compare_answers(pairs, max_loss=0.01, confidence=0.99)

    assert found["result"] == result
    assert found["lower"] < found["loss"] < found["upper"]
    assert (found["questions_to_decide"] is not None) is (result == "inconclusive")


def test_equal_answers_to_few_questions_prove_little() -> None:
    found = compare_answers(Pairs(10, 0, 0, 0), max_loss=0.01, confidence=0.99)

    assert found["result"] == "inconclusive"
    assert found["p_worse"] == 1.0
    assert found["upper"] > 0.3


@pytest.mark.parametrize(("loss", "changed"), [(0.0, 0.03), (0.01, 0.03), (0.01, 0.1)])
def test_the_bounds_miss_no_more_often_than_they_say(loss: float, changed: float) -> None:
    random, questions, draws = np.random.default_rng(5), 1000, 2000
    shares = ((changed + loss) / 2, (changed - loss) / 2)
    above = below = 0
    for lost, won, _ in random.multinomial(questions, (*shares, 1 - changed), draws):
        lower, upper = bounds(Pairs(questions - lost - won, int(lost), int(won), 0), Z)
        above += lower > loss
        below += upper < loss

    assert above / draws <= 0.02
    assert below / draws <= 0.02


def test_other_questions_are_refused(tmp_path: Path) -> None:
    source = read_answers(written(tmp_path / "s", [1, 0]))
    engine = read_answers(written(tmp_path / "e", [1, 0], first=1))

    with pytest.raises(InputError, match="other questions"):
        paired(source, engine)


@pytest.mark.parametrize(
    "line",
    ['{"id": "a"}', '{"id": 3, "correct": true}', '{"id": "a", "correct": 1}', "[]", "no", ""],
)
def test_what_is_no_answer_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers"
    path.write_text(line + "\n")

    with pytest.raises(InputError):
        read_answers(path)


def test_a_question_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_text('{"id": "a", "correct": true}\n' * 2)

    with pytest.raises(InputError, match="twice"):
        read_answers(path)


@pytest.mark.parametrize(("right", "code"), [(400, 0), (300, 5), (396, 6)])
def test_the_command_exits_by_the_result(tmp_path: Path, right: int, code: int) -> None:
    source = written(tmp_path / "s", [1] * 400)
    engine = written(tmp_path / "e", [1] * right + [0] * (400 - right))
    arguments = ["compare-answers", str(source), str(engine), "--max-loss", "0.02"]

    said = CliRunner().invoke(cli, arguments, standalone_mode=False)
    document = CliRunner().invoke(cli, [*arguments, "--json"], standalone_mode=False)

    assert said.return_value == document.return_value == code
    assert said.stdout.startswith(("PASS", "FAIL", "INCONCLUSIVE"))
    assert json.loads(document.stdout)["lost"] == 400 - right


@pytest.mark.parametrize("option", ["--max-loss", "--confidence"])
def test_nan_is_no_limit_and_no_confidence(tmp_path: Path, option: str) -> None:
    answers = str(written(tmp_path / "s", [1] * 20))

    said = CliRunner().invoke(cli, ["compare-answers", answers, answers, option, "nan"])

    assert said.exit_code == 2
    assert "nan is no number" in said.stderr


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_text(json.dumps({"id": "a\u2028b", "correct": True}, ensure_ascii=False) + "\r\n")

    assert read_answers(path) == {"a\u2028b": True}


@pytest.mark.parametrize(
    ("lost", "won", "result"), [(0, 0, "pass"), (3, 1, "pass"), (5, 0, "fail")]
)
def test_as_many_questions_as_are_said_to_decide_do(lost: int, won: int, result: str) -> None:
    found = compare_answers(Pairs(400 - lost - won, lost, won, 0), max_loss=0.01, confidence=0.99)
    needed = found["questions_to_decide"]
    asked = {}
    for questions in (round(needed * 0.9), round(needed * 1.1)):
        worse, better = (round(one * questions / 400) for one in (lost, won))
        pairs = Pairs(questions - worse - better, worse, better, 0)
        asked[questions] = compare_answers(pairs, max_loss=0.01, confidence=0.99)["result"]

    assert found["result"] == "inconclusive"
    assert list(asked.values()) == ["inconclusive", result]
