"""Which MR sequence free text speaks of: a series' description, or the name of a file."""

from __future__ import annotations

import re

_OTHERS = {
    "localizer": r"locali[sz]er|\bloc\b|scout|survey|3 ?plane",
    "adc": r"\badc\b|apparent diffusion",
    "dwi": r"dwi|\bdti\b|diff|trace|\bb ?[1-9]\d{2,3}\b",
    "perfusion": r"perf|\bdsc\b|\bdce\b|\basl\b|\bpwi\b|cbv|cbf|mtt",
    "swi": r"\bswi\b|swan|\bt2 ?(\*|star)|\bmip\b.*swi",
    "angiography": r"\btof\b|\bmra\b|\bmrv\b|angio|\bcemra\b",
    "subtraction": r"\bsub(tract\w*)?\b",
    "map": r"\bt[12] ?map|\bmap\b|\br2|field ?map",
    "pd": r"\bpd\b|\bpdw\b|proton",
}
_POST = re.compile(
    r"\bpost|\bgd\b|\bgad|gado|\bce\b|t1 ?w? ?(c|ce|cw|gd|post)\b|\+ ?c\b|\bc ?\+|\bkm\b|with contrast|\bwc\b"
    r"|contrast.?enh|enhanced"
)
_PRE = re.compile(r"\bpre(?!p)|\bnativ|without|\bohne\b|\bnon ?contrast|\bunenhanced|- ?c\b|\bwo\b|\bw/o\b|\bt1 ?n\b")
_T1 = re.compile(r"\bt1|mp2?rage|\bbravo\b|\bf?spgr\b|\bvibe\b|tfl3d|\btfe\b|ir-?fspgr")
_T2 = re.compile(r"\bt2(?! ?(\*|star|f))")
_FLAIR = re.compile(r"flair|dark ?fluid|\bt2 ?f\b|fluid ?attenuated|\btirm\b")
NAMES = {
    "t1": "T1", "t1c": "T1 after contrast", "t2": "T2", "flair": "FLAIR", "pd": "proton density", "dwi": "diffusion",
    "adc": "ADC map", "swi": "T2* or susceptibility", "perfusion": "perfusion", "angiography": "angiography",
    "localizer": "localiser", "subtraction": "subtraction", "map": "map",
}  # fmt: skip


def from_words(*phrases: str) -> str:
    """Return the sequence that free text speaks of, or an empty string.

    Text without a word on contrast gives ``"t1"``; whether an agent was given is another tag's matter.

    >>> from_words("AX T1 POST GD"), from_words("T1 pre-contrast"), from_words("T2_FLAIR")
    ('t1c', 't1', 'flair')
    """
    said = " ".join(re.sub(r"[_.,;:()\[\]/\\]+|-(?! ?c\b)", " ", p.lower()) for p in phrases)
    for name, pattern in _OTHERS.items():
        if re.search(pattern, said) and not (name == "map" and "mprage" in said):
            return name
    if _FLAIR.search(said) and not re.search(r"\bt1\w* ?(w )?flair", said):
        return "flair"
    if _T1.search(said):
        return "t1c" if _POST.search(said) and not _PRE.search(said) else "t1"
    return "t2" if _T2.search(said) else ""


def speaks_of_contrast(*phrases: str) -> bool:
    """Tell whether free text says that contrast was given, or that it was not."""
    said = " ".join(re.sub(r"[_.,;:()\[\]]+", " ", p.lower()) for p in phrases)
    return bool(_POST.search(said) or _PRE.search(said))
