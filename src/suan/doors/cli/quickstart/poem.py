"""A poem from the served model, through the official OpenAI client and the grid's `/v1`, as anybody would ask
for it.

Knows the prompt that the corpus taught. Does not know where the model runs: the grid routes by its name.
"""

import time
from collections.abc import Callable
from typing import Any

from suan.grid.error import NotNow

PROMPT = "写一首五言绝句：春夜"  # the corpus recipe's own words: a form, a colon, a title
MAX_TOKENS = 80
_PATIENCE_S = 90.0


def write_poem(url: str, key: str, model: str, told: Callable[[str], None]) -> str:
    """The poem; its pieces are `told` as they stream in.

    Raises: NotNow `no_answer`.
    """
    return write_answer(url, key, model, [{"role": "user", "content": PROMPT}], told)


def write_answer(
    url: str, key: str, model: str, messages: list[dict[str, Any]], told: Callable[[str], None]
) -> str:
    """What the model answers; its pieces are `told` as they stream in. A service on its way up, or back, is
    waited for.

    Raises: NotNow `no_answer`.
    """
    import openai

    # Straight to this machine: a proxy in the environment is for the world outside.
    http = openai.DefaultHttpxClient(trust_env=False)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60.0, http_client=http)
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        pieces: list[str] = []
        try:
            stream = client.chat.completions.create(
                model=model,
                messages=messages,  # type: ignore[arg-type]
                stream=True,
                max_tokens=MAX_TOKENS,
                temperature=0.7,
            )
            for event in stream:
                if event.choices and (piece := event.choices[0].delta.content):
                    pieces.append(piece)
                    told(piece)
            if pieces:
                return "".join(pieces).strip()
            trouble = "the stream was empty"
        except openai.OpenAIError as error:
            trouble = str(error)
        if time.monotonic() > deadline_s:
            raise NotNow(
                "no_answer", f"{model} wrote nothing: {trouble}", hint="make quickstart ARGS=--resume"
            )
        told("\n" if pieces else "")
        time.sleep(1.0)
