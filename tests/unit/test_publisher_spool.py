"""The publisher's spool: what `publish` has returned for is there again, whatever became of the process or the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.publisher import Publisher, PublishError, SpoolFull, _Spool

NOWHERE = "mqtt://127.0.0.1:9"
PLACE = "andon/demo/assembly/line-1/cell-1"


def opened(folder: Path, **more: Any) -> Publisher:
    return Publisher(NOWHERE, PLACE, "cam-1", folder, **more)


def eventually(check: Callable[[], Any], within: float = 10) -> None:
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def spooled(folder: Path) -> list[dict[str, Any]]:
    spool = _Spool(folder, 1 << 20)
    try:
        records = [spool.read(entry) for entry in spool.waiting.values()]
        return [json.loads(record.payload) for record in records if record]
    finally:
        spool.close()


def test_it_needs_nothing_but_paho() -> None:
    code = (
        "import sys, edge.publisher\n"
        "roots = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(name for name in roots if not name.startswith('_')))\n"
        "print(sorted(name for name in sys.modules if name.startswith('edge.')))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"], capture_output=True, text=True, timeout=30)  # fmt: skip # noqa: E501
    roots, rooms = done.stdout.splitlines()
    assert set(json.loads(roots.replace("'", '"'))) <= {"edge", "paho", "socks", "dns"}
    assert rooms == "['edge.publisher']"


def test_events_wait_on_disk_with_numbers_that_survive_a_restart(tmp_path: Path) -> None:
    for start in range(3):
        publisher = opened(tmp_path)
        ids = [publisher.publish("camera", {"kind": "motion", "score": 0.5}) for _ in range(2)]
        assert publisher.waiting()[-2:] == ids
        assert len(publisher.waiting()) == 2 * start + 2
        publisher.close(0)
    bodies = spooled(tmp_path)
    assert [body["sequence"] for body in bodies] == [1, 2, 3, 4, 5, 6]
    assert len({body["id"] for body in bodies}) == 6
    assert all(body["schema"] == 1 and body["time"].endswith("+00:00") for body in bodies)


def test_a_new_spool_never_uses_an_id_of_an_old_one(tmp_path: Path) -> None:
    ids = set()
    for name in ("one", "two"):
        publisher = opened(tmp_path / name)
        ids.add(publisher.publish("report", {"text": "ไฟดับ"}))
        publisher.close(0)
    assert len(ids) == 2


def test_numbers_go_on_after_everything_was_receipted(tmp_path: Path) -> None:
    for number in range(1, 5):
        spool = _Spool(tmp_path, 1 << 20)
        assert spool.next == number
        assert not spool.waiting
        spool.append("t", f"id-{number}", "{}")
        assert spool.done(f"id-{number}") == 1
        spool.close()
    assert len(list(tmp_path.glob("*.events"))) == 1, "receipted files are deleted"


def test_whatever_byte_the_last_write_ended_at_the_rest_is_whole(tmp_path: Path) -> None:
    first = _Spool(tmp_path / "a", 1 << 20)
    for number in range(3):
        first.append("t", f"id-{number}", json.dumps({"text": "สายพาน", "n": number}))
    first.close()
    (written,) = (tmp_path / "a").glob("*.events")
    whole = written.read_bytes()
    ends = [0, *(index + 1 for index, byte in enumerate(whole) if byte == 10)]
    for cut in range(len(whole) + 1):
        for rest in (b"", b"\x00" * 7):
            written.write_bytes(whole[:cut] + rest)
            again = _Spool(tmp_path / "a", 1 << 20)
            kept = sum(1 for end in ends[1:] if end <= cut)
            assert [entry.id for entry in again.waiting.values()] == [f"id-{number}" for number in range(kept)]
            assert (again.next, again.damaged) == (kept + 1, 0)
            again.append("t", "after", "{}")
            again.close()
            assert len(spooled_ids(tmp_path / "a")) == kept + 1
            for path in (tmp_path / "a").glob("*.events"):
                if path != written:
                    path.unlink()


def spooled_ids(folder: Path) -> list[str]:
    spool = _Spool(folder, 1 << 20)
    found = [entry.id for entry in spool.waiting.values()]
    spool.close()
    return found


def test_a_record_the_disk_has_changed_is_counted_and_costs_only_itself(tmp_path: Path) -> None:
    spool = _Spool(tmp_path, 1 << 20)
    for number in range(3):
        spool.append("t", f"id-{number}", '{"text": "x"}')
    spool.close()
    (file,) = tmp_path.glob("*.events")
    file.write_bytes(file.read_bytes().replace(b"id-1", b"id-7"))
    again = _Spool(tmp_path, 1 << 20)
    assert [entry.id for entry in again.waiting.values()] == ["id-0", "id-2"]
    assert (again.damaged, again.next) == (1, 4)
    again.close()


def test_a_full_spool_says_so_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    spool = _Spool(tmp_path, 64_000)
    with pytest.raises(SpoolFull, match=r"events \(\d+ bytes\) wait for their receipts, and 64000 bytes"):
        for number in range(1_000):
            spool.append("t", f"id-{number}", "x" * 500)
    taken = len(spool.waiting)
    assert 80 < taken < 128
    assert sum(file.stat().st_size for file in tmp_path.glob("*.events")) <= 64_000
    for number in range(taken):
        spool.done(f"id-{number}")
    for number in range(50):
        spool.append("t", f"again-{number}", "x" * 500)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.events")) <= 64_000
    assert [entry.id for entry in spool.waiting.values()] == [f"again-{number}" for number in range(50)]
    spool.close()
    assert spooled_ids(tmp_path)[-50:] == [f"again-{number}" for number in range(50)]


def test_a_disk_that_fails_is_said_and_no_number_is_used_twice(tmp_path: Path) -> None:
    spool = _Spool(tmp_path, 1 << 20)
    spool.append("t", "id-1", "{}")
    assert spool._tail is not None
    # The same error a full disk gives, at the same call.
    full = os.open("/dev/full", os.O_RDWR)
    real = os.dup(spool._tail.descriptor)
    os.dup2(full, spool._tail.descriptor)
    with pytest.raises(PublishError, match="No space left"):
        spool.append("t", "id-2", "{}")
    os.dup2(real, spool._segments[0].descriptor)
    os.close(full)
    os.close(real)
    spool.append("t", "id-3", "{}")
    assert [entry.sequence for entry in spool.waiting.values()] == [1, 3]
    spool.close()
    assert spooled_ids(tmp_path) == ["id-1", "id-3"]


def test_two_processes_cannot_share_a_spool(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(PublishError, match="another process"):
        opened(tmp_path)
    first.close(0)
    opened(tmp_path).close(0)


def test_many_threads_get_numbers_of_their_own(tmp_path: Path) -> None:
    publisher = opened(tmp_path)

    def work() -> None:
        for _ in range(25):
            publisher.publish("camera", {"kind": "motion", "score": 0.5})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    publisher.close(0)
    assert sorted(body["sequence"] for body in spooled(tmp_path)) == list(range(1, 201))


def test_without_a_broker_it_says_why_nothing_arrives(tmp_path: Path) -> None:
    publisher = opened(tmp_path)
    publisher.publish("report", {"text": "x"})
    eventually(lambda: "127.0.0.1:9 does not answer" in publisher.problem)
    assert publisher.wait(0.1) is False
    began = time.monotonic()
    publisher.close(0)
    assert time.monotonic() - began < 3
    with pytest.raises(PublishError, match="closed"):
        publisher.publish("report", {"text": "x"})


@pytest.mark.parametrize(
    ("event_class", "event", "word"),
    [
        ("robot", {}, "class"),
        ("report", {"source": "x"}, "source"),
        ("report", {"sequence": 1}, "sequence"),
        ("report", {"id": 5}, "id"),
        ("report", {"text": float("nan")}, "JSON"),
        ("report", {"text": "\ud800"}, "JSON"),
        ("report", {"text": b"x"}, "JSON"),
        ("report", {"text": "x" * 300_000}, "262144"),
    ],
)
def test_what_is_no_event_is_refused_at_once(
    tmp_path: Path, event_class: str, event: dict[str, Any], word: str
) -> None:
    with opened(tmp_path) as publisher:
        with pytest.raises(PublishError, match=word):
            publisher.publish(event_class, event)
        assert publisher.waiting() == []


@pytest.mark.parametrize(
    ("broker", "place", "source"),
    [
        ("http://x", PLACE, "a"),
        (NOWHERE, "andon/demo", "a"),
        (NOWHERE, PLACE, "a/b"),
        (NOWHERE, PLACE, "+"),
        (NOWHERE, PLACE, ""),
    ],
)
def test_what_cannot_be_an_address_is_refused_at_once(tmp_path: Path, broker: str, place: str, source: str) -> None:
    with pytest.raises(PublishError):
        Publisher(broker, place, source, tmp_path)
