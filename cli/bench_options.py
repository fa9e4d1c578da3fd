"""What `llmfleet bench` can be told, as its help shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmfleet.launch.bench.measure import Load
from llmfleet.planner.errors import InputError

if TYPE_CHECKING:
    from llmfleet.planner.plan import Instance


Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Instances or services; all if none.")]
Router = Annotated[bool, typer.Option("--router", help="The services through the router, not each instance.")]
Url = Annotated[str | None, typer.Option("--url", help="Any OpenAI address instead; with --model.")]
Model = Annotated[str | None, typer.Option("--model", help="The model's name there.")]
Task = Annotated[str, typer.Option("--task", help="generate, chat, embed or rerank; of --url.")]
FindKnee = Annotated[bool, typer.Option("--knee", help="Search the highest rate inside the SLO.")]
Requests = Annotated[int, typer.Option("--requests", "-n", min=1, help="Of each repeat.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, max=50)]
Warm = Annotated[int, typer.Option("--warm-up", min=0, help="Requests before, that do not count.")]
InputLen = Annotated[float | None, typer.Option("--input", min=1, help="Mean tokens of a prompt.")]
OutputLen = Annotated[float | None, typer.Option("--output", min=1, help="Mean tokens of an answer.")]
InputP99 = Annotated[float | None, typer.Option("--input-p99", min=1, help="Of 100 prompts 99 are shorter.")]
Shared = Annotated[float | None, typer.Option("--shared", min=0, max=1, help="Part of a prompt that others share.")]
Documents = Annotated[int, typer.Option("--documents", min=1, help="That prompts share their beginnings with.")]
TextFile = Annotated[Path | None, typer.Option("--text", metavar="FILE", help="Cut prompts from this text.")]
Ttft = Annotated[float | None, typer.Option("--ttft", min=0, help="Limit for --url, in seconds.")]
Tpot = Annotated[float | None, typer.Option("--tpot", min=0, help="Limit for --url, in seconds.")]
Calibrate = Annotated[bool, typer.Option("--calibrate", help="Write calibration.yaml beside the inventory.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Latency against load, as a page.")]
SvgFile = Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="The same as a picture.")]
KeyEnv = Annotated[str | None, typer.Option("--key-env", help="Environment variable with a client's API key.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Users = Annotated[
    int | None, typer.Option("--users", "-u", min=1, max=20_000, help="Closed loop: so many, each waits.")
]
Rate = Annotated[float | None, typer.Option("--rate", min=0.001, max=1e5, help="Open loop: requests a second.")]
Trace = Annotated[Path | None, typer.Option("--trace", metavar="FILE", help="Open loop: a trace's own arrivals.")]


@dataclass(frozen=True, slots=True)
class Options:
    """What was typed, apart from what to measure."""

    users: int | None
    rate: float | None
    trace: Path | None
    requests: int
    repeats: int
    warm: int
    input_len: float | None
    output_len: float | None
    input_p99: float | None
    shared: float | None
    documents: int
    text: Path | None
    ttft: float | None
    tpot: float | None
    seed: int
    key_env: str | None

    @property
    def loads(self) -> int:
        """How many kinds of load were asked for."""
        return sum(given is not None for given in (self.users, self.rate, self.trace))

    def load(self, instance: Instance | None) -> Load:
        """Raises InputError for several at once. Without any: a user for each place of the instance, 16 elsewhere."""
        if self.loads > 1:
            raise InputError("--users, --rate and --trace exclude each other", hint="Give one of them.")
        if self.rate is not None:
            return Load(rate=self.rate)
        return Load(users=self.users or (instance.max_concurrency if instance else 16))
