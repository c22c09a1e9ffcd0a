"""What those who run the server ask: is it well, what does it do?"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from halfbyte import __version__
from halfbyte.server.call import Call
from halfbyte.server.responses import Json

router = APIRouter(tags=["operations"])


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health() -> Json:
    """200 while the server takes requests."""
    return Json({"status": "ok"})


@router.get("/version")
async def version() -> Json:
    """The version of halfbyte."""
    return Json({"version": __version__})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(Call.of(request).server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
