"""Sample inputs that a network itself gives away, by the statistics that its BatchNormalization layers keep."""
