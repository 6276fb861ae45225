"""How long work says how far it is: callbacks that a caller may show."""

from collections.abc import Callable

Steps = Callable[[int, int], None]  # (steps done, steps in all)
# (stage, steps done, steps in all); behind a comma the stage may say how things stand: ``distill, loss 0.12``.
Progress = Callable[[str, int, int], None]
