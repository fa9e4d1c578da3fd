"""Words that all Envoy resources share. Field names and types are those of Envoy 1.40's v3 API."""

from __future__ import annotations

from typing import Any

import yaml

Json = dict[str, Any]


def typed(kind: str, **fields: Any) -> Json:
    """A value that names its protobuf type, e.g. envoy.config.route.v3.RouteConfiguration."""
    return {"@type": f"type.googleapis.com/{kind}", **fields}


def extension(name: str, kind: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": typed(kind, **fields)}


def watched(path: str) -> Json:
    """A source that is read again whenever a file is renamed into the folder of `path`."""
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": path, "watched_directory": {"path": path.rpartition("/")[0]}},
    }


def discovery(resources: list[Json]) -> str:
    """The text of a file that Envoy watches."""
    return to_yaml({"resources": resources})


def set_header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def to_yaml(value: Json) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=160)


def from_yaml(text: str) -> Json:
    found: Json = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    return found


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes many lines of text as such, and everything in full: Envoy's reader knows no YAML anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
