"""The step `probe_layers`: does each layer of an engine do what the checkpoint says it does?

Job: `{"engine", "twin", "nudge": {"relative", "seed"}, "tokens", "prompts": [numbers], "longest",
"output"}`. The twin is the engine's checkpoint, dequantized by our own code. It reads the
beginnings of some prompts; then every layer of the engine is given what the twin's own layer was
given, and the two answers are compared. So nothing accumulates: a fault shows in its own layer
alone, and a recipe that rounds activations is not chaotic. The embedding and the head are compared
the same way.

The file, all float64 [parts, prompts]: `apart`, the squared distance of the two answers; `floor`,
the same of the twin and the twin with noise on what its linears return, each layer given the same
states; `size`, the square of what the twin's layer adds to its states (of the embedding and the
head: of what they are); `broken`, how many tokens the engine has a number for that is not finite.
In its metadata the names of the parts, the prompts, and how many tokens each has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _step import main


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Compares every part and returns how many there are."""
    from _engine import Engine  # noqa: PLC0415 - torch takes seconds to import
    from _layer_probe import LayerProbe, fed  # noqa: PLC0415
    from _score_file import read_tokens  # noqa: PLC0415

    engine = fed(Engine)(Path(job["engine"]))
    tokens = read_tokens(Path(job["tokens"]), engine.config.vocabulary)
    return LayerProbe(job, tokens, engine.config.layers).write(engine, Path(job["output"]))


if __name__ == "__main__":
    main(run)
