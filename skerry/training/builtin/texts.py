"""The tasks that predict the next word or character: wikitext2-lstm, shakespeare-gru and tiny-transformer."""

from torch import nn

from skerry.tasks.builtin import shakespeare, wikitext2
from skerry.tasks.builtin.folder import Folder
from skerry.tasks.builtin.wikitext2 import TEXTS, Texts
from skerry.tasks.manifest import Defaults, Input, Label
from skerry.training.builtin.language_models import RecurrentModel, Transformer
from skerry.training.builtin.seeding import seeded
from skerry.training.definition import TaskDefinition

WORDS = 10_000  # of WikiText-2's vocabulary, UNKNOWN included
WORDS_LENGTH = 35  # words of an example
CHARACTERS_LENGTH = 80
TRANSFORMER_LENGTH = 64

ABOUT_WIKITEXT = (
    "Data: WikiText-2, Merity, Xiong, Bradbury and Socher, Pointer Sentinel Mixture Models, 2016, arXiv:1609.07843."
)
ABOUT_SHAKESPEARE = (
    "Data: Shakespeare's plays by role, after McMahan et al., Communication-Efficient Learning of Deep Networks from "
    "Decentralized Data, 2017, arXiv:1602.05629."
)


def wikitext2_lstm(folder: Folder, words: int = WORDS, texts: Texts = TEXTS) -> TaskDefinition:
    """Return `wikitext2-lstm`: two LSTM layers of 256 over words embedded in 100 dimensions, as in Spyker.

    The vocabulary is the training text's, so the data set must be at hand.

    Raises:
        DataError: it is not, or damaged.
    """
    vocabulary = wikitext2.vocabulary(folder, words, texts)
    with seeded():
        model = RecurrentModel(len(vocabulary), 100, nn.LSTM(100, 256, num_layers=2, batch_first=True))
    return _definition(
        "wikitext2-lstm",
        model,
        f"Two LSTM layers that predict the next word of a text, out of {len(vocabulary)}. {ABOUT_WIKITEXT}",
        vocabulary,
        WORDS_LENGTH,
        Defaults(batch_examples=16, learning_rate=1.0),
    )


def shakespeare_gru() -> TaskDefinition:
    """Return `shakespeare-gru`: a GRU of 256 over characters embedded in 64 dimensions."""
    with seeded():
        model = RecurrentModel(len(shakespeare.ALPHABET), 64, nn.GRU(64, 256, batch_first=True))
    return _definition(
        "shakespeare-gru",
        model,
        f"A GRU that predicts the next character of a play. {ABOUT_SHAKESPEARE}",
        shakespeare.ALPHABET,
        CHARACTERS_LENGTH,
        Defaults(batch_examples=16, learning_rate=0.5),
    )


def tiny_transformer() -> TaskDefinition:
    """Return `tiny-transformer`: two layers, 128 wide, four heads, over the characters of Shakespeare's plays."""
    with seeded():
        model = Transformer(len(shakespeare.ALPHABET), TRANSFORMER_LENGTH, width=128, heads=4, layers=2)
    return _definition(
        "tiny-transformer",
        model,
        f"A small transformer that predicts the next character of a play. {ABOUT_SHAKESPEARE}",
        shakespeare.ALPHABET,
        TRANSFORMER_LENGTH,
        Defaults(batch_examples=16, learning_rate=0.1),
    )


def _definition(
    name: str, model: nn.Module, description: str, vocabulary: tuple[str, ...], length: int, defaults: Defaults
) -> TaskDefinition:
    return TaskDefinition(
        name=name,
        description=description,
        model=model,
        input=Input(shape=(length,), dtype="int64", values_below=len(vocabulary)),
        label=Label(classes=len(vocabulary), shape=(length,), names=vocabulary),
        defaults=defaults,
    )
