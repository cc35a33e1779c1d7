#!/bin/sh
# The entry point's contract on AWS's base images: the handler's name as the only argument. On Lambda the runtime API is
# there; anywhere else the emulator stands in for it, on port 8080.
[ $# -eq 1 ] || { echo 'Expected one argument, the handler, such as lambdas.predict.handler.' >&2; exit 142; }
export _HANDLER="$1"
[ -n "$AWS_LAMBDA_RUNTIME_API" ] && exec /var/runtime/bootstrap
exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
