"""Records: how they are filed, and which of them stand where."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Table, Text, bindparam, cast, func, or_, update
from sqlmodel import Session, col, delete, select

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, add_all, by_repository, chunks, read_payload
from fleetssd.adapters.store.window import newest
from fleetssd.errors import Corrupt
from fleetssd.gitea import PullKey
from fleetssd.records import Record, State
from fleetssd.reverts import Claim
from fleetssd.split import filed
from fleetssd.twins import issue_tie

_RECORD = TypeAdapter(Record)
_STATE: TypeAdapter[State] = TypeAdapter(State)


class Filing(Database):
    """What the pull requests became.

    The issues of every record that was ever held out are on file, and a record of one is never written as `train`.
    """

    def put_pulls(self, pulls: Sequence[tuple[PullKey, str, Record | None]], now: datetime) -> None:
        """File pull requests and their records with one durable write, all or none; what is on file stays as it is."""
        latest = {pull: {**asdict(pull), "updated_at": text, "read_at": now} for pull, text, _ in pulls}
        records: dict[str, Record] = {}
        for _, _, record in pulls:
            if record is not None:
                records.setdefault(record.id, record)
        with self.writing() as session:
            add_all(session, tables.PullRequests, list(latest.values()), ("updated_at", "read_at"))
            for known in _states(session, list(records)):
                del records[known]
            kept = _kept_apart(session, [(record, False) for record in records.values()], now)
            rows = [{**_columns(record, now), "settled": False, "filed_at": now} for record in kept]
            add_all(session, tables.Records, rows)

    def replace_record(self, record: Record, now: datetime) -> None:
        """Change what is known of a record, keeping its id; an unknown id raises Corrupt."""
        with self.writing() as session:
            _replace(session, [record], now, settled=False)

    def records(self, state: str | None = None) -> list[Record]:
        """Return the records, newest merge first."""
        table = tables.Records
        query = select(table).order_by(col(table.merged_at).desc(), col(table.id))
        if state is not None:
            query = query.where(table.state == state)
        with self.reading() as session:
            return [_record(row) for row in session.exec(query)]

    def record_groups(self) -> list[tuple[State, tuple[str, ...], int]]:
        """Return how many records have each state, the refused ones apart by their reasons, without reading them."""
        table = tables.Records
        reasons = cast(col(table.payload)["reasons"], Text)
        others = select(table.state, func.count()).where(table.state != "refused").group_by(table.state)
        refused = select(reasons, func.count()).where(table.state == "refused").group_by(reasons)
        with self.reading() as session:
            groups = [(_STATE.validate_python(state), (), count) for state, count in session.exec(others)]
            return groups + [("refused", tuple(json.loads(why)), count) for why, count in session.exec(refused)]

    def held_out_ids(self) -> list[str]:
        """Return the ids of the held-out records that were weighed against what teaches, newest merge first."""
        table = tables.Records
        query = select(table.id).where(table.state == "held_out", col(table.settled).is_(True))
        with self.reading() as session:
            return list(session.exec(query.order_by(col(table.merged_at).desc(), col(table.id))))

    def records_after(self, record: str, limit: int, state: str | None = None) -> list[Record]:
        """Return the next records in the order of their ids; the empty id comes before all."""
        table = tables.Records
        query = select(table).where(col(table.id) > record).order_by(col(table.id)).limit(limit)
        if state is not None:
            query = query.where(table.state == state)
        with self.reading() as session:
            return [_record(row) for row in session.exec(query)]

    def records_of(self, pulls: Collection[PullKey]) -> dict[PullKey, Record]:
        """Return the records of those of these pull requests that have one."""
        table, found = tables.Records, dict[PullKey, Record]()
        with self.reading() as session:
            for (instance, repository), numbers in by_repository(pulls):
                for some in chunks(numbers):
                    query = select(table).where(
                        table.instance == instance, table.repository_id == repository, col(table.pull).in_(some)
                    )
                    found |= {record.key: record for record in map(_record, session.exec(query))}
        return found

    def records_named(self, instance: str, claim: Claim) -> list[Record]:
        """Return the records that a claim is about, by number or by the start of their merge or head commit."""
        table = tables.Records
        commits = [col(table.payload)[name].as_string() for name in ("merge_commit", "head_commit")]
        about = [commit.startswith(start) for start in sorted(claim.commits) for commit in commits]
        about += [col(table.pull).in_(some) for some in chunks(sorted(claim.pulls))]
        found: dict[str, Record] = {}
        with self.reading() as session:
            for some in chunks(about):
                query = select(table).where(table.instance == instance, table.repository_id == claim.repository_id)
                found |= {row.id: _record(row) for row in session.exec(query.where(or_(*some)))}
        return list(found.values())

    def records_by_id(self, ids: Sequence[str]) -> list[Record]:
        """Return these records in the order asked; an unknown id raises Corrupt."""
        found: dict[str, Record] = {}
        with self.reading() as session:
            for some in chunks(ids):
                query = select(tables.Records).where(col(tables.Records.id).in_(some))
                found.update((row.id, _record(row)) for row in session.exec(query))
        missing = [wanted for wanted in ids if wanted not in found]
        if missing:
            raise _unknown(missing)
        return [found[wanted] for wanted in ids]

    def window(self, size: int, per_repository: int) -> list[str]:
        """Return the ids of the newest training records, as `buffer.window` picks them; unsettled ones wait."""
        with self.reading() as session:
            return newest(session.connection(), size, per_repository)

    def unsettled(self, limit: int) -> list[Record]:
        """Return records whose side was not weighed against the others yet, oldest merge first."""
        table = tables.Records
        query = select(table).where(col(table.settled).is_(False)).order_by(col(table.merged_at), col(table.id))
        with self.reading() as session:
            return [_record(row) for row in session.exec(query.limit(limit))]

    def tied(self, ties: Collection[int]) -> list[Record]:
        """Return the settled records that have one of these ties, those of their issues included."""
        with self.reading() as session:
            return _tied(session, ties)

    def settle(self, records: Sequence[Record], now: datetime) -> None:
        """Write the records, their ties included, and mark them as settled, in one transaction."""
        with self.writing() as session:
            written = _replace(session, records, now, settled=True)
            for some in chunks([record.id for record in written]):
                session.exec(delete(tables.Ties).where(col(tables.Ties.record).in_(some)))
            rows = [
                {"tie": tie, "record": record.id}
                for record in written
                for tie in sorted({*record.ties, *map(issue_tie, record.split_keys)})
            ]
            add_all(session, tables.Ties, rows)

    def held_among(self, keys: Collection[str]) -> set[str]:
        """Return those of these split keys that were ever held out."""
        with self.reading() as session:
            return _held(session, keys)

    def hold(self, keys: Collection[str], now: datetime) -> list[Record]:
        """Hold issues out for ever and return their records, those that taught now held out and unsettled."""
        table = tables.Records
        with self.writing() as session:
            _note(session, keys, now)
            fresh = map(_record, session.exec(select(table).where(col(table.settled).is_(False))))
            known = {record.id: record for record in [*fresh, *_tied(session, [issue_tie(key) for key in keys])]}
            moved = []
            for record in known.values():
                if set(keys).isdisjoint(record.split_keys):
                    continue
                held = replace(record, state="held_out") if record.state == "train" else record
                _write(session, [held], now, settled=False)
                if held.state == "held_out":
                    _note(session, held.split_keys, now)
                moved.append(held)
            return moved

    def freeze_held_out(self, now: datetime) -> int:
        """Let nothing join the held-out records any more, and return how many they are; a second time is ignored."""
        ids = select(tables.Records.id).where(tables.Records.state == "held_out").order_by(tables.Records.id)
        with self.writing() as session:
            first = session.exec(select(tables.Freezes)).first()
            if first is None:
                first = tables.Freezes(at=now, records=list(session.exec(ids)))
                session.add(first)
            return len(first.records)

    def held_out_frozen(self) -> datetime | None:
        """Return since when the held-out set is frozen; None where it is not."""
        with self.reading() as session:
            return session.exec(select(tables.Freezes.at)).first()


def _replace(session: Session, records: Sequence[Record], now: datetime, *, settled: bool) -> list[Record]:
    """Write records that are on file, and return them as they may be."""
    states = _states(session, [record.id for record in records])
    missing = [record.id for record in records if record.id not in states]
    if missing:
        raise _unknown(missing)
    kept = _kept_apart(session, [(record, states[record.id] == "held_out") for record in records], now)
    _write(session, kept, now, settled=settled)
    return kept


def _write(session: Session, records: Sequence[Record], now: datetime, *, settled: bool) -> None:
    table: Table = tables.Records.__table__  # type: ignore[attr-defined]
    rows = [{**_columns(record, now), "settled": settled} for record in records]
    if rows:
        names = [name for name in rows[0] if name != "id"]
        statement = update(table).where(table.c.id == bindparam("which"))
        statement = statement.values({name: bindparam(f"new_{name}") for name in names})
        values = [{"which": row["id"], **{f"new_{name}": row[name] for name in names}} for row in rows]
        session.connection().execute(statement, values)


def _states(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """Return the states of those of these records that are on file."""
    table, found = tables.Records, dict[str, str]()
    for some in chunks(ids):
        found.update(session.exec(select(table.id, table.state).where(col(table.id).in_(some))).all())
    return found


def _kept_apart(session: Session, records: Sequence[tuple[Record, bool]], now: datetime) -> list[Record]:
    """Return records, with whether they are held out now, as they may be written; note the issues of the held-out."""
    standing = [record for record, _ in records if record.state != "refused"]
    if not standing:
        return [record for record, _ in records]
    frozen = session.exec(select(tables.Freezes.at)).first() is not None
    held = _held(session, {key for record in standing for key in record.split_keys})
    out, new = list[Record](), set[str]()
    for record, member in records:
        kept = record if record.state == "refused" else filed(record, held, frozen=frozen, member=member)
        if kept.state == "held_out":
            held |= set(kept.split_keys)
            new |= set(kept.split_keys)
        out.append(kept)
    _note(session, new, now)
    return out


def _note(session: Session, keys: Collection[str], now: datetime) -> None:
    add_all(session, tables.HeldOut, [{"key": key, "since": now} for key in sorted(set(keys))])


def _held(session: Session, keys: Collection[str]) -> set[str]:
    table, found = tables.HeldOut, set[str]()
    for some in chunks(sorted(set(keys))):
        found.update(session.exec(select(table.key).where(col(table.key).in_(some))))
    return found


def _tied(session: Session, ties: Collection[int]) -> list[Record]:
    table, ids = tables.Ties, set[str]()
    for some in chunks(sorted(set(ties))):
        ids.update(session.exec(select(table.record).where(col(table.tie).in_(some))))
    found: list[Record] = []
    for part in chunks(sorted(ids)):
        query = select(tables.Records).where(col(tables.Records.id).in_(part), col(tables.Records.settled).is_(True))
        found += map(_record, session.exec(query))
    return found


def _columns(record: Record, now: datetime) -> dict[str, Any]:
    names = ("id", "instance", "repository_id", "pull", "repository", "state", "merged_at")
    columns = {name: getattr(record, name) for name in names}
    return {**columns, "payload": _RECORD.dump_python(record, mode="json"), "changed_at": now}


def _record(row: tables.Records) -> Record:
    record: Record = read_payload(_RECORD, row.payload, f"record {row.id}")
    return replace(record, merged_at=record.merged_at.astimezone(UTC))


def _unknown(ids: Sequence[str]) -> Corrupt:
    return Corrupt(f"no record {ids[0]} in the database ({len(ids)} missing)", hint="Was the database replaced?")
