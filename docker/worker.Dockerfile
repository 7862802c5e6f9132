# A worker. By default with the CUDA build of PyTorch, which includes CUDA; for machines
# without a GPU build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu

FROM python:3.11-slim-bookworm
ARG TORCH_INDEX=https://pypi.org/simple
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/halflayer
COPY requirements-s3.lock requirements-torch.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements-s3.lock \
    && pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -r requirements-torch.lock
COPY pyproject.toml README.md LICENSE ./
COPY alembic/ alembic/
COPY kdcore/ kdcore/
COPY app/ app/
COPY worker/ worker/
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin halflayer \
    && install -d -o halflayer -g halflayer -m 0700 /data

USER 10001
ENV HALFLAYER_DATA_DIR=/data HF_HOME=/data/cache/huggingface
VOLUME /data
CMD ["halflayer", "worker"]
