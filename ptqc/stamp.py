"""What a file says of itself: the tool that made it, for which target, from which model, by which plan."""

import hashlib
import json

import onnx_ir as ir

from ptqc import __version__
from ptqc.allocate.restrict import ALLOWED
from ptqc.core.batch_statistics import METADATA_KEY as BATCHNORM_KEY
from ptqc.core.plan import QuantPlan


def stamp(model: ir.Model, source_sha256: str, plan: QuantPlan) -> None:
    """Writes it into the metadata of a lowered ``model``; a second time changes nothing."""
    model.metadata_props.pop(BATCHNORM_KEY, None)  # statistics for later calibration belong to the float model
    model.producer_name, model.producer_version = "ptqc", __version__
    model.metadata_props["ptqc.version"] = __version__
    model.metadata_props["ptqc.target"] = plan.target
    model.metadata_props["ptqc.source_sha256"] = source_sha256
    islands = [name for name, node in plan.nodes.items() if node.reason.startswith(ALLOWED)]
    if islands:
        model.metadata_props["ptqc.float_islands"] = json.dumps(sorted(islands))
    model.metadata_props["ptqc.plan_sha256"] = hashlib.sha256(plan.text().encode()).hexdigest()
