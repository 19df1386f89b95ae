"""Fills a PostgreSQL catalogue with a fleet's worth of rows, in bulk.

The shapes are a real fleet's: models, recipes, GPUs, CUDA runtimes and drivers in combination, two
contents for a key, ten verdicts for an engine in as many environments, most of them passed; one
engine in ten was quarantined and released again, another one has a waiver. The engines that
channels point to, and what is said of them, are truly signed; the others carry the envelopes of
those: text of the same length and kind, under digests of their own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from registry import layout
from registry.attestations import BuildRecord, VerdictClaim, provenance, sign, test_result
from registry.catalogue import parse_url
from registry.digests import Digest, canonical_json, digest_bytes
from registry.environments import GpuEnvironment, environment_from_dict
from registry.keys import EngineKey
from registry.manifests import FileEntry, Manifest
from registry.trust import Trust
from registry.trust_file import trust_as_dict, trust_from_dict
from registry.types import EngineNames, Result
from registry.verification import build_parameters
from registry.waivers import WaiverGrant, waiver_statement
from tests.factories.registry import START, Signers

Gpu = tuple[str, str, str]
"""Target, product and compute capability."""
GPUS: tuple[Gpu, ...] = (
    ("a100-sxm", "NVIDIA A100-SXM4-80GB", "8.0"), ("a30", "NVIDIA A30", "8.0"),
    ("l4", "NVIDIA L4", "8.9"), ("l40s", "NVIDIA L40S", "8.9"),
    ("rtx6000-ada", "NVIDIA RTX 6000 Ada Generation", "8.9"),
    ("h100-sxm", "NVIDIA H100 80GB HBM3", "9.0"), ("h100-pcie", "NVIDIA H100 PCIe", "9.0"),
    ("h200", "NVIDIA H200", "9.0"), ("gh200", "NVIDIA GH200 480GB", "9.0"),
    ("b200", "NVIDIA B200", "10.0"), ("gb200", "NVIDIA GB200", "10.0"),
    ("rtx-pro-6000", "NVIDIA RTX PRO 6000 Blackwell", "12.0"),
)  # fmt: skip
CUDAS = (("12.9", "12.9"), ("12.4", "12.4"), ("13.0", "13.0"), ("13.1", "13.1"))
RECIPES = ("fp8", "w4a16_awq", "w8a16", "nvfp4", "w8a8_sq", "none")
DRIVERS = tuple(
    f"{branch}.{release}.{patch:02d}"
    for branch, releases in (
        (535, (183, 216)), (550, (54, 127)), (570, (86, 124, 172)), (580, (65, 95, 126)),
        (590, (44, 48)),
    )
    for release in releases
    for patch in (1, 5, 10)
)  # fmt: skip
VERDICTS = 10
"""On each engine, in as many environments."""
CHANNELS = ("prod", "canary")
_MODELS = 50
_SELDOM = 10  # one engine of so many was quarantined once, and one has a waiver
_MOVES = 20  # of each position, so far


@dataclass(frozen=True)
class Signed:
    """An engine that a channel points to, as it was signed."""

    model: int
    gpu: int
    key: EngineKey
    digest: Digest
    envelope: str
    names: EngineNames


@dataclass
class Bulk:
    """What was put in, for whoever asks for it."""

    trust: Trust
    models: list[str]
    resolvable: list[tuple[str, str, GpuEnvironment]] = field(default_factory=list)
    """Channel, model and environment, all of them qualified."""
    engines: list[Digest] = field(default_factory=list)
    """The signed ones."""

    def as_dict(self) -> dict[str, Any]:
        """Returns it as a JSON object: private keys are not in it."""
        return {
            "trust": trust_as_dict(self.trust),
            "models": self.models,
            "resolvable": [[*names, where.as_dict()] for *names, where in self.resolvable],
            "engines": [str(one) for one in self.engines],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Bulk:
        """Reads what `as_dict` wrote."""
        trust = trust_from_dict(document["trust"], where="what a catalogue was filled with")
        resolvable = []
        for channel, model, where in document["resolvable"]:
            place = environment_from_dict(where)
            assert isinstance(place, GpuEnvironment)
            resolvable.append((channel, model, place))
        engines = [Digest.parse(one) for one in document["engines"]]
        return cls(replace(trust, clock=_filled), document["models"], resolvable, engines)


class Filler:
    """Writes the tables of a migrated, empty catalogue; ids are given here."""

    def __init__(self, url: str, engines: int, models: int | None = None) -> None:
        self._url = (
            parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        )
        self._count = engines
        self._models = models or max(1, min(_MODELS, engines // 240))
        self._signers = Signers()
        names = [f"model-{number:03d}" for number in range(self._models)]
        self._bulk = Bulk(self._signers.trust, names)
        self._weights = [digest_bytes(name.encode()) for name in self._bulk.models]
        self._environments = [
            GpuEnvironment(gpu[1], gpu[2], cuda[0], cuda[1], driver)
            for gpu, cuda, driver in itertools.product(GPUS, CUDAS, DRIVERS)
        ]
        self._signed = [
            self._sign(model, gpu)
            for model, gpu in itertools.product(range(self._models), range(len(GPUS)))
        ]
        self._keys: dict[int, EngineKey] = {}

    def fill(self) -> Bulk:
        """Writes every table, then lets PostgreSQL count."""
        with psycopg.connect(self._url) as connection:
            self._connection = connection
            self._copy("models", self._model_rows())
            self._copy("environments", self._environment_rows())
            self._copy("keys", self._key_rows())
            self._copy("engines", self._engine_rows())
            self._copy("verdicts", self._verdict_rows())
            connection.execute(
                "INSERT INTO qualifications (verdict_id, engine_id, environment_id, recorded_at)"
                " SELECT id, engine_id, environment_id, recorded_at FROM verdicts"
                " WHERE result = 'pass' ORDER BY id"
            )
            self._copy("channels", self._channel_rows())
            self._copy("channel_positions", self._position_rows())
            self._copy("channel_moves", self._move_rows())
            self._copy("standings", self._standing_rows())
            self._copy("waivers", self._waiver_rows())
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        return self._bulk

    def _sign(self, model: int, gpu: int) -> Signed:
        name, target = self._bulk.models[model], GPUS[gpu][0]
        key = self._key(model, GPUS[gpu], "12.9", "fp8", config="current")
        manifest = Manifest(
            "engine", (FileEntry("rank0.engine", 9, _digest(name, target)),), key.digest()
        )
        names = EngineNames(name, "fp8", target, f"{name}.fp8.tp1.{target}")
        record = BuildRecord(
            "urn:benchmark:builder", "run", START, START,
            parameters=build_parameters(names, self._weights[model]),
        )  # fmt: skip
        envelope = sign(provenance(manifest, key, record), self._signers.builder)
        return Signed(model, gpu, key, manifest.digest, envelope.decode(), names)

    def _key(self, model: int, gpu: Gpu, cuda: str, recipe: str, *, config: str) -> EngineKey:
        return EngineKey.of(
            builder="tensorrt_llm", weights=str(self._weights[model]), quantizer="modelopt 0.47.0",
            recipe={"name": recipe, "kv_cache": "fp8", "group_size": None, "exclude_modules": []},
            build_config=str(_digest("config", config)), tensor_parallel=1, pipeline_parallel=1,
            tensorrt_llm="1.2.1", tensorrt="10.14.1.48", compute_capability=gpu[2],
            gpu_product=gpu[1], cuda_runtime=cuda, os="linux", cpu_architecture="x86_64",
            driver="580.95.05", quantizer_lock=str(_digest("lock")), builder_lock=str(_digest("b")),
        )  # fmt: skip

    def _copy(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        iterator = iter(rows)
        first = next(iterator)
        columns = sql.SQL(", ").join(map(sql.Identifier, first))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(name), columns)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in itertools.chain([first], iterator):
                copy.write_row([_plain(value) for value in row.values()])
        self._connection.execute(
            sql.SQL(
                "SELECT setval(pg_get_serial_sequence({}, 'id'), (SELECT max(id) FROM {}))"
            ).format(sql.Literal(name), sql.Identifier(name))
        )

    def _model_rows(self) -> Iterator[dict[str, Any]]:
        for number, name in enumerate(self._bulk.models):
            yield {
                "id": number + 1, "digest": self._weights[number], "name": name,
                "source": f"org/{name}@{'a' * 40}", "architecture": "LlamaForCausalLM",
                "recorded_at": START,
            }  # fmt: skip

    def _environment_rows(self) -> Iterator[dict[str, Any]]:
        for number, one in enumerate(self._environments):
            yield {
                "id": number + 1, "digest": one.digest(), "kind": one.kind, "product": one.product,
                "compute_capability": one.compute_capability, "cuda_runtime": one.cuda_runtime,
                "cuda_driver": one.cuda_driver, "driver": one.driver, "document": one.as_dict(),
            }  # fmt: skip

    def _key_rows(self) -> Iterator[dict[str, Any]]:
        """Yields keys until two contents of each make the engines that are asked for."""
        others = self._count - len(self._signed)
        generated = (
            self._key(model, gpu, cuda[0], recipe, config=str(config))
            for config, model, recipe, gpu, cuda in _product(self._models)
        )
        keys = [one.key for one in self._signed]
        keys += list(itertools.islice(generated, -(-others // 2)))
        for number, key in enumerate(keys):
            self._keys[number + 1] = key
            hard = key.hard
            yield {
                "id": number + 1, "digest": key.digest(), "builder": hard["builder"],
                "gpu_product": hard["gpu_product"], "hard": dict(hard), "recorded_at": START,
                "compute_capability": hard["compute_capability"],
                "cuda_runtime": hard["cuda_runtime"],
            }  # fmt: skip

    def _engine_rows(self) -> Iterator[dict[str, Any]]:
        targets = {product: target for target, product, _ in GPUS}
        models = {str(weights): number for number, weights in enumerate(self._weights)}
        signed = len(self._signed)
        for number in range(self._count):
            own = self._signed[number] if number < signed else None
            key_id = self._key_id(number)
            key = self._keys[key_id]
            model = models[key.hard["weights"]]
            name, recipe = self._bulk.models[model], key.hard["recipe"]["name"]
            target = targets[key.hard["gpu_product"]]
            digest = own.digest if own else _digest("engine", number)
            yield {
                "id": number + 1, "digest": digest, "key_id": key_id, "model_id": model + 1,
                "checkpoint_id": None, "recipe": recipe, "target": target,
                "variant": f"{name}.{recipe}.tp1.{target}", "soft": dict(key.soft), "info": {},
                "size": 8_000_000_000 + number, "simulated": False, "recorded_at": _when(number),
                "path": layout.engine_path(name, recipe, target, key, digest),
                "provenance": own.envelope if own else self._signed[number % signed].envelope,
            }  # fmt: skip

    def _verdict_rows(self) -> Iterator[dict[str, Any]]:
        """Yields ten verdicts for each engine on its hardware; the last on a signed one passed."""
        by_hardware: dict[tuple[str, str], list[int]] = {}
        for number, one in enumerate(self._environments):
            by_hardware.setdefault((one.product, one.cuda_runtime), []).append(number)
        kept: list[str] = []
        for number in range(self._count):
            own = self._signed[number] if number < len(self._signed) else None
            hard = self._keys[self._key_id(number)].hard
            places = by_hardware[hard["gpu_product"], hard["cuda_runtime"]]
            for turn in range(VERDICTS):
                place = places[(7 * number + 3 * turn) % len(places)]
                result = Result.PASS if own else _result(number, turn)
                envelope = (
                    self._verdict(own, place, turn) if own else kept[(number + turn) % len(kept)]
                )
                if own:
                    kept.append(envelope)
                    self._note(own, place, turn)
                yield self._verdict_row(
                    number * VERDICTS + turn, place, result, envelope, own=own is not None
                )

    def _key_id(self, number: int) -> int:
        signed = len(self._signed)
        return number + 1 if number < signed else signed + 1 + (number - signed) // 2

    def _verdict_row(
        self, at: int, place: int, result: Result, envelope: str, *, own: bool
    ) -> dict[str, Any]:
        document = digest_bytes(canonical_json({"at": at % VERDICTS})) if own else _digest("d", at)
        return {
            "id": at + 1, "digest": digest_bytes(envelope.encode()) if own else _digest("v", at),
            "engine_id": at // VERDICTS + 1, "environment_id": place + 1, "result": str(result),
            "fidelity": str(result), "quality": "pass", "summary": _summary(result),
            "document": document, "path": f"engines/verdicts/{document.short}.json",
            "envelope": envelope, "simulated": False, "issued_at": _when(at),
            "recorded_at": _when(at),
        }  # fmt: skip

    def _verdict(self, own: Signed, place: int, turn: int) -> str:
        at = self._signed.index(own) * VERDICTS + turn
        claim = VerdictClaim(
            Result.PASS, self._environments[place], digest_bytes(canonical_json({"at": turn})),
            _when(at), False, ("kl",), fidelity="pass", quality="pass",  # noqa: FBT003
            summary=_summary(Result.PASS),
        )  # fmt: skip
        return sign(test_result(own.digest, claim), self._signers.validator).decode()

    def _note(self, own: Signed, place: int, turn: int) -> None:
        if turn == 0:
            self._bulk.engines.append(own.digest)
        channel = CHANNELS[turn % len(CHANNELS)]
        name = self._bulk.models[own.model]
        self._bulk.resolvable.append((channel, name, self._environments[place]))

    def _channel_rows(self) -> Iterator[dict[str, Any]]:
        pairs = itertools.product(CHANNELS, self._bulk.models)
        for number, (channel, model) in enumerate(pairs):
            yield {
                "id": number + 1, "name": channel, "model_name": model, "simulated": False,
                "recorded_at": START,
            }  # fmt: skip

    def _position_rows(self) -> Iterator[dict[str, Any]]:
        for number, (channel, engine, target) in enumerate(self._positions()):
            yield {
                "id": number + 1, "channel_id": channel, "target": target, "engine_id": engine,
                "moved_at": START,
            }  # fmt: skip

    def _move_rows(self) -> Iterator[dict[str, Any]]:
        moves = itertools.product(range(_MOVES), self._positions())
        for number, (_, (channel, engine, target)) in enumerate(moves):
            yield {
                "id": number + 1, "channel_id": channel, "target": target, "engine_id": engine,
                "previous_id": None, "environment_id": 1, "actor": "build flow",
                "moved_at": _when(number),
            }  # fmt: skip

    def _standing_rows(self) -> Iterator[dict[str, Any]]:
        """Yields a quarantine and its end for every tenth engine."""
        turns = itertools.product(range(0, self._count, _SELDOM), ("quarantined", "released"))
        for at, (number, kind) in enumerate(turns):
            yield {
                "id": at + 1, "engine_id": number + 1, "kind": kind, "reason": "odd answers",
                "actor": "anna", "envelope": None, "changed_at": _when(at),
            }  # fmt: skip

    def _waiver_rows(self) -> Iterator[dict[str, Any]]:
        """Yields a waiver for every tenth engine, not those that were quarantined."""
        grant = WaiverGrant(
            ("verdict-failed",), None, "known to be slow", "anna", START, START + timedelta(days=30)
        )
        kept: list[str] = []
        for at, number in enumerate(range(_SELDOM // 2, self._count, _SELDOM)):
            own = number < len(self._signed)
            if own:
                statement = waiver_statement(self._signed[number].digest, grant)
                kept.append(sign(statement, self._signers.approver).decode())
            envelope = kept[-1] if own else kept[at % len(kept)]
            digest = digest_bytes(envelope.encode()) if own else _digest("w", at)
            yield {
                "id": at + 1, "digest": digest, "engine_id": number + 1, "environment_id": None,
                "rules": list(grant.rules), "reason": grant.reason, "granted_by": grant.granted_by,
                "issued_at": grant.issued_at, "expires_at": grant.expires_at,
                "path": f"engines/waivers/{digest.short}.json", "envelope": envelope,
                "ending": None, "simulated": False, "recorded_at": START,
            }  # fmt: skip

    def _positions(self) -> Iterator[tuple[int, int, str]]:
        for channel in range(len(CHANNELS)):
            for number, one in enumerate(self._signed):
                yield channel * self._models + one.model + 1, number + 1, one.names.target


def _filled() -> datetime:
    """Returns the time at which a catalogue is asked, which is after all that is signed in it."""
    return START + timedelta(days=1)


def _product(models: int) -> Iterator[tuple[int, int, str, Gpu, tuple[str, str]]]:
    for config in itertools.count():
        for model, recipe, gpu, cuda in itertools.product(range(models), RECIPES, GPUS, CUDAS):
            yield config, model, recipe, gpu, cuda


def _digest(*words: object) -> Digest:
    return Digest("sha256", hashlib.sha256(repr(words).encode()).hexdigest())


def _result(number: int, turn: int) -> Result:
    """Most pass: 17 of 20; of the others two fail."""
    left = (number * VERDICTS + turn) % 20
    return Result.PASS if left < 17 else Result.FAIL if left < 19 else Result.INCONCLUSIVE


def _summary(result: Result) -> str:
    return f"{result}: the engine is what its recipe says (KL 4.0e-11 nats, limit 0.0025)"


def _when(number: int) -> Any:  # noqa: ANN401 - a datetime
    return START + timedelta(seconds=number % 10_000_000)


def _plain(value: object) -> object:
    if isinstance(value, Digest):
        return str(value)
    return json.dumps(value) if isinstance(value, dict | list) else value
