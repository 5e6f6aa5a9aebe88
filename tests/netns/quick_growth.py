"""The agent's command line on a veth, where it looks at its ports five times a second: by itself it
does so every ten seconds. Runs on both runtimes."""

from cpe_agent import flows, growth

OFTEN = 200  # ms

growth.INTERVAL = growth.SLOW_INTERVAL = OFTEN
flows.pause = lambda spent: OFTEN
__import__("over_veth")
