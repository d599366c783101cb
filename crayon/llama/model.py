"""A model file loaded by llama.cpp: its weights, vocabulary, metadata and chat template."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from crayon.errors import ChatTemplateError, EngineClosedError, ModelFileError, NoMemoryError
from crayon.llama import amx, library
from crayon.llama.fresh_thread import run_in_fresh_thread
from crayon.llama.scarce import check_room, is_memory_short
from crayon.llama.template import ChatTemplate
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger("crayon.llama")

_STARTS = ("\x01", "\n")  # texts that no other one joins, to have a space put before them
_META_BYTES = 1 << 20  # a chat template is the longest value; more than this is not one


class Model:
    """Weights in memory, shared by any number of contexts. Close it after them.

    Args:
        path: a GGUF file.
        vocab_only: read vocabulary and metadata, no weights.
        extra_kernels: whether weights are laid out for the kernels of this CPU; None: if these run (see `amx`).

    Raises:
        ModelFileError: the file is missing, truncated, not a GGUF, or of an architecture that the library lacks.
        NoMemoryError: too little memory is left for it.
        LibraryError: the wrong llama-cpp-python is installed.
    """

    def __init__(self, path: Path | str, *, vocab_only: bool = False, extra_kernels: bool | None = None) -> None:
        self.path = Path(path)
        self._lib = library.load()
        api = self._api = self._lib.api
        if not self.path.is_file():
            raise ModelFileError(f"{self.path}: no such file")
        with self.path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelFileError(f"{self.path}: not a GGUF file (its first bytes are not 'GGUF')")
        check_room(self.path.name, 0 if vocab_only else self.path.stat().st_size)
        params = api.llama_model_default_params()
        params.vocab_only = vocab_only
        params.n_gpu_layers = 0
        if not vocab_only:
            params.use_extra_bufts = amx.runs() if extra_kernels is None else extra_kernels
        self._lib.log.take_errors()
        self._handle: Any = run_in_fresh_thread(lambda: api.llama_model_load_from_file(os.fsencode(self.path), params))
        if not self._handle:
            why = self._lib.log.take_errors() or "llama.cpp gives no reason"
            if is_memory_short(why):
                megabytes = f"{self.path.stat().st_size / 1e6:,.0f} MB"
                raise NoMemoryError(
                    f"too little memory to load {self.path.name} ({megabytes}): close other programs, raise the "
                    f"process's limit, or take a smaller model ({why})"
                )
            raise ModelFileError(f"{self.path}: cannot be loaded, truncated or of an unknown kind ({why})")
        self._vocab: Any = api.llama_model_get_vocab(self._handle)
        self._has_vocab = api.llama_vocab_type(self._vocab) != api.LLAMA_VOCAB_TYPE_NONE
        self.n_vocab = int(api.llama_vocab_n_tokens(self._vocab))
        self.n_embd = int(api.llama_model_n_embd(self._handle))
        self.n_layer = int(api.llama_model_n_layer(self._handle))
        self.n_ctx_train = int(api.llama_model_n_ctx_train(self._handle))
        self.n_params = int(api.llama_model_n_params(self._handle))
        self.size_bytes = int(api.llama_model_size(self._handle))
        self.bos = int(api.llama_vocab_bos(self._vocab))
        self.eos = int(api.llama_vocab_eos(self._vocab))
        self.add_bos = bool(api.llama_vocab_get_add_bos(self._vocab))
        self.recurrent = bool(api.llama_model_is_recurrent(self._handle) or api.llama_model_is_hybrid(self._handle))
        """Whether layers keep one state of all that a sequence has read, instead of keys and values of each token."""
        self.window = int(api.llama_model_n_swa(self._handle))
        """Tokens that layers with a sliding window see; 0: none has one."""
        self._pieces: dict[int, bytes] = {}

    @property
    def handle(self) -> Any:  # an opaque C pointer
        """The C pointer, for the other classes of this room."""
        if self._handle is None:
            raise EngineClosedError("the model is closed")
        return self._handle

    @property
    def vocab(self) -> Any:  # an opaque C pointer
        """The C pointer to the vocabulary.

        Raises:
            ModelFileError: the file holds none (asked for a token, llama.cpp would end the process).
        """
        if self._handle is None:
            raise EngineClosedError("the model is closed")
        if not self._has_vocab:
            raise ModelFileError(f"{self.path}: holds no vocabulary, so it can read no text")
        return self._vocab

    @property
    def cut_limit(self) -> int | None:
        """Tokens up to which a sequence in the cache may be cut anywhere; a longer one is used whole. None: always.

        A state cannot be cut at all, and a sliding window lets go of what its last token no longer sees.
        """
        if self.recurrent:
            return 0
        return self.window - 1 if self.window else None

    # -- metadata

    @functools.cached_property
    def metadata(self) -> dict[str, str]:
        """All metadata as text. Arrays are not included (llama.cpp does not give them)."""
        api, handle = self._api, self.handle
        found = {}
        for i in range(api.llama_model_meta_count(handle)):
            key = _read(lambda buf, size, i=i: api.llama_model_meta_key_by_index(handle, i, buf, size))
            value = _read(lambda buf, size, i=i: api.llama_model_meta_val_str_by_index(handle, i, buf, size))
            if key is not None and value is not None:
                found[key] = value
        return found

    @property
    def description(self) -> str:
        """Architecture, size and quantization in llama.cpp's words."""
        return _read(lambda buf, size: self._api.llama_model_desc(self.handle, buf, size)) or ""

    @functools.cached_property
    def template(self) -> ChatTemplate:
        """The model's own chat template.

        Raises:
            ModelFileError: the file holds none, or it is not valid Jinja.
        """
        source = self.metadata.get("tokenizer.chat_template")
        if not source:
            raise ModelFileError(f"{self.path}: holds no chat template, so it cannot answer chat messages")
        return ChatTemplate(source, bos=self.token_text(self.bos), eos=self.token_text(self.eos))

    def log_limits(self) -> None:
        """Try the chat template, and log what it cannot do: known before the first request."""
        try:
            template = self.template
        except ModelFileError as error:
            logger.info("%s", error)
            return
        for limit in template.limits:
            # What is refused is an error of its own; what is lost looks as if nothing were wrong.
            logger.log(
                logging.WARNING if template.loses else logging.INFO, "the chat template of %s %s", self.path.name, limit
            )

    def check_chat(self) -> None:
        """See that a plain question can be read: nothing else ever could be answered.

        Raises:
            ModelFileError: there is no vocabulary or chat template, or it is not valid, or refuses any question.
        """
        try:
            tokens = self.tokenize_chat((Message("user", "Hello"),))
        except ChatTemplateError as error:
            raise ModelFileError(f"{self.path}: its chat template does not take a plain question: {error}") from None
        except ModelFileError as error:
            said = str(error)
            raise ModelFileError(said if str(self.path) in said else f"{self.path}: {said}") from None
        if not tokens:
            raise ModelFileError(f"{self.path}: its chat template makes nothing of a plain question")

    # -- tokens

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of `text`. Only with `special` do control tokens such as <|im_end|> count as such."""
        data = text.encode("utf-8")
        size = len(data) + 2
        add_bos = False  # who wants it puts it in front
        while True:
            tokens = (self._api.llama_token * size)()
            n = self._api.llama_tokenize(self.vocab, data, len(data), tokens, size, add_bos, special)
            if n >= 0:
                return list(tokens[:n])
            size = -n

    @functools.cached_property
    def longest_token(self) -> int:
        """Bytes of the longest text that one token stands for; 0 where tokens leave some of a text out, so none is."""
        api, kind = self._api, self._api.llama_vocab_type(self.vocab)
        if kind not in {api.LLAMA_VOCAB_TYPE_SPM, api.LLAMA_VOCAB_TYPE_BPE}:
            return 0
        # As the tokenizer writes it: a byte above 127, or a space, is a letter of two or three bytes there.
        return max((len(self.token_text(token).encode("utf-8")) for token in range(self.n_vocab)), default=0)

    def least_tokens(self, texts: Iterable[str]) -> int:
        """Return the fewest tokens that texts can have, told by their lengths alone."""
        longest = self.longest_token
        return sum(-(-len(text) // longest) for text in texts) if longest else 0

    def tokenize_chat(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Return the tokens of a conversation up to where the assistant's answer starts.

        Control tokens count only where the template wrote them: a user who types <|im_end|> has typed text. Where no
        message holds one (nearly always) the rendered prompt is tokenised whole, exactly as the model was trained.

        Raises:
            ChatTemplateError: the template refuses the messages, or loses some of what they say.
            ModelFileError: the file holds no template, or it is not valid.
        """
        parts = self.template.parts(messages, self.control_texts, tools)
        begun = bool(parts) and not parts[0].is_content and self._starts_with_bos(parts[0].text)
        tokens = [self.bos] if self.add_bos and not begun else []
        for i, part in enumerate(parts):
            # The space that some tokenizers put before a text belongs before the prompt and behind control tokens.
            within = i > 0 and not self.is_control(tokens[-1])
            read = self.tokenize_more if within else self.tokenize
            # llama.cpp takes user-defined tokens for tokens in any text: cut in two, they are none.
            cut = 1 if part.is_content and part.text in self._defined_marks else len(part.text)
            tokens += read(part.text[:cut], special=not part.is_content)
            tokens += self.tokenize_more(part.text[cut:])
        return tokens

    def tokenize_answer(self, text: str, prompt: Sequence[int]) -> list[int]:
        """Return the tokens of a text as an answer to a prompt, which is given as tokens.

        Where the prompt ends in white space, a tokenizer that puts a space before texts puts none there.
        """
        spaced = bool(prompt) and self.piece(prompt[-1])[-1:].isspace()
        return self.tokenize_more(text) if spaced else self.tokenize(text)

    def tokenize_more(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of a text that goes on another one: without a space that the tokenizer puts before it."""
        if text and self._adds_space:
            for start in _STARTS:
                known, both = self.tokenize(start), self.tokenize(start + text, special=special)
                if both[: len(known)] == known:
                    return both[len(known) :]
        return self.tokenize(text, special=special)

    @functools.cached_property
    def _adds_space(self) -> bool:
        """Whether the tokenizer puts a space before each text."""
        return b"".join(map(self.piece, self.tokenize("a"))) == b" a"

    def is_control(self, token: int) -> bool:
        """Whether a token is no text by itself: a control token, or one that the model defines for its users."""
        kinds = self._api.LLAMA_TOKEN_ATTR_CONTROL | self._api.LLAMA_TOKEN_ATTR_USER_DEFINED
        return bool(self._api.llama_vocab_get_attr(self.vocab, token) & kinds)

    def _starts_with_bos(self, text: str) -> bool:
        bos = self.token_text(self.bos)
        return bool(bos) and text.startswith(bos)

    @functools.cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts of the model's control tokens, and of the user-defined ones that its chat template writes."""
        control = self._texts_of(self._api.LLAMA_TOKEN_ATTR_CONTROL | self._api.LLAMA_TOKEN_ATTR_UNKNOWN)
        return tuple(sorted(control | self._defined_marks))

    @functools.cached_property
    def _defined_marks(self) -> frozenset[str]:
        # The others are pieces of text (Gemma's are white space and HTML), which texts hold as they were trained.
        defined = self._texts_of(self._api.LLAMA_TOKEN_ATTR_USER_DEFINED)
        try:
            written = self.template.own_text
        except ModelFileError:
            return frozenset()
        return frozenset(text for text in defined if text.strip() and text in written)

    def _texts_of(self, kinds: int) -> frozenset[str]:
        attributes, vocab = self._api.llama_vocab_get_attr, self.vocab
        found = (self.token_text(token) for token in range(self.n_vocab) if attributes(vocab, token) & kinds)
        return frozenset(text for text in found if text)

    @functools.cached_property
    def unseen(self) -> dict[str, int]:
        """Tokens that add nothing to a text, by the texts that the vocabulary has for them."""
        found = {text: self.tokenize(text, special=True) for text in self.control_texts}
        return {text: ids[0] for text, ids in found.items() if len(ids) == 1 and not self.piece(ids[0])}

    def token_text(self, token: int) -> str:
        """Return the vocabulary's own text of a token, "" where there is none."""
        if token < 0:
            return ""
        text = self._api.llama_vocab_get_text(self.vocab, token)
        return text.decode("utf-8", "replace") if text else ""

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token adds to the text, maybe part of a character; control tokens add none."""
        known = self._pieces.get(token)
        if known is None:
            size = 64
            while True:
                buffer = ctypes.create_string_buffer(size)
                n = self._api.llama_token_to_piece(self.vocab, token, buffer, size, 0, False)  # noqa: FBT003  # C call
                if n >= 0:
                    break
                size = -n
            known = self._pieces[token] = buffer.raw[:n]
        return known

    def is_end(self, token: int) -> bool:
        """Whether the token ends an answer: one that llama.cpp knows to, or the one of the chat template."""
        return bool(self._api.llama_vocab_is_eog(self.vocab, token)) or token == self.turn_end

    @functools.cached_property
    def turn_end(self) -> int:
        """The token that ends an answer in the chat template, so the one that the model was trained to write there.

        Where the template has none it is the vocabulary's own for turns, else for texts; -1 where there is none at all.
        """
        try:
            after = self.tokenize(self.template.after_answer, special=True)
        except ModelFileError:
            after = []
        known = self._api.llama_vocab_is_eog
        end = next((token for token in after if known(self.vocab, token)), -1)
        if end >= 0:
            return end
        mark = next((token for token in after if self.is_control(token) and token != self.bos), -1)
        # Where this one is no end, what follows it is another part of the same answer (gpt-oss).
        if mark >= 0 and self.token_text(mark) != "<|end|>":
            return mark
        eot = int(self._api.llama_vocab_eot(self.vocab))
        return eot if eot >= 0 and known(self.vocab, eot) else self.eos

    # -- life

    @property
    def closed(self) -> bool:
        """Whether the weights were freed."""
        return self._handle is None

    def close(self) -> None:
        """Free the weights. Safe to call twice."""
        if self._handle is not None:
            self._api.llama_model_free(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(call: Any) -> str | None:  # a C call that fills a buffer and returns the full length
    size = 4096
    while size <= _META_BYTES:
        buffer = ctypes.create_string_buffer(size)
        n = int(call(buffer, size))
        if n < 0:
            return None
        if n < size:
            return buffer.raw[:n].decode("utf-8", "replace")
        size = n + 1
    return None
