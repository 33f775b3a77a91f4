"""Train the starter's adapter: `python models/starter/train.py` writes adapter.safetensors and training.log beside it.

The base is an English sentence encoder. Thai words become tokens of their own that start as the mean of their English
meanings. Training then moves those tokens and, by low-rank deltas, the body, so that a Thai telling lands where the
untouched base puts its English tellings (distillation), and two tellings of one meaning land nearer to each other than
to other meanings of the same trade (contrast). At the end the deltas are scaled back, which keeps English general.

Seeded; two runs on one machine with one thread count give the same file. See README.md for the data and the scores.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from edge.embedding.encoder import spread
from edge.embedding.kinds import Kinds
from edge.embedding.lexicon import Lexicon, thai_runs
from edge.embedding.starter import GOLDEN_TEXTS, base_folder, gloss_vectors, read_forms
from edge.embedding.text import normalise
from edge.embedding.tokens import read_tokenizer

LAYERS, HIDDEN, HEADS = 6, 384, 12
LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
PROBLEMS = ("problems.txt", "retold.txt", "independent.txt")
SLOT = re.compile(r"\{(\w+)\}")
PARTICLES = ("ครับ", "ค่ะ", "นะครับ", "คับ", "ด้วยครับ", "หน่อยครับ", "อีกแล้ว", "เลย", "จ้า", "ค่า")


@dataclass(frozen=True)
class Meaning:
    """One meaning told several ways. Slots in braces take the same filler in every telling."""

    topic: str
    thai: tuple[str, ...]
    english: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of problem as different people tell it, who share few words: in Thai (mixed with English too), and in English."""

    topic: str
    thai: tuple[str, ...]
    english: tuple[str, ...]


@dataclass
class Texts:
    """Everything training reads: meanings by topic, kinds of problem, clauses to hang on, fillers for the slots."""

    meanings: list[Meaning] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    clauses: dict[str, list[Meaning]] = field(default_factory=dict)
    fillers: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = field(default_factory=dict)
    words: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    left_out: int = 0

    @classmethod
    def read(cls, folder: Path, *, more: bool = False) -> Texts:
        texts = cls()
        held = _Evaluation(folder / "eval")
        for meaning in _meanings(folder / "sentences.txt"):
            thai = tuple(t for t in meaning.thai if not held.has(t))
            english = tuple(t for t in meaning.english if not held.has(t))
            texts.left_out += len(meaning.thai) - len(thai) + len(meaning.english) - len(english)
            if thai and english:
                texts.meanings.append(Meaning(meaning.topic, thai, english))
        for kind in _kinds(folder / "kinds.txt") + (_kinds(folder / "kinds_more.txt") if more else []):
            thai = tuple(t for t in kind.thai if not held.has(t))
            english = tuple(t for t in kind.english if not held.has(t))
            texts.left_out += len(kind.thai) - len(thai) + len(kind.english) - len(english)
            if len(thai) > 1 and len(english) > 1:
                texts.kinds.append(Kind(kind.topic, thai, english))
        for clause in _meanings(folder / "clauses.txt"):
            texts.clauses.setdefault(clause.topic, []).append(clause)
        topic = ""
        for line in (folder / "lexicon.txt").read_text("utf-8").splitlines():
            if line.startswith("#"):
                topic = line[1:].split()[0]
            elif "=" in line:
                left, _, right = line.partition("=")
                forms = tuple(re.sub(r"\s*\([^)]*\)", "", form).strip() for form in left.split("/"))
                meanings = tuple(m.strip() for m in right.split(";") if m.strip())
                if meanings:
                    texts.words.append((forms, meanings))
                    texts.fillers.setdefault(topic, []).append((forms, meanings))
        return texts


def _shingles(text: str) -> frozenset[str]:
    squeezed = normalise(text).replace(" ", "")
    return frozenset(squeezed[i : i + 4] for i in range(max(1, len(squeezed) - 3)))


class _Evaluation:
    """The texts of the evaluation by what they share with others."""

    def __init__(self, folder: Path) -> None:
        lines = [line for name in PROBLEMS for line in (folder / name).read_text("utf-8").splitlines()]
        told = [line.partition(" ")[2] for line in lines if line and line[0] not in "#["]
        for line in (folder / "robustness.txt").read_text("utf-8").splitlines():
            told.extend(line.split(" || "))
        self._sizes: list[int] = []
        self._holders: dict[str, list[int]] = {}
        for number, shingles in enumerate(_shingles(text) for text in told if text.strip()):
            self._sizes.append(len(shingles))
            for shingle in shingles:
                self._holders.setdefault(shingle, []).append(number)

    def has(self, telling: str) -> bool:
        """Whether a training telling is nearly one of these; such tellings are left out, so scores stay honest."""
        own = _shingles(SLOT.sub("", telling))
        shared = Counter(number for shingle in own for number in self._holders.get(shingle, ()))
        for number, both in shared.items():
            size = self._sizes[number]
            if both / (len(own) + size - both) >= 0.35 or both / min(len(own), size) >= 0.7:
                return True
        return False


def _meanings(path: Path) -> list[Meaning]:
    found, topic = [], ""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.startswith("#"):
            topic = line[1:].split()[0]
        elif line.strip():
            thai, mark, english = line.partition("||")
            if not mark:
                raise SystemExit(f"{path.name}:{number} has no '||' between Thai and English")
            found.append(Meaning(topic, _tellings(thai), _tellings(english)))
    return found


def _kinds(path: Path) -> list[Kind]:
    found: list[Kind] = []
    topic = name = ""
    told: dict[str, list[str]] = {}

    def close() -> None:
        if name:
            found.append(Kind(topic, tuple(told.get("th", []) + told.get("mix", [])), tuple(told.get("en", []))))

    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.startswith("#"):
            close()
            name, topic = "", line[1:].split()[0]
        elif line.startswith("["):
            close()
            name, told = line.strip("[]"), {}
        elif line.strip():
            mark, _, text = line.partition(" ")
            if mark not in ("th", "en", "mix"):
                raise SystemExit(f"{path.name}:{number} begins with none of th, en, mix")
            told.setdefault(mark, []).append(text.strip())
    close()
    return found


def _tellings(side: str) -> tuple[str, ...]:
    return tuple(telling.strip() for telling in side.split(" // ") if telling.strip())


class Reader:
    """Text to ids as the appliance does it, plus what a training text may suffer on the way."""

    def __init__(self, lexicon: Lexicon, forms: list[str], base: Path) -> None:
        self.lexicon = lexicon
        self.tokenizer = read_tokenizer(base / "tokenizer.json")
        first = self.tokenizer.get_vocab_size()
        self.ids = {form: first + i for i, form in enumerate(forms)}
        self.pieces: dict[str, list[int]] = {}
        self.splits: dict[str, list[tuple[str, str]]] = {}
        for form in forms:
            cuts = [(form[:i], form[i:]) for i in range(2, len(form) - 1)]
            self.splits[form] = [(a, b) for a, b in cuts if a in self.ids and b in self.ids]

    def english(self, text: str) -> list[int]:
        known = self.pieces.get(text)
        if known is None:
            known = self.pieces[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return known

    def read(self, text: str, rng: random.Random | None = None, mix: float = 0.0) -> list[int]:
        ids = [101]
        normalised = normalise(text)
        for start, end, thai in thai_runs(normalised):
            run = normalised[start:end]
            if not thai:
                if run.strip():
                    ids.extend(self.english(run.strip()))
                continue
            for piece in self.lexicon.segment(run):
                form = piece.form
                if form is None or form not in self.ids:
                    continue
                if rng is not None:
                    if rng.random() < mix:
                        ids.extend(self.english(rng.choice(self.lexicon.glosses[form])))
                        continue
                    if self.splits[form] and rng.random() < 0.15:
                        ids.extend(self.ids[part] for part in rng.choice(self.splits[form]))
                        continue
                ids.append(self.ids[form])
        return [*ids[:62], 102]


def suffer(text: str, rng: random.Random) -> str:
    """A Thai telling as it may really be typed."""
    if rng.random() < 0.2:
        text += rng.choice(PARTICLES)
    if rng.random() < 0.3:
        text = text.replace(" ", "")
    if rng.random() < 0.15:
        letters = list(text)
        for _ in range(rng.choice((1, 1, 2))):
            i = rng.randrange(len(letters))
            if "ก" <= letters[i] <= "๎":
                if rng.random() < 0.5 and i + 1 < len(letters):
                    letters[i], letters[i + 1] = letters[i + 1], letters[i]
                else:
                    letters[i] = ""
        text = "".join(letters)
    return text


class Teller:
    """Makes training examples: a meaning, its slots filled, clauses hung on, told in Thai and in English."""

    def __init__(self, texts: Texts, rng: random.Random) -> None:
        self.texts = texts
        self.rng = rng
        self.by_topic: dict[str, list[Meaning]] = {}
        for meaning in texts.meanings:
            self.by_topic.setdefault(meaning.topic, []).append(meaning)
        self.topics = list(self.by_topic)
        self.topic_sizes = [len(m) for m in self.by_topic.values()]
        self.kinds_of: dict[str, list[Kind]] = {}
        for kind in texts.kinds:
            self.kinds_of.setdefault(kind.topic, []).append(kind)

    def kinds(self, size: int) -> list[Kind]:
        """`size` kinds of problem, half of them side by side in their section: neighbours are what has to be kept apart."""
        if not size:
            return []
        topic = self.rng.choice(list(self.kinds_of))
        begins = self.rng.randrange(max(1, len(self.kinds_of[topic]) - size // 2 + 1))
        near = self.kinds_of[topic][begins : begins + size // 2]
        others = [kind for kind in self.texts.kinds if kind.topic != topic]
        return near + self.rng.sample(others, size - len(near))

    def batch(self, size: int) -> list[tuple[list[str], list[str]]]:
        """`size` examples of (Thai tellings, English tellings); a third of them share a topic, which makes them hard."""
        topic = self.rng.choices(self.topics, self.topic_sizes)[0]
        near = self.rng.sample(self.by_topic[topic], min(size // 3, len(self.by_topic[topic])))
        words = size // 6
        rest = self.rng.sample(self.texts.meanings, size - len(near) - words)
        return [self.example(m) for m in near + rest] + [self.word() for _ in range(words)]

    def word(self) -> tuple[list[str], list[str]]:
        """One lexicon entry, sometimes two side by side: teaches words no sentence contains."""
        picked = [self.rng.choice(self.texts.words) for _ in range(self.rng.choice((1, 1, 2)))]
        return (
            [" ".join(self.rng.choice(forms) for forms, _ in picked) for _ in range(2)],
            [" ".join(self.rng.choice(meanings) for _, meanings in picked) for _ in range(2)],
        )

    def example(self, meaning: Meaning) -> tuple[list[str], list[str]]:
        parts = [meaning]
        if self.rng.random() < 0.3:
            parts.append(self.rng.choice(self.texts.clauses[self.rng.choice(("cause", "action", "conseq"))]))
        if self.rng.random() < 0.15:
            parts.insert(0, self.rng.choice(self.texts.clauses["open"]))
        thai, english = [], []
        fills: list[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = [{} for _ in parts]
        for _ in range(2):
            thai.append(" ".join(self._fill(self.rng.choice(p.thai), f, 0) for p, f in zip(parts, fills, strict=True)))
            said = [self._fill(self.rng.choice(p.english), f, 1) for p, f in zip(parts, fills, strict=True)]
            english.append(", ".join(said))
        return thai, english

    def _fill(self, telling: str, filled: dict[str, tuple[tuple[str, ...], tuple[str, ...]]], side: int) -> str:
        def one(match: re.Match[str]) -> str:
            slot = match.group(1)
            if slot not in filled:
                filled[slot] = self._filler(slot)
            return self.rng.choice(filled[slot][side])

        return SLOT.sub(one, telling)

    def _filler(self, slot: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        rng = self.rng
        if slot in self.texts.fillers:
            return rng.choice(self.texts.fillers[slot])
        if slot == "n":
            made = str(rng.randint(1, 40))
        elif slot == "time":
            made = f"{rng.randint(0, 23):02d}:{rng.choice(('00', '15', '30', '45'))}"
        else:
            prefix = "".join(rng.choice("ABCDEFGHKLMNPRSTW") for _ in range(rng.randint(1, 3)))
            made = f"{prefix}{rng.choice(('', '-'))}{rng.randint(1, 99):02d}"
        return (made,), (made,)


@dataclass(frozen=True)
class Weights:
    """Linear layers by name as (weight, bias) or (weight, bias, down, up), and the rows of the Thai words."""

    linears: dict[str, tuple[Tensor, ...]]
    thai: Tensor


class Bert(nn.Module):
    """The base in plain torch with everything frozen but the deltas."""

    def __init__(self, weights: dict[str, np.ndarray], thai: np.ndarray, rank: int) -> None:
        super().__init__()
        for name, value in weights.items():
            if value.dtype == np.float32:
                self.register_buffer(name.replace(".", "_"), torch.from_numpy(value.copy()))
        self.register_buffer("thai_start", torch.from_numpy(thai))
        self.thai = nn.Parameter(torch.zeros(thai.shape))
        self.down, self.up, self.plus = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for layer in range(LAYERS):
            for part in LINEARS:
                name = f"encoder.layer.{layer}.{part}"
                out, into = weights[name + ".weight"].shape
                key = name.replace(".", "_")
                self.down[key] = nn.Parameter(torch.randn(rank, into) / math.sqrt(into))
                self.up[key] = nn.Parameter(torch.zeros(out, rank))
                self.plus[key + "_bias"] = nn.Parameter(torch.zeros(out))
        self.scale_body = 1.0
        self.scale_thai = 1.0

    def weights(self, tuned: bool = True) -> Weights:
        """What one pass needs, put together once: the linear layers, and the Thai rows of the embedding table."""
        linears: dict[str, tuple[Tensor, ...]] = {}
        for key in self.down:
            weight, bias = getattr(self, key + "_weight"), getattr(self, key + "_bias")
            if tuned and self.scale_body:
                bias = bias + self.scale_body * self.plus[key + "_bias"]
                linears[key] = (weight, bias, self.down[key], self.scale_body * self.up[key])
            else:
                linears[key] = (weight, bias)
        return Weights(linears, self.thai_start + self.scale_thai * self.thai if tuned else self.thai_start)

    def _w(self, name: str) -> Tensor:
        value: Tensor = getattr(self, name.replace(".", "_"))
        return value

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (HIDDEN,), self._w(name + ".weight"), self._w(name + ".bias"), 1e-12)

    def forward(self, ids: Tensor, mask: Tensor, weights: Weights) -> Tensor:
        """Unit vectors [n, 384] for padded ids [n, t] and mask [n, t]."""
        table = self._w("embeddings.word_embeddings.weight")
        places = self._w("embeddings.position_embeddings.weight")[: ids.shape[1]]
        own = ids >= len(table)
        # Two look-ups: one joined table would be copied, and given a gradient, whole in every pass.
        thai = F.embedding((ids - len(table)).clamp_min(0), weights.thai)
        x = torch.where(own[:, :, None], thai, F.embedding(ids.masked_fill(own, 0), table))
        x = x + places + self._w("embeddings.token_type_embeddings.weight")[0]
        x = self._norm(x, "embeddings.LayerNorm")
        if self.training:
            x = F.dropout(x, 0.1)
        n, t, _ = x.shape
        seen = mask[:, None, None, :]

        def linear(x: Tensor, layer: int, part: str) -> Tensor:
            weight, bias, *delta = weights.linears[f"encoder.layer.{layer}.{part}".replace(".", "_")]
            out = F.linear(x, weight, bias)
            # Beside the frozen weight, not added to it: its full-size gradient is never needed.
            return out + F.linear(F.linear(x, delta[0]), delta[1]) if delta else out

        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}."
            q, k, v = (
                linear(x, layer, "attention.self." + part).view(n, t, HEADS, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(n, t, HIDDEN)
            x = self._norm(x + linear(context, layer, "attention.output.dense"), at + "attention.output.LayerNorm")
            wide = F.gelu(linear(x, layer, "intermediate.dense"))
            x = self._norm(x + linear(wide, layer, "output.dense"), at + "output.LayerNorm")
        weight = mask[:, :, None].float()
        return F.normalize((x * weight).sum(1) / weight.sum(1), dim=-1)


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width)[None, :] < lengths[:, None]


def embed(model: Bert, rows: list[list[int]], *, tuned: bool = True) -> Tensor:
    """Unit vectors for rows of ids, in few batches of like length: most of one padded batch would be padding."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    step = max(1, -(-len(rows) // 6))
    weights = model.weights(tuned)
    parts = [model(*padded([rows[i] for i in order[at : at + step]]), weights) for at in range(0, len(rows), step)]
    back = torch.empty(len(rows), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(rows))
    return torch.cat(parts)[back]


@torch.no_grad()
def vectors(model: Bert, reader: Reader, texts: list[str], *, tuned: bool = True) -> np.ndarray:
    model.eval()
    rows = [reader.read(text) for text in texts]
    out = np.concatenate([embed(model, rows[i : i + 256], tuned=tuned).numpy() for i in range(0, len(rows), 256)])
    model.train()
    return out


def middles(model: Bert, reader: Reader, kinds: list[Kind]) -> dict[Kind, Tensor]:
    """What each kind is about, whoever tells it: the middle of its English tellings as the untouched base reads them."""
    told = torch.from_numpy(vectors(model, reader, [text for kind in kinds for text in kind.english], tuned=False))
    parts = told.split([len(kind.english) for kind in kinds])
    return {kind: F.normalize(part.mean(0, keepdim=True), dim=-1) for kind, part in zip(kinds, parts, strict=True)}


def unlike(teacher: Tensor, topics: list[str]) -> Tensor:
    """Which of the meanings [n] surely differ, [n, n]. Two that the teacher finds alike may be one; of the kinds of one
    topic it is known that they are not."""
    same_topic = torch.tensor([[bool(a) and a == b for b in topics] for a in topics])
    return (teacher @ teacher.T <= 0.7) | same_topic


def told_alike(out: Tensor, label: Tensor, apart: Tensor, options: argparse.Namespace) -> Tensor:
    """Supervised contrast (Khosla et al. 2020): each telling among all others, by those that tell the same meaning."""
    same = label[:, None] == label[None]
    itself = torch.eye(len(out), dtype=torch.bool)
    logits = (out @ out.T / options.temperature).masked_fill(itself | ~(same | apart[label][:, label]), -1e4)
    right = (same & ~itself).float()
    return -(F.log_softmax(logits, dim=-1) * right).sum(-1).div(right.sum(-1)).mean()


def development(model: Bert, reader: Reader, held: list[Meaning], others: list[Meaning]) -> dict[str, float]:
    """Mean reciprocal rank of the held-out meaning among all meanings, per direction."""

    def told(side: str, which: int, meanings: list[Meaning]) -> list[str]:
        return [SLOT.sub("", getattr(m, side)[which]) for m in meanings]

    known = {
        (side, which): vectors(model, reader, told(side, which, held))
        for side in ("thai", "english")
        for which in (0, -1)
    }
    far = {side: vectors(model, reader, told(side, 0, others)) for side in ("thai", "english")}
    scores = {}
    for name, asked, written in (
        ("th→en", ("thai", 0), ("english", 0)),
        ("en→th", ("english", 0), ("thai", 0)),
        ("th→th", ("thai", 0), ("thai", -1)),
        ("en→en", ("english", 0), ("english", -1)),
    ):
        keep = [i for i, m in enumerate(held) if asked[0] != written[0] or len(getattr(m, asked[0])) > 1]
        right = np.sum(known[asked] * known[written], axis=1)[keep]
        field_ = np.concatenate([known[written], far[written[0]]])
        rank = (known[asked][keep] @ field_.T > right[:, None] + 1e-6).sum(1) + 1
        scores[name] = float(np.mean(1 / rank))
    return scores


def told_apart(model: Bert, reader: Reader, held: list[Kind], others: list[Kind]) -> dict[str, float]:
    """How well the tellings of held-out kinds find each other among those of all: nDCG@10 by direction."""
    side = {
        name: [(place, text) for place, kind in enumerate(held + others) for text in getattr(kind, name)]
        for name in ("thai", "english")
    }
    vector = {name: vectors(model, reader, [text for _, text in rows]) for name, rows in side.items()}
    place = {name: np.array([at for at, _ in rows]) for name, rows in side.items()}
    scores = {}
    for asked, written in (("thai", "english"), ("english", "thai"), ("thai", "thai"), ("english", "english")):
        mine = np.flatnonzero(place[asked] < len(held))
        cosines = vector[asked][mine] @ vector[written].T
        if asked == written:
            cosines[np.arange(len(mine)), mine] = -2
        right = place[written][None] == place[asked][mine][:, None]
        if asked == written:
            right[np.arange(len(mine)), mine] = False
        order = np.argsort(-cosines, axis=1)[:, :10]
        gains = np.take_along_axis(right, order, axis=1) / np.log2(np.arange(2, 12))
        best = np.array([(1 / np.log2(np.arange(2, 2 + min(10, n)))).sum() for n in right.sum(axis=1)])
        scores[f"{asked[:2]}→{written[:2]}"] = float(np.mean(gains.sum(axis=1) / best))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--batch", type=int, default=20, help="meanings in a batch, each told twice")
    parser.add_argument("--kinds", type=int, default=40, help="kinds of problem in a batch, beside its meanings")
    parser.add_argument("--views", type=int, default=3, help="tellings of each of these kinds")
    parser.add_argument("--distil", type=float, default=1.0, help="weight of the distance to the teacher")
    parser.add_argument("--centre", type=float, default=0.2, help="the same for kinds, as a share of it")
    parser.add_argument("--more", action="store_true", help="read the kinds of kinds_more.txt, too")
    parser.add_argument("--from", dest="start", type=Path, help="go on from this adapter, at half the learning rate")
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "adapter.safetensors")
    parser.add_argument(
        "--remember", action="store_true", help="no training: only remember the kinds anew, as it stands"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    base = base_folder()
    weights = load_file(base / "model.safetensors")
    lexicon = Lexicon.read(HERE / "lexicon.txt")
    forms = read_forms(lexicon)
    model = Bert(
        weights, gloss_vectors(forms, lexicon, base, weights["embeddings.word_embeddings.weight"]), options.rank
    )
    reader = Reader(lexicon, forms, base)
    texts = Texts.read(HERE, more=options.more)
    if options.remember:
        load(model, forms, options.out)
        save(model, reader, forms, texts.kinds, options.out)
        return
    checkpoint = options.out.with_suffix(".checkpoint")
    log = options.out.with_name("training.log").open(
        "a" if options.start or checkpoint.is_file() else "w", encoding="utf-8"
    )

    def say(line: str) -> None:
        print(line, flush=True)
        log.write(line + "\n")
        log.flush()

    held = texts.meanings[5::14]
    texts.meanings = [m for i, m in enumerate(texts.meanings) if i % 14 != 5]
    others = texts.meanings[::3]
    held_kinds = texts.kinds[5::12]
    texts.kinds = [kind for i, kind in enumerate(texts.kinds) if i % 12 != 5]
    teller = Teller(texts, rng)
    say(
        f"forms {len(forms)}, meanings {len(texts.meanings)} and {len(held)} held out, kinds {len(texts.kinds)} and "
        f"{len(held_kinds)} held out, seed {options.seed}, "
        f"tellings left out for being nearly in the evaluation {texts.left_out}, "
        f"steps {options.steps}, batch {options.batch} and {options.kinds} × {options.views}, rank {options.rank}"
    )

    rate = 1.0
    if options.start:
        load(model, forms, options.start)
        rate = 0.5
    body = [p for n, p in model.named_parameters() if n != "thai"]
    optimiser = torch.optim.AdamW(
        [{"params": body, "top": 4e-4 * rate}, {"params": [model.thai], "top": 1e-3 * rate}],
        weight_decay=0.01,
        betas=(0.9, 0.98),
    )
    mean = {n: p.detach().clone() for n, p in model.named_parameters()}
    centres = middles(model, reader, texts.kinds)
    running = np.zeros(3)
    step = 0
    same_run = hashlib.sha256(
        repr([vars(options), torch.__version__]).encode()
        + b"".join(
            p.read_bytes()
            for p in [HERE / f"{name}.txt" for name in ("clauses", "kinds", "kinds_more", "lexicon", "sentences")]
        )
    ).hexdigest()
    if checkpoint.is_file():
        kept = torch.load(checkpoint, weights_only=False)
        if kept["run"] == same_run:
            model.load_state_dict(kept["model"], strict=False)
            optimiser.load_state_dict(kept["optimiser"])
            mean, running, step = kept["mean"], kept["running"], kept["step"]
            rng.setstate(kept["python"])
            torch.set_rng_state(kept["torch"])
            say(f"goes on from step {step}")
    began, since = time.monotonic(), step
    while step < options.steps:
        for group in optimiser.param_groups:
            group["lr"] = group["top"] * min(1.0, (step + 1) / 40) * (1 - step / options.steps)
        told = teller.batch(options.batch)
        kinds = teller.kinds(options.kinds)
        with torch.no_grad():
            model.eval()
            rows = [reader.read(english[i]) for i in (0, 1) for _, english in told]
            both = embed(model, rows, tuned=False)
            taught = F.normalize(both[: len(told)] + both[len(told) :], dim=-1)
            teacher = torch.cat([taught, *(centres[kind] for kind in kinds)])
            model.train()
        views: list[list[int]] = []
        meant: list[int] = []
        for view in (0, 1):
            for place, (thai, english) in enumerate(told):
                if rng.random() < (0.7 if view == 0 else 0.4):
                    mixed = 0.3 if rng.random() < 0.33 else 0.0
                    views.append(reader.read(suffer(thai[view], rng), rng, mixed))
                else:
                    views.append(reader.read(english[view]))
                meant.append(place)
        for place, kind in enumerate(kinds, len(told)):
            pairs = [("th", text) for text in kind.thai] + [("en", text) for text in kind.english]
            for language, text in rng.sample(pairs, min(options.views, len(pairs))):
                views.append(reader.read(suffer(text, rng), rng) if language == "th" else reader.read(text))
                meant.append(place)
        out = embed(model, views)
        label = torch.tensor(meant)
        weight = torch.where(label < len(told), 1.0, options.centre)
        distil = ((1 - (out * teacher[label]).sum(-1)) * weight).sum() / len(teacher)
        contrast = told_alike(out, label, unlike(teacher, [""] * len(told) + [kind.topic for kind in kinds]), options)
        loss = options.distil * distil + contrast
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            keep = min(0.98, step / (step + 10))
            for name, parameter in model.named_parameters():
                mean[name].lerp_(parameter, 1 - keep)
        running += (distil.item(), contrast.item(), 1)
        if step % 20 == 0:
            seconds = (time.monotonic() - began) / (step - since)
            distilled, contrasted = running[:2] / running[2]
            say(f"step {step} distil {distilled:.3f} contrast {contrasted:.3f} {seconds:.2f} s/step")
            running[:] = 0
            state = {
                "run": same_run,
                "model": {n: p.detach() for n, p in model.named_parameters()},
                "optimiser": optimiser.state_dict(),
                "mean": mean,
                "running": running,
                "step": step,
                "python": rng.getstate(),
                "torch": torch.get_rng_state(),
            }
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").rename(checkpoint)

    model.load_state_dict(mean, strict=False)
    best = (-1.0, 1.0, 1.0)
    for scale_body in (0.5, 0.75, 1.0):
        for scale_thai in (1.0,):
            model.scale_body, model.scale_thai = scale_body, scale_thai
            scores = development(model, reader, held, others)
            apart = told_apart(model, reader, held_kinds, texts.kinds)
            score = (sum(scores.values()) / len(scores) + sum(apart.values()) / len(apart)) / 2
            say(
                f"body × {scale_body} Thai × {scale_thai}: mean {score:.4f}; meanings "
                + " ".join(f"{k} {v:.3f}" for k, v in scores.items())
                + "; kinds "
                + " ".join(f"{k} {v:.3f}" for k, v in apart.items())
            )
            best = max(best, (score, scale_body, scale_thai))
    _, model.scale_body, model.scale_thai = best
    say(f"kept body × {best[1]} Thai × {best[2]}")
    save(model, reader, forms, texts.kinds + held_kinds, options.out)
    checkpoint.unlink(missing_ok=True)
    log.close()


def remembered(model: Bert, reader: Reader, kinds: list[Kind]) -> Kinds:
    """The middle of all tellings of each kind, as the trained model reads them."""
    told = vectors(model, reader, [text for kind in kinds for text in kind.thai + kind.english])
    ends = np.cumsum([len(kind.thai) + len(kind.english) for kind in kinds])
    middles = np.stack([part.mean(axis=0) for part in np.split(told, ends[:-1])])
    return Kinds.of(middles / np.linalg.norm(middles, axis=1, keepdims=True))


@torch.no_grad()
def load(model: Bert, forms: list[str], path: Path) -> None:
    """The adapter in `path` put into the model, its deltas as they were scaled when it was saved."""
    tensors = load_file(path)
    trained = tensors["thai.forms"].tobytes().decode().split("\n")
    if trained != forms:
        raise SystemExit(f"{path.name} was trained with another lexicon.txt: train anew.")
    model.thai.copy_(torch.from_numpy(tensors["thai.delta"] * tensors["thai.scale"][:, None]))
    for name in [name.removeprefix("down.") for name in tensors if name.startswith("down.")]:
        key = name.removesuffix(".weight").replace(".", "_")
        model.down[key].copy_(torch.from_numpy(tensors["down." + name].astype(np.float32)))
        model.up[key].copy_(torch.from_numpy(tensors["up." + name].astype(np.float32)))
        bias = tensors[f"add.{name.removesuffix('.weight')}.bias"]
        model.plus[key + "_bias"].copy_(torch.from_numpy(bias.astype(np.float32)))


@torch.no_grad()
def save(model: Bert, reader: Reader, forms: list[str], kinds: list[Kind], path: Path) -> None:
    """Write the adapter: Thai deltas in int8 with a scale per word, body deltas as float16 factors, the centres of the
    kinds in int8, golden vectors."""
    tensors: dict[str, np.ndarray] = {}
    delta = (model.scale_thai * model.thai).numpy()
    scale = np.maximum(np.abs(delta).max(axis=1), 1e-8) / 127
    tensors["thai.forms"] = np.frombuffer("\n".join(forms).encode(), np.uint8)
    tensors["thai.delta"] = np.rint(delta / scale[:, None]).astype(np.int8)
    tensors["thai.scale"] = scale.astype(np.float32)
    for layer in range(LAYERS):
        for part in LINEARS:
            name = f"encoder.layer.{layer}.{part}"
            key = name.replace(".", "_")
            tensors[f"down.{name}.weight"] = model.down[key].numpy().astype(np.float16)
            tensors[f"up.{name}.weight"] = (model.scale_body * model.up[key]).numpy().astype(np.float16)
            tensors[f"add.{name}.bias"] = (model.scale_body * model.plus[key + "_bias"]).numpy().astype(np.float16)
    centres = remembered(model, reader, kinds)
    tensors |= {f"kinds.{name}": tensor for name, tensor in centres.tensors().items()}
    golden = spread(centres.drawn(vectors(model, reader, list(GOLDEN_TEXTS))))
    tensors["golden.texts"] = np.frombuffer("\n".join(GOLDEN_TEXTS).encode(), np.uint8)
    tensors["golden.vectors"] = (golden / np.linalg.norm(golden, axis=1, keepdims=True)).astype(np.float16)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(path)


if __name__ == "__main__":
    main()
