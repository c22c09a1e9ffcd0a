"""Stop strings: the same answer however the bytes are cut, and never a byte of the stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halfbyte._core import testing

TEXT = st.text(alphabet="abc", max_size=40)


def run(pieces: list[bytes], stops: list[bytes], include: bool) -> tuple[bytes, bytes | None]:
    matcher = testing.StopMatcher(stops, include)
    out = b"".join(matcher.feed(p) for p in pieces)
    return (out if matcher.match is not None else out + matcher.flush()), matcher.match


@given(
    TEXT,
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), max_size=40),
    st.booleans(),
)
def test_cuts_do_not_matter(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    data, encoded = text.encode(), [s.encode() for s in stops]
    pieces, rest = [], data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces.append(rest)
    whole = run([data], encoded, include)
    assert run(pieces, encoded, include) == whole
    assert run([bytes([b]) for b in data], encoded, include) == whole
    out, match = whole
    if match is None:
        assert out == data
        assert not any(s in data for s in encoded)
    else:
        assert data.startswith(out)
        assert out.endswith(match) if include else not any(s in out for s in encoded)
