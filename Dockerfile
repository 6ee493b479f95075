# One image for CPU and CUDA. PyPI's torch is a CUDA build that runs on a CPU as well; for a small image without
# CUDA give the address of PyTorch's CPU index: docker build --build-arg EXTRA_INDEX=… .
ARG BASE=python:3.12.8-slim-bookworm

# What Maskline stands on, without its own code: a new version of it adds a megabyte to an image, not gigabytes.
FROM ${BASE} AS libraries
ARG EXTRA_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*p['dependencies'], *p['optional-dependencies']['postgresql'], *p['optional-dependencies']['openvino'], sep='\n')" > requirements.txt \
  && python -m venv /opt/maskline \
  && /opt/maskline/bin/pip install ${EXTRA_INDEX:+--extra-index-url "$EXTRA_INDEX"} \
    -c constraints.txt -r requirements.txt

FROM libraries AS build
COPY maskline.py README.md LICENSE NOTICE ./
COPY anomaly anomaly
COPY cli cli
COPY record record
COPY service service
COPY supervised supervised
COPY training training
RUN /opt/maskline/bin/pip wheel --no-deps --wheel-dir /wheels . \
  && /opt/maskline/bin/pip install --no-deps /wheels/*.whl
# What is inside, as CycloneDX, Python's packages and Debian's: `make sbom` reads both out of the image.
RUN python -m venv /opt/inventory && mkdir /opt/sbom \
  && /opt/inventory/bin/pip install 'cyclonedx-bom==7.5.0' 'debsbom[cdx]==0.10.2' \
  && /opt/inventory/bin/cyclonedx-py environment /opt/maskline/bin/python -o /opt/sbom/python.cdx.json \
  && /opt/inventory/bin/debsbom generate -t cdx --with-licenses --distro-name maskline-image \
    -o /opt/sbom/debian.cdx.json

FROM ${BASE}
RUN useradd --uid 1000 --create-home maskline && install -d -o maskline /models /results
COPY --from=libraries /opt/maskline /opt/maskline
COPY --from=build /wheels /wheels
RUN /opt/maskline/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl
COPY --from=build /opt/sbom /opt/sbom
USER maskline
WORKDIR /home/maskline
ENV PATH=/opt/maskline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
  MASKLINE_MODELS_DIR=/models MASKLINE_RECORD_DIR=/results MASKLINE_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["maskline", "serve"]
