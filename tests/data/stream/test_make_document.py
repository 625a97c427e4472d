"""Examples of any parts against a slow reference that looks at one token after another."""

from hypothesis import example, given
from hypothesis import strategies as st

from fm9g.data.example import Example, Part
from fm9g.data.stream.document import Document, Skip, make_document

ENDS = [1, 2]  # tokens that no text can spell, and that a transform may have written
ids_of_text = st.lists(st.sampled_from([*ENDS, 5, 6, 7]), max_size=4)
content = st.one_of(st.sampled_from(ENDS), ids_of_text)
sequence = st.lists(st.tuples(content, st.booleans()), min_size=1, max_size=6)


def ends_once(parts):
    """Without a token before the first text or after the last that this spells already."""
    parts = list(parts)
    if len(parts) > 1:
        (before, _), (last, _) = parts[-2:]
        if isinstance(last, int) and isinstance(before, list) and before and before[-1] == last:
            parts.pop()
    if isinstance(parts[0][0], int):
        following = next((content for content, _ in parts[1:] if content != []), None)
        if isinstance(following, list) and following[0] == parts[0][0]:
            parts.pop(0)
    return parts


def reference(parts):
    """[(token, whether it is learned)] of [(token or ids of a text, learned)]."""
    return [
        (token, learned)
        for content, learned in parts
        for token in (content if isinstance(content, list) else [content])
    ]


@example([[(1, False), ([5], True), ([], False), ([6], True)]], True, False)
@example([[(1, False), ([1, 5], True), ([6, 2], True), (2, True)]], True, False)
@given(st.lists(sequence, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_every_learned_token_but_the_first_is_a_target(sequences, may_cut, transformed):
    """Where a transform may have written BOS and EOS, they are there once; else what parts say counts."""
    ids, examples = {}, []
    for parts in sequences:
        texts = [f"{len(ids) + i}" for i in range(len(parts))]
        ids |= {(7, text): content for text, (content, _) in zip(texts, parts, strict=True)}
        examples.append(
            tuple(
                Part(text if isinstance(content, list) else content, learned)
                for text, (content, learned) in zip(texts, parts, strict=True)
            )
        )
    made = make_document(Example(7, tuple(examples), may_cut, () if transformed else None), ids, "segment", 100)
    expected = [reference(ends_once(parts) if transformed else parts) for parts in sequences]
    learns = all(any(learned and isinstance(content, list) for content, learned in parts) for parts in sequences)
    if not learns or not all(any(learned for _, learned in tokens[1:]) for tokens in expected):
        assert isinstance(made, Skip)
        return
    assert isinstance(made, Document)
    assert (made.record, made.may_cut, made.places) == (7, may_cut, sum(len(tokens) - 1 for tokens in expected))
    for found, tokens in zip(made.sequences, expected, strict=True):
        assert found.tokens.tolist() == [token for token, _ in tokens]
        targets = [i for start, stop in found.targets for i in range(start, stop)]
        assert targets == [i for i, (_, learned) in enumerate(tokens) if learned and i]
        bounds = [bound for target in found.targets for bound in target]
        assert bounds == sorted(set(bounds))  # ranges neither are empty nor meet
