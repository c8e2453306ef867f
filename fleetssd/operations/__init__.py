"""The verbs of the product, written against ports only: ingest, the stages of a night, swap and watch."""
