import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.identity import join_token
from skerry.identity.errors import InvalidJoinTokenError
from skerry.identity.join_token import JoinToken

TOKENS = st.builds(
    JoinToken,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=16, max_size=16),
)
GOLDEN = JoinToken(bytes(range(32)), bytes(range(100, 108)), bytes(range(200, 216)))
GOLDEN_TEXT = "skerry1-k8QgAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh_ECGRlZmdoaWprxBDIycrLzM3Oz9DR0tPU1dbX"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ .\n\u00e9\0"


@given(TOKENS)
def test_its_text_says_all_of_it(token: JoinToken) -> None:
    assert join_token.parse(token.text()) == token


@given(TOKENS)
def test_white_space_around_it_does_not_matter(token: JoinToken) -> None:
    assert join_token.parse(f"  {token.text()}\n") == token


def test_the_text_is_the_same_in_every_version() -> None:
    assert GOLDEN.text() == GOLDEN_TEXT
    assert join_token.parse(GOLDEN_TEXT) == GOLDEN


@given(TOKENS, st.data())
def test_another_text_is_another_token_or_none(token: JoinToken, data: st.DataObject) -> None:
    text = token.text()
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.sampled_from(LETTERS)) + text[place + 1 :]
    try:
        parsed = join_token.parse(changed)
    except InvalidJoinTokenError:
        return
    assert (parsed == token) == (changed.strip() == text)


@given(TOKENS, st.integers(0, 91))
def test_a_part_of_one_is_refused(token: JoinToken, chars: int) -> None:
    with pytest.raises(InvalidJoinTokenError, match="copy it"):
        join_token.parse(token.text()[:chars])


@given(st.text() | st.text(alphabet=LETTERS).map(lambda text: "skerry1-" + text))
def test_only_the_documented_error_comes_of_any_text(text: str) -> None:
    try:
        join_token.parse(text)
    except InvalidJoinTokenError:
        return
    assert text.strip().startswith("skerry1-")


def test_a_long_text_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidJoinTokenError, match="longer than 256"):
        join_token.parse(GOLDEN_TEXT + "A" * 200)


@pytest.mark.parametrize(
    "text", [GOLDEN_TEXT[:-2], GOLDEN_TEXT + "AA", GOLDEN_TEXT.replace("-", "+", 1), GOLDEN_TEXT + "="]
)
def test_a_refusal_does_not_repeat_the_secret(text: str) -> None:
    with pytest.raises(InvalidJoinTokenError) as caught:
        join_token.parse(text)
    told = "".join(traceback.format_exception(caught.value))
    assert "yMnKy8zN" not in str(caught.value)
    assert "During handling" not in told
    assert "direct cause" not in told


def test_its_representation_holds_no_secret() -> None:
    assert repr(GOLDEN.secret) not in repr(GOLDEN)
    assert "secret" not in repr(GOLDEN)


def test_what_is_kept_of_a_secret_is_its_hash() -> None:
    expected = "afe86b1f7924d4bbeb58c4c7060ccff9210969484dbda3fe6c751c726d90897a"  # printf skerry | sha256sum
    assert join_token.secret_sha256(b"skerry").hex() == expected


@pytest.mark.parametrize(("root", "identifier", "secret"), [(31, 8, 16), (32, 9, 16), (32, 8, 15)])
def test_a_part_of_another_length_is_refused(root: int, identifier: int, secret: int) -> None:
    with pytest.raises(ValueError, match="another length"):
        JoinToken(bytes(root), bytes(identifier), bytes(secret))
