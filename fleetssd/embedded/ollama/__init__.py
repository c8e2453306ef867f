"""An Ollama-compatible server over real llama.cpp."""
