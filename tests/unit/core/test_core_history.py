"""The last day of the port sets: what is kept, for how long, and how it looks in a terminal."""

from cpe_agent import plot
from cpe_agent.history import FIELDS, STEP, STEPS, History

START = 7 * STEP + 1  # ms since boot


def sample(full, ports=1000):
    return (full, 10 * full, full, 3, ports)


def shown(past, now):
    return past.read(now)["full"]


def bars(found):
    """The plot's lines between the axes, without the numbers on the left."""
    lines = plot.lines(found)
    return [line[6:] for line in lines[1:11]]


def test_each_step_keeps_its_highest_count():
    past = History()
    for full in (20, 50, 30):
        past.add(START, sample(full))
    past.add(START + STEP, sample(5))
    assert past.read(START + STEP) == {
        "step": 300,
        "full": [50, 5],
        "tcp": [500, 50],
        "udp": [50, 5],
        "icmp": [3, 3],
        "ports": [1000, 1000],
    }


def test_highest_is_meant_of_each_number_by_itself():
    past = History()
    past.add(START, (10, 7, 0, 0, 2000))
    past.add(START, (9, 8, 1, 0, 1000))
    assert [past.read(START)[name] for name in FIELDS] == [[10], [8], [1], [0], [2000]]


def test_steps_without_a_count_are_told_apart_from_empty_sets():
    past = History()
    past.add(START, sample(0))
    past.add(START + 3 * STEP, sample(4))
    assert shown(past, START + 4 * STEP) == [0, None, None, 4, None]


def test_what_is_older_than_a_day_is_forgotten():
    past = History()
    past.add(START, sample(90))
    past.add(START + STEP, sample(10))
    day = STEPS * STEP
    assert shown(past, START + day - STEP)[:2] == [90, 10]
    assert shown(past, START + day)[:1] == [10]
    assert shown(past, START + day + STEP) == []
    assert shown(past, START + 1000 * day) == []


def test_a_count_after_years_is_the_only_one():
    past = History()
    past.add(START, sample(90))
    late = START + 10**11
    past.add(late, sample(10))
    assert shown(past, late) == [10]


def test_a_month_of_counts_is_the_last_day():
    past = History()
    for number in range(30 * STEPS):
        past.add(START + number * STEP, sample(number % 100))
    numbers = range(29 * STEPS, 30 * STEPS)
    assert shown(past, START + (30 * STEPS - 1) * STEP) == [number % 100 for number in numbers]


def test_numbers_that_find_no_room_are_as_large_as_may_be():
    past = History()
    past.add(START, (100, 70000, 65535, 0, 65535))
    found = past.read(START)
    assert [found[name] for name in FIELDS] == [[100], [65534], [65534], [0], [65534]]


def test_no_line_is_longer_than_a_terminal():
    past = History()
    for number in range(STEPS):
        past.add(START + number * STEP, (100, 65000, 65000, 65000, 65000))
    lines = plot.lines(past.read(START + (STEPS - 1) * STEP))
    assert max([len(line) for line in lines]) <= 79
    assert bars(past.read(START + (STEPS - 1) * STEP)) == ["#" * 72] * 10


def test_the_newest_column_is_on_the_right_and_gaps_are_blank():
    past = History()
    past.add(START, sample(100))
    past.add(START + 12 * STEP, sample(0))
    past.add(START + 16 * STEP, sample(50))
    top, *_, bottom = bars(past.read(START + 16 * STEP))
    assert top.strip() == "#"
    assert bottom == " " * 67 + "#  .#"


def test_the_highest_step_of_a_column_is_shown():
    past = History()
    for number, full in enumerate((0, 10, 90, 10)):
        past.add(START + number * STEP, sample(full))
    assert [line[-1:] for line in bars(past.read(START + 3 * STEP))] == [""] + ["#"] * 9


def test_a_small_use_fills_the_plot():
    past = History()
    past.add(START, sample(7))
    lines = plot.lines(past.read(START))
    assert lines[1].split() == ["10", "|"]
    assert [line[-1:] for line in bars(past.read(START))] == [""] * 3 + ["#"] * 7


def test_when_it_was_fullest_and_how_many_ports_that_were():
    past = History()
    past.add(START, sample(87, 2048))
    past.add(START + 40 * STEP, sample(12))
    lines = plot.lines(past.read(START + 40 * STEP))
    assert "most: 87 % of 2048 ports, 3 h 20 min ago" in lines
    assert "  tcp  at most 870 ports in use" in lines


def test_without_a_count_it_is_said_when_there_will_be_one():
    (line,) = plot.lines(History().read(START))
    assert "nothing has been counted yet" in line
