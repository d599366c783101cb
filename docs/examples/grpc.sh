#!/bin/sh
# A client of a Crayon server in terms that every language has: grpcurl, JSON, and reflection instead of stubs.
# Usage: sh grpc.sh [ADDRESS]     (a server to try it on: crayon serve --engine echo)
set -eu
address="${1:-localhost:50051}"

# What is there? Reflection tells, so no .proto file is needed.
grpcurl -plaintext -max-time 10 "$address" list

# Is it ready?
grpcurl -plaintext -max-time 10 "$address" grpc.health.v1.Health/Check

# Which models, and what can they do? The first one is the default.
grpcurl -plaintext -max-time 10 -d '{}' "$address" crayon.v1.InferenceService/ListModels

# An answer comes as a stream: started, deltas, finished. -max-time is the deadline, and reaches the engine.
grpcurl -plaintext -max-time 60 -d '{
  "messages": [
    {"role": "ROLE_SYSTEM", "content": "Answer in one sentence."},
    {"role": "ROLE_USER", "content": "Why is the sky blue?"}
  ],
  "sampling": {"maxTokens": 40, "temperature": 0},
  "signals": false
}' "$address" crayon.v1.InferenceService/Generate

# How likely is each of these answers? The larger sum of log-probabilities is the likelier one.
grpcurl -plaintext -max-time 60 -d '{
  "messages": [{"role": "ROLE_USER", "content": "Is water wet or dry?"}],
  "continuations": ["wet", "dry"]
}' "$address" crayon.v1.InferenceService/Score

# A vector for each text, one after the other in "values".
grpcurl -plaintext -max-time 60 -d '{"texts": ["How do I sleep?", "Why is the sky blue?"]}' \
  "$address" crayon.v1.InferenceService/Encode
