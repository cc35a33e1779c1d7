# The functions upload (default), query and migrate: no picture is decoded here. `shutterless images api` builds it.
# Written for every builder, the legacy one included.
ARG BASE_IMAGE=public.ecr.aws/lambda/python:3.13
ARG PLATFORM=linux/amd64

FROM --platform=${PLATFORM} ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements/api.txt docker/trim.py ./
RUN python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action ignore --target task \
        --no-compile --no-deps --only-binary :all: --require-hashes -r api.txt \
 && python3 trim.py task \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s task -p ${LAMBDA_TASK_ROOT} task
# A file of this folder with the certificates that vouch for the database, such as RDS's bundle. LICENSE is there so that
# COPY has something to do where there is none.
ARG DB_CA
COPY LICENSE ${DB_CA} ca/
COPY LICENSE NOTICE code/
COPY shutterless code/shutterless/
COPY lambdas code/lambdas/
RUN python3 -m compileall -q --invalidation-mode unchecked-hash -s code -p ${LAMBDA_TASK_ROOT} code \
 && if [ -n "${DB_CA}" ]; then mv "ca/$(basename "${DB_CA}")" code/database-ca.pem; fi \
 && chmod -R a+rX .

FROM --platform=${PLATFORM} ${BASE_IMAGE}
# The last one lets Lambda snapshot functions on bases that are not AWS's.
LABEL org.opencontainers.image.title="shutterless-api" org.opencontainers.image.licenses="MIT" \
      com.amazonaws.lambda.feature.snapstart="Allow"
COPY --from=build /build/task/ ${LAMBDA_TASK_ROOT}/
COPY --from=build /build/code/ ${LAMBDA_TASK_ROOT}/
USER 1000:1000
RUN python3 -c "import lambdas.upload, lambdas.query, lambdas.migrate"
CMD ["lambdas.upload.handler"]
