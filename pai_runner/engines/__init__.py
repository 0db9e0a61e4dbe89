"""Engines place supervisors: they take a Plan and give an Outcome."""
