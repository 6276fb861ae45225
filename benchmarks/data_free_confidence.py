"""How good the estimate is that ptqc gives without data: beside the truth, over models with statistics and sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.data_free import ESTIMATED_SEED
from benchmarks.data_free_subjects import DEFAULT, REAL, SOURCES
from benchmarks.scoring import spearman
from ptqc.report.confidence import WORST, grade_of, lower_bound

GOOD_DB = 3.0  # below what real data reaches
FAILING_DB = 15.0  # SQNR on real data: below it predictions usually change
LEAST_CORRELATION = 0.8  # by issue 9


@dataclass(frozen=True, slots=True)
class Judged:
    """One model calibrated on one source; all in dB.

    Attributes:
        truth: SQNR on real data; real: that of the same model calibrated on real data.
        estimate: SQNR on samples distilled from noise with another seed. bound, grade: what ptqc makes of it.
    """

    model: str
    source: str
    truth: float
    real: float
    estimate: float
    bound: float
    grade: str

    @property
    def good(self) -> bool:
        """Nearly as good as real data."""
        return self.truth >= self.real - GOOD_DB

    @property
    def fails(self) -> bool:
        """Useless, and not because the network is: real data is better."""
        return self.truth < min(FAILING_DB, self.real - GOOD_DB)

    @property
    def flagged(self) -> bool:
        """ptqc says that real data is needed."""
        return self.grade == WORST


def judged(records: Mapping[str, Any]) -> list[Judged]:
    """All that was estimated on distilled samples."""
    found = []
    for name, record in records.items():
        runs = {source: seeds.get(str(ESTIMATED_SEED), {}) for source, seeds in record.get("runs", {}).items()}
        real = runs.get(REAL, {}).get("sqnr_db")
        for source in SOURCES:
            run = runs.get(source, {})
            if real is None or not run.get("distilled") or None in (run["sqnr_db"], run["estimate_db"]):
                continue
            bound = lower_bound(run["estimate_db"], founded=True)
            found.append(Judged(name, source, run["sqnr_db"], real, run["estimate_db"], bound, grade_of(bound)))
    return found


def verdicts(found: Sequence[Judged]) -> list[str]:
    """Sentences on what issue 9 asks of the confidence."""
    by_default = [one for one in found if one.source == DEFAULT]
    made = [one for one in found if one.source != REAL]
    optimism = {one.model: one.estimate - one.truth for one in by_default}
    texts = [
        f"Spearman of estimate and truth: {_correlation(found)} over all {len(found)} rows, {_correlation(made)}"
        f" without those of real data, {_correlation(by_default)} over the {len(by_default)} defaults"
        f" (asked for: {LEAST_CORRELATION}).",
        f"Estimate minus truth without data: {_listed({name: f'{value:+.1f}' for name, value in optimism.items()})}.",
        f"Bounds above the truth: {_named([one for one in made if one.bound > one.truth])}.",
        f"Sets that fail (below {FAILING_DB:.0f} dB where real data is better) and get a grade above {WORST}:"
        f" {_named([one for one in made if one.fails and not one.flagged])}.",
        f"Good sets (within {GOOD_DB:.0f} dB of real data) that get {WORST}:"
        f" {_named([one for one in made if one.good and one.flagged])}.",
    ]
    return texts


def _correlation(found: Sequence[Judged]) -> str:
    return f"{spearman([one.estimate for one in found], [one.truth for one in found]):.2f}"


def _named(found: Sequence[Judged]) -> str:
    return ", ".join(f"{one.model} on {one.source}" for one in found) or "none"


def _listed(texts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in texts.items()) or "none"
