"""The agent's command line, where a host name may be as short-lived as its TTL says: by itself it
asks again after a minute at the earliest. Runs on both runtimes."""

from cpe_agent import cli, resolver

resolver._TTL_LEAST = 1
cli.entry()
