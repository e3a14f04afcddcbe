"""The simulation engines: `run` executes a Program tick by tick of its events and returns a Timeline."""

from codesign.engine.run import Timeline, run, run_logged

__all__ = ["Timeline", "run", "run_logged"]
