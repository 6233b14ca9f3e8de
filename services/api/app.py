"""The control service's HTTP app: `uvicorn --factory services.api.app:make_app`."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from reflux import __version__, logs, prices, traces
from services.api import dashboard, openapi, price_table, problems
from services.api.auth import Keys, bootstrap
from services.api.database import make_engine, migrate
from services.api.errands import Errands
from services.api.guard import Guard
from services.api.listening import Listener
from services.api.measures import Measures
from services.api.pages import Pages
from services.api.rates import Buckets
from services.api.readiness import Readiness
from services.api.routes import (
    catalogue,
    completions,
    contents,
    datasets,
    errands,
    forks,
    keys,
    previews,
    resources,
    retention,
    reviews,
    runs,
    system,
    tasks,
)
from services.api.settings import Settings

SWITCH_SECONDS = 0.0005  # else a thread that computes can keep the event loop, and with it every other call, for 5 ms


def make_app() -> FastAPI:
    logs.set_up("api")
    traces.set_up("api")
    settings = Settings()
    app = FastAPI(
        title="Reflux",
        version=__version__,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=openapi.operation_id,
    )
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    app.state.settings = settings
    app.state.prices = price_table.read(settings.prices) if settings.prices else prices.PRICES
    app.state.engine = make_engine(settings.database_url.get_secret_value())
    app.state.reads = app.state.engine.execution_options(isolation_level="AUTOCOMMIT")
    app.state.keys = Keys(app.state.reads)
    app.state.artifacts = None
    app.state.listener = Listener(app.state.engine)
    app.state.errands = Errands(app.state.engine, app.state.listener, settings)
    app.state.readiness = Readiness(app.state.engine, settings)
    app.state.measures = Measures(app.state.engine)
    app.state.pages = Pages(settings.artifacts_url)
    app.state.buckets = Buckets(settings.calls_per_minute)
    app.add_middleware(Guard, settings=settings)
    problems.install(app)
    for router in (
        runs.router,
        contents.router,
        keys.router,
        datasets.router,
        previews.router,
        catalogue.router,
        completions.router,
        errands.router,
        resources.router,
        retention.router,
        reviews.router,
        forks.router,
        tasks.router,
        system.router,
    ):
        app.include_router(router)
    dashboard.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    sys.setswitchinterval(SWITCH_SECONDS)
    await run_in_threadpool(_make_ready, app)
    gc.collect()
    gc.freeze()  # else every call stands still for 0.1 s whenever all objects of the libraries are looked at for garbage
    listening = asyncio.create_task(app.state.listener.listen())
    yield
    listening.cancel()
    app.state.engine.dispose()
    await run_in_threadpool(traces.close)


def _make_ready(app: FastAPI) -> None:
    migrate(app.state.engine)
    with Session(app.state.engine) as session:
        bootstrap(session, app.state.settings)
        session.commit()
