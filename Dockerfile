FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

COPY pyproject.toml constraints.txt README.md LICENSE NOTICE maskline.py ./
COPY anomaly anomaly
COPY record record
COPY service service
COPY training training
RUN pip install -c constraints.txt '.[postgresql]' && useradd --create-home maskline \
  && install -d -o maskline /results

USER maskline
ENV MASKLINE_MODELS_DIR=/models MASKLINE_RECORD_DIR=/results MASKLINE_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
CMD ["maskline", "serve"]
