#!/usr/bin/env python3
"""A stand-in for the Python service: sentence-transformers and bert-score behind FastAPI.

It has the endpoints, limits, slots and defaults that clients of that service meet, and the way in
which it computes: one thread for each running request, embeddings in steps of GPU_EMBED_BATCH
texts, BERTScore with the package's own defaults. Authentication is left out. To its favour, the
BERTScore model is loaded when it is first asked for, so that start-up doesn't wait for it.
"""

import argparse
import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from typing import Annotated, TypeVar

import torch
import uvicorn
from bert_score import BERTScorer
from fastapi import FastAPI, HTTPException
from pydantic import AfterValidator, BaseModel
from sentence_transformers import SentenceTransformer

SLOT_PATIENCE_SECONDS = 1.0
RETRY_AFTER_SECONDS = 5

MAX_CONCURRENT = int(os.environ.get("GPU_MAX_CONCURRENT", "2"))
EMBED_BATCH = int(os.environ.get("GPU_EMBED_BATCH", "32"))
MAX_BATCH_SIZE = int(os.environ.get("GPU_MAX_BATCH_SIZE", "100"))
MAX_TEXT_LENGTH = int(os.environ.get("GPU_MAX_TEXT_LENGTH", "10000"))
MODEL_EMBED = os.environ.get("MODEL_EMBED", "all-MiniLM-L6-v2")
MODEL_BERTSCORE = os.environ.get("MODEL_BERTSCORE", "microsoft/deberta-xlarge-mnli")
# For a model that bert-score has no published layer for, such as a folder.
BERTSCORE_LAYER = int(os.environ["BERTSCORE_LAYER"]) if "BERTSCORE_LAYER" in os.environ else None
DEVICE = os.environ.get("TORCH_DEVICE", "cpu")

T = TypeVar("T")


# --- messages -----------------------------------------------------------------------------------


def within_limits(texts: list[str]) -> list[str]:
    if len(texts) > MAX_BATCH_SIZE:
        raise ValueError(f"array length {len(texts)} exceeds max batch size of {MAX_BATCH_SIZE}")
    for index, text in enumerate(texts):
        if len(text) > MAX_TEXT_LENGTH:
            raise ValueError(f"[{index}] exceeds max text length of {MAX_TEXT_LENGTH}")
    return texts


Texts = Annotated[list[str], AfterValidator(within_limits)]


class EmbedRequest(BaseModel):
    texts: Texts
    model: str = MODEL_EMBED


class EmbedAnswer(BaseModel):
    embeddings: list[list[float]]
    model: str
    dimensions: int


class BertScoreRequest(BaseModel):
    candidates: Texts
    references: Texts
    lang: str = "en"
    model_type: str = MODEL_BERTSCORE


class BertScoreAnswer(BaseModel):
    precision: list[float]
    recall: list[float]
    f1: list[float]
    model: str


# --- jobs and slots -----------------------------------------------------------------------------


@dataclass
class Job:
    """A running computation, as `/status` shows it."""

    type: str
    items: int
    model: str
    progress: float = 0.0
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())


SLOTS = asyncio.Semaphore(MAX_CONCURRENT)
JOBS: dict[str, Job] = {}


async def compute(job: Job, work: Callable[[Job], T]) -> T:
    """Runs `work` on a thread once a slot is free; 503 if none gets free soon."""
    try:
        await asyncio.wait_for(SLOTS.acquire(), SLOT_PATIENCE_SECONDS)
    except asyncio.TimeoutError:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        raise HTTPException(503, "GPU busy - retry later", headers) from None
    JOBS[job.id] = job
    try:
        return await asyncio.to_thread(work, job)
    finally:
        del JOBS[job.id]
        SLOTS.release()


# --- models -------------------------------------------------------------------------------------


@cache
def encoder(name: str) -> SentenceTransformer:
    return SentenceTransformer(name, device=DEVICE)


@cache
def scorer(name: str) -> BERTScorer:
    return BERTScorer(model_type=name, num_layers=BERTSCORE_LAYER, device=DEVICE)


def embed(texts: list[str], model: str, job: Job) -> list[list[float]]:
    rows: list[list[float]] = []
    for start in range(0, len(texts), EMBED_BATCH):
        step = texts[start : start + EMBED_BATCH]
        found = encoder(model).encode(step, convert_to_numpy=True, show_progress_bar=False)
        rows.extend(found.tolist())
        job.progress = len(rows) / len(texts)
    return rows


def score(candidates: list[str], references: list[str], model: str) -> list[list[float]]:
    """Precision, recall and F1 of every pair."""
    return [values.tolist() for values in scorer(model).score(candidates, references)]


# --- endpoints ----------------------------------------------------------------------------------


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await asyncio.to_thread(encoder, MODEL_EMBED)
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok", "device": DEVICE}


@app.get("/status")
async def status() -> dict[str, object]:
    running = len(JOBS)
    queue = {
        "max_concurrent": MAX_CONCURRENT,
        "in_flight": running,
        "available_slots": MAX_CONCURRENT - running,
        "waiting_estimate": 0,
    }
    return {"queue": queue, "active_jobs": [vars(job) for job in JOBS.values()]}


@app.post("/embed")
async def post_embed(request: EmbedRequest) -> EmbedAnswer:
    texts, model = request.texts, request.model or MODEL_EMBED
    job = Job("embed", len(texts), model)
    rows = await compute(job, lambda job: embed(texts, model, job))
    dimensions = len(rows[0]) if rows else 0
    return EmbedAnswer(embeddings=rows, model=model, dimensions=dimensions)


@app.post("/bertscore")
async def post_bertscore(request: BertScoreRequest) -> BertScoreAnswer:
    candidates, references = request.candidates, request.references
    if len(candidates) != len(references):
        raise HTTPException(400, "candidates and references must have equal length")
    model = request.model_type or MODEL_BERTSCORE
    job = Job("bertscore", len(candidates), model)
    precision, recall, f1 = await compute(job, lambda _: score(candidates, references, model))
    return BertScoreAnswer(precision=precision, recall=recall, f1=f1, model=model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    uvicorn.run(app, host="127.0.0.1", port=args.port)


if __name__ == "__main__":
    main()
