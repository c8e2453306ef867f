"""Facts about the embedded forge's pure parts."""
