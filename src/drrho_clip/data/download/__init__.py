"""Many small files over http(s): politely, with a time limit each, tried again in rounds, given in the order of their rows."""
