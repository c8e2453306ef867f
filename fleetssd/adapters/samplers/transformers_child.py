"""The child process of the transformers and Unsloth samplers: prompts in, completions out, one JSON line each.

`generate` has one random state for a whole batch, so a sample would depend on its neighbours. Here the logits get
Gumbel noise of each row's own generator and the largest is taken, which draws from the same law (Gumbel-max).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Load: TypeAlias = Callable[[Path, int], tuple[Any, str]]


def main(arguments: list[str] | None = None) -> int:
    """Load the model, say what it is, and answer jobs until standard input ends."""
    options = _parser().parse_args(arguments)
    try:
        load = {"transformers": load_plain, "unsloth": load_unsloth}[options.library]
        generator = Generator(options.model, load, options.context, options.batch, options.threads)
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        _say(error=str(error).partition("\n")[0])
        return 1
    _say(engine=generator.engine)
    for line in sys.stdin:
        job = json.loads(line)
        for at, text, finish, tokens in generator.answers(job["prompts"], job["sampling"]):
            _say(at=at, text=text, finish=finish, tokens=tokens)
    return 0


def load_plain(model: Path, _context: int) -> tuple[Any, str]:
    """Load the base by transformers; return it and what loaded it."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "auto" if device == "cuda" else torch.float32
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True)
    return loaded.to(device).eval(), f"transformers {transformers.__version__}"


def load_unsloth(model: Path, context: int) -> tuple[Any, str]:
    """Load the base by Unsloth, made ready for its own generate; return it and what loaded it."""
    import torch  # noqa: PLC0415
    import unsloth  # noqa: PLC0415  it patches what is imported after it

    dtype = torch.float32 if unsloth.DEVICE_TYPE == "cpu" else None
    loaded, _ = unsloth.FastLanguageModel.from_pretrained(
        model_name=str(model), max_seq_length=context, dtype=dtype, load_in_4bit=False
    )
    unsloth.FastLanguageModel.for_inference(loaded)
    return loaded, f"unsloth {unsloth.__version__}"


class Generator:
    """A causal model with its tokenizer: on the accelerator in its own type, else on the CPU in float32."""

    def __init__(self, model: Path, load: Load, context: int, batch: int, threads: int) -> None:
        self._model, name = load(model, context)
        import torch  # noqa: PLC0415  only this process may load torch, and Unsloth must be before it
        import transformers  # noqa: PLC0415

        torch.set_num_threads(threads)
        self.device = self._model.device.type
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True, padding_side="left")
        self._torch, self._transformers = torch, transformers
        self._context, self._batch = context, batch
        versions = f"transformers {transformers.__version__}, torch {torch.__version__}, {self.device}"
        self.engine = f"{name} ({versions.removeprefix(name).removeprefix(', ')})"

    def answers(
        self, prompts: Sequence[dict[str, Any]], sampling: dict[str, Any]
    ) -> Iterator[tuple[int, str, str, int]]:
        """Yield (place, text, finish, tokens), prompts of like length together."""
        ids = [self._ids(prompt["text"]) for prompt in prompts]
        fitting = [at for at in range(len(ids)) if len(ids[at]) + sampling["max_tokens"] <= self._context]
        yield from ((at, "", "error", 0) for at in sorted(set(range(len(ids))) - set(fitting)))
        fitting.sort(key=lambda at: len(ids[at]))
        for start in range(0, len(fitting), self._batch):
            places = fitting[start : start + self._batch]
            seeds = [int(prompts[at]["seed"]) for at in places]
            for at, tokens in zip(places, self._drawn([ids[at] for at in places], seeds, sampling), strict=True):
                yield at, *self._told(tokens)

    def _ids(self, text: str) -> list[int]:
        message = [{"role": "user", "content": text}]
        rendered = self._tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)
        return list(rendered["input_ids"])

    def _drawn(self, ids: Sequence[list[int]], seeds: Sequence[int], sampling: dict[str, Any]) -> list[list[int]]:
        batch = self._tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt").to(self.device)
        config = self._transformers.GenerationConfig(
            max_new_tokens=sampling["max_tokens"],
            do_sample=False,
            eos_token_id=self._ends(),
            pad_token_id=self._tokenizer.pad_token_id,
        )
        processors = self._transformers.LogitsProcessorList([*self._warpers(sampling), self._noise(seeds)])
        with self._torch.inference_mode():
            out = self._model.generate(**batch, generation_config=config, logits_processor=processors)
        return [list(map(int, row)) for row in out[:, batch["input_ids"].shape[1] :].tolist()]

    def _ends(self) -> list[int]:
        """Return what ends an answer: the tokenizer's token, and those of the model's own generation settings."""
        own = self._model.generation_config.eos_token_id
        return sorted({self._tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})

    def _warpers(self, sampling: dict[str, Any]) -> list[Any]:
        t: Any = self._transformers
        made: dict[str, Callable[[], Any]] = {
            "temperature": lambda: t.TemperatureLogitsWarper(float(sampling["temperature"])),
            "top_k": lambda: t.TopKLogitsWarper(sampling["top_k"]) if sampling["top_k"] else None,
            "top_p": lambda: t.TopPLogitsWarper(sampling["top_p"]) if sampling["top_p"] < 1 else None,
            "min_p": lambda: t.MinPLogitsWarper(sampling["min_p"]) if sampling["min_p"] > 0 else None,
        }
        return [warper for warper in (made[step]() for step in sampling["order"]) if warper is not None]

    def _noise(self, seeds: Sequence[int]) -> Any:
        torch = self._torch
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        class Noise(self._transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
            def __call__(self, input_ids: Any, scores: Any) -> Any:
                width = scores.shape[1]
                drawn = torch.stack([torch.empty(width).exponential_(generator=each) for each in generators])
                return scores.float() - drawn.clamp_min(1e-30).log().to(scores.device)

        noise: Any = Noise
        return noise()

    def _told(self, tokens: list[int]) -> tuple[str, str, int]:
        ends = set(self._ends())
        length = next((at for at, token in enumerate(tokens) if token in ends), None)
        finish = "length" if length is None else "stop"
        kept = tokens[:length]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        return text, finish, len(kept) + (length is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="transformers_child", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the base's Hugging Face folder")
    parser.add_argument("--library", choices=("transformers", "unsloth"), default="transformers", help="what generates")
    parser.add_argument("--context", type=int, required=True, help="tokens of prompt and answer together, at most")
    parser.add_argument("--batch", type=int, required=True, help="completions drawn at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU")
    return parser


def _say(**table: object) -> None:
    sys.stdout.write(json.dumps(table) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # tearing torch down would take a second
