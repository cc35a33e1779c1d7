"""AWS doors: event -> core -> answer. One file per function; what the HTTP functions share lies beside them."""
