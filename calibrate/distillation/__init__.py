"""Sample inputs that a network itself gives away, by the statistics that its BatchNormalization layers keep."""

import ptqc.execute.torch_executor  # noqa: F401  # before torch: it sets how threads wait
