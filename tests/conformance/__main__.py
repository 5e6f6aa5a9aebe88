"""`python -m tests.conformance`: how many requirements are met, and which are not.

--write renders docs/conformance.md anew. The exit code is 1 when the table is wrong.
"""

import sys

from tests.conformance import table


def main(arguments):
    requirements = table.load()
    if arguments == ["--write"]:
        table.DOCUMENT.write_text(table.render(requirements, table.titles()))
    elif arguments:
        sys.exit("usage: python -m tests.conformance [--write]")
    for side in table.titles():
        _print_side(side, [one for one in requirements if one.side == side])
    found = table.problems(requirements)
    for text in found:
        print("wrong: " + text)
    return 1 if found else 0


def _print_side(side, mine):
    print("%-10s %6s %15s %8s %6s" % ((side,) + table.STATUSES + ("all",)))
    for row in table.count_lines(mine):
        print("%-10s %6d %15d %8d %6d" % tuple(row))
    for one in mine:
        if one.status == table.NOT_MET:
            print("not met: %s (%s): %s Instead: %s" % (one.id, one.level, one.text, one.reason))
    short = [one for one in mine if one.falls_short]
    if short:
        ids = ", ".join("%s (%s)" % (one.id, one.level) for one in short)
        print("not applicable, since left to others, who fall short: " + ids)
    print()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
