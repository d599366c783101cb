"""`crayon demo`: questions answered on the device and by a server, then a task of the reader's own."""
