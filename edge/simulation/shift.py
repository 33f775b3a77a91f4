"""A shift of the sample plant: what its cameras, stations and people would publish. The same seed, the same shift."""

from __future__ import annotations

import heapq
import itertools
import json
import random
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge.config import Settings, resources
from edge.errors import Stop, Unavailable
from edge.intake import address, mqtt_client
from edge.plant import plant_file


@dataclass(frozen=True, slots=True)
class Publication:
    """`at`: seconds after the shift began, before `simulator.speed` is applied."""

    at: float
    topic: str
    body: dict[str, Any]


class Shift:
    """An endless stream of publications in order of time. Every person's report comes once."""

    def __init__(self, plant: Path, texts: Path, *, root: str, seed: int = 1) -> None:
        try:
            self._plant = tomllib.loads(plant.read_text("utf-8"))
            self._texts = tomllib.loads(texts.read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise Stop(f"The simulated shift cannot be read: {error}.") from error
        self._random = random.Random(seed)  # noqa: S311 - a shift is no secret
        self._places = {
            zone["id"]: f"{root}/{self._plant['site']['id']}/{area['id']}/{zone['line']}/{zone['cell']}"
            for area in self._plant["area"]
            for zone in area["zones"]
        }
        self._workers: dict[str, list[str]] = {}
        for worker in self._plant["worker"]:
            self._workers.setdefault(worker["zone"], []).append(worker["id"])

    def __iter__(self) -> Iterator[Publication]:
        order = itertools.count()
        # Each source is an endless or finite iterator of its own; the heap merges them by time.
        sources = (self._reports(), self._logs(), *self._cameras(), *self._stations())
        heap = [(first.at, next(order), first, source) for source in sources if (first := next(source, None))]
        heapq.heapify(heap)
        while heap:
            _, _, publication, source = heapq.heappop(heap)
            yield publication
            if following := next(source, None):
                heapq.heappush(heap, (following.at, next(order), following, source))

    def _dice(self) -> random.Random:
        """Chances of its own for each source, so that one more camera does not change what the others do."""
        return random.Random(self._random.random())  # noqa: S311

    def _reports(self) -> Iterator[Publication]:
        reports = list(self._texts["report"])
        self._random.shuffle(reports)
        at = 1.0
        for number, report in enumerate(reports):
            body = {"kind": "report", "text": report["text"], "severity": report["severity"]}
            if "worker" in report:
                body["worker_id"] = report["worker"]
            yield self._publication(at, report["zone"], "report", f"station-{report['zone'].lower()}", body)
            # A newcomer should see the board fill at once; later a report every few minutes is what a shift has.
            at += self._random.uniform(4, 9) if number < 7 else self._random.uniform(90, 300)

    def _logs(self) -> Iterator[Publication]:
        at = 20.0
        for log in itertools.cycle(self._random.sample(self._texts["log"], len(self._texts["log"]))):
            body = {"kind": "log", "level": log["level"], "component": log["component"], "message": log["message"]}
            yield self._publication(at, log["zone"], "system", log["component"], body)
            at += self._random.uniform(240, 600)

    def _cameras(self) -> Iterator[Iterator[Publication]]:
        for camera in self._plant["camera"]:
            yield self._camera(camera["id"], camera["zone"], self._dice())

    def _camera(self, camera: str, zone: str, chance: random.Random) -> Iterator[Publication]:
        at = chance.uniform(2, 30)
        workers = self._workers.get(zone, [])
        while True:
            draw = chance.random()
            body: dict[str, Any]
            if draw < 0.6:
                body = {"kind": "motion", "score": round(chance.betavariate(5, 2), 3)}
            elif draw < 0.85:
                body = {"kind": "zone_count", "persons": min(6, chance.randrange(1, 7))}
            elif draw < 0.99:
                body = {"kind": "detection", "label": chance.choice(["person", "forklift", "pallet"]), "count": 1}
            elif draw < 0.9925:
                body = {"kind": "ppe", "missing": [chance.choice(["glasses", "gloves", "helmet", "vest"])]}
                if workers:
                    body["worker_id"] = chance.choice(workers)
            elif draw < 0.9940:
                body = {"kind": "zone_count", "persons": chance.randrange(9, 14)}
            elif draw < 0.9970:
                body = {"kind": "idle", "seconds": round(chance.uniform(310, 1_400))}
            elif draw < 0.9980:
                body = {"kind": "health", "state": chance.choice(["offline", "frozen"])}
            else:
                body = {"kind": "health", "state": "online"}
            yield self._publication(at, zone, "camera", camera, body)
            at += chance.uniform(8, 25)

    def _stations(self) -> Iterator[Iterator[Publication]]:
        for standard in self._texts["step"]:
            for worker in self._workers.get(standard["zone"], [])[:1]:
                yield self._station(worker, standard, self._dice())

    def _station(self, worker: str, standard: dict[str, Any], chance: random.Random) -> Iterator[Publication]:
        zone = standard["zone"]
        at = chance.uniform(0, 5)
        yield self._publication(at, zone, "worker", worker, {"kind": "session_start", "product_type": "sample"})
        for cycle in itertools.count(1):
            began = at
            for step, seconds in zip(standard["steps"], standard["seconds"], strict=True):
                spent = seconds * chance.lognormvariate(0, 0.15)
                at += spent
                body = {"kind": "step", "step": step, "seconds": round(spent, 1)}
                yield self._publication(at, zone, "worker", worker, body)
            body = {"kind": "index", "index_number": cycle, "seconds": round(at - began, 1)}
            yield self._publication(at, zone, "worker", worker, body)
            at += chance.expovariate(1 / 6)

    def _publication(self, at: float, zone: str, event_class: str, source: str, body: dict[str, Any]) -> Publication:
        return Publication(at, f"{self._places[zone]}/{event_class}/{source}", body)


def publish(settings: Settings, stopped: Callable[[], bool], *, limit: int | None = None, seed: int = 1) -> int:
    """Publish a shift with an ordinary MQTT client at `simulator.speed` times real time. Returns how many events.

    Ends when `stopped`, or after `limit` events, each of them acknowledged by the broker. Raises `Unavailable`.
    """
    plant = plant_file(settings) or resources() / "etc/sample/plant.toml"
    shift = Shift(plant, resources() / "etc/sample/shift.toml", root=settings.intake.root, seed=seed)
    # The run is part of each id: a shift replayed tomorrow is another shift.
    run = datetime.now(UTC).strftime("%y%m%d%H%M%S")
    sequences: dict[str, itertools.count[int]] = {}
    client = mqtt_client(settings.broker, f"simulator-{run}")
    client.max_queued_messages_set(1_000)
    host, port = address(settings.broker)
    try:
        client.connect(host, port, keepalive=30)
    except OSError as error:
        raise Unavailable(f"The broker at {host}:{port} does not answer: {error}. Check EDGE__BROKER__URL.") from error
    client.loop_start()
    count = 0
    last = None
    try:
        began = time.monotonic()
        for publication in shift:
            while (left := began + publication.at / settings.simulator.speed - time.monotonic()) > 0 and not stopped():
                time.sleep(min(left, 0.2))
            if stopped() or (limit is not None and count >= limit):
                break
            source = publication.topic.rpartition("/")[2]
            sequence = next(sequences.setdefault(source, itertools.count(1)))
            body = {
                "id": f"{source}-{run}-{sequence}",
                "sequence": sequence,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "schema": 1,
                **publication.body,
            }
            last = client.publish(publication.topic, json.dumps(body, ensure_ascii=False), qos=1)
            count += 1
        if last is not None:
            last.wait_for_publish(timeout=10)
    except (RuntimeError, ValueError) as error:
        raise Unavailable(f"The broker at {host}:{port} takes no more events: {error}.") from error
    finally:
        client.disconnect()
        client.loop_stop()
    return count
