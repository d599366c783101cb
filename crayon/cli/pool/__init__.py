"""`crayon pool`: list, show, check, train, rekey, import and export adapter pools."""
