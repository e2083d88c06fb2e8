"""Ray's side of the house: the stream's order on Ray Data, the workers on Ray Train. The only rooms that know Ray."""
