"""Records of verse as training text and as chats.

Knows poems (title, author, form, lines). Does not know files or duplicates.
"""

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opencc import OpenCC

    from suan.recipes.corpus import Args
    from suan.recipes.corpus.ledger import Ledger

_VERSE = re.compile(
    r"([㐀-鿿\U00020000-\U0003ffff]+)[,\uff0c]([㐀-鿿\U00020000-\U0003ffff]+)[\u3002\uff01\uff1f\uff1b]?"
)


def poem(record: dict[str, Any], prompt: str) -> dict[str, Any] | None:
    """A record of verse as training text and as a chat; None when its lines are not verse of one length."""
    lines = [re.sub(r"[\[\]《》]", "", str(line)) for line in record.get("lines") or ()]
    halves = [match.groups() for line in lines if (match := _VERSE.fullmatch(line))]
    if not lines or len(halves) != len(lines) or len({len(half) for pair in halves for half in pair}) != 1:
        return None
    body = "\n".join(f"{first}\uff0c{second}。" for first, second in halves)
    fields = {key: str(record.get(key) or "") for key in ("title", "author", "form")}
    heading = f"《{fields['title']}》{fields['author']}\n" if fields["title"] else ""
    made: dict[str, Any] = {"text": heading + body, "lang": "zh", "score": 1.0, **fields}
    if prompt:
        user = prompt.format_map({**fields, **{key: record[key] for key in record if key not in fields}})
        made["messages"] = [{"role": "user", "content": user}, {"role": "assistant", "content": body}]
    return made


def body(document: dict[str, Any]) -> str:
    """What makes a poem that poem: the same one has many headings."""
    text: str = document["messages"][1]["content"] if "messages" in document else document["text"]
    return text


def clean_records(
    records: list[dict[str, Any]], args: "Args", converter: "OpenCC | None", ledger: "Ledger"
) -> list[dict[str, Any]]:
    """Poems as documents; what is no verse, and what was not asked for, goes."""
    kept: list[dict[str, Any]] = []
    for record in records:
        if "broken" in record:
            ledger.drop("record: broken json", record["broken"])
            continue
        if converter:
            record = json.loads(converter.convert(json.dumps(record, ensure_ascii=False)))
        if any(str(record.get(field)) not in values for field, values in args.where.items()):
            ledger.drop("record: not asked for", "")
            continue
        made = poem(record, args.prompt)
        if made is None:
            ledger.drop("record: not verse", str(record.get("lines")))
        else:
            kept.append(made | {"source": record["source"], "reasons": []})
    return kept
