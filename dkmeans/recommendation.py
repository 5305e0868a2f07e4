"""Which of several models to take: the rule by which a sweep recommends a number of clusters.

The model with the largest silhouette is taken, among those whose two best starts agree. The other
indices, and what is weak about the model, are said beside it: no index alone decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Two starts with a larger adjusted Rand index have found the same clusters, but for some rows.
_STABLE = 0.8
# A larger share of ambiguous rows, and a smaller cluster as a share of the mean one, are remarked.
_MANY_AMBIGUOUS, _SMALL_CLUSTER = 0.2, 0.05

_Models = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommended number of clusters.

    Attributes:
        num_clusters: The number; None if no model can be judged.
        reason: Why this one.
        against: What speaks against it.
    """

    num_clusters: int | None
    reason: str
    against: tuple[str, ...] = ()


def recommend(models: _Models) -> Recommendation:
    """Return the recommendation among models as `sweep` describes them, by rising k."""
    judged = [each for each in models if each["silhouette"] is not None]
    if not judged:
        return Recommendation(None, "no model has two clusters, which a silhouette needs")
    stable = [each for each in judged if each["stability"] >= _STABLE]
    best = max(stable or judged, key=lambda each: each["silhouette"])
    among = f"of the {len(stable)} whose two best starts agree (adjusted Rand at least {_STABLE})"
    if not stable:
        among = f"of all {len(judged)}, as no model's two best starts agree"
    reason = f"the largest silhouette, {best['silhouette']:.3f}, {among}"
    return Recommendation(best["num_clusters"], reason, tuple(_against(best, judged)))


def _against(best: Mapping[str, Any], judged: _Models) -> Iterator[str]:
    """Yield what speaks against the best model."""
    k = best["num_clusters"]
    if best["stability"] < _STABLE:
        yield f"its two best starts disagree (adjusted Rand {best['stability']:.2f})"
    larger = max(judged, key=lambda each: each["silhouette"])
    if larger is not best:
        yield (
            f"k = {larger['num_clusters']} has a larger silhouette, {larger['silhouette']:.3f}, "
            f"but its starts disagree (adjusted Rand {larger['stability']:.2f})"
        )
    for name, title, sign in (
        ("davies_bouldin", "Davies-Bouldin", -1),
        ("calinski_harabasz", "Calinski-Harabasz", 1),
    ):
        known = [each for each in judged if each[name] is not None]
        other = max(known, key=lambda each: sign * each[name], default=best)
        # An index of the best model that is not finite, as of equal rows, compares with no other.
        if other is not best and best[name] is not None:
            yield f"the {title} index prefers k = {other['num_clusters']}"
    smallest, largest = judged[0]["num_clusters"], judged[-1]["num_clusters"]
    # Nothing below two clusters can be judged.
    if len(judged) > 1 and (k == largest or k == smallest > 2):
        end = "smallest" if k == smallest else "largest"
        yield f"it is the {end} k that was tried: the best may lie beyond"
    if best["ambiguous"] > _MANY_AMBIGUOUS:
        yield f"{best['ambiguous']:.0%} of its rows are nearly as near to a second center"
    if best["rows"] == k and best["smallest_cluster"] == 1:
        yield "each of its clusters has one row"
    mean = best["rows"] / k
    if best["smallest_cluster"] < _SMALL_CLUSTER * mean:
        yield f"its smallest cluster has {best['smallest_cluster']:,} of {best['rows']:,} rows"
    if not best["converged"]:
        yield "it has not converged: more steps may change it"
