"""The demonstration: a fleet at work, three nights, and the checks on what they claim."""
