"""Functions of the user's own, named ``module:function``: loaded and run only because the user named them."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ptqc.core.errors import OptionError, quoted

FIX = "name it as module:function"


def load_function(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; modules in the working folder are found too.

    Raises OptionError where there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except (ImportError, ValueError) as error:
        raise OptionError(f"the metric {quoted(name)} cannot be loaded", why=str(error), fix=FIX) from error
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        why = f"module {quoted(module_name)} has no function {quoted(function_name)}"
        raise OptionError(f"the metric {quoted(name)} cannot be loaded", why=why, fix=FIX)
    return function  # type: ignore[no-any-return]
