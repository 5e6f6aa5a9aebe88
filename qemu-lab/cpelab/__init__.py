"""The lab: a home router and an operator in two QEMU guests, wired without root."""

from .guest import CommandFailed, Guest, Job, LabError, Result
from .lab import Lab

__all__ = ["CommandFailed", "Guest", "Job", "Lab", "LabError", "Result"]
