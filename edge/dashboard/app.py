"""Puts the dashboard together."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles

from edge import __version__
from edge.cases import Casebook
from edge.config import Settings, resources
from edge.dashboard import (
    api,
    board,
    case_pages,
    feedback_api,
    fixes_api,
    health,
    index_api,
    jobs_page,
    knowledge,
    past,
    people,
    problems,
    quarantine,
    teaching,
    work_pages,
)
from edge.dashboard.guard import Guard
from edge.dashboard.rates import Rates
from edge.dashboard.render import Renderer
from edge.dashboard.services import Kept, Pace, Plant, Services
from edge.db import Database
from edge.search import SearchEngine


def create_app(
    settings: Settings,
    db: Database,
    casebook: Casebook,
    search: SearchEngine,
    *,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """The web application. `routers`: more of the JSON API, guarded with `edge.dashboard.api.requires`."""
    web = resources() / "web"
    plant = Plant(db, casebook)
    registry = CollectorRegistry(auto_describe=False)
    app = FastAPI(
        title="Andon Edge",
        summary="Has this happened before, and what fixed it?",
        version=__version__,
        openapi_url="/api/v1/openapi.json",
        # The usual pages for it load their scripts from elsewhere; the box is offline.
        docs_url=None,
        redoc_url=None,
        middleware=[Middleware(Guard, settings=settings, registry=registry, refuse=problems.refuse)],
    )
    services = Services(
        settings=settings,
        db=db,
        casebook=casebook,
        search=search,
        renderer=Renderer(web, plant.timezone),
        plant=plant,
        pace=Pace(),
        revision=Kept(0.25, casebook.revision),
        counts=Kept(1.0, casebook.counts),
        rates=Rates(settings.web),
    )
    registry.register(health.Gauges(services))
    app.state.services = services
    app.state.registry = registry
    problems.install(app)
    pages = (
        health.router, board.router, past.router, people.router, teaching.router, case_pages.router, quarantine.router,
        knowledge.router, jobs_page.router, work_pages.router,
    )  # fmt: skip
    ours = (
        jobs_page.api_router,
        work_pages.api_router,
        quarantine.api_router,
        fixes_api.router,
        feedback_api.router,
        index_api.router,
        knowledge.api_router,
        api.router,
    )
    for router in (*routers, *ours, *pages):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=web / "static", check_dir=False), name="static")
    return app
