"""The targets by name."""

import re
from functools import cache

from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.targets.target import Target

SPECS = {name: f"{name}.toml" for name in ("int4", "int4-integer", "int8", "int8-integer", "mixed", "mixed-integer")}


def target_names() -> tuple[str, ...]:
    """Names of all targets, sorted."""
    return tuple(sorted(SPECS))


@cache
def find_target(name: str) -> Target:
    """The target of that name. Raises OptionError for an unknown one, naming the nearest."""
    if name not in SPECS:
        width = re.fullmatch("int([2-7])", name)
        fix = f"use --target int4 --precision w{width[1]}a8" if width else nearest(name, target_names())
        raise OptionError(f"there is no target {quoted(name)}", fix=fix)
    return Target.from_spec(SPECS[name])
