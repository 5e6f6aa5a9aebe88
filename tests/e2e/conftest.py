"""Labs for end-to-end tests; a test that fails shows the consoles of the labs that run."""

import pytest
from cpelab import Lab

RUNNING = []


def start(folder, **options):
    lab = Lab(folder, **options).start()
    RUNNING.append(lab)
    return lab


def stop(lab):
    RUNNING.remove(lab)
    lab.stop()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A lab without configuration, shared by the tests of a module: no agent, no lwAFTR."""
    lab = start(tmp_path_factory.mktemp("lab"))
    yield lab
    stop(lab)


@pytest.fixture
def make_lab(tmp_path):
    """A function that starts a lab of the test's own; its arguments are those of Lab."""
    labs = []

    def make(**options):
        labs.append(start(tmp_path / f"lab{len(labs)}", **options))
        return labs[-1]

    yield make
    for lab in labs:
        stop(lab)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for lab in RUNNING:
            for guest in lab.guests:
                if guest.transcript.exists():
                    report.sections.append((f"{guest.name}'s console", guest.console_tail()))
