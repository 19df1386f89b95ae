"""A lineage as a tree, as a Mermaid flowchart, and as a Graphviz graph."""

from __future__ import annotations

from registry.lineage import Lineage, Node


def tree(graph: Lineage) -> str:
    """Lays a lineage out as an indented tree; `*` marks what was asked for."""
    return "\n".join(
        f"{'  ' * depth}{_words(node)}{'  *' if node.id == graph.root else ''}"
        for depth, node in graph.tree()
    )


def mermaid(graph: Lineage) -> str:
    """Returns a Mermaid flowchart."""
    names = _names(graph)
    lines = ["flowchart LR"]
    lines += [f'  {names[node.id]}["{_escaped(_words(node))}"]' for node in graph.nodes.values()]
    lines += [f"  {names[before]} --> {names[after]}" for before, after in graph.edges]
    lines.append(f"  style {names[graph.root]} stroke-width:3px")
    return "\n".join(lines)


def dot(graph: Lineage) -> str:
    """Returns a Graphviz graph."""
    names = _names(graph)
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    for node in graph.nodes.values():
        bold = ", penwidth=3" if node.id == graph.root else ""
        label = _words(node).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'  {names[node.id]} [label="{label}"{bold}];')
    lines += [f"  {names[before]} -> {names[after]};" for before, after in graph.edges]
    return "\n".join([*lines, "}"])


def _names(graph: Lineage) -> dict[str, str]:
    """Gives every node a name that both languages take."""
    return {node: f"n{number}" for number, node in enumerate(graph.nodes)}


def _words(node: Node) -> str:
    digest = "" if node.digest is None else f" {node.digest.partition(':')[2][:12]}"
    state = "" if node.state is None else f" [{node.state}]"
    return f"{node.kind}{digest}{state} {node.name}"


def _escaped(text: str) -> str:
    """Writes what Mermaid would take for its own as entities."""
    special = {'"': "#quot;", "<": "#lt;", ">": "#gt;", "[": "#91;", "]": "#93;", "`": "#96;"}
    text = text.replace("#", "#35;")
    for character, entity in special.items():
        text = text.replace(character, entity)
    return text
