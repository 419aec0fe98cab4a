"""What the compiler and the performance model know about one march: numbers from a data file, and cycles from work."""

from hbtool.target.job import Job
from hbtool.target.target import MARCHES, Layout, Target, load

__all__ = ["MARCHES", "Job", "Layout", "Target", "load"]
