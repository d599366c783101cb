"""The protocol `crayon.v1` and Crayon's own types: conversion both ways, and the table of errors and gRPC statuses."""
