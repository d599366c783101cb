"""What all routes stand on: the gateway, its models, the fields of a request, and answers as they are written."""
