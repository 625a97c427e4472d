"""How near predictions are to what was wanted: exact matches, BLEU and ROUGE."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fm9g.progress_bar import ProgressBar

DIGITS = 4


def scores(predictions: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Over all pairs: the share that is equal but for white space at the ends; BLEU (0 to 100, of the corpus, up to the
    length of its texts) by sacrebleu; ROUGE-1, -2 and -L (0 to 1, the mean of the F measures) by rouge-chinese.

    Both see Chinese characters one by one and other text by words, as sacrebleu's tokenizer `zh` does. Without these
    packages only the first is given, which is said.
    """
    pairs = [(said.strip(), wanted.strip()) for said, wanted in zip(predictions, targets, strict=True)]
    found = {"exact_match": sum(said == wanted for said, wanted in pairs) / len(pairs)}
    try:
        from rouge_chinese import Rouge
        from sacrebleu import corpus_bleu
        from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh
    except ImportError as error:
        print(f"note: no BLEU and ROUGE ({error}): pip install sacrebleu rouge-chinese", file=sys.stderr)
        return found
    hypotheses, references = ([pair[side] for pair in pairs] for side in (0, 1))
    found["bleu"] = corpus_bleu(hypotheses, [references], tokenize="zh", use_effective_order=True).score
    words = TokenizerZh()
    said, wanted = ([words(text) for text in texts] for texts in zip(*pairs, strict=True))
    both = [number for number in range(len(pairs)) if said[number] and wanted[number]]  # of nothing, ROUGE is 0
    rouge, measures = Rouge(), []
    with ProgressBar("scoring", len(both), unit="answers") as progress:  # long ones take seconds each
        for number in both:
            measures += rouge.get_scores(said[number], wanted[number])
            progress.add(1)
    for name in ("rouge-1", "rouge-2", "rouge-l"):
        found[name] = sum(measure[name]["f"] for measure in measures) / len(pairs)
    return {name: round(value, DIGITS) for name, value in found.items()}
