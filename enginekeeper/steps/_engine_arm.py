"""A compiled engine as an arm of the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from _engine import Engine, Session

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]


class EngineArm:
    """Prefill, decode and head of an engine, over batches of prompts."""

    name = "engine"

    def __init__(self, engine: Engine, chunk_tokens: int | None = None) -> None:
        self._engine = engine
        self._chunk_tokens = chunk_tokens
        self.vocabulary = engine.config.vocabulary
        self.max_batch = engine.max_batch

    def states(self, prompts: Prompts) -> list[Tensor]:
        """Runs prefill over whole prompts, left-padded to the longest."""
        session, states = self._read(prompts, room=0)
        return [row[pad:] for row, pad in zip(states, session.padding.tolist(), strict=True)]

    def logits(self, states: Tensor) -> Tensor:
        """Runs the head."""
        return self._engine.logits(states)

    def decode(self, prompts: Prompts, tokens: int) -> EngineDecoding:
        """Runs prefill over prompts and returns a session with room for more tokens."""
        session, _ = self._read(prompts, room=tokens)
        return EngineDecoding(self._engine, session)

    def _read(self, prompts: Prompts, *, room: int) -> tuple[Session, Tensor]:
        import torch  # noqa: PLC0415 - imported by _engine already, after its own refusals

        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        session = self._engine.start(lengths, longest + room)
        padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        states = self._engine.advance(
            session, torch.tensor(padded), chunk_tokens=self._chunk_tokens
        )
        return session, states


class EngineDecoding:
    """A batch of sequences that the decode graph continues."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine = engine
        self._session = session

    def step(self, tokens: Tensor) -> Tensor:
        """Runs one token per row through decode and the head."""
        states = self._engine.advance(self._session, tokens[:, None])
        return self._engine.logits(states[:, -1])
