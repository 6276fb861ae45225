"""How long work says how far it is: callbacks that a caller may show."""

from collections.abc import Callable

Steps = Callable[[int, int], None]  # (steps done, steps in all)
Progress = Callable[[str, int, int], None]  # (stage, steps done, steps in all)
