"""Text to token ids. Thai words are tokens of their own; everything else goes through the base model's word pieces.

The base tokenizer would strip Thai vowels and tone marks as accents, so Thai never reaches it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tokenizers import Tokenizer

from edge.embedding.lexicon import Lexicon, thai_runs
from edge.errors import Stop

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

__all__ = [
    "PIECES_FILE",
    "HubTokens",
    "PieceTokens",
    "StarterTokens",
    "TokenIds",
    "Tokens",
    "open_tokens",
    "read_pieces",
    "read_tokenizer",
]

PIECES_FILE = "pieces.model"


@dataclass(frozen=True, slots=True)
class TokenIds:
    """`ids` uncut, special tokens included; `words` counts them without those, `unknown` words without an id."""

    ids: tuple[int, ...]
    words: int
    unknown: int


class Tokens(Protocol):
    """How one model reads normalised texts."""

    def __call__(self, texts: Sequence[str]) -> list[TokenIds]: ...


def read_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json. Raises Stop when it can not be read."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise Stop(f"The tokenizer {path.name} of the embedding model can not be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_pieces(model: bytes) -> SentencePieceProcessor:
    """Load a SentencePiece model. Raises Stop when it is none."""
    # The starter, and what trains it, do without.
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=model)
    except Exception as error:  # the library raises bare RuntimeError, and other things for other damage
        raise Stop(f"The vocabulary {PIECES_FILE} of the embedding model can not be read: {error}") from error


def open_tokens(folder: Path, how: str) -> Tokens:
    """The tokens of the model in `folder`; `how` as its manifest says. Raises Stop when a file can not be read."""
    match how:
        case "starter":
            return StarterTokens.open(folder)
        case "pieces":
            try:
                return PieceTokens(read_pieces((folder / PIECES_FILE).read_bytes()))
            except OSError as error:
                raise Stop(f"{PIECES_FILE} of the embedding model can not be read: {error.strerror}.") from error
        case "hub":
            return HubTokens(read_tokenizer(folder / "tokenizer.json"))
    raise Stop(f"This version can not read texts as the embedding model in {folder} asks: tokens = “{how}”.")


class StarterTokens:
    """[CLS] … [SEP] over Thai words of the lexicon and lower-case English word pieces."""

    def __init__(self, tokenizer: Tokenizer, lexicon: Lexicon, thai_ids: Mapping[str, int]) -> None:
        self._tokenizer = tokenizer
        self._lexicon = lexicon
        self._thai_ids = thai_ids
        special = [i for i in map(tokenizer.token_to_id, ("[CLS]", "[SEP]", "[UNK]")) if i is not None]
        if len(special) != 3:
            raise Stop("The tokenizer of the starter model has no [CLS], [SEP] or [UNK]; rebuild the model.")
        self._cls, self._sep, self._unk = special

    @classmethod
    def open(cls, folder: Path) -> StarterTokens:
        """The tokens of a built starter model. Raises Stop when a file can not be read."""
        tokenizer = read_tokenizer(folder / "tokenizer.json")
        forms = (folder / "thai.txt").read_text("utf-8").splitlines()
        first = tokenizer.get_vocab_size()
        ids = {form: first + i for i, form in enumerate(forms)}
        return cls(tokenizer, Lexicon.read(folder / "lexicon.txt"), ids)

    def __call__(self, texts: Sequence[str]) -> list[TokenIds]:
        return [self._read(text) for text in texts]

    def _read(self, text: str) -> TokenIds:
        ids = [self._cls]
        unknown = 0
        for start, end, thai in thai_runs(text):
            run = text[start:end]
            if not thai:
                for part, taught in self._latin(run):
                    pieces = [taught] if taught is not None else self._pieces(part)
                    unknown += pieces.count(self._unk)
                    ids.extend(pieces)
                continue
            for piece in self._lexicon.segment(run):
                if piece.form is not None:
                    known = self._thai_ids.get(piece.form)
                    if known is not None:  # a particle has no id: it means nothing and is left out
                        ids.append(known)
                elif run[piece.start] not in "\u0e46\u0e2f":
                    # Left out of the sequence: an [UNK] in the mean pulls every text with unknown words together.
                    unknown += 1
        words = len(ids) - 1
        ids.append(self._sep)
        return TokenIds(tuple(ids), words, unknown)

    def _pieces(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def _latin(self, run: str) -> Iterator[tuple[str, int | None]]:
        """The run cut at the words the plant has taught, each of them with its id; nothing but space is left out."""
        at = 0
        for match in self._lexicon.latin_word.finditer(run) if self._lexicon.latin_word else ():
            if run[at : match.start()].strip():
                yield run[at : match.start()], None
            yield match.group(), self._thai_ids.get(match.group())
            at = match.end()
        if run[at:].strip():
            yield run[at:], None


class HubTokens:
    """A model that brings its own complete tokenizer, Thai included."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        unknown = [tokenizer.token_to_id(name) for name in ("<unk>", "[UNK]")]
        self._unk = next((i for i in unknown if i is not None), None)

    def __call__(self, texts: Sequence[str]) -> list[TokenIds]:
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        # Several texts are cut on all cores at once: one after the other they would keep a GPU waiting.
        read = self._tokenizer.encode_batch_fast(list(texts)) if len(texts) > 1 else map(self._tokenizer.encode, texts)
        found = []
        for ids in (one.ids for one in read):
            unknown = ids.count(self._unk) if self._unk is not None else 0
            found.append(TokenIds(tuple(ids), len(ids) - special, unknown))
        return found


class PieceTokens:
    """A SentencePiece vocabulary, as the models of XLM-R's family have it."""

    def __init__(self, pieces: SentencePieceProcessor) -> None:
        self._pieces = pieces
        self._first, self._last, self._unk = pieces.bos_id(), pieces.eos_id(), pieces.unk_id()

    def __call__(self, texts: Sequence[str]) -> list[TokenIds]:
        if len(texts) > _MANY:  # on all cores: one after the other they would keep a GPU waiting
            read = self._pieces.encode(list(texts), num_threads=-1)
        else:  # a list is read by a thread of its own, which a busy box makes a text wait for
            read = [self._pieces.encode(text) for text in texts]
        return [TokenIds((self._first, *ids, self._last), len(ids), ids.count(self._unk)) for ids in read]


#: Fewer texts are cut before the threads have started.
_MANY = 16
