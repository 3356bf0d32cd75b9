"""The graph of the package's imports: layers, no circle."""

import ast
from pathlib import Path

import canonkit

ROOT = Path(canonkit.__file__).parent
# From the ground up; what is in one line may import one another, without a circle.
LAYERS = [
    {"names", "extras", "files", "described", "tables", "randomness"},
    {"groups", "molecules"},
    {"chemistry"},
    {"canonicalizers", "networks", "processes"},
    {"model", "data", "metrics", "certificates"},
    {"training"},
    {"recipes"},
    {"published"},
    {"releases", "resident"},
    {"trainer", "results"},
    {"experiments", "course"},
    {"overview"},
    {"figures", "widgets", "exercises", "bench", "queue", "comparison"},
    {"cli", "__main__"},
]


def modules():
    """Every module of the package, by its dotted name, and its file."""
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


def imports():
    """Module -> modules that it imports, anywhere in it; not those that type checkers alone see."""
    known, graph = dict(modules()), {}
    for name, path in known.items():
        graph[name] = set()
        nodes = [ast.parse(path.read_text())]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                continue
            nodes += ast.iter_child_nodes(node)
            found = []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: write imports in full"
                found = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [f if f in known else node.module for f in found]
            elif isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            graph[name] |= {f for f in found if f in known and f not in (name, "canonkit")}
    return graph


def test_no_module_imports_itself_by_way_of_others():
    graph, done, path = imports(), set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in graph[name]:
                visit(other)
            done.add(path.pop())

    for name in graph:
        visit(name)


def test_arrows_point_down_the_layers():
    height = {room: k for k, layer in enumerate(LAYERS) for room in layer}
    upwards = []
    for name, others in imports().items():
        if name == "canonkit":
            continue
        room = name.split(".")[1]
        assert room in height, f"{room} has no layer"
        upwards += [f"{name} -> {o}" for o in others if height[o.split(".")[1]] > height[room]]
    assert not upwards, upwards
