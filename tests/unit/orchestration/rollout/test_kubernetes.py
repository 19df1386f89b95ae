"""The label that keeps the GPU Operator off held nodes, and the kubectl that sets it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.orchestration.rollout.following import GONE
from enginekeeper.orchestration.rollout.kubernetes import SKIP, apply, label_commands
from registry.waves.types import Phase, Stage
from tests.factories.waves import node, wave


def test_held_nodes_get_the_label_and_released_ones_lose_it() -> None:
    nodes = [node(f"n-{stage}", stage=stage) for stage in Stage]
    assert label_commands(wave(*nodes)) == [
        ["kubectl", "label", "nodes", "n-held", "n-failed", "n-reverting", "n-reverted",
         f"{SKIP}=true", "--overwrite"],
        ["kubectl", "label", "nodes", "n-released", "n-upgraded", "n-done", f"{SKIP}-",
         "--overwrite"],
    ]  # fmt: skip
    assert SKIP == "nvidia.com/gpu-driver-upgrade.skip"


def test_on_the_way_back_only_those_lose_the_label_that_may_go_back() -> None:
    nodes = [node(f"n-{stage}", stage=stage) for stage in Stage]
    held, freed = label_commands(wave(*nodes, phase=Phase.ROLLING_BACK))
    assert (held[3:-2], freed[3:-2]) == (
        ["n-held", "n-released", "n-upgraded", "n-done", "n-failed", "n-reverted"], ["n-reverting"],
    )  # fmt: skip
    (held,) = label_commands(wave(*nodes, phase=Phase.ROLLED_BACK))
    assert len(held[3:-2]) == len(nodes)


def test_a_node_that_left_the_fleet_is_not_labelled() -> None:
    assert label_commands(wave(node("a", stage=Stage.REVERTED, reasons=(GONE,)))) == []


def test_many_nodes_are_several_commands_and_none_is_left_out() -> None:
    names = [f"gpu-{number:04d}" for number in range(450)]
    commands = label_commands(wave(*map(node, names)))
    assert len(commands) == 3
    assert [name for one in commands for name in one[3:-2]] == names


@pytest.mark.parametrize("name", ["--all", "-l", "UPPER", "a_b", "a/b", "x" * 300])
def test_a_name_that_kubectl_could_take_for_an_option_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no Kubernetes node"):
        label_commands(wave(node(name)))


def program(directory: Path, status: int) -> str:
    """Writes a program in kubectl's place that notes its arguments and ends with a status."""
    file = directory / "kubectl"
    file.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"open({str(directory / 'noted')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"print('no such node', file=sys.stderr)\nsys.exit({status})\n"
    )
    file.chmod(0o755)
    return str(file)


def test_commands_are_run_in_order_without_a_shell(tmp_path: Path) -> None:
    apply(label_commands(wave(node("a"), node("b", stage=Stage.DONE)), program(tmp_path, 0)))
    assert (tmp_path / "noted").read_text().splitlines() == [
        f"label nodes a {SKIP}=true --overwrite", f"label nodes b {SKIP}- --overwrite",
    ]  # fmt: skip


def test_the_first_that_fails_ends_it_with_what_kubectl_said(tmp_path: Path) -> None:
    commands = label_commands(wave(node("a"), node("b", stage=Stage.DONE)), program(tmp_path, 1))
    with pytest.raises(UnavailableError, match="kubectl refused") as caught:
        apply(commands)
    assert caught.value.actual == "no such node"
    assert len((tmp_path / "noted").read_text().splitlines()) == 1


def test_without_kubectl_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="not installed here"):
        apply(label_commands(wave(node("a")), str(tmp_path / "kubectl")))
