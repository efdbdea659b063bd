"""Personal data in running text, masked by what it is: <email>, <id>, <card>, <phone>, <ip>.

Knows shapes and check digits. A number that fails its check (Luhn, ISO 7064) stays: it is somebody's figure,
not somebody's card.
"""

import ipaddress
import re
from collections import Counter

_SUSPECT = re.compile(r"@|\d[\d -]{5,}\d|\d\.\d{1,3}\.\d|:[0-9a-fA-F]{0,4}:")
_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}\s?(?:@|＠|\[at\]|\(at\))\s?(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,18}(?![\w-])",
    re.ASCII,
)
_CHINESE_ID = re.compile(
    r"(?<![\dA-Za-z])[1-8]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dXx](?![\dA-Za-z])"
)
_SOCIAL_SECURITY = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_CARD = re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d.-]|[ -]\d)")
_PHONE = re.compile(
    r"(?<![\d.-])(?:(?:\+|00)86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?![\d-])"
    r"|(?<![\d.-])(?:(?:\+|00)86[ -]?)?\(?0(?:10|2\d|[3-9]\d{2})\)?[ -]\d{7,8}(?:-\d{1,5})?(?!\d)"
    r"|(?<![\d.-])[48]00[ -]\d{3}[ -]?\d{4}(?!\d)"
    r"|(?<![\d.+-])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)|\d{1,4})(?:[ .-]?\d{2,4}){2,4}(?!\d)"
    r"|(?<![\d.-])\(\d{3}\) ?\d{3}-\d{4}(?!\d)|(?<![\d.-])\d{3}-\d{3}-\d{4}(?![\d-])"
)
_IP4 = re.compile(r"(?<![\d.vV版])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_IP6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){3,7}[0-9a-fA-F]{1,4}(?![\w:])")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of a payment card. Source: ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def chinese_id(number: str) -> bool:
    """Whether the last character is the check of an 18-character identity number. Source: GB 11643-1999."""
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number, strict=False))
    return "10X98765432"[total % 11] == number[17].upper()


def mask(text: str) -> tuple[str, Counter[str]]:
    """(text with personal data masked, how many of each kind)."""
    masked: Counter[str] = Counter()
    if not _SUSPECT.search(text):
        return text, masked

    def masker(kind: str, valid: "object") -> "object":
        def replaced(match: re.Match[str]) -> str:
            if not valid(match[0]):  # type: ignore[operator]
                return match[0]
            masked[kind] += 1
            return f"<{kind}>"

        return replaced

    for kind, pattern, valid in (
        ("email", _EMAIL, lambda found: True),
        ("id", _CHINESE_ID, chinese_id),
        ("id", _SOCIAL_SECURITY, lambda found: True),
        ("card", _CARD, _is_card),
        ("phone", _PHONE, lambda found: True),
        ("ip", _IP4, _is_address),
        ("ip", _IP6, _is_address),
    ):
        text = pattern.sub(masker(kind, valid), text)  # type: ignore[call-overload]
    return text, masked


def _is_card(found: str) -> bool:
    digits = re.sub(r"\D", "", found)
    return digits[0] in "23456" and len(set(digits)) > 1 and luhn(digits)


def _is_address(found: str) -> bool:
    try:
        return not ipaddress.ip_address(found).is_unspecified
    except ValueError:
        return False
