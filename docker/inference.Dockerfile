# The functions predict (default) and infer: pictures, the network, results. `shutterless images inference` builds it.
# Written for every builder, the legacy one included.
ARG BASE_IMAGE=public.ecr.aws/lambda/python:3.13
ARG PLATFORM=linux/amd64

FROM --platform=${PLATFORM} ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements/inference.txt docker/trim.py docker/undocument.py ./
RUN python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action ignore --target task \
        --no-compile --no-deps --only-binary :all: --require-hashes -r inference.txt \
 && python3 trim.py task \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s task -p ${LAMBDA_TASK_ROOT} task \
 && python3 undocument.py task ${LAMBDA_TASK_ROOT}
ARG MODEL=eurosat-lite0
COPY models/${MODEL} models/${MODEL}/
# A file of this folder with the certificates that vouch for the database, such as RDS's bundle. LICENSE is there so that
# COPY has something to do where there is none.
ARG DB_CA
COPY LICENSE ${DB_CA} ca/
# A file of this folder with the public key that every bundle must be signed with.
ARG SIGNING_KEY
COPY LICENSE ${SIGNING_KEY} key/
COPY LICENSE NOTICE LICENSE-Apache-2.0.txt code/
COPY shutterless code/shutterless/
COPY lambdas code/lambdas/
RUN python3 -m compileall -q --invalidation-mode unchecked-hash -s code -p ${LAMBDA_TASK_ROOT} code \
 && if [ -n "${DB_CA}" ]; then mv "ca/$(basename "${DB_CA}")" code/database-ca.pem; fi \
 && if [ -n "${SIGNING_KEY}" ]; then mv "key/$(basename "${SIGNING_KEY}")" code/signing-key.pem; fi \
 && chmod -R a+rX .

FROM --platform=${PLATFORM} ${BASE_IMAGE}
# The last one lets Lambda snapshot functions on bases that are not AWS's.
LABEL org.opencontainers.image.title="shutterless-inference" org.opencontainers.image.licenses="MIT" \
      com.amazonaws.lambda.feature.snapstart="Allow"
COPY --from=build /build/task/ ${LAMBDA_TASK_ROOT}/
COPY --from=build /build/models/ ${LAMBDA_TASK_ROOT}/models/
COPY --from=build /build/code/ ${LAMBDA_TASK_ROOT}/
ARG MODEL=eurosat-lite0
ARG SIGNING_KEY
# An empty variable counts as not set. No function multiplies matrices with numpy: its threads would cost a start and no more.
ENV SHUTTERLESS_MODEL=${MODEL} SHUTTERLESS_SIGNING_KEY=${SIGNING_KEY:+${LAMBDA_TASK_ROOT}/signing-key.pem} OPENBLAS_NUM_THREADS=1
USER 1000:1000
RUN python3 -c "import lambdas.infer, lambdas.predict; lambdas.predict.MODEL.shelf()"
CMD ["lambdas.predict.handler"]
