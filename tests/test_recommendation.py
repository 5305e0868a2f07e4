"""The rule by which a sweep recommends a model, and what it says against it."""

import pytest

from dkmeans.recommendation import recommend


def model(k, silhouette, stability=1.0, **others):
    return {
        "num_clusters": k,
        "silhouette": silhouette,
        "davies_bouldin": None if silhouette is None else 1 - silhouette,
        "calinski_harabasz": silhouette,
        "ambiguous": 0.0,
        "rows": 1000,
        "smallest_cluster": 1000 // k,
        "stability": stability,
        "converged": True,
        **others,
    }


def test_the_largest_silhouette_of_the_stable_models_is_recommended():
    found = recommend([model(1, None), model(2, 0.4), model(4, 0.6), model(8, 0.7, 0.5)])
    assert found.num_clusters == 4
    assert found.reason == (
        "the largest silhouette, 0.600, of the 2 whose two best starts agree (adjusted Rand at "
        "least 0.8)"
    )
    assert found.against == (
        "k = 8 has a larger silhouette, 0.700, but its starts disagree (adjusted Rand 0.50)",
        "the Davies-Bouldin index prefers k = 8",
        "the Calinski-Harabasz index prefers k = 8",
    )


def test_all_that_is_weak_about_a_model_is_said():
    weak = model(8, 0.7, 0.5, ambiguous=0.3, smallest_cluster=2, converged=False)
    found = recommend([model(4, 0.6, 0.4), weak])
    assert found.num_clusters == 8
    assert "no model's two best starts agree" in found.reason
    assert found.against == (
        "its two best starts disagree (adjusted Rand 0.50)",
        "it is the largest k that was tried: the best may lie beyond",
        "30% of its rows are nearly as near to a second center",
        "its smallest cluster has 2 of 1,000 rows",
        "it has not converged: more steps may change it",
    )


def test_an_index_that_is_not_finite_prefers_no_other_model():
    found = recommend([model(2, 0.5), model(5, 1.0, calinski_harabasz=None), model(8, 0.9)])
    assert (found.num_clusters, found.against) == (5, ())


def test_clusters_of_one_row_each_are_said():
    found = recommend([model(4, 0.6), model(8, 1.0, rows=8, smallest_cluster=1)])
    assert found.num_clusters == 8
    assert "each of its clusters has one row" in found.against


@pytest.mark.parametrize(("ks", "said"), [((2, 3), False), ((3, 4), True)])
def test_below_two_clusters_nothing_better_can_lie(ks, said):
    found = recommend([model(k, 1 / k) for k in ks])
    assert found.num_clusters == ks[0]
    assert any("smallest k that was tried" in text for text in found.against) is said


def test_one_cluster_alone_cannot_be_judged():
    assert recommend([model(1, None)]).num_clusters is None
