# The API with the built page; also runs migrations. Without PyTorch, which the API never imports.

FROM node:22-bookworm-slim AS frontend
WORKDIR /src/frontend
COPY frontend/package.json frontend/package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY frontend/ ./
RUN npm run build

FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/halflayer
COPY requirements-api.lock ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements-api.lock
COPY pyproject.toml README.md LICENSE ./
COPY alembic/ alembic/
COPY kdcore/ kdcore/
COPY app/ app/
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin halflayer \
    && install -d -o halflayer -g halflayer -m 0700 /data
COPY --from=frontend /src/app/web/page/ app/web/page/

USER 10001
ENV HALFLAYER_DATA_DIR=/data HALFLAYER_HOST=0.0.0.0 HALFLAYER_PORT=8000 HF_HOME=/data/cache/huggingface
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["python", "-m", "app.server"]
