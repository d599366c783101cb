"""The protocol `crayon.v1` and our own types: conversion both ways, and the table of errors and statuses."""
