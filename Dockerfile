# One image for CPUs and GPUs, on that of Python: torch's wheels from PyPI bring CUDA's libraries, so that a GPU needs nothing but
# the host's driver and the NVIDIA Container Toolkit.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim-trixie AS base
# OpenCV is linked to libGL and GLib; Triton and torch.compile call a compiler while they run.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libgl1 libglib2.0-0t64 \
    && rm --recursive /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 user

# What .devcontainer/devcontainer.json builds; make setup installs the rest there.
FROM base AS dev
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm --recursive /var/lib/apt/lists/*
USER 1000

FROM base
ARG EXTRAS=all
# An index with other wheels, such as torch without CUDA.
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
# The requirements alone, 6 GB, so that a change of the code does not install them again.
COPY pyproject.toml setup.cfg constraints.txt ./
COPY convnext_dense/__init__.py convnext_dense/
RUN pip install --no-cache-dir --root-user-action ignore --constraint constraints.txt ".[${EXTRAS}]"
COPY . .
RUN pip install --no-cache-dir --root-user-action ignore --no-deps .

# Any user of docker run --user may write into these. Weights are kept in /cache; the rest that libraries write for themselves
# is not, since they make it unreadable for the next user.
RUN mkdir --parents /work /cache/hub/checkpoints /cache/huggingface && chmod --recursive 1777 /work /cache
ENV HOME=/tmp TORCH_HOME=/cache HF_HOME=/cache/huggingface
VOLUME /cache
USER 1000
WORKDIR /work
EXPOSE 7860
ENTRYPOINT ["convnext-dense"]
CMD ["--help"]
