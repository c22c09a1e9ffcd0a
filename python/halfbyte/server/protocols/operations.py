"""What those who run the server ask: is it well?"""

from __future__ import annotations

from fastapi import APIRouter

from halfbyte.server.responses import Json

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health() -> Json:
    """200 while the server takes requests."""
    return Json({"status": "ok"})
