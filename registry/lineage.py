"""Where an adapter comes from and what was made of it: the graph of merges around one revision."""

from dataclasses import dataclass, field
from itertools import count

from django.db.models import QuerySet

from registry.models import Adapter, MergeInput, Revision
from registry.queries import Caller, is_owner

ANCESTOR_LEVELS = 3
DESCENDANT_LEVELS = 2
# What is drawn of a level, and what is read of it: an expert may be in thousands of merges.
PER_LEVEL = 8
MAX_READ = 500


@dataclass(frozen=True)
class Node:
    """An adapter in the graph, at a level: 0 is the page's own, negative above, positive below.

    Attributes:
        name: None where the caller may not see it. Nothing else about it is told then.
        commit: the revision that took part.
        method: how that revision was merged; empty where it was not.
        linked: whether it has a page for the caller.
    """

    id: str
    level: int
    name: str | None = None
    commit: str = ""
    method: str = ""
    yanked: bool = False
    linked: bool = False


@dataclass(frozen=True)
class Edge:
    """From a parent to what was made of it, with its weight."""

    source: str
    target: str
    weight: float


@dataclass
class Lineage:
    """The graph. `more`: how many adapters of a level were left out."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    more: dict[int, int] = field(default_factory=dict)

    @property
    def parents(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.level < 0]

    @property
    def children(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.level > 0]


def lineage_of(user: Caller, revision: Revision) -> Lineage:
    """Ancestors and descendants of a revision by merging, as far as the caller may know.

    A parent that the caller may not see is a node without a name: that a merge has it is part of what one sees. A
    child that the caller may not see is left out: that somebody merges in private is nobody's business. What was
    yanked is named where it was public, because those who use a merge of it must learn that.
    """
    graph = Lineage()
    own = _node(user, revision, 0)
    graph.nodes[own.id] = own
    _add_ancestors(graph, user, revision)
    _add_descendants(graph, user, revision)
    return graph


def _add_ancestors(graph: Lineage, user: Caller, revision: Revision) -> None:
    below = {revision.pk: _id(revision)} if hasattr(revision, "merge") else {}
    # Numbered as they come, so that nobody learns whether two hidden parents are the same.
    hidden = count()
    for level in range(-1, -ANCESTOR_LEVELS - 1, -1):
        if not below:
            return
        inputs = list(_inputs().filter(merge__revision_id__in=below).order_by("merge_id", "position")[:MAX_READ])
        if len(inputs) > PER_LEVEL:
            graph.more[level] = len(inputs) - PER_LEVEL
        found = {}
        for item in inputs[:PER_LEVEL]:
            parent = item.revision
            known = _may_know(user, parent.adapter)
            node = _node(user, parent, level) if known else Node(f"hidden-{next(hidden)}", level)
            graph.nodes.setdefault(node.id, node)
            graph.edges.append(Edge(node.id, below[item.merge.revision_id], item.weight))
            if known:
                found[parent.pk] = node.id
        below = found


def _add_descendants(graph: Lineage, user: Caller, revision: Revision) -> None:
    above = [revision.adapter_id]
    for level in range(1, DESCENDANT_LEVELS + 1):
        if not above:
            return
        inputs = _inputs().filter(revision__adapter_id__in=above, merge__revision__state=Revision.State.READY)
        seen = [
            item
            for item in inputs.order_by("-merge__created_at", "position")[:MAX_READ]
            if _may_know(user, item.merge.revision.adapter) and item.merge.revision.adapter.yanked_at is None
        ]
        fresh = {_id(item.merge.revision): item.merge.revision for item in seen}
        fresh = {key: child for key, child in fresh.items() if key not in graph.nodes}
        if len(fresh) > PER_LEVEL:
            graph.more[level] = len(fresh) - PER_LEVEL
        drawn = dict(list(fresh.items())[:PER_LEVEL])
        graph.nodes |= {key: _node(user, child, level) for key, child in drawn.items()}
        graph.edges += [
            Edge(_id(item.revision), _id(item.merge.revision), item.weight)
            for item in seen
            if _id(item.merge.revision) in drawn
        ]
        above = [child.adapter_id for child in drawn.values()]


def _inputs() -> QuerySet[MergeInput]:
    related = ("revision__adapter__namespace", "revision__merge", "merge__revision__adapter__namespace")
    return MergeInput.objects.select_related(*related).defer("revision__modules", "merge__revision__modules")


def _node(user: Caller, revision: Revision, level: int) -> Node:
    adapter = revision.adapter
    merge = getattr(revision, "merge", None)
    yanked = adapter.yanked_at is not None
    return Node(
        _id(revision),
        level,
        adapter.full_name,
        revision.commit,
        merge.method if merge else "",
        yanked,
        linked=not yanked or is_owner(user, adapter),
    )


def _may_know(user: Caller, adapter: Adapter) -> bool:
    """Whether an adapter is named: also where it was yanked after it had been public."""
    return is_owner(user, adapter) or (adapter.visibility == Adapter.Visibility.PUBLIC and adapter.head_id is not None)


def _id(revision: Revision) -> str:
    return f"adapter-{revision.adapter_id}"
