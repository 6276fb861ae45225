"""Sample inputs that nobody has to collect: made by rules, without the model."""
