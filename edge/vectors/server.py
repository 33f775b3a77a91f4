"""The production side: a Qdrant server or cluster. Each version is a collection `<name>__<fingerprint>`, the name its alias."""

from __future__ import annotations

import ipaddress
import logging
import ssl
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from edge.errors import EdgeError, Rejected, Stop, Unavailable
from edge.vectors.catalogue import Collection, Hnsw, PayloadIndex, physical_name, split_physical
from edge.vectors.model import (
    DEFAULT_QUANTIZE_ABOVE,
    HNSW_EF,
    MAX_WINDOW,
    TIE_SLACK,
    Closing,
    Condition,
    FacetCount,
    Filter,
    HasId,
    Hit,
    IsEmpty,
    Match,
    Point,
    Range,
    SearchRequest,
    SparseVector,
    Stats,
    TimeRange,
    Versions,
    check_fits,
    checked_facet,
    checked_ids,
    checked_names,
    checked_page,
    checked_payload,
    checked_points,
    checked_request,
    edge_is_tied,
    next_id,
    no_collection,
    not_built,
    ordered,
    other_fingerprint,
    oversampling,
    sorted_facet,
    still_active,
    window,
)

log = logging.getLogger(__name__)

_BATCH = 128
_ID_BATCH = 1000

_KINDS = {
    "keyword": models.PayloadSchemaType.KEYWORD,
    "integer": models.PayloadSchemaType.INTEGER,
    "float": models.PayloadSchemaType.FLOAT,
    "datetime": models.PayloadSchemaType.DATETIME,
    "bool": models.PayloadSchemaType.BOOL,
}
_QUANTIZED = models.ScalarQuantization(
    scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
)

_REFUSED_KEY = {"UNAUTHENTICATED", "PERMISSION_DENIED", 401, 403}
_BLAMES_INPUT = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", 400, 404, 409, 413, 422}


class ServerStore(Closing):
    """A VectorStore on the Qdrant server at `url` (https for TLS). Nothing is sent before the first call.

    gRPC is used where `prefer_grpc`, on `grpc_port`; `ca_file` (PEM) is a private authority and implies REST, because
    the client cannot hand one to gRPC. `timeout_s` bounds every request. `quantize_above` is a number of points, None
    for never. `shards` and `replicas` count for collections created from now on.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        prefer_grpc: bool = True,
        grpc_port: int = 6334,
        timeout_s: int = 10,
        ca_file: Path | None = None,
        quantize_above: int | None = DEFAULT_QUANTIZE_ABOVE,
        shards: int = 1,
        replicas: int = 1,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Stop(f"vectors.url must look like https://host:6333, not {url!r}.")
        if api_key and parts.scheme == "http" and not _is_loopback(parts.hostname):
            log.warning("The vector server's key travels unencrypted: use https in vectors.url.")
        options: dict[str, Any] = {}
        if ca_file is not None:
            if not ca_file.is_file():
                raise Stop(f"vectors.url names {ca_file}, which is not there.")
            options["verify"] = ssl.create_default_context(cafile=str(ca_file))
        with warnings.catch_warnings():
            # Said above, in our own log and only where the key really leaves the machine.
            warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
            client = QdrantClient(
                url=url,
                port=parts.port or 6333,
                api_key=api_key,
                prefer_grpc=prefer_grpc and ca_file is None,
                grpc_port=grpc_port,
                timeout=timeout_s,
                check_compatibility=False,
                **options,
            )
        self._setup(client, f"The vector server at {url}", quantize_above, shards, replicas)

    @classmethod
    def over(cls, client: QdrantClient, *, quantize_above: int | None = DEFAULT_QUANTIZE_ABOVE) -> ServerStore:
        """A store over a client that is already there, which it closes. The contract tests use the local mode."""
        store = cls.__new__(cls)
        store._setup(client, "The given vector client", quantize_above, 1, 1)
        return store

    def _setup(self, client: QdrantClient, where: str, quantize_above: int | None, shards: int, replicas: int) -> None:
        self._client: QdrantClient | None = client
        self._where = where
        self._quantize_above = quantize_above
        self._shards, self._replicas = shards, replicas
        self._described: dict[str, Collection] = {}
        self._quantized: set[str] = set()

    # --- versions ---------------------------------------------------------------------------------------------------

    def ensure(self, collection: Collection, *, fingerprint: str) -> str:
        physical_name(collection.name, fingerprint)
        active = self.versions(collection.name).active
        if active is not None and active != fingerprint:
            raise other_fingerprint(collection.name, active, fingerprint)
        physical = self.build_beside(collection, fingerprint=fingerprint)
        if active is None:
            self._point_alias(collection.name, physical, replaces=False)
        return physical

    def build_beside(self, collection: Collection, *, fingerprint: str) -> str:
        physical = physical_name(collection.name, fingerprint)
        with self._asking("building a collection") as client:
            if not client.collection_exists(physical):
                try:
                    self._create(client, physical, collection)
                except Exception:
                    # Another process may have been quicker; then its collection is the one to check.
                    if not client.collection_exists(physical):
                        raise
        built, info = self._inspect(physical)
        check_fits(built, collection)
        with self._asking("adding indexes") as client:
            known = {index.key for index in built.indexes}
            for index in collection.indexes:
                if index.key not in known:
                    client.create_payload_index(physical, index.key, field_schema=_schema(index), wait=True)
            quantized = info.config.quantization_config is not None
            if self._quantize_above is not None and not quantized and (info.points_count or 0) > self._quantize_above:
                client.update_collection(physical, quantization_config=_QUANTIZED)
                quantized = True
        if quantized:
            self._quantized.add(physical)
        self._described[physical] = collection
        return physical

    def switch(self, name: str, *, fingerprint: str) -> None:
        versions = self.versions(name)
        if fingerprint not in versions.built:
            raise not_built(name, fingerprint)
        self._point_alias(name, physical_name(name, fingerprint), replaces=versions.active is not None)

    def versions(self, name: str) -> Versions:
        with self._asking("looking up versions") as client:
            aliases = {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}
            names = [each.name for each in client.get_collections().collections]
        if name in names:
            raise Stop(
                f"{self._where} has a collection called {name} where an alias belongs; "
                "it was made by something else. Rename it, or point vectors.url at another server."
            )
        built = sorted(
            fingerprint
            for logical, fingerprint in map(split_physical, names)
            if logical == name and fingerprint is not None
        )
        return Versions(split_physical(aliases.get(name, name))[1], tuple(built))

    def drop(self, name: str, *, fingerprint: str) -> None:
        versions = self.versions(name)
        if versions.active == fingerprint:
            raise still_active(name, fingerprint)
        if fingerprint in versions.built:
            physical = physical_name(name, fingerprint)
            with self._asking("dropping a version") as client:
                client.delete_collection(physical)
            self._described.pop(physical, None)
            self._quantized.discard(physical)

    # --- writing ----------------------------------------------------------------------------------------------------

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        physical, collection = self._resolve(name)
        checked = checked_points(points, collection)
        for start in range(0, len(checked), _BATCH):
            batch = [_to_engine(point, collection) for point in checked[start : start + _BATCH]]
            with self._asking("writing") as client:
                client.upsert(physical, points=batch, wait=True)

    def delete(self, name: str, ids: Iterable[UUID]) -> None:
        physical, _ = self._resolve(name)
        for part in _parts(checked_ids(ids)):
            with self._asking("deleting") as client:
                client.delete(physical, points_selector=models.PointIdsList(points=part), wait=True)

    def set_payload(self, name: str, ids: Iterable[UUID], payload: Mapping[str, Any]) -> list[UUID]:
        wanted = checked_ids(ids)
        values = checked_payload(payload, "The payload to set")
        physical, _ = self._resolve(name)
        present: set[UUID] = set()
        for part in _parts(wanted):
            with self._asking("writing") as client:
                records = client.retrieve(physical, ids=part, with_payload=False, with_vectors=False)
                found: list[Any] = [str(record.id) for record in records]
                if found and values:
                    # By filter and not by id: an id deleted meanwhile would fail the request halfway.
                    chosen = models.Filter(must=[models.HasIdCondition(has_id=found)])
                    client.set_payload(physical, payload=values, points=chosen, wait=True)
                present.update(UUID(each) for each in found)
        return [each for each in wanted if each not in present]

    # --- reading ----------------------------------------------------------------------------------------------------

    def search(self, name: str, request: SearchRequest) -> list[Hit]:
        return self.search_many(name, [request])[0]

    def search_many(self, name: str, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        physical, collection = self._resolve(name)
        checked = [checked_request(request, collection) for request in requests]
        answers: list[list[Hit]] = [[] for _ in checked]
        # An empty sparse query shares no term with anything; the engine would call it malformed.
        pending = [
            (slot, request, TIE_SLACK)
            for slot, request in enumerate(checked)
            if not isinstance(request.vector, SparseVector) or len(request.vector)
        ]
        while pending:
            fetch = [min(request.offset + request.limit + slack, MAX_WINDOW) for _, request, slack in pending]
            queries = [
                _query(request, limit, physical in self._quantized)
                for (_, request, _), limit in zip(pending, fetch, strict=True)
            ]
            with self._asking("searching") as client:
                found = client.query_batch_points(physical, requests=queries)
            again = []
            for (slot, request, slack), limit, response in zip(pending, fetch, found, strict=True):
                hits = ordered(_hit(point, collection, request.with_vectors) for point in response.points)
                if edge_is_tied(hits, request, limit):
                    again.append((slot, request, slack * 8))
                answers[slot] = window(hits, request)
            pending = again
        return answers

    def get(self, name: str, ids: Iterable[UUID], *, with_vectors: bool | Sequence[str] = False) -> list[Point]:
        wanted = checked_ids(ids)
        physical, collection = self._resolve(name)
        found: dict[UUID, Point] = {}
        named = checked_names(with_vectors, collection)
        for part in _parts(wanted, _BATCH):
            with self._asking("reading") as client:
                records = client.retrieve(physical, ids=part, with_payload=isinstance(named, bool), with_vectors=named)
            for record in records:
                dense, sparse = _vectors(record.vector if named else None, collection)
                identity = UUID(str(record.id))
                found[identity] = Point(identity, dense, sparse, record.payload or {})
        return [found[each] for each in wanted if each in found]

    def scroll_ids(self, name: str, after: UUID | None = None, limit: int = 1000) -> list[UUID]:
        checked_page(limit)
        physical, _ = self._resolve(name)
        start = next_id(after)
        if after is not None and start is None:
            return []
        with self._asking("paging") as client:
            records, _next = client.scroll(
                physical,
                offset=None if start is None else str(start),
                limit=limit,
                with_payload=False,
                with_vectors=False,
            )
        return [UUID(str(record.id)) for record in records]

    def count(self, name: str, filter: Filter | None = None) -> int:
        physical, _ = self._resolve(name)
        with self._asking("counting") as client:
            return int(client.count(physical, count_filter=_filter(filter), exact=True).count)

    def facet(self, name: str, key: str, filter: Filter | None = None, limit: int = 100) -> list[FacetCount]:
        physical, collection = self._resolve(name)
        checked_facet(key, limit, collection)
        with self._asking("counting values") as client:
            answer = client.facet(physical, key=key, facet_filter=_filter(filter), limit=limit, exact=True)
        return sorted_facet(FacetCount(hit.value, hit.count) for hit in answer.hits)

    def stats(self, name: str) -> Stats:
        physical, collection = self._resolve(name)
        with self._asking("looking") as client:
            info = client.get_collection(physical)
            points = client.count(physical, exact=True).count
        return Stats(
            name=collection.name,
            fingerprint=split_physical(physical)[1] or "",
            dimension=collection.dimension,
            points=points,
            indexed_vectors=info.indexed_vectors_count or 0,
            segments=info.segments_count,
            quantized=info.config.quantization_config is not None,
        )

    def describe(self, name: str) -> tuple[Collection, str]:
        physical, collection = self._resolve(name)
        return collection, split_physical(physical)[1] or ""

    # --- upkeep -----------------------------------------------------------------------------------------------------

    def optimize(self, name: str) -> bool:
        self._resolve(name)
        return False

    def snapshot(self, target: Path) -> None:
        raise Rejected(f"{self._where} keeps its own snapshots; take them there. {target} was not written.")

    def restore(self, source: Path) -> None:
        raise Rejected(f"{self._where} restores its own snapshots; {source} was not read.")

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _asking(self, doing: str) -> Iterator[QdrantClient]:
        if self._client is None:
            raise Unavailable("The vector store is closed.")
        try:
            yield self._client
        except EdgeError:
            raise
        except Exception as error:
            raise self._translated(error, doing) from error

    def _translated(self, error: Exception, doing: str) -> EdgeError:
        status: object = None
        detail = str(error)
        if isinstance(error, UnexpectedResponse):
            status = error.status_code
            detail = error.content.decode(errors="replace")[:300]
        elif not isinstance(error, (ApiException, ResourceExhaustedResponse)) and callable(
            getattr(error, "code", None)
        ):
            # A gRPC error, recognised by its shape: its library is the client's dependency and not ours.
            code = error.code()  # type: ignore[attr-defined]
            status = getattr(code, "name", str(code))
            detail = str(getattr(error, "details", lambda: "")())
        if status in _REFUSED_KEY:
            return Stop(f"{self._where} refuses the key at {doing}: check vectors.api_key. {detail}")
        if status in _BLAMES_INPUT or (status is None and isinstance(error, (ValueError, TypeError))):
            return Rejected(f"{self._where} refused {doing}: {detail}")
        return Unavailable(
            f"{self._where} does not answer at {doing} ({detail or type(error).__name__}); see vectors.url."
        )

    def _create(self, client: QdrantClient, physical: str, collection: Collection) -> None:
        hnsw = collection.hnsw
        client.create_collection(
            physical,
            vectors_config={
                name: models.VectorParams(size=collection.dimension, distance=models.Distance.COSINE)
                for name in collection.vectors
            },
            sparse_vectors_config={collection.sparse: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            hnsw_config=models.HnswConfigDiff(
                m=hnsw.m, ef_construct=hnsw.ef_construct, full_scan_threshold=hnsw.full_scan_threshold
            ),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=hnsw.indexing_threshold),
            shard_number=self._shards,
            replication_factor=self._replicas,
        )

    def _point_alias(self, name: str, physical: str, *, replaces: bool) -> None:
        steps: list[Any] = []
        if replaces:
            steps.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name)))
        steps.append(
            models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=physical, alias_name=name))
        )
        with self._asking("switching an alias") as client:
            client.update_collection_aliases(change_aliases_operations=steps)

    def _resolve(self, name: str) -> tuple[str, Collection]:
        """Physical name and shape. An alias is asked for every time: another process may have switched it."""
        physical = name
        if split_physical(name)[1] is None:
            with self._asking("looking up an alias") as client:
                aliases = {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}
            if name not in aliases:
                raise no_collection(name)
            physical = aliases[name]
        collection = self._described.get(physical)
        if collection is None:
            with self._asking("looking up a collection") as client:
                if not client.collection_exists(physical):
                    raise no_collection(name)
            collection, info = self._inspect(physical)
            self._described[physical] = collection
            if info.config.quantization_config is not None:
                self._quantized.add(physical)
        return physical, collection

    def _inspect(self, physical: str) -> tuple[Collection, models.CollectionInfo]:
        with self._asking("looking up a collection") as client:
            info = client.get_collection(physical)
        vectors = info.config.params.vectors
        sparse = list(info.config.params.sparse_vectors or {})
        if not isinstance(vectors, dict) or not vectors or len(sparse) != 1:
            raise Stop(f"{self._where} holds a {physical} that this appliance did not make: its vectors have no names.")
        kinds = {kind.value: name for name, kind in _KINDS.items()}
        indexes = tuple(
            PayloadIndex(key, kinds[schema.data_type.value])  # type: ignore[arg-type]
            for key, schema in (info.payload_schema or {}).items()
            if schema.data_type.value in kinds
        )
        config = info.config.hnsw_config
        collection = Collection(
            name=split_physical(physical)[0],
            vectors=tuple(vectors),
            indexes=indexes,
            dimension=next(iter(vectors.values())).size,
            sparse=sparse[0],
            hnsw=Hnsw(
                m=config.m,
                ef_construct=config.ef_construct,
                full_scan_threshold=config.full_scan_threshold,
                indexing_threshold=info.config.optimizer_config.indexing_threshold or 0,
            ),
        )
        return collection, info


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parts(ids: Sequence[UUID], size: int = _ID_BATCH) -> Iterator[list[Any]]:
    for start in range(0, len(ids), size):
        yield [str(each) for each in ids[start : start + size]]


def _schema(index: PayloadIndex) -> Any:
    if index.tenant:
        return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    return _KINDS[index.kind]


def _to_engine(point: Point, collection: Collection) -> models.PointStruct:
    vectors: dict[str, Any] = {name: vector.tolist() for name, vector in point.vectors.items()}
    if point.sparse is not None:
        vectors[collection.sparse] = _sparse(point.sparse)
    return models.PointStruct(id=str(point.id), vector=vectors, payload=dict(point.payload))


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())


def _query(request: SearchRequest, limit: int, quantized: bool) -> models.QueryRequest:
    vector: Any = _sparse(request.vector) if isinstance(request.vector, SparseVector) else request.vector.tolist()
    if request.exact:
        params = models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
    else:
        again = models.QuantizationSearchParams(rescore=True, oversampling=oversampling(limit)) if quantized else None
        params = models.SearchParams(hnsw_ef=HNSW_EF, quantization=again)
    return models.QueryRequest(
        query=vector,
        using=request.using,
        filter=_filter(request.filter),
        limit=limit,
        score_threshold=request.score_threshold,
        params=params,
        with_payload=True if request.fields is None else list(request.fields) or False,
        with_vector=request.with_vectors,
    )


def _filter(filter: Filter | None) -> models.Filter | None:
    if filter is None:
        return None
    return models.Filter(
        must=[_condition(each) for each in filter.must] or None,
        should=[_condition(each) for each in filter.should] or None,
        must_not=[_condition(each) for each in filter.must_not] or None,
    )


def _condition(condition: Condition) -> Any:
    match condition:
        case Filter():
            return _filter(condition)
        case Match(key, any_of):
            kinds: list[Any] = []
            texts = [value for value in any_of if isinstance(value, str)]
            numbers = [value for value in any_of if isinstance(value, int) and not isinstance(value, bool)]
            if texts:
                kinds.append(models.FieldCondition(key=key, match=models.MatchAny(any=texts)))
            if numbers:
                kinds.append(models.FieldCondition(key=key, match=models.MatchAny(any=numbers)))
            flags = {value for value in any_of if isinstance(value, bool)}
            kinds.extend(models.FieldCondition(key=key, match=models.MatchValue(value=flag)) for flag in flags)
            if not kinds:
                return models.HasIdCondition(has_id=[])
            return kinds[0] if len(kinds) == 1 else models.Filter(should=kinds)
        case Range(key, gt, gte, lt, lte):
            return models.FieldCondition(key=key, range=models.Range(gt=gt, gte=gte, lt=lt, lte=lte))
        case TimeRange(key, gt, gte, lt, lte):
            return models.FieldCondition(key=key, range=models.DatetimeRange(gt=gt, gte=gte, lt=lt, lte=lte))
        case HasId(ids):
            return models.HasIdCondition(has_id=[str(each) for each in ids])
        case IsEmpty(key):
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def _vectors(found: Any, collection: Collection) -> tuple[dict[str, Any], SparseVector | None]:
    dense: dict[str, Any] = {}
    sparse: SparseVector | None = None
    for name, value in (found or {}).items():
        if name == collection.sparse:
            sparse = SparseVector(value.indices, value.values)
        else:
            dense[name] = np.asarray(value, dtype=np.float32)
    return dense, sparse


def _hit(scored: models.ScoredPoint, collection: Collection, with_vectors: bool) -> Hit:
    vectors = _vectors(scored.vector, collection)[0] if with_vectors else None
    return Hit(UUID(str(scored.id)), float(scored.score), scored.payload or {}, vectors)
