"""Route tables. A request finds its model's routes in one look, however many models there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from llmfleet.launch.router.xds import Json, extension


def route_table(name: str, routes: Sequence[Json]) -> Json:
    """Tried in their order."""
    return _table(name, {"routes": list(routes)})


def looked_up(name: str, lookup: Json) -> Json:
    """A table whose routes are found by `lookup`, made of `by_header` and `in_order`."""
    return _table(name, {"matcher": lookup["matcher"]})


def by_header(header: str, known: Mapping[str, Json], otherwise: Json | None = None) -> Json:
    """Further on by the header's value; where it has none of those known, with `otherwise` or to no route.

    Envoy refuses an empty map: with nothing known it is `otherwise` alone, which then has to be given.
    """
    if not known and otherwise is not None:
        return otherwise
    value = extension(header, "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=header)
    found: Json = {"matcher_tree": {"input": value, "exact_match_map": {"map": dict(known)}}}
    return {"matcher": found if otherwise is None else {**found, "on_no_match": otherwise}}


def in_order(routes: Sequence[Json]) -> Json:
    return {"action": extension("routes", "envoy.config.route.v3.RouteList", routes=list(routes))}


def routes_in(lookup: Json | None) -> Iterator[Json]:
    """All routes that a lookup can lead to; those of a model with two names come twice."""
    if lookup is None:
        return
    further = [*lookup["matcher_tree"]["exact_match_map"]["map"].values(), lookup.get("on_no_match", {})]
    for each in further:
        yield from routes_in(each.get("matcher"))
        yield from each.get("action", {}).get("typed_config", {}).get("routes", ())


def _table(name: str, content: Json) -> Json:
    return {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], **content}]}
