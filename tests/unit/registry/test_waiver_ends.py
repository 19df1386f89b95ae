"""What ends with a waiver: what approvers signed, in whatever envelope it comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from registry.attestations import Statement, sign
from registry.bundles import write_bundle
from registry.envelopes import countersign, seal
from registry.errors import IntegrityError
from registry.evidence import Permission
from registry.evidence_gate import EvidenceGate
from registry.exchange import evidence_of, import_bundle
from registry.models import WaiverRow
from registry.signing import trusted
from registry.trust import Purpose
from registry.types import Engine, Waiver
from registry.waivers import ENDING_TYPE, ended_together, ending_statement
from tests.factories.registry import CPU, START, Workbench, make_workbench, with_registry

SECOND = CryptoSigner.generate_ed25519()


def padded(envelope: str) -> str:
    return envelope + "\n"


def reordered(envelope: str) -> str:
    return json.dumps(dict(reversed(json.loads(envelope).items())), indent=1)


def signed_by_a_stranger(envelope: str) -> str:
    return countersign(envelope.encode(), CryptoSigner.generate_ed25519()).decode()


def signed_once_more(envelope: str) -> str:
    return countersign(envelope.encode(), SECOND).decode()


WRAPPINGS = (padded, reordered, signed_by_a_stranger, signed_once_more)


@pytest.fixture
def engine(bench: Workbench) -> Engine:
    return bench.publish()


def rule(bench: Workbench, engine: Engine) -> str:
    return bench.registry.gate(engine.digest, CPU).rule


@pytest.mark.parametrize("wrapped", WRAPPINGS)
def test_an_ended_waiver_does_not_come_back_in_another_envelope(
    bench: Workbench, engine: Engine, wrapped: Callable[[str], str]
) -> None:
    trust = bench.signers.trust.with_key(trusted(SECOND, Purpose.WAIVER))
    bench = with_registry(bench, trust=trust)
    waiver = bench.end(bench.waive(engine, "never-judged"))
    again = bench.registry.grant_waiver(engine.digest, wrapped(waiver.envelope).encode())
    assert (again.ending, again.digest == waiver.digest) == (waiver.ending, False)
    assert rule(bench, engine) == "never-judged"


def test_an_ended_waiver_does_not_come_back_when_its_row_is_gone(
    bench: Workbench, engine: Engine
) -> None:
    waiver = bench.end(bench.waive(engine, "never-judged"))
    with bench.registry.catalogue.edit() as draft:
        draft._session.delete(draft._row(WaiverRow, waiver.digest))
    bench.registry.grant_waiver(engine.digest, padded(waiver.envelope).encode())
    assert rule(bench, engine) == "never-judged"


def test_who_ends_a_waiver_ends_each_envelope_of_it(bench: Workbench, engine: Engine) -> None:
    waiver = bench.waive(engine, "never-judged")
    copy = bench.registry.grant_waiver(engine.digest, padded(waiver.envelope).encode())
    assert copy.ending is None
    bench.end(waiver)
    assert all(one.ending is not None for one in bench.registry.waivers())
    assert bench.registry.waiver(copy.digest).ending is not None
    assert bench.registry.state().waivers == frozenset()
    assert rule(bench, engine) == "never-judged"


def test_another_waiver_of_the_same_rule_is_not_ended_with_it(
    bench: Workbench, engine: Engine
) -> None:
    bench.end(bench.waive(engine, "never-judged"))
    bench.waive(engine, "never-judged", reason="another fire")
    assert rule(bench, engine) == "waived"


def carried(bench: Workbench, engine: Engine, *permissions: Permission) -> Path:
    evidence = replace(evidence_of(bench.registry, engine), permissions=permissions)
    write_bundle(bench.registry.store, evidence, bench.directory / "forged.bundle")
    return bench.directory / "forged.bundle"


def test_a_bundle_does_not_bring_an_ended_waiver_back(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    waiver = bench.end(bench.waive(engine, "never-judged"))
    bundle = carried(bench, engine, Permission(padded(waiver.envelope)))
    import_bundle(bench.registry, bundle, tmp_path / "scratch")
    assert rule(bench, engine) == "never-judged"


@pytest.mark.parametrize("turned", [False, True])
def test_a_waiver_and_its_end_in_one_bundle_are_both_envelopes_ended(
    bench: Workbench, engine: Engine, tmp_path: Path, *, turned: bool
) -> None:
    waiver = bench.end(bench.waive(engine, "never-judged"))
    copies = [Permission(waiver.envelope, waiver.ending), Permission(padded(waiver.envelope))]
    bundle = carried(bench, engine, *(reversed(copies) if turned else copies))
    other = make_workbench(tmp_path / "other")
    other = with_registry(other, trust=bench.signers.trust)
    import_bundle(other.registry, bundle, tmp_path / "scratch")
    assert rule(other, engine) == "never-judged"


def test_offline_the_end_of_one_envelope_holds_the_other(bench: Workbench, engine: Engine) -> None:
    waiver = bench.end(bench.waive(engine, "never-judged"))
    evidence = replace(
        evidence_of(bench.registry, engine),
        permissions=(
            Permission(padded(waiver.envelope)),
            Permission(waiver.envelope, waiver.ending),
        ),
    )
    decision = EvidenceGate(bench.signers.trust, lambda _key, _place: None).decide(evidence, CPU)
    assert decision.rule == "never-judged"


def old_end(bench: Workbench, waiver: Waiver) -> bytes:
    """Ends a waiver as it was done before what it says was named."""
    said = ending_statement(waiver, reason="r", ended_by="anna", at=START).predicate
    predicate = {name: value for name, value in said.items() if name != "statement"}
    statement = Statement(waiver.engine, Purpose.WAIVER, predicate, predicate_type=ENDING_TYPE)
    return sign(statement, bench.signers.approver)


def test_a_statement_that_names_the_envelope_only_ends_it_as_ever(
    bench: Workbench, engine: Engine
) -> None:
    waiver = bench.waive(engine, "never-judged")
    bench.registry.end_waiver(waiver.digest, old_end(bench, waiver))
    assert rule(bench, engine) == "never-judged"
    bench.registry.grant_waiver(engine.digest, padded(waiver.envelope).encode())
    assert rule(bench, engine) == "never-judged"  # the row says so


def test_what_cannot_be_read_ends_nothing_else(bench: Workbench, engine: Engine) -> None:
    first = bench.end(bench.waive(engine, "never-judged"))
    broken = replace(first, envelope="{}", ending=None, digest=engine.digest)
    assert ended_together([broken, first]) == [broken, first]


def test_a_statement_that_names_another_one_ends_nothing(bench: Workbench, engine: Engine) -> None:
    waiver, other = bench.waive(engine, "never-judged"), bench.waive(engine, "verdict-failed")
    said = dict(ending_statement(waiver, reason="r", ended_by="anna", at=START).predicate)
    said["waiver"] = str(other.digest)
    statement = Statement(engine.digest, Purpose.WAIVER, said, predicate_type=ENDING_TYPE)
    with pytest.raises(IntegrityError, match="ends another waiver"):
        bench.registry.end_waiver(other.digest, seal(statement.to_bytes(), bench.signers.approver))
