"""The search on problems whose answer is known: which groups, how many scores, after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_inception.search.journal import Figures, Journal
from edge_inception.search.search import Group, ImageDifferences, allowed_drop, search, sizes
from edge_inception.spec import Budget, DropType

IMAGES = 200


def groups(harms, free=None):
    """Groups g0, g1, ... of equal cost; ``free`` is what the estimate believes of each."""
    believed = free or harms
    return tuple(
        Group(
            name=f"g{index}",
            layers=(f"conv{index}",),
            expected_noise=believed[index],
            mac_share=1 / len(harms),
            has_weights=True,
        )
        for index in range(len(harms))
    )


class Network:
    """Each group in int8 adds its noise to the logits, and a noise of x loses x of the images."""

    def __init__(self, harms):
        self.harms = {f"g{index}": harm for index, harm in enumerate(harms)}
        self.calls = []

    def __call__(self, keep, rows):
        self.calls.append((keep, rows))
        noise = sum(harm for name, harm in self.harms.items() if name not in keep)
        chosen = np.arange(IMAGES) if rows is None else np.array(rows)
        lost = chosen >= IMAGES * (1 - noise)  # the last images suffer first
        signal = np.ones(len(chosen))
        return ImageDifferences(
            noise=noise * signal * (1 + chosen / IMAGES),
            signal=signal,
            change=-lost.astype(np.int64),
        )


def found(network, subjects, tmp_path, **options):
    budget = Budget(**{"max_drop_pp": 1.0, **options})
    with Journal(tmp_path / "j", "key") as journal:
        return search(subjects, network, budget=budget, top1=0.5, journal=journal)


def test_plain_int8_that_keeps_its_accuracy_is_one_score(tmp_path):
    """Within the budget nothing is kept, and nothing else is scored."""
    network = Network([0.001] * 9)
    result = found(network, groups([0.001] * 9), tmp_path)
    assert (result.is_met, result.chosen.keep, len(network.calls)) == (True, (), 1)


def test_the_two_bad_groups_are_kept_and_no_other(tmp_path):
    """Two groups do the harm: they are kept, whatever the estimate believes of them."""
    harms = [0.0001] * 20
    harms[5], harms[13] = 0.05, 0.02
    believed = [0.0001 * (index + 1) for index in range(20)]
    believed[5], believed[13] = 0.004, 0.003
    result = found(Network(harms), groups(harms, believed), tmp_path)
    assert result.is_met
    assert result.chosen.keep == ("g5", "g13")
    assert result.chosen.float_share_of_macs == pytest.approx(2 / 20)
    # 18 groups of 0.0001 lose no image, since 0.0018 of 200 is less than one
    assert result.chosen.drop_pp == 0.0
    assert [one.group for one in result.ranking[:2]] == ["g5", "g13"]
    # harm of a group alone, on the 50 most affected images: harm times their mean of 1 + i / 200
    assert result.ranking[0].harm == pytest.approx(0.05 * (1 + (150 + 199) / 2 / IMAGES))


def test_a_group_without_weights_is_kept_where_it_does_the_harm(tmp_path):
    """Only a pool reads g7: no multiply-add is lost with it in float, and the budget is met."""
    harms = [0.0] * 7 + [0.05] + [0.0] * 12
    believed = [0.5] * 7 + [0.001] + [0.5] * 12
    subjects = list(groups(harms, believed))
    subjects[7] = replace(subjects[7], has_weights=False, mac_share=0.0)
    network = Network(harms)
    result = found(network, subjects, tmp_path)
    assert result.is_met
    assert (result.chosen.keep, result.chosen.float_share_of_macs) == (("g7",), 0.0)
    first = result.ranking[0]
    assert (first.group, first.lost_pp) == ("g7", pytest.approx(100 * 10 / 50))
    # no graph is asked for in which nothing with weights is int8
    weighted = {one.name for one in subjects if one.has_weights}
    assert not any(weighted <= keep for keep, _ in network.calls)


def test_a_group_that_is_dispensable_is_quantized_again(tmp_path):
    """Five groups together would do, but one of them is not missed: four are kept."""
    harms = [0.05, 0.04, 0.03, 0.02, 0.004, 0.003, 0.0, 0.0]
    result = found(Network(harms), groups(harms), tmp_path)
    # 0.004 + 0.003 = 0.7 % of the images is within 1 pp, so the first four suffice
    assert result.chosen.keep == ("g0", "g1", "g2", "g3")
    # the sizes tried are 1, 2, 3, 4; a larger budget is met with fewer, a smaller one with six
    assert len(found(Network(harms), groups(harms), tmp_path / "b", max_drop_pp=3).chosen.keep) == 3
    result = found(Network(harms), groups(harms), tmp_path / "c", max_drop_pp=0.4)
    assert result.chosen.keep == ("g0", "g1", "g2", "g3", "g4")


def test_sizes_grow_by_half():
    """1, 2, 3, 4, 6, 8, 12, ... and the last one always."""
    assert list(sizes(20)) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert list(sizes(4)) == [1, 2, 3, 4]
    assert list(sizes(0)) == []


def test_a_budget_that_cannot_be_met_names_the_closest(tmp_path):
    """Every group harms: the point with the smallest drop is told, as not met."""
    harms = [1 / 16] * 12
    result = found(Network(harms), groups(harms), tmp_path, max_groups=4)
    assert not result.is_met
    assert result.why == "none of 5 scored sets, with up to 4 groups in float, meets the budget"
    assert len(result.chosen.keep) == 4
    assert result.chosen.drop_pp == 100 * 8 / 16
    assert [len(point.keep) for point in result.points] == [0, 1, 2, 3, 4]


def test_a_budget_that_needs_more_than_the_worst_quarter_is_met(tmp_path):
    """12 of 40 groups have to stay float, of which ten are confirmed: the search goes on."""
    harms = [0.01] * 12 + [0.0] * 28
    result = found(Network(harms), groups(harms), tmp_path, max_drop_pp=0.1)
    assert sum(one.harm is not None for one in result.ranking) == 10
    assert result.is_met
    assert result.chosen.keep == tuple(f"g{index}" for index in range(12))
    # but no further than it may
    result = found(Network(harms), groups(harms), tmp_path / "b", max_drop_pp=0.1, max_groups=11)
    assert (result.is_met, len(result.chosen.keep)) == (False, 11)


def test_one_group_at_least_stays_int8(tmp_path):
    """Of three groups that all harm no more than two are kept in float."""
    result = found(Network([0.3] * 3), groups([0.3] * 3), tmp_path)
    assert (result.is_met, len(result.chosen.keep)) == (False, 2)
    assert found(Network([1.0]), groups([1.0]), tmp_path / "b").chosen.keep == ()


class Unequal:
    """g0 adds noise to the logits and loses no image, g1 adds little and loses one in four."""

    def __call__(self, keep, rows):
        chosen = np.arange(IMAGES) if rows is None else np.array(rows)
        noise = 0.5 * ("g0" not in keep) + 0.01 * ("g1" not in keep)
        is_lost = (chosen % 4 == 0) & ("g1" not in keep)
        signal = np.ones(len(chosen))
        return ImageDifferences(
            noise=noise * signal, signal=signal, change=-is_lost.astype(np.int64)
        )


def test_what_loses_images_ranks_above_what_adds_noise(tmp_path):
    """The task comes first: g1 alone in float meets the budget, g0 does not."""
    result = found(Unequal(), groups([0.5, 0.01, 0.0, 0.0]), tmp_path, max_groups=1)
    assert (result.is_met, result.chosen.keep) == (True, ("g1",))
    first, second = result.ranking[:2]
    assert (first.group, first.harm, first.lost_pp) == ("g1", pytest.approx(0.01), 26.0)
    assert (second.group, second.lost_pp) == ("g0", 0.0)


def loss(point):
    return point.drop_pp, point.worst_tenth_noise_to_signal


def test_the_front_holds_what_nothing_beats(tmp_path):
    """Along the front cost rises and the drop falls."""
    harms = [0.05, 0.04, 0.03, 0.02, 0.01, 0.0, 0.0, 0.0]
    result = found(Network(harms), groups(harms), tmp_path, max_drop_pp=0.2)
    costs = [point.float_share_of_macs for point in result.front]
    drops = [loss(point) for point in result.front]
    assert costs == sorted(set(costs))
    assert drops == sorted(set(drops), reverse=True)
    assert result.front[0].keep == ()
    for point in result.points:
        assert any(
            other.float_share_of_macs <= point.float_share_of_macs and loss(other) <= loss(point)
            for other in result.front
        )


def test_a_relative_budget_is_a_share_of_the_top1():
    """1 % of a top-1 of 50 % is half a percentage point."""
    absolute = Budget(max_drop_pp=1.0)
    relative = Budget(max_drop_pp=1.0, drop_type=DropType.RELATIVE)
    assert (allowed_drop(absolute, 0.5), allowed_drop(relative, 0.5)) == (1.0, 0.5)


def test_known_scores_are_not_asked_for_again(tmp_path):
    """A second search over the same journal scores nothing and finds the same."""
    harms = [0.05, 0.02, 0.03, *[0.0001] * 9]
    first = found(Network(harms), groups(harms), tmp_path)
    network = Network(harms)
    assert found(network, groups(harms), tmp_path) == first
    assert network.calls == []


def figures(noise):
    return Figures(drop_pp=1.5, noise=noise, tail=noise, worst=(2, 0))


def test_a_journal_of_something_else_is_not_used(tmp_path):
    """Another key: started anew."""
    with Journal(tmp_path / "j", "a") as journal:
        journal.add(frozenset({"x"}), "all", figures(1.0))
    with Journal(tmp_path / "j", "a") as journal:
        assert journal.known(frozenset({"x"}), "all") == figures(1.0)
        assert journal.known(frozenset({"x"}), "worst") is None
    with Journal(tmp_path / "j", "b") as journal:
        assert journal.num_known == 0


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_line_that_was_cut_off_is_dropped(tmp_path, cut):
    """A crash inside a write loses that point and no other."""
    path = tmp_path / "j"
    with Journal(path, "a") as journal:
        for name in "xyz":
            journal.add(frozenset(name), "all", figures(1 / 3))
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, "a") as journal:
        assert [journal.known(frozenset(n), "all") is not None for n in "xyz"] == [
            True,
            True,
            False,
        ]
        journal.add(frozenset("z"), "all", figures(2 / 3))
    with Journal(path, "a") as journal:
        assert journal.known(frozenset("x"), "all") == figures(1 / 3)
        assert journal.known(frozenset("z"), "all") == figures(2 / 3)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[" * 100_000,
        b'{"keep": ["x"], "images": "all", "score": {"noise": 1.0}}',
        b'{"keep": "x", "images": "all", "score": null}',
        b'{"keep": ["x"], "keep": ["y"], "images": "some", "score": {}}',
        b"\xff\xfe",
    ],
)
def test_a_line_that_is_no_score_ends_the_journal(tmp_path, line):
    """What another version or nobody wrote is scored again, with all that follows it."""
    path = tmp_path / "j"
    with Journal(path, "a") as journal:
        journal.add(frozenset("x"), "all", figures(1.0))
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes().splitlines()[1] + b"\n")
    with Journal(path, "a") as journal:
        assert journal.num_known == 1
        assert journal.known(frozenset("x"), "all") == figures(1.0)
    path.write_bytes(line + b"\n")
    with Journal(path, "a") as journal:
        assert journal.num_known == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keep=st.frozensets(st.text(st.characters(exclude_categories=("Cs",)))),
    images=st.sampled_from(("all", "worst")),
    noise=st.floats(allow_nan=False),
    worst=st.lists(st.integers(0, 2**53)),
)
def test_a_journal_reads_back_equal(tmp_path, keep, images, noise, worst):
    """No bit of a figure is lost on the way over the disk."""
    score = Figures(drop_pp=-noise, noise=noise, tail=noise, worst=tuple(worst))
    (tmp_path / "j").unlink(missing_ok=True)
    with Journal(tmp_path / "j", "a") as journal:
        journal.add(keep, images, score)
    with Journal(tmp_path / "j", "a") as journal:
        assert journal.known(keep, images) == score


_KILLED = """
    import json, os, sys
    from pathlib import Path
    sys.path.insert(0, {here!r})
    import test_search as t
    folder, stop = Path(sys.argv[1]), int(sys.argv[2])
    harms = [0.05, 0.02, 0.03, 0.013, *[0.0001] * 9]
    network = t.Network(harms)
    def score(keep, rows):
        if len(network.calls) == stop:
            os.kill(os.getpid(), 9)
        return network(keep, rows)
    result = t.found(score, t.groups(harms), folder)
    print(json.dumps([len(network.calls), repr(result)]))
"""


def test_a_killed_search_goes_on_to_the_same_result(tmp_path):
    """kill -9 after any score: the next run scores only the rest, and finds the very same."""
    from pathlib import Path

    code = textwrap.dedent(_KILLED).format(here=str(Path(__file__).parent))

    def run(folder, stop):
        return subprocess.run(
            [sys.executable, "-c", code, str(folder), str(stop)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    whole = tmp_path / "whole"
    whole.mkdir()
    total, result = json.loads(run(whole, 1000).stdout)
    for stop in (1, total - 2):
        folder = tmp_path / str(stop)
        folder.mkdir()
        killed = run(folder, stop)
        assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
        assert json.loads(run(folder, 1000).stdout) == [total - stop, result]
