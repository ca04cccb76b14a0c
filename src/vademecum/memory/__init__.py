"""The seams: address, bank, mix and site. Leaves live one to a file; kinds compose them."""
