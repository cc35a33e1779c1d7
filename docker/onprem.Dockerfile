# The on-prem server, for a machine of one's own. `shutterless images onprem` builds it; docker/compose.yml runs it.
# Written for every builder, the legacy one included.
ARG BASE_IMAGE=python:3.13-slim
ARG PLATFORM=linux/amd64

# Convolutions for CPUs with AVX-512.
FROM --platform=${PLATFORM} ${BASE_IMAGE} AS kernels
WORKDIR /compiler
COPY requirements/compiler.txt ./
RUN [ "$(uname -m)" != x86_64 ] \
 || python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action ignore --target . \
        --no-compile --no-deps --only-binary :all: --require-hashes -r compiler.txt
WORKDIR /kernels
COPY shutterless/kernels ./
RUN CC='/compiler/ziglang/zig cc -target x86_64-linux-gnu.2.28' ./build && mkdir built \
 && { [ "$(uname -m)" != x86_64 ] || mv conv.so qlinearconv-amx.so qlinearconv-vnni.so built; }

FROM --platform=${PLATFORM} ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements/onprem.txt docker/trim.py ./
RUN python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action ignore --target packages \
        --no-compile --no-deps --only-binary :all: --require-hashes -r onprem.txt \
 && python3 trim.py packages \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s packages -p /opt/shutterless packages
ARG MODEL=eurosat-lite0
COPY models/${MODEL} models/${MODEL}/
COPY LICENSE NOTICE LICENSE-Apache-2.0.txt code/
COPY shutterless code/shutterless/
COPY onprem code/onprem/
COPY --from=kernels /kernels/built/ code/shutterless/kernels/
RUN python3 -m compileall -q --invalidation-mode unchecked-hash -s code -p /opt/shutterless code \
 && mkdir state \
 && chmod -R a+rX .

FROM --platform=${PLATFORM} ${BASE_IMAGE}
LABEL org.opencontainers.image.title="shutterless-onprem" org.opencontainers.image.licenses="MIT"
COPY --from=build /build/packages/ /opt/shutterless/
COPY --from=build /build/models/ /opt/shutterless/models/
COPY --from=build /build/code/ /opt/shutterless/
# Owned by the user below; a new volume takes the rights of what it covers.
COPY --from=build --chown=1000:1000 /build/state/ /var/lib/shutterless/
ARG MODEL=eurosat-lite0
# Without SHUTTERLESS_API_KEYS the server says that it will not listen for others, and ends.
ENV PYTHONPATH=/opt/shutterless PYTHONDONTWRITEBYTECODE=1 SHUTTERLESS_MODEL=${MODEL} SHUTTERLESS_HOST=0.0.0.0 \
    SHUTTERLESS_VAR_DIR=/var/lib/shutterless
USER 1000:1000
WORKDIR /var/lib/shutterless
RUN python3 -c "import onprem.app, onprem.exposition, onprem.health, shutterless.results"
VOLUME /var/lib/shutterless
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["python3", "-m", "onprem.health"]
ENTRYPOINT ["python3", "-m", "onprem"]
