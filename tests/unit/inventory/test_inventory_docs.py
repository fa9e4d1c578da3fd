"""The example, the JSON Schema and the reference say what the code does."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from inventories import VALID, with_node
from jsonschema import Draft202012Validator

from llmfleet.planner.errors import InventoryError
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.inventory.reference import tables
from llmfleet.planner.inventory.schema import json_schema, text

ROOT = Path(__file__).parents[3]
EXAMPLE = (ROOT / "inventory.example.yaml").read_text()
REFERENCE = (ROOT / "docs" / "inventory.md").read_text()
SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def keys_with_descriptions() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, model in [("inventory.yaml", SCHEMA), *SCHEMA["$defs"].items()]:
        for key, value in model["properties"].items():
            yield name, key, value


def test_the_example_is_the_reference_case() -> None:
    inventory = parse(EXAMPLE)
    assert inventory.cluster == "rag"
    assert inventory.warnings == ()
    assert [node.name for node in inventory.nodes] == (
        ["head", "a800-0", "a800-1", "h20-0", "h20-1"] + [f"{gpu}-{i}" for gpu in ("v100", "p100") for i in range(4)]
    )
    shapes = {node.name.split("-")[0]: (node.gpus, node.link, node.nic) for node in inventory.nodes}
    assert shapes == {
        "head": (None, None, 25e9),
        "a800": ("8 x A800-80G", "nvlink", 25e9),
        "h20": ("8 x H20-96G", "nvlink", 25e9),
        "v100": ("4 x V100-32G", None, 25e9),
        "p100": ("2 x P100-16G", None, 25e9),
    }
    chat, embed, rerank, lite = inventory.services
    assert (chat.model, chat.precision, chat.fallback) == ("Qwen/Qwen1.5-72B-Chat", ("bf16", "fp16"), "chat-lite")
    assert chat.traffic is not None
    assert chat.long_context is not None
    assert (chat.traffic.rate, chat.traffic.peak, chat.traffic.shared_prefix) == (1.2, 3, 0.6)
    assert (chat.traffic.input.mean, chat.traffic.input.p99, chat.traffic.output.mean) == (4000, 20_000, 300)
    assert (chat.slo.ttft, chat.slo.tpot, chat.slo.percentile) == (3.0, 0.1, 95)
    assert (chat.long_context.over, chat.long_context.max) == (16_000, 32_000)
    assert (embed.model, embed.task) == ("BAAI/bge-m3", "embed")
    assert (rerank.model, rerank.task) == ("BAAI/bge-reranker-v2-m3", "rerank")
    assert (lite.model, lite.precision, lite.task) == ("Qwen/Qwen2.5-14B-Instruct", ("q4_k_m",), "generate")


def test_every_comment_of_the_example_that_shows_a_key_is_right() -> None:
    """With all commented keys switched on it is still an inventory."""
    lines = [re.sub(r"^( *)# (?=[a-z_]+: )", r"\1", line) for line in EXAMPLE.splitlines()]
    switched_on = "\n".join(lines).replace("    exclude: true", "    exclude: false")
    assert sum(a != b for a, b in zip(lines, EXAMPLE.splitlines(), strict=True)) >= 10
    inventory = parse(switched_on)
    assert inventory.node("a800-0").faulty == (3,)
    assert inventory.node("v100-0").runtime.versions == {"vllm": "0.19.1"}


def test_every_key_is_in_the_example_or_the_reference() -> None:
    mentioned = set(re.findall(r"([a-z_0-9]+):", EXAMPLE)) | set(re.findall(r"^\| `([a-z_0-9]+)` \|", REFERENCE, re.M))
    assert [key for _, key, _ in keys_with_descriptions() if key not in mentioned] == []


@pytest.mark.parametrize("name", tables())
def test_the_reference_holds_the_table_of(name: str) -> None:
    """To update: python -m llmfleet.planner.inventory.reference"""
    heading = "The file" if name == "inventory.yaml" else name
    section = REFERENCE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    assert tables()[name] in section + "\n"


def test_links_inside_the_reference_lead_somewhere() -> None:
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", REFERENCE, re.M)}
    links = set(re.findall(r"\]\(#([^)]+)\)", REFERENCE))
    assert links
    assert links <= anchors
    for target in re.findall(r"\]\(([^#)][^)]*)\)", REFERENCE):
        assert (ROOT / "docs" / target).exists(), target


def test_what_the_reference_says_of_values_is_so() -> None:
    first = REFERENCE.split("cluster: rag", 1)[1].split("\n\n")[0]
    inventory = parse("cluster: rag" + re.sub(r"\n    ", "\n", first))
    assert len(inventory.nodes) == 3
    assert "`16k` is 16 000 tokens" in REFERENCE


def test_the_published_schema_is_the_one_the_code_makes() -> None:
    """To update: python -m llmfleet.planner.inventory.schema > docs/inventory.schema.json"""
    assert (ROOT / "docs" / "inventory.schema.json").read_text() == text()
    assert json.loads(text()) == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_has_a_description() -> None:
    lacking = [f"{name}.{key}" for name, key, value in keys_with_descriptions() if not value.get("description")]
    assert lacking == []
    assert all(model["additionalProperties"] is False for model in SCHEMA["$defs"].values())


def test_the_schema_accepts_the_example() -> None:
    assert list(VALIDATOR.iter_errors(yaml.safe_load(EXAMPLE))) == []
    assert list(VALIDATOR.iter_errors(yaml.safe_load(VALID))) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("nodess",), []),
        (("nodes", 0, "gpu"), "8 x A800-80G"),
        (("nodes", 0, "gpus"), "A800-80G"),
        (("nodes", 0, "nic"), "25Gz"),
        (("nodes", 0, "name"), "Head Node"),
        (("nodes", 0, "host"), "-oProxyCommand=x"),
        (("nodes", 0, "link"), "nvlnk"),
        (("nodes", 0, "runtime"), {"env": {"1A": "x"}}),
        (("nodes", 0, "runtime"), {"versions": {"vlm": "1.0"}}),
        (("nodes",), []),
        (("services", 0, "slo", "ttft"), "2 seconds"),
        (("services", 0, "slo", "tpot"), 60),
        (("services", 0, "traffic", "input", "mean"), "4 thousand"),
        (("services", 0, "traffic", "rate"), -1),
        (("services", 0, "task"), "generat"),
        (("policy", "objective"), "speed"),
        (("cluster",), None),
    ],
)
def test_the_schema_and_parse_refuse(path: tuple[str | int, ...], value: object) -> None:
    tree = copy.deepcopy(yaml.safe_load(EXAMPLE))
    *parents, last = path
    parent = tree
    for step in parents:
        parent = parent[step]
    parent[last] = value
    assert not VALIDATOR.is_valid(tree)
    with pytest.raises(InventoryError):
        parse(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    "entry",
    [
        "{name: x, host: x, gpus: 8 x A800-80G, nic: 25000000000, price: 3.67, faulty: [0], exclude: true}",
        "{name: x, host: x, access: {jump: ~, port: 22, connect_timeout: 2}}",
        "{name: x, host: 'fe80::1', runtime: {env: {A: 1, B: true, C: x}, versions: {vllm: 0.19}}}",
        '{name: "r[1-2]-n[0-1,4]", host: "10.0.[0-2].[1-2]"}',
    ],
)
def test_the_schema_and_parse_accept(entry: str) -> None:
    written = with_node(entry)
    parse(written)
    assert list(VALIDATOR.iter_errors(yaml.safe_load(written))) == []


def test_examples_in_the_schema_are_valid() -> None:
    def shown(schema: Any) -> Iterator[tuple[Any, Any]]:
        if isinstance(schema, dict):
            yield from ((schema, example) for example in schema.get("examples", ()))
        for below in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            yield from shown(below)

    found = list(shown(SCHEMA))
    assert len(found) > 20
    assert [example for schema, example in found if not Draft202012Validator(schema).is_valid(example)] == []
