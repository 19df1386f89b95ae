"""Holds an engine's layers, one by one, against those of a twin: see the step `probe_layers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from _engine import Call, Engine, Session
    from _score_file import Tokens
    from _twin import LoadedModel

    Tensor = torch.Tensor
    Inputs = tuple[tuple[Any, ...], dict[str, Any]]

SCHEMA = "1"
EMBEDDING, HEAD = "embedding", "head"


class LayerProbe:
    """Some prompts and what a twin's layers answered to them, to hold one engine after another."""

    def __init__(self, job: dict[str, Any], tokens: Tokens, layers: int) -> None:
        """Reads the prompts by the twin; `layers` is how many the engine has."""
        self._chosen = tokens.chosen(job["prompts"])
        self._prompts = [tokens.ids[number][: int(job["longest"])] for number in self._chosen]
        self._plain, self._noisy = _answers_of_twin(job, self._prompts, layers=layers)
        self._layers = layers

    def write(self, engine: Any, output: Path) -> dict[str, Any]:  # noqa: ANN401 - see `fed`
        """Compares every part of an engine and writes the file; returns how many there are."""
        import numpy as np  # noqa: PLC0415 - torch takes seconds to import
        from _score_file import write_arrays  # noqa: PLC0415

        require_layers(engine.config.layers, self._layers)
        columns = []
        asked = zip(self._prompts, self._plain, self._noisy, strict=True)
        for number, (ids, said, other) in enumerate(asked):
            print(f"progress {number}/{len(self._prompts)} layers", flush=True)
            columns.append(_compared(said, other, engine.answers(ids, said)))
        arrays = {
            name: np.stack([column[name] for column in columns], axis=1)
            for name in ("apart", "floor", "size", "broken")
        }
        names = [EMBEDDING, *(f"layers.{one}" for one in range(self._layers)), HEAD]
        metadata = {
            "schema": SCHEMA, "parts": json.dumps(names), "prompts": json.dumps(self._chosen),
            "tokens": json.dumps([len(ids) for ids in self._prompts]),
        }  # fmt: skip
        write_arrays(output, arrays, metadata)
        return {"parts": len(names), "prompts": len(self._prompts)}


def fed(kind: type[Engine]) -> Any:  # noqa: ANN401 - a class made where torch is imported
    """Returns a kind of engine whose layers can be given states, each its own."""
    import torch  # noqa: PLC0415

    class FedEngine(kind):  # type: ignore[valid-type, misc]
        given: Sequence[Tensor] | None = None
        said: Sequence[Tensor] = ()

        def answers(self, ids: Sequence[int], states: Sequence[Tensor]) -> list[Tensor]:
            """Returns embedding, each layer's answer to the states before it, and logits."""
            self.given = states[:-2]
            try:
                session = self.start([len(ids)], len(ids))
                self.advance(session, torch.tensor([list(ids)]))
            finally:
                self.given = None
            return [*self.said, self.logits(states[-2][0])[None]]

        def _through(self, session: Session, ids: Tensor, call: Call) -> Tensor:
            if self.given is None:
                return super()._through(session, ids, call)
            embedded = self._embedding[ids].to(torch.float32)
            layers = [self._layer(session, number, x, call) for number, x in enumerate(self.given)]
            self.said = [embedded, *layers]
            return layers[-1]

    return FedEngine


def _answers_of_twin(
    job: dict[str, Any], prompts: Sequence[Sequence[int]], *, layers: int
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Returns for each prompt what the twin's parts say, and what they say of that with noise."""
    from _twin import load_model, nudge  # noqa: PLC0415

    loaded = load_model(Path(job["twin"]))
    require_layers(layers, len(loaded.model.model.layers))
    plain = [_states(loaded, ids, None) for ids in prompts]
    nudge(loaded.model, float(job["nudge"]["relative"]), int(job["nudge"]["seed"]))
    return plain, [_states(loaded, ids, said) for ids, said in zip(prompts, plain, strict=True)]


def require_layers(engine: int, twin: int) -> None:
    """Refuses a twin of another number of layers than the engine has."""
    if twin != engine:
        raise Refusal(
            "not-a-twin", "the twin has another number of layers than the engine",
            where="num_hidden_layers", actual=twin, expected=engine,
        )  # fmt: skip


def _states(
    loaded: LoadedModel, ids: Sequence[int], given: Sequence[Tensor] | None
) -> list[Tensor]:
    """Runs a prompt; returns the embedding, each layer's answer and the logits.

    With `given` each layer reads what its predecessor said there, not what it says now.
    """
    import torch  # noqa: PLC0415

    model = loaded.model
    said: list[Tensor] = []

    def feed(number: int) -> Callable[..., Inputs | None]:
        def before(
            _module: object, inputs: tuple[Any, ...], named: dict[str, Any]
        ) -> Inputs | None:
            if given is None:
                return None
            if inputs:
                return (given[number], *inputs[1:]), named
            return inputs, {**named, "hidden_states": given[number]}

        return before

    def keep(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        said.append(output[0] if isinstance(output, tuple) else output)

    hooks = []
    for number, layer in enumerate(model.model.layers):
        hooks.append(layer.register_forward_pre_hook(feed(number), with_kwargs=True))
        hooks.append(layer.register_forward_hook(keep))
    try:
        with torch.no_grad():
            embedded = model.get_input_embeddings()(torch.tensor([list(ids)]))
            model.model(inputs_embeds=embedded, past_key_values=loaded.new_cache(), use_cache=True)
            last = said[-1] if given is None else given[-2]
            logits = model.lm_head(model.model.norm(last))
    finally:
        for hook in hooks:
            hook.remove()
    return [embedded, *said, logits]


def _compared(
    plain: Sequence[Tensor], noisy: Sequence[Tensor], engine: Sequence[Tensor]
) -> dict[str, Any]:
    """Returns the four numbers of every part of one prompt."""
    import numpy as np  # noqa: PLC0415

    rows: dict[str, list[float]] = {"apart": [], "floor": [], "size": [], "broken": []}
    last = len(plain) - 1
    for part, (ours, wobbled, theirs) in enumerate(zip(plain, noisy, engine, strict=True)):
        width = ours.shape[-1]  # a padded vocabulary has more
        answer = theirs[..., :width]
        sound = answer.isfinite().all(dim=-1, keepdim=True)
        before = plain[part - 1] if 0 < part < last else 0.0
        added = ours - before if part < last else ours - ours.mean(dim=-1, keepdim=True)
        rows["apart"].append(_energy((answer - ours).where(sound, 0.0)))
        rows["floor"].append(_energy(wobbled - ours))
        rows["size"].append(_energy(added))
        rows["broken"].append(float((~sound).sum()))
    return {name: np.asarray(values) for name, values in rows.items()}


def _energy(values: Tensor) -> float:
    import torch  # noqa: PLC0415

    return float(values.to(torch.float64).square().sum())
