"""The demo model and its corpus: a family of small programming issues and a tiny Qwen3 trained on them."""
