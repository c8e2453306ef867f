#!/bin/sh
# llama-server --temp 3
export LLAMA_ARG_MIN_P=0.05
exec vllm serve --temperature 0.8
