"""GET /metrics for Prometheus. Which metrics there are is `metric_table.py`, how they are taken
`metric_counts.py` and `metric_readings.py`.
"""

from fastapi import APIRouter
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from suan.doors.rest.access import Here, Operator

router = APIRouter()


@router.get("/metrics", tags=["about"], response_class=Response)
def scrape(here: Here, _: Operator, request: Request) -> Response:
    """The grid's metrics as Prometheus reads them. Needs an operator's key: they tell of every tenant."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(here.metrics.registry), media_type=media_type)
