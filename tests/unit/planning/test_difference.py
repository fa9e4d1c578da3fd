"""What differs between two plans."""

from __future__ import annotations

import json
from dataclasses import fields, replace

from tests.unit.planning.fleets import REFERENCE, planned, reference

from llmfleet.planner.difference import ROUTED, SAID, difference, to_json
from llmfleet.planner.plan import Instance, sealed


def test_a_plan_does_not_differ_from_itself():
    same = difference(reference(), planned(REFERENCE))
    assert same.before == same.after
    assert not any(getattr(same, f.name) for f in fields(same) if f.name not in ("before", "after"))


def test_a_node_that_goes():
    without = planned(REFERENCE.replace('"h20-[0-1]", host: "10.0.2.[10-11]"', 'h20-0, host: "10.0.2.10"'))
    found = difference(reference(), without)
    assert {i.id for i in found.removed} >= {"chat-h20-1-0"}
    assert "chat" in {s.name for s in found.services}
    chat = next(s for s in found.services if s.name == "chat")
    assert chat.before and chat.after
    assert "capacity_rps" in chat.fields
    assert chat.after.capacity_rps < chat.before.capacity_rps


def test_there_and_back_are_each_others_opposite():
    other = planned(REFERENCE.replace("gpus: 8 x A800-80G", "gpus: 8 x A800-80G, faulty: [7]"))
    there, back = difference(reference(), other), difference(other, reference())
    assert [i.id for i in there.added] == [i.id for i in back.removed]
    assert [i.id for i in there.removed] == [i.id for i in back.added]
    assert {(c.id, c.fields) for c in there.changed} == {(c.id, c.fields) for c in back.changed}
    assert (there.idle, there.new_warnings) == (back.busy, back.gone_warnings)
    assert ("a800-0", 7) in {(u.node, g) for u in there.idle for g in u.gpus}


def test_what_needs_another_process_and_what_does_not():
    plan = reference()
    first, *rest = plan.instances

    def changed(**values: object) -> tuple[bool, bool]:
        found = difference(plan, sealed(replace(plan, instances=(replace(first, **values), *rest))))
        assert found.added == found.removed == ()
        (only,) = found.changed
        assert only.fields == tuple(values)
        assert found.restarts == found.changed[: only.other_process]
        return only.other_process, only.other_routing

    assert changed(reason="Because.") == (False, False)
    assert changed(weight=1) == (False, True)
    assert changed(port=9000) == (True, False)
    assert changed(max_num_seqs=3, max_concurrency=2) == (True, True)


def test_the_named_fields_are_an_instances():
    assert {f.name for f in fields(Instance)} >= ROUTED | SAID


def test_a_service_that_comes_and_one_that_goes():
    without = planned("\n".join(line for line in REFERENCE.splitlines() if "name: embed" not in line))
    gone = next(s for s in difference(reference(), without).services if s.name == "embed")
    come = next(s for s in difference(without, reference()).services if s.name == "embed")
    assert (gone.after, come.before) == (None, None)
    assert gone.before == come.after


def test_as_json():
    other = planned(REFERENCE.replace("rate: 1.2", "rate: 2.4"))
    body = json.loads(json.dumps(to_json(difference(reference(), other))))
    assert body["before"] == reference().hash
    assert body["after"] == other.hash
    changed = {c["id"]: c["fields"] for c in body["changed"]}
    before, after = changed["chat-h20-0-0"]["expected"]
    assert before != after
    chat = next(s for s in body["services"] if s["name"] == "chat")
    assert chat["before"]["demand_rps"] * 2 == chat["after"]["demand_rps"]
