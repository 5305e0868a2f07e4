"""Ranking of scores with vectors: the least ones of each row, lane by lane.

Each lane belongs to one row. Of all scores of a panel of centers, `rank` stores only the few least
ones. Kernels for tiles and the matrix unit rank panels with it; `two_least` is also used for groups
of bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from llvmlite import ir

from dkmeans.backends.native.llvm_code import Array, Code, Value, element_bytes

# The least values of each lane in some group, in order; None if the group has fewer.
Ranked = tuple[Value | None, ...]

# Scores that `rank` compares at a time; more do not fit the registers.
_RANKED_AT_ONCE = 8


# `rank` merges one panel into a summary of four scores for each row. The least score of a row in a
# panel is the panel's minimum. `ranked` has the three least minima in order, [0] to [2], and in [3]
# the least score that is not the minimum of its panel. `panels` has the panels of [0] and [1].
# The limit of a row is [0] plus its error bound (`kernels`). A row is ambiguous unless [1] and [3]
# are both above the limit. If [2] is above the limit, the nearest center is in one of the two
# panels.
#
# With `Tile.second`, [4] is the second least of the scores that are not the minimum of their panel.
# The second least score of all is [1] or [3]: if [3], in the panel of [0]. The third least score is
# then min([2], [3]) or min([1], [4]). [5] is the fourth least minimum, and `panels` also has the
# panel of [2].
#
# The last bits of each score are replaced by the number of the center in its panel, so that a
# minimum carries its center along without a second register. So the number of centers must be a
# power of two. The number changes a score by less than `centers` units in the last place; the error
# bound of `packing` includes that. All four old scores are loaded before the first new one is
# stored, because each new score depends on several old ones.
def rank(
    code: Code, score: Callable[[int, int], Value], centers: int, panel: Value, ranked: Array,
    panels: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Merge a panel's scores into `ranked` and `panels`.

    Args:
        code: The code to write to.
        score: Called with the number of a center in the panel and of a vector in the tile; returns
            the scores of this center with the rows of this vector.
        centers: Number of centers in the panel.
        panel: Number of the panel.
        ranked: (6, t) the three least panel minima, the two least scores that are not the minimum
            of their panel, and the fourth minimum.
        panels: (3, t) the panels of the first three minima.
        shape: The shape of the tile.
    """
    builder, (lanes, count) = code.builder, shape[:2]
    vector = ir.VectorType(ranked.element, lanes)
    bits_type = ir.VectorType(panels.element, lanes)
    this_panel = builder.trunc(panel, panels.element) if panels.element.width < 64 else panel
    this_panel = code.spread(this_panel, lanes)

    def ranked_alone(center: int, i: int) -> Ranked:
        nothing_else = (None,) * (2 if shape[4] else 1)
        return tagged(code, score(center, i), center, centers), *nothing_else

    for i in range(count):
        groups: list[Ranked] = []
        for first in range(0, centers, _RANKED_AT_ONCE):
            group = range(first, min(first + _RANKED_AT_ONCE, centers))
            groups.append(_least(code, [ranked_alone(center, i) for center in group], shape))
        minimum, runner_up, third_in_panel = (*_least(code, groups, shape), None)[:3]
        places = [code.at(ranked.first, (j * count + i) * lanes) for j in range(4)]
        least, second, third, others = (code.load(place, vector) for place in places)
        panel_places = [code.at(panels.first, (j * count + i) * lanes) for j in range(2)]
        least_panel, second_panel = (code.load(place, bits_type) for place in panel_places)
        is_least = builder.fcmp_ordered("<", minimum, least)
        is_below_second = builder.fcmp_ordered("<", minimum, second)
        second_if_not_least = builder.select(is_below_second, this_panel, second_panel)
        code.store(builder.select(is_least, least_panel, second_if_not_least), panel_places[1])
        code.store(builder.select(is_least, this_panel, least_panel), panel_places[0])
        # Insert `minimum` into the sorted three.
        code.store(builder.select(is_least, minimum, least), places[0])
        code.store(code.minimum(code.maximum(minimum, least), second), places[1])
        code.store(code.minimum(code.maximum(minimum, second), third), places[2])
        if runner_up is not None:
            code.store(code.minimum(runner_up, others), places[3])
        if runner_up is not None and shape[4]:
            place = code.at(ranked.first, (4 * count + i) * lanes)
            later = code.minimum(code.maximum(runner_up, others), code.load(place, vector))
            later = later if third_in_panel is None else code.minimum(third_in_panel, later)
            code.store(later, place)
            place = code.at(ranked.first, (5 * count + i) * lanes)
            fourth = code.minimum(code.maximum(minimum, third), code.load(place, vector))
            code.store(fourth, place)
            place = code.at(panels.first, (2 * count + i) * lanes)
            is_below_third = builder.fcmp_ordered("<", minimum, third)
            later_panel = builder.select(is_below_third, this_panel, code.load(place, bits_type))
            later_panel = builder.select(is_below_second, second_panel, later_panel)
            code.store(later_panel, place)


def tagged(code: Code, score: Value, number: int, centers: int) -> Value:
    """Replace the last bits of scores by the number of the center among so many, a power of two."""
    builder, vector = code.builder, score.type
    bits_type = ir.VectorType(ir.IntType(8 * element_bytes(vector.element)), vector.count)
    # -centers is a mask of all bits but the last log2(centers).
    mask = ir.Constant(bits_type, [-centers] * vector.count)
    bits = builder.and_(builder.bitcast(score, bits_type), mask)
    bits = builder.or_(bits, ir.Constant(bits_type, [number] * vector.count))
    return builder.bitcast(bits, vector)


def _least(code: Code, ranked: Sequence[Ranked], shape: Sequence[int]) -> Ranked:
    """Return the two least values of each lane, or three if the second nearest is looked for."""
    if not shape[4]:
        return two_least(code, [(first, second) for first, second in ranked])
    return three_least(code, [(first, second, third) for first, second, third in ranked])


def two_least(
    code: Code, ranked: Sequence[tuple[Value, Value | None]]
) -> tuple[Value, Value | None]:
    """Return the least and the second least value of each lane, found by a tournament.

    Args:
        code: The code to write to.
        ranked: Pairs (least, second least). The second is None for a single value.
    """
    while len(ranked) > 1:
        (a, a_second), (b, b_second) = ranked[:2]
        runner_up = code.maximum(a, b)
        for second in (a_second, b_second):
            runner_up = runner_up if second is None else code.minimum(second, runner_up)
        ranked = [*ranked[2:], (code.minimum(a, b), runner_up)]
    return ranked[0]


def three_least(
    code: Code, ranked: Sequence[tuple[Value, Value | None, Value | None]]
) -> tuple[Value, Value | None, Value | None]:
    """Return the three least values of each lane, in order, found by a tournament.

    Args:
        code: The code to write to.
        ranked: The three least values of each group, in order; None if a group has fewer.
    """

    def greater(a: Value | None, b: Value | None) -> Value | None:
        return None if a is None or b is None else code.maximum(a, b)

    def least_of(*values: Value | None) -> Value | None:
        return reduce(code.minimum, found) if (found := [v for v in values if v]) else None

    while len(ranked) > 1:
        (a, a_second, a_third), (b, b_second, b_third) = ranked[:2]
        third = least_of(a_third, b_third, greater(a_second, b), greater(a, b_second))
        second = least_of(a_second, b_second, code.maximum(a, b))
        ranked = [*ranked[2:], (code.minimum(a, b), second, third)]
    return ranked[0]
