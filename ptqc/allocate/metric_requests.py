"""Which metric each node's sensitivity is in: the option ``--sensitivity METRIC`` or ``PATTERN=METRIC[:SHARE]``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ptqc.allocate.metrics import GRADIENT, MEASURED, NOISE, description
from ptqc.core.cost import MetricGroup
from ptqc.core.errors import OptionError, nearest, quoted

ALL = "*"
OPTION = "--sensitivity"
_KNOWN = (*MEASURED, *GRADIENT)


@dataclass(frozen=True, slots=True)
class MetricRequest:
    """A metric for the nodes whose names match a pattern.

    Attributes:
        metric: one of ``ptqc.allocate.metrics``, or a user's ``module:function``.
        pattern: shell-style, case counts; ``*`` where the user gave none.
        share: of every limit for these nodes, above 0 and below 1; None: what others leave.
    """

    metric: str
    pattern: str = ALL
    share: float | None = None

    def __str__(self) -> str:
        head = "" if self.pattern == ALL and self.share is None else f"{self.pattern}="
        return head + self.metric + ("" if self.share is None else f":{self.share:g}")


def parse_metrics(texts: Sequence[str]) -> tuple[MetricRequest, ...]:
    """Requests in the order given; the last one whose pattern matches a node counts.

    Raises OptionError for a metric that does not exist, a share that is no number between 0 and 1 or has no pattern,
    shares of more than 1 together, and a pattern that is given twice.
    """
    requests = tuple(_parse(text) for text in texts)
    for index, request in enumerate(requests):
        if any(other.pattern == request.pattern for other in requests[:index]):
            nodes = "all nodes" if request.pattern == ALL else f"the nodes {quoted(request.pattern)}"
            raise OptionError(f"{OPTION} is given twice for {nodes}", fix="give it once for each pattern")
    if sum(request.share or 0.0 for request in requests) > 1.0 + 1e-9:
        raise OptionError(f"the shares of {OPTION} are more than 1 together", fix="leave something for every group")
    return requests


def _parse(text: str) -> MetricRequest:
    pattern, equals, rest = text.rpartition("=")
    if equals and not pattern:
        raise OptionError(f"{OPTION} {quoted(text)} has no pattern", fix="write it like 'attn*=kl:0.4'")
    metric, share = _split(text, rest)
    if share is not None and not equals:
        why = "without a pattern it is for all nodes, which have all of every limit"
        raise OptionError(f"{OPTION} {quoted(text)} has a share", why=why, fix="write it like 'attn*=kl:0.4'")
    return MetricRequest(metric, pattern if equals else ALL, share)


def _split(text: str, rest: str) -> tuple[str, float | None]:
    """The metric and the share in ``METRIC[:SHARE]``, where a user's metric has a colon of its own."""
    parts = rest.split(":")
    users = parts[0] not in _KNOWN and len(parts) > 1
    metric, shares = (":".join(parts[:2]), parts[2:]) if users else (parts[0], parts[1:])
    if not users and metric not in _KNOWN:
        fix = nearest(metric, _KNOWN) + " (one of your own is named module:function)"
        raise OptionError(f"there is no metric {quoted(metric)}", where=f"{OPTION} {quoted(text)}", fix=fix)
    if users and not all(part.replace(".", "_").isidentifier() for part in parts[:2]):
        fix = f"use one of {', '.join(_KNOWN)}, or name a function of your own as module:function"
        raise OptionError(f"{quoted(metric)} names no metric", where=f"{OPTION} {quoted(text)}", fix=fix)
    return metric, _share(text, shares) if shares else None


def _share(text: str, parts: Sequence[str]) -> float:
    try:
        share = float(":".join(parts))
    except ValueError:
        share = math.nan
    if not 0.0 < share < 1.0:
        fix = "give a share of the limits between 0 and 1, such as 0.4"
        raise OptionError(f"{quoted(':'.join(parts))} is no share", where=f"{OPTION} {quoted(text)}", fix=fix)
    return share


def assign_metrics(requests: Sequence[MetricRequest], nodes: Sequence[str]) -> dict[str, MetricRequest]:
    """The request of each node: the last that matches, or the default metric.

    Raises OptionError for a pattern that matches no node.
    """
    for request in requests:
        if not any(fnmatchcase(name, request.pattern) for name in nodes):
            fix = nearest(request.pattern, nodes)
            raise OptionError(f"{OPTION} {quoted(str(request))} matches no linear node", fix=fix)
    default = MetricRequest(NOISE)
    return {
        name: next((one for one in reversed(requests) if fnmatchcase(name, one.pattern)), default) for name in nodes
    }


def metric_groups(assigned: dict[str, MetricRequest]) -> tuple[MetricGroup, ...]:
    """Groups for a cost table: nodes of one metric and share; empty where all nodes are in one group without share."""
    groups: dict[tuple[str, float | None, str], list[str]] = {}
    for node, request in assigned.items():
        # Groups with shares are apart by pattern; without, nodes in one metric are compared with each other.
        key = request.metric, request.share, request.pattern if request.share is not None else ""
        groups.setdefault(key, []).append(node)
    if len(groups) == 1 and next(iter(groups))[1] is None:
        return ()
    return tuple(MetricGroup(tuple(nodes), description(metric), share) for (metric, share, _), nodes in groups.items())
