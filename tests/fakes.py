"""The only home of fakes: in-memory stand-ins behind the ports, for tests of what stands on them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fleetssd import buffer
from fleetssd.admission import Admission, NotAdmittedError
from fleetssd.artefact import Probe
from fleetssd.checkpoints import ORDER, Answer, Checkpoint, Night, Sample, StageRow, Swap, VerdictRow
from fleetssd.checks import Preparation
from fleetssd.config import EngineKind
from fleetssd.diffs import PullDiff
from fleetssd.errors import Corrupt, FleetError, Rejected
from fleetssd.gitea import Commit, Delivery, IssueText, MergedPull, PullKey, PullRow, unread_times
from fleetssd.origins import Origin
from fleetssd.placement import Choice, Placement
from fleetssd.ports import Completion, Grade, Ground, Job, Places, Pointed, Progress, Prompt
from fleetssd.recipe import Sampling
from fleetssd.records import Record, State
from fleetssd.reverts import Claim, taken_back
from fleetssd.split import filed
from fleetssd.sweeps import Part, Since
from fleetssd.training import Row, TrainPlan, TrainResult, decode_rows
from fleetssd.twins import issue_tie


class Killed(BaseException):
    """Stands for kill -9: no `except Exception` and no `except FleetError` sees it."""


class FakeEngine:
    """Names to (digest, blob, adapter); `answer` writes the completions; `before` may raise before any call."""

    kind: EngineKind = "ollama"

    def __init__(self) -> None:
        self.models: dict[str, tuple[str, str, str | None]] = {}
        self.running: dict[str, tuple[str, str]] = {}
        self.calls: list[str] = []
        self.answer: Callable[[str, Prompt], Completion] = lambda _model, _prompt: Completion("ok", "stop", 1)
        self.before: Callable[[str], None] = lambda _call: None
        self.templates: dict[str, str] = {}
        self.places: Places = []
        self.first: dict[str, dict[str, float]] = {}
        self.traits: dict[str, dict[str, object]] = {}
        self.blobs: set[str] = set()
        self.free: int | None = None

    def _called(self, call: str) -> None:
        self.before(call)
        self.calls.append(call)

    def version(self) -> str:
        """Say what it is."""
        return "fake"

    def probe(self) -> Probe:
        """Say that adapters come in by registry only."""
        self._called("probe")
        return Probe("fake", pulls_from_loopback=True, loads_adapters=True, creates_files=True)

    def digest_of(self, model: str) -> str | None:
        """Return the digest under a name."""
        return self.models[model][0] if model in self.models else None

    def names(self) -> dict[str, str]:
        """Return every name with its digest."""
        return {name: digest for name, (digest, _, _) in self.models.items()}

    def drop(self, blob: str, base_model: str) -> bool:
        """Drop what no name refers to."""
        found = blob in self.blobs and not any(blob in parts for parts in self.models.values())
        self.blobs -= {blob} if found else set()
        return found

    def room(self) -> int | None:
        """Return what is free."""
        return self.free

    def blob_of(self, model: str) -> str:
        """Return the file under a name."""
        return self.models[model][1]

    def adapter_of(self, model: str) -> str | None:
        """Return the adapter under a name."""
        return self.models[model][2]

    def holds(self, blob: str) -> bool:
        """Say whether a file was uploaded."""
        return blob in self.blobs

    def upload(self, path: Path) -> str:
        """Take the file's text for its digest."""
        self.blobs.add(path.read_text())
        return path.read_text()

    def pull(self, model: str, base_model: str, blob: str | None, adapter: str | None) -> str:
        """Install by registry."""
        self._called(f"pull {model}")
        return self._installed(model, blob or self.models[base_model][1], adapter)

    def create(self, model: str, base_model: str, blob: str | None, adapter: str | None) -> str:
        """Install by create."""
        self._called(f"create {model}")
        return self._installed(model, blob or self.models[base_model][1], adapter)

    def _installed(self, model: str, blob: str, adapter: str | None) -> str:
        self.models[model] = (f"manifest-{blob}-{adapter}" if adapter else f"manifest-{blob}", blob, adapter)
        return self.models[model][0]

    def rendered(self, model: str, text: str) -> str | None:
        """Return the model's template with the text in it."""
        return self.templates.get(model, "{}").format(text)

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Let `answer` write."""
        self._called(f"complete {model}")
        return [self.answer(model, prompt) for prompt in prompts]

    def likelihoods(self, model: str, prompts: Sequence[Prompt], sampling: Sampling) -> list[Places]:
        """List `places` for every prompt."""
        self._called(f"likelihoods {model}")
        return [self.places for _ in prompts]

    def first_tokens(self, model: str, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return what `first` has of the model, for every prompt."""
        return [self.first.get(model, {}) for _ in prompts]

    def carried(self, model: str) -> dict[str, object]:
        """Return what a model carries beside weights."""
        return self.traits.get(model, {})

    def preload(self, model: str) -> None:
        """Load; one model a file, as Ollama does it."""
        self._called(f"preload {model}")
        digest, blob, _ = self.models[model]
        self.running = {blob: (model, digest)} | {b: m for b, m in self.running.items() if b != blob}

    def loaded(self) -> dict[str, str]:
        """Return what is loaded."""
        return dict(self.running.values())

    def quiet(self, model: str) -> bool:
        """Find it quiet at once."""
        self._called(f"quiet {model}")
        return True

    def release(self, model: str) -> None:
        """Unload, where it is this one that is loaded."""
        self._called(f"release {model}")
        self.running = {b: m for b, m in self.running.items() if m[1] != self.models[model][0]}

    def point(self, alias: str, model: str) -> Pointed:
        """Copy a name."""
        self._called(f"point {model}")
        if model not in self.models:
            raise Rejected(f"no model {model}")
        self.models[alias] = self.models[model]
        return Pointed()

    def remove(self, model: str) -> None:
        """Delete a name."""
        self.models.pop(model, None)


class FakeSandbox:
    """Passes what contains the word `right`; `faulty` makes every run the sandbox's own failure."""

    def __init__(self) -> None:
        self.faulty = False

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Grade]:
        """Grade by one word."""
        texts = ["".join(text for _, text in job.files) for job in jobs]
        return [
            Grade(job.id, passed=not self.faulty and "right" in text, fault=self.faulty, detail="")
            for job, text in zip(jobs, texts, strict=True)
        ]

    def close(self) -> None:
        """Do nothing."""


@dataclass
class FakeGrounds:
    """Grounds that are there already, by record id; any other commit is gone."""

    ready: dict[str, Ground] = field(default_factory=dict)

    def at(self, record: Record, preparation: Preparation) -> Ground:
        """Return what was made ready."""
        if record.id not in self.ready:
            raise NotAdmittedError("tree_gone", record.base_commit)
        return self.ready[record.id]

    def keep(self, record: Record, preparation: Preparation) -> None:
        """Do nothing: nothing goes."""


@dataclass
class MemoryStore:
    """The store port in dictionaries; JSON values make the same round trip as in a database."""

    deliveries: dict[str, tuple[Delivery, bool]] = field(default_factory=dict)
    cursors: dict[str, datetime] = field(default_factory=dict)
    pulls: dict[PullKey, str] = field(default_factory=dict)
    by_id: dict[str, Record] = field(default_factory=dict)
    by_number: dict[int, Night] = field(default_factory=dict)
    drawn: dict[tuple[int, str], Sample] = field(default_factory=dict)
    graded: dict[tuple[int, str, str, int], Answer] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    artefacts: dict[str, Checkpoint] = field(default_factory=dict)
    log: list[Swap] = field(default_factory=list)
    capabilities: dict[tuple[str, str, str], Probe] = field(default_factory=dict)
    leases: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    admitted: dict[str, Admission] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    frozen: tuple[datetime, int] | None = None
    claimed: dict[tuple[str, int], Claim] = field(default_factory=dict)
    sources: dict[str, Origin] = field(default_factory=dict)

    def put_origins(self, origins: Sequence[Origin]) -> None:
        """Keep origins."""
        self.sources |= {origin.record: origin for origin in origins}

    def origins(self, records: Collection[str] | None = None) -> dict[str, Origin]:
        """Return the origins of these records, or all."""
        return {key: found for key, found in self.sources.items() if records is None or key in records}

    def add_deliveries(self, deliveries: Sequence[Delivery], now: datetime) -> list[bool]:
        """Keep deliveries; False for bytes that were kept before."""
        new = []
        for delivery in deliveries:
            new.append(delivery.body_sha256 not in self.deliveries)
            self.deliveries.setdefault(delivery.body_sha256, (delivery, True))
        return new

    def open_deliveries(self) -> list[Delivery]:
        """Return what is not handled yet, oldest first."""
        return [delivery for delivery, is_open in self.deliveries.values() if is_open]

    def close_delivery(self, delivery_id: str, now: datetime, outcome: str) -> None:
        """Mark as handled."""
        for key, (delivery, _) in self.deliveries.items():
            if delivery.id == delivery_id:
                self.deliveries[key] = (delivery, False)

    def cursor(self, instance: str) -> datetime | None:
        """Return the cursor."""
        return self.cursors.get(instance)

    def set_cursors(self, names: Sequence[str], cursor: datetime) -> None:
        """Move cursors."""
        self.cursors |= dict.fromkeys(names, cursor.astimezone(UTC))

    def seen(self, pulls: Collection[PullKey]) -> dict[PullKey, str]:
        """Return what was read."""
        return {key: self.pulls[key] for key in pulls if key in self.pulls}

    def unread(self, instance: str, limit: int) -> dict[PullKey, str]:
        """Return what could not be read."""
        found = [key for key, text in self.pulls.items() if key.instance == instance and unread_times(text)]
        return {key: self.pulls[key] for key in found[:limit]}

    def note_claims(self, instance: str, claims: Sequence[Claim]) -> None:
        """Keep claims."""
        for claim in claims:
            before = self.claims(instance, claim.repository_id)
            both = Claim(claim.repository_id, before.commits | claim.commits, before.pulls | claim.pulls)
            self.claimed[instance, claim.repository_id] = both

    def claims(self, instance: str, repository_id: int) -> Claim:
        """Return all claims as one."""
        return self.claimed.get((instance, repository_id), Claim(repository_id, frozenset(), frozenset()))

    def put_pulls(self, pulls: Sequence[tuple[PullKey, str, Record | None]], now: datetime) -> None:
        """File pull requests and their records; all or none."""
        known = {*self.pulls, *(pull for pull, _, _ in pulls)}
        if any(record is not None and record.key not in known for _, _, record in pulls):
            raise Corrupt("a record of a pull request that is not on file")
        for pull, updated_at, record in pulls:
            self.pulls[pull] = updated_at
            if record is not None and record.id not in self.by_id:
                self._write(record, member=False)

    def replace_record(self, record: Record, now: datetime) -> None:
        """Change a record that is on file."""
        (before,) = self.records_by_id([record.id])
        self.settled.discard(record.id)
        self._write(record, member=before.state == "held_out")

    def _write(self, record: Record, *, member: bool) -> None:
        kept = filed(record, self.held, frozen=self.frozen is not None, member=member)
        self.held |= set(kept.split_keys if kept.state == "held_out" else ())
        self.by_id[record.id] = _in_utc(kept)

    def records(self, state: str | None = None) -> list[Record]:
        """Return records, newest merge first."""
        found = [record for record in self.by_id.values() if state in (None, record.state)]
        return sorted(found, key=lambda record: (-record.merged_at.timestamp(), record.id))

    def record_groups(self) -> list[tuple[State, tuple[str, ...], int]]:
        """Return how many there are of each kind."""
        kinds = Counter((r.state, r.reasons if r.state == "refused" else ()) for r in self.by_id.values())
        return [(*kind, count) for kind, count in kinds.items()]

    def held_out_ids(self) -> list[str]:
        """Return what may examine."""
        return [record.id for record in self.records("held_out") if record.id in self.settled]

    def records_after(self, record: str, limit: int, state: str | None = None) -> list[Record]:
        """Return the next records."""
        return sorted((r for r in self.records(state) if r.id > record), key=lambda found: found.id)[:limit]

    def records_of(self, pulls: Collection[PullKey]) -> dict[PullKey, Record]:
        """Return records by their pull requests."""
        return {record.key: record for record in self.by_id.values() if record.key in pulls}

    def records_named(self, instance: str, claim: Claim) -> list[Record]:
        """Return what a claim is about."""
        found = [record for record in self.by_id.values() if record.instance == instance]
        return [r for r in found if taken_back(r.key, (r.merge_commit, r.head_commit), [claim])]

    def records_by_id(self, ids: Sequence[str]) -> list[Record]:
        """Return records in order."""
        if missing := [wanted for wanted in ids if wanted not in self.by_id]:
            raise Corrupt(f"no record {missing[0]}")
        return [self.by_id[wanted] for wanted in ids]

    def window(self, size: int, per_repository: int) -> list[str]:
        """Return tonight's ids."""
        settled = [record for record in self.records() if record.id in self.settled]
        return [record.id for record in buffer.window(settled, size, per_repository)]

    def unsettled(self, limit: int) -> list[Record]:
        """Return what is new or has changed."""
        found = [record for record in self.by_id.values() if record.id not in self.settled]
        return sorted(found, key=lambda record: (record.merged_at, record.id))[:limit]

    def tied(self, ties: Collection[int]) -> list[Record]:
        """Return settled records by their ties."""
        found = [record for record in self.by_id.values() if record.id in self.settled]
        has = {record.id: {*record.ties, *map(issue_tie, record.split_keys)} for record in found}
        return [record for record in found if not has[record.id].isdisjoint(ties)]

    def settle(self, records: Sequence[Record], now: datetime) -> None:
        """Write records and mark them."""
        for record in records:
            self.replace_record(record, now)
            self.settled.add(record.id)

    def held_among(self, keys: Collection[str]) -> set[str]:
        """Return what was ever held out."""
        return self.held & set(keys)

    def hold(self, keys: Collection[str], now: datetime) -> list[Record]:
        """Hold out for ever."""
        self.held |= set(keys)
        found = [record for record in self.by_id.values() if not set(keys).isdisjoint(record.split_keys)]
        moved = [replace(record, state="held_out") if record.state == "train" else record for record in found]
        self.by_id |= {record.id: record for record in moved}
        self.held |= {key for record in moved if record.state == "held_out" for key in record.split_keys}
        self.settled -= {record.id for record in moved}
        return moved

    def freeze_held_out(self, now: datetime) -> int:
        """Close the set once."""
        self.frozen = self.frozen or (now, len(self.records("held_out")))
        return self.frozen[1]

    def held_out_frozen(self) -> datetime | None:
        """Return when it was closed."""
        return self.frozen[0] if self.frozen else None

    def put_admission(self, admission: Admission) -> None:
        """Keep the newest."""
        self.records_by_id([admission.record])
        self.admitted[admission.record] = replace(admission, at=admission.at.astimezone(UTC))

    def admissions(self) -> dict[str, Admission]:
        """Return them by record."""
        return dict(self.admitted)

    def open_night(self, plan: Mapping[str, Any], arm: str, now: datetime) -> Night:
        """Open a night with its first stage."""
        number = int(plan["night"])
        if number not in self.by_number:
            self.by_number[number] = Night(number, "running", arm, _json(dict(plan)), now)
            counts = {name: len(plan.get(name, ())) for name in ("train", "held_out", "tune")}
            self.finish_stage(StageRow(number, "freeze", counts, now, now))
        return self.by_number[number]

    def night(self, number: int) -> Night | None:
        """Return a night."""
        return self.by_number.get(number)

    def nights(self) -> list[Night]:
        """Return nights, oldest first."""
        return [self.by_number[number] for number in sorted(self.by_number)]

    def finish_stage(self, row: StageRow) -> None:
        """Write a stage once."""
        night = self._must(row.night)
        if row.stage not in {stage.stage for stage in night.stages}:
            stages = [*night.stages, replace(row, result=_json(row.result))]
            ordered = tuple(sorted(stages, key=lambda stage: ORDER.index(stage.stage)))
            self.by_number[row.night] = replace(night, stages=ordered)

    def fail_night(self, number: int, reason: str, now: datetime) -> None:
        """Close as failed what was not decided."""
        night = self._must(number)
        if night.verdict is None:
            self.by_number[number] = replace(night, state="failed", failure=reason, finished_at=now)

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Keep samples; all or none."""
        new = list(samples)
        for sample in new:
            self._must(sample.night)
            self.records_by_id([sample.record])
        for sample in new:
            self.drawn.setdefault((sample.night, sample.record), sample)

    def samples(self, night: int) -> list[Sample]:
        """Return samples in the plan's order."""
        plan = list(self.by_number[night].plan.get("train", ())) if night in self.by_number else []
        place = {record: index for index, record in enumerate(plan)}
        found = [sample for sample in self.drawn.values() if sample.night == night]
        return sorted(found, key=lambda sample: (place.get(sample.record, len(place)), sample.record))

    def add_answers(self, answers: Iterable[Answer]) -> None:
        """Keep answers; all or none."""
        new = list(answers)
        for answer in new:
            self._must(answer.night)
        for answer in new:
            self.graded.setdefault((answer.night, answer.arm, answer.problem, answer.index), answer)

    def answers(self, night: int, arm: str | None = None) -> list[Answer]:
        """Return answers in order."""
        return [self.graded[key] for key in sorted(self.graded) if key[0] == night and arm in (None, key[1])]

    def decide(self, verdict: VerdictRow, used: Sequence[str], started_at: datetime) -> None:
        """Close a night with its verdict, once."""
        if self._must(verdict.night).verdict is not None:
            return
        self.records_by_id(used)
        for record in used:
            self.used[record] = min(verdict.night, self.used.get(record, verdict.night))
        result = {"verdict": verdict.kind, "reason": verdict.reason, "artefact": verdict.artefact}
        self.finish_stage(StageRow(verdict.night, "decide", result, started_at, verdict.decided_at))
        kept = replace(verdict, evidence=_json(verdict.evidence))
        self.by_number[verdict.night] = replace(
            self.by_number[verdict.night], state="done", failure="", finished_at=verdict.decided_at, verdict=kept
        )

    def used_records(self) -> dict[str, int]:
        """Return what was trained on."""
        return dict(self.used)

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint."""
        self.artefacts.setdefault(checkpoint.digest, checkpoint)

    def checkpoint(self, digest: str) -> Checkpoint | None:
        """Return a checkpoint."""
        return self.artefacts.get(digest)

    def checkpoints(self) -> list[Checkpoint]:
        """Return checkpoints, oldest first."""
        return sorted(self.artefacts.values(), key=lambda found: (found.created_at, found.digest))

    def begin_swap(self, swap: Swap, now: datetime) -> Swap:
        """Write an intent."""
        if self.log and not self.log[-1].done and _intent(self.log[-1]) == _intent(swap):
            return self.log[-1]
        self.log.append(replace(swap, id=len(self.log) + 1, at=now, done=False, evidence=_json(swap.evidence)))
        return self.log[-1]

    def finish_swap(self, swap_id: int, now: datetime, evidence: Mapping[str, Any]) -> None:
        """Prove a swap once."""
        if not 1 <= swap_id <= len(self.log):
            raise Corrupt(f"no swap {swap_id}")
        swap = self.log[swap_id - 1]
        if not swap.done:
            self.log[swap_id - 1] = replace(swap, done=True, evidence={**swap.evidence, **_json(dict(evidence))})

    def capability(self, host: str, version: str, base: str) -> Probe | None:
        """Return what was seen."""
        return self.capabilities.get((host, version, base))

    def keep_capability(self, host: str, base: str, found: Probe, now: datetime) -> None:
        """Keep what was seen."""
        self.capabilities[host, found.version, base] = found

    def forget_capabilities(self, host: str) -> None:
        """Forget one engine."""
        self.capabilities = {key: found for key, found in self.capabilities.items() if key[0] != host}

    def swaps(self) -> list[Swap]:
        """Return the log."""
        return list(self.log)

    def claim(self, name: str, owner: str, until: datetime, now: datetime) -> bool:
        """Take a lease."""
        holder, end = self.leases.get(name, (owner, now))
        if holder != owner and end > now:
            return False
        self.leases[name] = (owner, until)
        return True

    def release(self, name: str, owner: str) -> None:
        """Give a lease back."""
        if self.leases.get(name, ("", None))[0] == owner:
            del self.leases[name]

    def _must(self, number: int) -> Night:
        if number not in self.by_number:
            raise Corrupt(f"no night {number}")
        return self.by_number[number]


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _in_utc(record: Record) -> Record:
    return replace(record, merged_at=record.merged_at.astimezone(UTC))


def _intent(swap: Swap) -> tuple[object, ...]:
    return (swap.kind, swap.actor, swap.from_digest, swap.to_digest, swap.to_model, swap.night)


FORGE = "http://forge:3000"
FORGE_START = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class FakeForge:
    """A forge with one clock; `merge` makes a pull request that closes an issue. Unplanned reads find nothing."""

    now: datetime = FORGE_START
    rows: dict[PullKey, PullRow] = field(default_factory=dict)
    pulls: dict[PullKey, MergedPull] = field(default_factory=dict)
    issues: dict[tuple[str, int], IssueText] = field(default_factory=dict)
    timelines: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
    broken: dict[int, FleetError] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    complete: bool = True
    window: int = 1000
    followed: set[str] = field(default_factory=set)
    hidden: set[int] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    diffs: dict[int, tuple[bytes, str]] = field(default_factory=dict)

    def merge(self, number: int, *, issue: int = 0, prompt: str = "", **more: Any) -> MergedPull:
        """Merge pull request `number` now; it closes `issue` (by default, number + 1000)."""
        issue = issue or number + 1000
        key = PullKey(FORGE, 1, number)
        pull = MergedPull(
            key=key,
            repository="fleet/a",
            clone_url=f"{FORGE}/fleet/a.git",
            title=f"Work {number}",
            body=f"Fixes #{issue}",
            author="agent-1",
            merger="maintainer",
            merged=True,
            merge_commit=f"{number:040}",
            merge_base="b" * 40,
            labels=(),
            closed_at=self.now,
            updated_at=self.now.isoformat(),
        )
        self.pulls[key] = pull = replace(pull, **more)
        self.issues["fleet/a", issue] = IssueText("fleet/a", issue, prompt or f"Issue {issue}", "", 1)
        who = {"number": number, "repository": {"id": 1}}
        times = {"created_at": self.now.isoformat(), "updated_at": self.now.isoformat()}
        row = {"type": "pull_ref", "ref_action": "closes", "ref_issue": who, **times}
        self.timelines.setdefault(("fleet/a", issue), []).extend([row, {"type": "close", **times}])
        self.touch(pull)
        return pull

    def touch(self, pull: MergedPull) -> None:
        """Make a pull request's row move to now."""
        row = PullRow(
            pull.key,
            pull.repository,
            pull.title,
            pull.body,
            pull.author,
            pull.merged,
            pull.labels,
            pull.closed_at,
            self.now.isoformat(),
        )
        self.rows[pull.key] = row

    def later(self, **passed: float) -> None:
        """Let time pass."""
        self.now += timedelta(**passed)

    def sweep(self, since: Since) -> Iterator[Part]:
        """Yield the rows of the window, in parts of `window` rows, oldest first; the last part is open to the end."""
        self.calls.append("sweep")
        begin = since("")
        rows = [row for row in self.rows.values() if begin is None or datetime.fromisoformat(row.updated_at) >= begin]
        shown = [row for row in rows if row.key.number not in self.hidden]
        shown.sort(key=lambda row: datetime.fromisoformat(row.updated_at))
        while len(shown) > self.window:
            part, shown = shown[: self.window], shown[self.window :]
            yield Part(tuple(part), "", self.complete, datetime.fromisoformat(part[-1].updated_at), self.complete)
            if not self.complete:
                return
        yield Part(tuple(shown), "", self.complete, self.now, self.complete, total=len(shown))

    def follows(self, repository_id: int, repository: str) -> bool:
        """Tell which names a watched repository had, or has."""
        return repository in self.followed

    def pull(self, repository: str, number: int) -> MergedPull | None:
        """Return a detail, or fail as planned."""
        self.calls.append(f"pull {number}")
        if number in self.broken:
            raise self.broken[number]
        return self.pulls.get(PullKey(FORGE, 1, number))

    def issue(self, repository: str, number: int) -> IssueText | None:
        """Return an issue."""
        self.calls.append(f"issue {number}")
        return self.issues.get((repository, number))

    def timeline(self, repository: str, number: int) -> list[dict[str, Any]]:
        """Return a timeline."""
        self.calls.append(f"timeline {number}")
        if -number in self.broken:
            raise self.broken[-number]
        return self.timelines.get((repository, number), [])

    def commit(self, repository: str, sha: str) -> Commit | None:
        """Return a commit."""
        self.calls.append(f"commit {sha[:8]}")
        return self.commits.get(sha)

    def diff(self, repository: str, number: int) -> tuple[bytes, str] | None:
        """Return a diff that is told without git."""
        self.calls.append(f"diff {number}")
        return self.diffs.get(number)


@dataclass
class FakeMirror:
    """Diffs made up from the number, squash-merged; `broken` stands for a server that git cannot reach."""

    broken: FleetError | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    landed: set[str] = field(default_factory=set)
    messages: dict[str, str] = field(default_factory=dict)

    def message(self, pull: MergedPull, commit: str) -> str:
        """Return what was pushed where only git knows it."""
        return self.messages.get(commit, "")

    def contained(self, pull: MergedPull, commits: Sequence[str]) -> bool:
        """Tell what landed."""
        return not self.landed.isdisjoint(commits)

    def diffs(self, pulls: Sequence[MergedPull]) -> dict[int, PullDiff | str]:
        """Return one added line a pull request."""
        if self.broken:
            raise self.broken
        found: dict[int, PullDiff | str] = {}
        for pull in pulls:
            n = pull.key.number
            diff = f"diff --git a/{n} b/{n}\nindex 1..2 100644\n--- a/{n}\n+++ b/{n}\n@@ -0,0 +1 @@\n+{n}\n".encode()
            found[n] = PullDiff("b" * 40, f"{n:039}h", diff, (f"{n}",), ((f"{n}", f"{n}\n"),), ("p" * 40,))
        return found | self.reasons


@dataclass
class FakeSampler:
    """Draws what `answer` writes; `drawn` lists what it was asked for, and it is its own context manager."""

    answer: Callable[[Prompt], Completion] = lambda prompt: Completion(f"# {prompt.text}\nright\n", "stop", 2)
    drawn: list[Prompt] = field(default_factory=list)
    name: str = "fake sampler"

    def __enter__(self) -> FakeSampler:
        """Open nothing."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close nothing."""

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Completion]:
        """Let `answer` write."""
        self.drawn += prompts
        return [self.answer(prompt) for prompt in prompts]


@dataclass
class FakeTrainer:
    """Keeps the plans and the rows it was given; an adapter is the digest of the rows."""

    plans: list[TrainPlan] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def place(self, backend: str, device: str, *, qlora: bool) -> Choice:
        """Train on the CPU, whatever is asked for."""
        return Choice(Placement(), "a fake trains nowhere")

    def train(self, plan: TrainPlan, rows: Path, base: Path, out: Path, progress: Progress) -> TrainResult:
        """Say that a whole run was made."""
        self.plans.append(plan)
        self.rows = list(decode_rows(rows.read_bytes()))
        out.mkdir(parents=True, exist_ok=True)
        (out / "adapter").write_text(plan.rows_digest)
        digests = (plan.rows_digest, plan.base_digest, plan.rows_digest)
        return TrainResult(*digests, plan.rows, 0, 1, 1, (1.0,), 0.1, 1.0, "fake", {})


@dataclass
class FakeBuilder:
    """Writes files that say what they were made of; `FakeEngine` takes a file's text for its digest."""

    built: list[tuple[str, float]] = field(default_factory=list)

    def adapter(self, adapter: Path, base_gguf: Path, out: Path, kind: str) -> str:
        """Write an adapter."""
        return self._write(f"adapter {kind}", 1.0, adapter, out)

    def merged(self, adapter: Path, base_gguf: Path, out: Path, tau: float) -> str:
        """Write a merged file."""
        return self._write("merged", tau, adapter, out)

    def baked(self, base_gguf: Path, out: Path, tau: float) -> str:
        """Write a copy of the base."""
        return self._write("baked", tau, base_gguf, out)

    def retyped(self, base_gguf: Path, built: Path) -> dict[str, int]:
        """Say that no type changed."""
        return {}

    def _write(self, kind: str, tau: float, source: Path, out: Path) -> str:
        self.built.append((kind, tau))
        text = hashlib.sha256(f"{kind} {tau} {source.read_text()}".encode()).hexdigest()
        out.write_text(text)
        return text


@dataclass
class FakeClock:
    """A clock that moves one second a look."""

    moment: datetime

    def now(self) -> datetime:
        """Return the moment and move on."""
        self.moment += timedelta(seconds=1)
        return self.moment
