"""A mixed-integer program on HiGHS, solved for several objectives one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import floor, inf
from typing import Any

from llmfleet.planner.errors import PlanError

INFINITY = inf
Terms = Mapping[int, float]
MOST_NODES = 2_000
MANY = 256  # a whole number that may be larger is a fraction at first
CLOSE = 1e-4  # the gap at which a search stops, unless told otherwise
SAME = 1e-5  # values closer than that, relative, are one
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
OPTIONS: tuple[tuple[str, bool | int], ...] = (
    ("output_flag", False),
    ("threads", 1),
    ("random_seed", 1),
    # Our programs are easy to find solutions of: its time is lost, two thirds of all that an example fleet takes.
    ("mip_heuristic_run_feasibility_jump", False),
)
NEAR = 8  # how far its rounding may move it


@dataclass(frozen=True, slots=True)
class Proof:
    """An objective, the value it reached, and how far from it the best possible may lie, as a part of the value.

    `full`: it reached its bound, so that no other fleet could do better.
    """

    objective: str
    value: float
    gap: float
    full: bool = False


class Program:
    """Columns and rows are numbered in the order they are added. Deterministic: one thread, a fixed seed, no clock."""

    def __init__(self) -> None:
        self._highs: Any = _highspy().Highs()
        for option, value in OPTIONS:
            self._highs.setOptionValue(option, value)
        self._values: list[float] = []
        self._upper: list[float] = []
        self._costed: list[int] = []
        self._count = 0
        self._relaxed: list[int] = []
        self._whole: list[int] = []
        self._base: int | None = None
        self.proofs: list[Proof] = []

    def column(self, upper: float = INFINITY, lower: float = 0.0, *, integer: bool = False) -> int:
        """A variable from `lower` to `upper`."""
        index, self._count = self._count, self._count + 1
        self._upper.append(upper)
        self._highs.addVar(lower, upper)
        if integer and upper > MANY:
            self._relaxed.append(index)
        elif integer:
            self._whole.append(index)
            self._highs.changeColIntegrality(index, _highspy().HighsVarType.kInteger)
        return index

    @property
    def relaxed(self) -> bool:
        """Whether counts beyond MANY are fractions for now: no single one of them matters to the first objectives."""
        return bool(self._relaxed)

    def round(self) -> None:
        """Counts that were relaxed become whole numbers near what was found; objectives are searched for anew."""
        later = list(range(self._base or 0, int(self._highs.getNumRow())))
        self._highs.deleteRows(len(later), later)
        for column in self._relaxed:
            whole = floor(self._values[column] + 1e-6)
            self._highs.changeColIntegrality(column, _highspy().HighsVarType.kInteger)
            self._highs.changeColBounds(column, max(0.0, whole - NEAR), min(self._upper[column], whole + NEAR))
        self._whole += self._relaxed
        self._relaxed, self._values, self.proofs = [], [], []

    def settle(self, columns: Iterable[int]) -> None:
        """Whole numbers stay as they are now."""
        for column in columns:
            whole = round(self._values[column])
            self._highs.changeColBounds(column, whole, whole)

    def at_most(self, terms: Terms, bound: float) -> None:
        self._row(terms, -INFINITY, bound)

    def at_least(self, terms: Terms, bound: float) -> None:
        self._row(terms, bound, INFINITY)

    def equal(self, terms: Terms, value: float) -> None:
        self._row(terms, value, value)

    def maximize(
        self, name: str, terms: Terms, *, bound: float = INFINITY, tolerance: float = SAME, gap: float = CLOSE,
        nodes: int = MOST_NODES,
    ) -> float:  # fmt: skip
        """The best value; later objectives may give up no more than `tolerance` of it (relative, at least absolute).

        `bound`: what no solution can exceed; one that reaches it already is not searched for again. `gap`: how far
        from the proven best the search may stop, as a part of it; `nodes`: after how many branches it stops anyway.
        A `bound` that may be reached is searched for to the end, and kept whole where it is.
        """
        best = self._best(name, terms, bound, gap, nodes, sign=1)
        if gap > CLOSE and not self.proofs[-1].full and best * (1 + self.proofs[-1].gap) >= bound:
            self.proofs.pop()
            best = self._best(name, terms, bound, CLOSE, nodes, sign=1)
        tolerance = SAME if self.proofs[-1].full else tolerance
        self.at_least(terms, best - tolerance * max(1.0, abs(best)))
        return best

    def minimize(
        self, name: str, terms: Terms, *, bound: float = 0.0, tolerance: float = SAME, gap: float = CLOSE,
        nodes: int = MOST_NODES, offset: float = 0.0,
    ) -> float:  # fmt: skip
        """`offset` is added to the value: a gap is relative."""
        best = self._best(name, terms, bound - offset, gap, nodes, sign=-1, offset=offset)
        self.at_most(terms, best + tolerance * max(1.0, abs(best)))
        return best

    def value(self, column: int) -> float:
        """Of columns that were there when an objective was last searched for; else 0."""
        return self._values[column] if column < len(self._values) else 0.0

    def total(self, terms: Terms) -> float:
        return sum(factor * self.value(column) for column, factor in terms.items())

    def _best(
        self, name: str, terms: Terms, bound: float, gap: float, nodes: int, *, sign: int, offset: float = 0.0
    ) -> float:
        if self._values and max(terms, default=0) < len(self._values):
            reached = self.total(terms)
            if sign * (bound - reached) <= SAME * max(1.0, abs(reached)):
                self.proofs.append(Proof(name, reached + offset, 0.0, full=True))
                return reached
        if self._base is None:
            self._base = int(self._highs.getNumRow())
        self._highs.changeObjectiveOffset(offset)
        best, left = self._solve(terms, sign, gap, nodes)
        full = sign * (bound - best) <= SAME * max(1.0, abs(best))
        self.proofs.append(Proof(name, best + offset, left, full))
        return best

    def _row(self, terms: Terms, lower: float, upper: float) -> None:
        self._highs.addRow(lower, upper, len(terms), list(terms), list(terms.values()))

    def _solve(self, terms: Terms, sign: int, gap: float, nodes: int) -> tuple[float, float]:
        self._highs.setOptionValue("mip_rel_gap", gap)
        self._highs.setOptionValue("mip_max_nodes", nodes)
        for column in self._costed:
            self._highs.changeColCost(column, 0.0)
        for column, factor in terms.items():
            self._highs.changeColCost(column, -sign * factor)
        self._costed = list(terms)
        self._highs.run()
        known = len(self._values) == self._count
        if known and not self._highs.getSolution().value_valid:
            self._run_from_the_last()
        solution, info = self._highs.getSolution(), self._highs.getInfo()
        if known and not solution.value_valid:
            return self.total(terms), INFINITY  # what was there before stays
        if not solution.value_valid:
            status = self._highs.modelStatusToString(self._highs.getModelStatus())
            raise PlanError(
                f"the optimizer found no plan: {status}",
                hint="this is a defect of the planner; please report the inventory",
            )
        self._values = list(solution.col_value)
        left = float(info.mip_gap) if info.mip_node_count >= 0 else 0.0
        return self.total(terms), left

    def _run_from_the_last(self) -> None:
        """With the whole numbers of the objective before as a start: there is a solution with them."""
        self._highs.setSolution(len(self._whole), self._whole, [self._values[column] for column in self._whole])
        self._highs.run()


@cache
def _highspy() -> Any:
    """numpy comes along, and each thread of its BLAS spins before it sleeps: as long as a small fleet takes to plan."""
    known = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = known or "1"  # read once, as numpy is loaded; not for processes that we start
    try:
        return import_module("highspy")
    finally:
        if known is None:
            del os.environ[BLAS_THREADS]
