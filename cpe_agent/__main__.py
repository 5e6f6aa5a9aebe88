"""micropython -m cpe_agent, python3 -m cpe_agent."""

from cpe_agent.cli import entry

entry()
