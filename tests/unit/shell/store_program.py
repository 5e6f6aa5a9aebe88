"""What the tests make both runtimes do with the store:

write PATH SOURCE    make the content of SOURCE the content of PATH
judge DIRECTORY      one line for each file: its name, and 'state', 'damaged' or 'nothing'
"""

import os
import sys

sys.path.insert(0, __file__.rsplit("/", 4)[0])

from cpe_agent import store


def write(path, source):
    """The way that the agent goes: look first, then write."""
    with open(source) as file:
        text = file.read()
    kept = store.File(path)
    kept.read()
    try:
        print("written" if kept.write(text) else "unchanged")
    except store.StoreError as error:
        print(error)


def judge(directory):
    """What each file of a directory is to the store."""
    for name in os.listdir(directory):
        print(name, _judgement(directory + "/" + name))


def _judgement(path):
    text = store.File(path).read()
    if text is None:
        return "nothing"
    try:
        store.decode(text)
    except store.Damaged:
        return "damaged"
    return "state"


{"write": write, "judge": judge}[sys.argv[1]](*sys.argv[2:])
