"""`crayon customize` and `crayon customizations`: from samples to a customisation, shown as it is checked."""
