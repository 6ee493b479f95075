# One image for CPU and CUDA. PyPI's torch is a CUDA build that runs on a CPU as well; for a small image without
# CUDA give the address of PyTorch's CPU index: docker build --build-arg EXTRA_INDEX=… .
ARG BASE=python:3.12.8-slim-bookworm

FROM ${BASE} AS build
ARG EXTRA_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE maskline.py ./
COPY anomaly anomaly
COPY record record
COPY service service
COPY training training
RUN python -m venv /opt/maskline \
  && /opt/maskline/bin/pip install ${EXTRA_INDEX:+--extra-index-url "$EXTRA_INDEX"} \
    -c constraints.txt '.[postgresql]'
# What is inside, as CycloneDX: docker run --rm --entrypoint cat maskline /opt/maskline/sbom.json
RUN python -m venv /opt/sbom && /opt/sbom/bin/pip install 'cyclonedx-bom==6.1.2' \
  && /opt/sbom/bin/cyclonedx-py environment /opt/maskline/bin/python -o /opt/maskline/sbom.json

FROM ${BASE}
RUN useradd --uid 1000 --create-home maskline && install -d -o maskline /models /results
COPY --from=build /opt/maskline /opt/maskline
USER maskline
WORKDIR /home/maskline
ENV PATH=/opt/maskline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
  MASKLINE_MODELS_DIR=/models MASKLINE_RECORD_DIR=/results MASKLINE_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["maskline", "serve"]
