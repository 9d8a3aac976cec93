"""YAML from anybody: plain values, no key twice, no nest or web of aliases without end, and no value in two places.

values = read_yaml(path.read_text(encoding="utf-8"))
"""

from typing import Any

import yaml

MOST_NODES = 100_000  # values of a document, each alias written out


def read_yaml(text: str) -> Any:
    """A document's plain values: no tag of it makes an object or runs code. What an alias repeats is a copy of its own,
    so that a change of one changes no other.

    Raises ValueError, one line with the place, for what is no YAML, a key that stands twice in one mapping, an alias
    within itself, and aliases that say millions of values in few words.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, set())
        return _copied(loader.construct_document(node))
    except RecursionError:
        raise ValueError("nested too deep") from None
    # of a tag's text that is none of its kind: !!bool x, !!timestamp x
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _count(node: yaml.Node, counted: dict[int, int], open_nodes: set[int]) -> int:
    """The values below a node, aliases written out. Raises ValueError for what `read_yaml` refuses."""
    if id(node) in open_nodes:
        raise ValueError(f"an alias stands within itself{_place(node)}")
    if id(node) in counted:
        return counted[id(node)]
    open_nodes.add(id(node))
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[tuple[str, str]] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if (key.tag, key.value) in seen:
                    raise ValueError(f"the key {key.value!r} stands twice{_place(key)}")
                seen.add((key.tag, key.value))
            children += [key, value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    total = 1 + sum(_count(child, counted, open_nodes) for child in children)
    if total > MOST_NODES:
        raise ValueError(f"its aliases say more than {MOST_NODES} values{_place(node)}")
    open_nodes.remove(id(node))
    counted[id(node)] = total
    return total


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def _place(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"
