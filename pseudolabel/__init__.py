"""Teacher and student: semi-supervised methods, pseudo-labels as files, and rounds of them."""
